"""merge_adapter: base model plus adapter is what training itself had merged, and nothing else goes through."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from llmops_components.errors import ModelError, SettingError
from llmops_components.models.directory import check_model_directory
from llmops_components.models.merging import merge_adapter
from llmops_components.training.methods.reward import train_reward
from llmops_components.training.methods.sft import train_sft
from tiny_model import make_tiny_model, preference_rows, write_rows

SETTINGS = {"bf16": False, "learning_rate": 1e-2, "max_steps": 4}
FLOAT32 = {"dtype": "float32"}


@pytest.fixture(scope="module", params=[None, {"use_dora": True}], ids=["lora", "dora"])
def trained(request, tiny_model, tmp_path_factory) -> Path:
    """Directory with a model, and an adapter for the tiny model."""
    from tiny_model import colour_rows

    directory = tmp_path_factory.mktemp("trained")
    train_sft(
        write_rows(directory / "rows.jsonl", colour_rows(8)),
        tiny_model,
        directory / "model",
        directory / "adapter",
        training_args=SETTINGS,
        peft_args=request.param,
        model_args=FLOAT32,
    )
    return directory


def weights(directory: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")


def test_merged_model_is_the_one_that_training_merged(tiny_model, trained, tmp_path):
    import torch

    report = merge_adapter(tiny_model, trained / "adapter", tmp_path / "model")

    expected, merged = weights(trained / "model"), weights(tmp_path / "model")
    assert merged.keys() == expected.keys()
    assert [name for name in merged if not torch.equal(merged[name], expected[name])] == []
    base = weights(tiny_model)
    assert len([name for name in merged if not torch.equal(merged[name], base[name])]) == 2 * 7
    check_model_directory(tmp_path / "model")
    assert report.metrics["total_parameters"] == 98_560
    assert report.metrics["adapter_parameters"] in (32_768, 33_792)
    provenance = json.loads((tmp_path / "model" / "provenance.json").read_text())
    assert provenance["component"] == "merge_adapter"
    assert provenance["adapter"]["training"]["component"] == "train_sft"
    assert (tmp_path / "model" / "training_log.json").is_file()


def test_dtype_is_chosen(tiny_model, trained, tmp_path):
    import torch

    merge_adapter(tiny_model, trained / "adapter", tmp_path / "model", dtype="bfloat16")
    assert {weight.dtype for weight in weights(tmp_path / "model").values()} == {torch.bfloat16}


def test_adapter_of_a_reward_model_keeps_its_head(tiny_model, tmp_path):
    import torch

    train_reward(
        write_rows(tmp_path / "pairs.jsonl", preference_rows(8)),
        tiny_model,
        tmp_path / "judge",
        tmp_path / "adapter",
        training_args=SETTINGS,
        model_args=FLOAT32,
    )
    merge_adapter(tiny_model, tmp_path / "adapter", tmp_path / "model")
    expected, merged = weights(tmp_path / "judge"), weights(tmp_path / "model")
    assert "score.weight" in merged
    assert merged.keys() == expected.keys()
    assert [name for name in merged if not torch.equal(merged[name], expected[name])] == []


def test_adapter_of_another_model_is_refused(trained, tmp_path):
    other = make_tiny_model(tmp_path / "other", talkative=True)  # of the same shape, so that it would fit
    with pytest.raises(ModelError, match=r"was trained on another model \(digest sha256:.* is sha256:"):
        merge_adapter(other, trained / "adapter", tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: (a / "adapter_config.json").unlink(), "is not an adapter: it has no adapter_config.json"),
        (lambda a: (a / "adapter_config.json").write_text("{"), "is not valid JSON"),
        (lambda a: (a / "adapter_model.safetensors").unlink(), r"has no adapter_model\.safetensors"),
        (lambda a: (a / "adapter_model.safetensors").write_bytes(b"12345678"), "does not fit the model"),
        (
            lambda a: (a / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}'),
            "is a PROMPT_TUNING, which cannot be merged into weights",
        ),
    ],
)
def test_what_is_no_whole_adapter_is_refused(tiny_model, trained, tmp_path, change, message):
    adapter = Path(shutil.copytree(trained / "adapter", tmp_path / "adapter"))
    change(adapter)
    with pytest.raises(ModelError, match=message):
        merge_adapter(tiny_model, adapter, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_adapter_that_lacks_a_weight_is_refused(tiny_model, trained, tmp_path):
    from safetensors.torch import load_file, save_file

    adapter = Path(shutil.copytree(trained / "adapter", tmp_path / "adapter"))
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors.pop(sorted(name for name in tensors if "lora_B" in name)[0])
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing or have no place, for example .*lora_B"):
        merge_adapter(tiny_model, adapter, tmp_path / "model")


def test_settings_are_checked(tiny_model, trained, tmp_path):
    with pytest.raises(SettingError, match="Unknown dtype: 'float8'"):
        merge_adapter(tiny_model, trained / "adapter", tmp_path / "model", dtype="float8")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").write_text("x")
    with pytest.raises(SettingError, match="is not an empty directory"):
        merge_adapter(tiny_model, trained / "adapter", tmp_path / "model")


def test_adapter_brings_the_tokens_and_the_template_that_it_was_trained_with(tiny_model, tmp_path):
    import torch
    from tiny_model import colour_rows
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")
    base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach().clone())
    base.config.tie_word_embeddings = False  # TRL cannot train added tokens of a model in which they are tied
    base.save_pretrained(tmp_path / "base")
    other = AutoTokenizer.from_pretrained(tiny_model)
    other.save_pretrained(tmp_path / "base")
    other.chat_template = other.chat_template.replace("im_start", "begin").replace("im_end", "end")
    other.add_special_tokens({"additional_special_tokens": ["<|begin|>", "<|end|>"], "eos_token": "<|end|>"})
    other.save_pretrained(tmp_path / "other")
    train_sft(
        write_rows(tmp_path / "rows.jsonl", colour_rows(8)),
        tmp_path / "base",
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=SETTINGS | {"chat_template_path": str(tmp_path / "other")},
        model_args=FLOAT32,
    )
    merge_adapter(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged", dtype="float32")

    expected, merged = weights(tmp_path / "model"), weights(tmp_path / "merged")
    assert {name: weight.shape for name, weight in merged.items()} == {
        name: weight.shape for name, weight in expected.items()
    }
    tokenizers = [AutoTokenizer.from_pretrained(tmp_path / name) for name in ("model", "merged")]
    assert tokenizers[0].chat_template == tokenizers[1].chat_template == other.chat_template
    assert [of.eos_token for of in tokenizers] == ["<|end|>", "<|end|>"]
    ends = [GenerationConfig.from_pretrained(tmp_path / name).eos_token_id for name in ("model", "merged")]
    assert ends[0] == ends[1]
    added = tokenizers[0].convert_tokens_to_ids(["<|begin|>", "<|end|>"])
    for name, weight in merged.items():
        rows = added if "embed_tokens" in name else slice(None)
        torch.testing.assert_close(weight[rows], expected[name][rows])
