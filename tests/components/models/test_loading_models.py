"""A model is loaded with exactly the weights that its config asks for, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from llmops_components.errors import ModelError
from llmops_components.models import loading as common
from llmops_components.results import digest_of
from llmops_components.training import building
from llmops_components.training.methods.reward import train_reward
from llmops_components.training.methods.sft import train_sft
from safetensors.torch import load_file, save_file
from tiny_model import preference_rows, write_rows
from transformers import AutoTokenizer, TrainerCallback

SETTINGS = {"bf16": False, "max_steps": 2, "learning_rate": 1e-2}
FLOAT32 = {"dtype": "float32"}


@pytest.fixture
def broken(tiny_model, tmp_path):
    """Copies the tiny model and changes its weights."""

    def change(edit) -> Path:
        directory = Path(shutil.copytree(tiny_model, tmp_path / "broken"))
        tensors = load_file(directory / "model.safetensors")
        edit(tensors)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return directory

    return change


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
def test_missing_weight_is_an_error(broken, task):
    directory = broken(lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    message = (
        r"lacks 1 weights that its config\.json asks for, for example model\.layers\.1\.mlp\.up_proj\.weight"
    )
    with pytest.raises(ModelError, match=message):
        common.load_model(directory, dtype="float32", task=task, new_head=task == "SEQ_CLS")


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
def test_weight_without_a_place_is_an_error(broken, task):
    directory = broken(
        lambda tensors: tensors.update({"model.layers.7.extra": tensors["model.norm.weight"].clone()})
    )
    with pytest.raises(
        ModelError, match=r"has 1 weights that its config\.json does not ask for, for example model\.l"
    ):
        common.load_model(directory, dtype="float32", task=task, new_head=task == "SEQ_CLS")


def test_only_a_new_head_may_be_missing(tiny_model):
    common.load_model(tiny_model, dtype="float32", task="SEQ_CLS", new_head=True)
    with pytest.raises(ModelError, match=r"for example score\.weight"):
        common.load_model(tiny_model, dtype="float32", task="SEQ_CLS")


def test_reward_model_is_no_policy_but_can_be_trained_on(tiny_model, sft_rows, tmp_path):
    pairs = write_rows(tmp_path / "pairs", preference_rows(8))
    train_reward(
        pairs, tiny_model, tmp_path / "judge", tmp_path / "a", training_args=SETTINGS, model_args=FLOAT32
    )
    with pytest.raises(ModelError, match=r"does not ask for, for example score\.weight"):
        train_sft(sft_rows, tmp_path / "judge", tmp_path / "m", tmp_path / "b", training_args=SETTINGS)
    again = train_reward(
        pairs,
        tmp_path / "judge",
        tmp_path / "again",
        tmp_path / "c",
        training_args=SETTINGS | {"learning_rate": 1e-12},
        model_args=FLOAT32,
    )
    assert again.metrics["steps"] == 2
    head = load_file(tmp_path / "judge" / "model.safetensors")["score.weight"]
    assert load_file(tmp_path / "again" / "model.safetensors")["score.weight"].allclose(head, atol=1e-9)


@pytest.mark.parametrize("peft_args", [None, {"peft_type": None}], ids=["lora", "full"])
@pytest.mark.parametrize("kind", ["sft", "reward"])
def test_model_that_was_spread_over_processes_is_put_together_again(
    tiny_model, sft_rows, tmp_path, monkeypatch, kind, peft_args
):
    pairs = write_rows(tmp_path / "pairs", preference_rows(8))
    train, rows = (train_sft, sft_rows) if kind == "sft" else (train_reward, pairs)
    settings = {"training_args": SETTINGS, "model_args": FLOAT32, "peft_args": peft_args}
    train(rows, tiny_model, tmp_path / "whole", tmp_path / "whole-adapter", **settings)
    monkeypatch.setattr(building, "is_sharded", lambda trainer: True)
    train(rows, tiny_model, tmp_path / "spread", tmp_path / "spread-adapter", **settings)
    assert digest_of(tmp_path / "spread") == digest_of(tmp_path / "whole")
    assert (tmp_path / "spread-adapter").exists() == (peft_args is None)
    if peft_args is None:
        weights = [
            tmp_path / name / "adapter_model.safetensors" for name in ("spread-adapter", "whole-adapter")
        ]
        assert digest_of(weights[0]) == digest_of(weights[1])


def test_model_that_zero3_had_spread_is_put_together_in_one_process(
    tiny_model, sft_rows, tmp_path, monkeypatch
):
    from transformers.integrations import deepspeed

    class Zero3:
        """What Transformers asks whether the models that it loads are to be spread, by DeepSpeed."""

        def is_zero3(self) -> bool:
            return True

    def spread(trainer) -> bool:
        save = trainer.save_model

        def save_model(directory: str) -> None:
            save(directory)
            trainer.is_deepspeed_enabled = True
            monkeypatch.setattr(deepspeed, "_hf_deepspeed_config_weak_ref", Zero3)

        trainer.save_model = save_model
        return True

    monkeypatch.setattr(building, "is_sharded", spread)
    train_sft(
        sft_rows,
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=SETTINGS,
        model_args=FLOAT32,
    )
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_adapter_of_quantized_weights_is_merged_into_the_original_ones(tiny_model, sft_rows, tmp_path):
    class Quantized(TrainerCallback):
        """What a model with 4-bit weights says of itself."""

        def on_train_end(self, args, state, control, model, **kwargs):
            model.get_base_model().is_quantized = True

    settings = {"training_args": SETTINGS, "model_args": FLOAT32}
    train_sft(sft_rows, tiny_model, tmp_path / "plain", tmp_path / "a", **settings)
    train_sft(
        sft_rows, tiny_model, tmp_path / "quantized", tmp_path / "b", callbacks=[Quantized()], **settings
    )
    plain, quantized = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "quantized"))
    assert plain.keys() == quantized.keys()
    import torch

    for name, weight in plain.items():
        torch.testing.assert_close(quantized[name].to(weight.dtype), weight, atol=1e-2, rtol=1e-2)
    base = load_file(tiny_model / "model.safetensors")
    assert len([name for name, weight in quantized.items() if not torch.equal(weight, base[name])]) >= 14


@pytest.mark.parametrize(("pad", "eos", "expected"), [(3, 5, 3), (None, 5, 5), (None, None, 0)])
def test_reward_model_knows_where_a_row_ends_without_a_token_for_padding(tiny_model, pad, eos, expected):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token_id, tokenizer.eos_token_id = pad, eos
    model = common.load_base_of_adapter(
        tiny_model, tokenizer, model_args={"pad_token_id": 0}, dtype="float32", task="SEQ_CLS"
    )
    assert model.config.pad_token_id == expected
