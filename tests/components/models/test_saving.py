"""What is saved is what was trained: adapters, merged models and models trained whole, each loaded again and asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from llmops_components.errors import ModelError
from llmops_components.models.adapter_weights import merge
from llmops_components.models.comparing import Probe, difference
from llmops_components.models.merging import merge_adapter
from llmops_components.models.saving import write_model
from llmops_components.training.methods.reward import train_reward
from llmops_components.training.methods.sft import train_sft
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_model import colour_rows, preference_rows, write_rows

VOCABULARY = 96
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BLOOM = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}
# Class of the configuration, its fields, names of embeddings and head.
MODELS = {
    "llama": ("LlamaConfig", SHAPE, "embed_tokens", "lm_head"),
    "qwen3": ("Qwen3Config", SHAPE, "embed_tokens", "lm_head"),
    "gemma3": ("Gemma3TextConfig", SHAPE, "embed_tokens", "lm_head"),
    "gpt2": ("GPT2Config", GPT2, "wte", "lm_head"),  # Conv1D
    "bloom": ("BloomConfig", BLOOM, "word_embeddings", "lm_head"),
}
ADAPTERS = {
    "linear": {"target_modules": "all-linear"},
    "embeddings": {"target_modules": ["EMBEDDINGS"]},
    "head": {"target_modules": ["HEAD"]},
    "both": {"target_modules": ["EMBEDDINGS", "HEAD"]},
    "copies": {"target_modules": "all-linear", "modules_to_save": ["EMBEDDINGS", "HEAD"]},
    "tokens": {"target_modules": "all-linear", "trainable_token_indices": [5, 6, 7]},
    "dora": {"target_modules": ["EMBEDDINGS"], "use_dora": True},
    "rslora": {"target_modules": ["EMBEDDINGS"], "use_rslora": True},
    "tied": {"target_modules": ["EMBEDDINGS"], "ensure_weight_tying": True},
}
# Each kind of adapter on the tied weights of one architecture, each architecture with an adapter on its embeddings.
CASES = [("llama", kind) for kind in ADAPTERS] + [
    (name, kind) for name in MODELS if name != "llama" for kind in ("embeddings", "both")
]


def make(name: str, *, tied: bool = True, dtype: str = "float32"):
    config_class, fields, *_ = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**fields, tie_word_embeddings=tied)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    return model


def adapt(name: str, kind: str, **options):
    """A model with an adapter that has learned something."""
    _, _, embeddings, head = MODELS[name]
    names = {"EMBEDDINGS": embeddings, "HEAD": head}
    settings = {
        field: [names.get(each, each) for each in value] if isinstance(value, list) else value
        for field, value in ADAPTERS[kind].items()
    }
    adapted = get_peft_model(make(name, **options), LoraConfig(r=4, task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return adapted


@torch.no_grad()
def answer(model) -> torch.Tensor:
    tokens = torch.arange(3, 3 + 2 * 12).reshape(2, 12)
    return model.eval()(input_ids=tokens).logits


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_merged_model_with_tied_weights_answers_as_the_adapter_did_after_it_is_loaded(name, kind, tmp_path):
    adapted = adapt(name, kind)
    expected = answer(adapted)
    with adapted.disable_adapter():
        assert difference(expected, answer(adapted)) > 0.01  # what is compared is more than the base model

    merged = merge(adapted)
    merged.save_pretrained(tmp_path)

    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(answer(loaded), expected, rtol=1e-3, atol=1e-4)
    is_tied = loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert is_tied == loaded.config.tie_word_embeddings
    if kind != "tied":  # the same but for rounding, so that they may stay apart
        assert is_tied == (kind in ("linear", "tokens"))


def test_untied_models_stay_so():
    adapted = adapt("llama", "embeddings", tied=False)
    expected = answer(adapted)
    merged = merge(adapted)
    torch.testing.assert_close(answer(merged), expected, rtol=1e-3, atol=1e-4)
    assert merged.config.tie_word_embeddings is False


def test_probe_finds_what_a_merge_by_peft_alone_does_to_tied_weights():
    adapted = adapt("llama", "embeddings")
    probe = Probe.of(adapted, VOCABULARY)
    merged = adapted.merge_and_unload()
    with pytest.raises(ModelError, match=r"^The model is not the model that was trained: its logits are \d+"):
        probe.check(merged, "The model")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_is_no_difference(dtype):
    adapted = adapt("llama", "linear", dtype=dtype)
    probe = Probe.of(adapted, VOCABULARY)
    assert probe.check(merge(adapted), "The model") == []


def test_modules_trained_in_32_bit_are_compared_with_those_of_a_model_in_16(tiny_model, tmp_path):
    report = train_reward(
        write_rows(tmp_path / "rows.jsonl", preference_rows(8)),
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args={"bf16": True, "max_steps": 2, "learning_rate": 1e-2},
        model_args={"dtype": "bfloat16"},
    )
    assert not [finding for finding in report.findings if "compared" in finding]
    saved = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", dtype="auto")
    assert {parameter.dtype for parameter in saved.parameters()} == {torch.bfloat16}


def test_rewards_near_zero_are_compared_by_what_rounding_makes_of_larger_numbers():
    rewards = torch.tensor([[1e-4], [-1e-4]])
    assert difference(rewards, -rewards) < 0.01
    assert difference(rewards * 1e4, -rewards * 1e4) == pytest.approx(2)


def test_probe_asks_for_the_tokens_that_an_adapter_changes():
    adapted = get_peft_model(
        make("llama"), LoraConfig(r=4, task_type="CAUSAL_LM", trainable_token_indices=[41, 77])
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter.add_(torch.randn_like(parameter))
    assert set(Probe.of(adapted, VOCABULARY).tokens[:, ::2].flatten().tolist()) == {41, 77}


def test_model_whose_weights_are_tied_when_it_is_loaded_is_refused(tiny_model, tmp_path):
    """What is right in memory and wrong on disk, here a configuration and a file that say different things."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    probe = Probe.of(model, len(tokenizer))
    save = model.save_pretrained

    def save_as_if_tied(directory, **options):
        own, model.lm_head.weight = model.lm_head.weight, model.model.embed_tokens.weight
        save(directory, **options)
        model.lm_head.weight = own

    model.save_pretrained = save_as_if_tied
    with pytest.raises(ModelError, match=r"^The model in out is not the model that was trained"):
        write_model(model, tokenizer, tmp_path, probe, where="out")


def test_model_that_cannot_compute_here_is_a_finding(tiny_model, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    assert write_model(
        model, tokenizer, tmp_path, Probe(torch.zeros(1, 2).long(), 400, None), where="out"
    ) == [
        "The whole model for out was not compared with the model that was trained: it cannot compute on this device."
    ]


def test_model_that_brings_its_code_is_read_again_with_it(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMOPS_ALLOWED_CODE", "trust_remote_code")
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    kind = type(transformers.AutoConfig.from_pretrained(tiny_model)).__name__.removesuffix("Config")
    (base / "homemade.py").write_text(
        f"from transformers import {kind}Config, {kind}ForCausalLM\n"
        f"class OwnConfig({kind}Config):\n    model_type = 'homemade'\n"
        f"class OwnForCausalLM({kind}ForCausalLM):\n    config_class = OwnConfig\n"
    )
    own = {"AutoConfig": "homemade.OwnConfig", "AutoModelForCausalLM": "homemade.OwnForCausalLM"}
    config |= {"model_type": "homemade", "architectures": ["OwnForCausalLM"], "auto_map": own}
    (base / "config.json").write_text(json.dumps(config))
    report = train_sft(
        write_rows(tmp_path / "rows.jsonl", colour_rows(8)),
        base,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args={"bf16": False, "learning_rate": 0.1, "max_steps": 2},
        model_args={"dtype": "float32", "trust_remote_code": True},
    )
    assert not [finding for finding in report.findings if "compared" in finding]
    assert list((tmp_path / "model").glob("*.safetensors"))


@pytest.fixture(scope="module")
def tuned(tiny_model, tmp_path_factory) -> Path:
    """A training with an adapter on the embeddings of a model in which they are tied to the head."""
    directory = tmp_path_factory.mktemp("tuned")
    train_sft(
        write_rows(directory / "rows.jsonl", colour_rows(8)),
        tiny_model,
        directory / "model",
        directory / "adapter",
        training_args={"bf16": False, "learning_rate": 0.1, "max_steps": 4},
        peft_args={"target_modules": ["embed_tokens", "q_proj"]},
        model_args={"dtype": "float32"},
    )
    return directory


def test_training_and_merge_adapter_save_what_the_adapter_answers(tuned, tiny_model, tmp_path):
    merge_adapter(tiny_model, tuned / "adapter", tmp_path / "merged")

    load = transformers.AutoModelForCausalLM.from_pretrained
    expected = answer(PeftModel.from_pretrained(load(tiny_model), tuned / "adapter"))
    assert difference(answer(load(tiny_model)), expected) > 0.01
    for directory in (tuned / "model", tmp_path / "merged"):
        torch.testing.assert_close(answer(load(directory)), expected, rtol=1e-3, atol=1e-4)
        assert json.loads((directory / "config.json").read_text())["tie_word_embeddings"] is False
