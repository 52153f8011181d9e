"""Trainers pad rows to one length: a model that reads padding like text is refused before it is trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, make_model
from llmops_components.errors import ModelError
from llmops_components.models.probing import check_answers_in_batch, check_scores_in_batch
from llmops_components.training.methods.distill import distill
from llmops_components.training.methods.grpo import train_grpo
from llmops_components.training.methods.reward import train_reward
from llmops_components.training.methods.rloo import train_rloo
from tiny_model import colour_rows, preference_rows, write_rows


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def saved(tiny_model: Path, tokenizer: Any, tmp_path: Path) -> Any:
    """Saves a model with the tiny model's tokenizer."""

    def save(model: Any, name: str) -> Path:
        directory = Path(shutil.copytree(tiny_model, tmp_path / name))
        for old in (*directory.glob("*.safetensors"), directory / "config.json"):
            old.unlink()
        model.save_pretrained(directory)
        return directory

    return save


@pytest.mark.parametrize("model_type", ["gpt2", "qwen3_moe", "mamba"])
def test_a_model_that_answers_beside_others_as_alone_is_taken(model_type: str) -> None:
    check_answers_in_batch(make_model(model_type), "GRPOTrainer")


@pytest.mark.parametrize("model_type", ["gpt2", "bert", "mistral"])
def test_a_classifier_that_scores_beside_others_as_alone_is_taken(model_type: str, tokenizer: Any) -> None:
    model = make_model(model_type, len(tokenizer), scores=True)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.train()
    check_scores_in_batch(model, tokenizer)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_classifier_that_reads_padding_a_little_is_refused_in_16_bit_too(
    dtype: torch.dtype, tokenizer: Any
) -> None:
    model = make_model("convbert", len(tokenizer), scores=True).to(dtype)
    model.config.pad_token_id = tokenizer.pad_token_id
    with pytest.raises(ModelError, match="scores a text otherwise when a longer one stands beside it"):
        check_scores_in_batch(model, tokenizer)


def test_a_classifier_that_diverged_is_told_from_one_that_reads_padding(tokenizer: Any) -> None:
    model = make_model("gpt2", len(tokenizer), scores=True)
    with torch.no_grad():
        model.score.weight.fill_(torch.nan)
    with pytest.raises(
        ModelError, match=r"GPT2ForSequenceClassification .* its scores are no numbers \(NaN\)"
    ):
        check_scores_in_batch(model, tokenizer)


def test_a_classifier_with_a_configuration_in_another_one_is_asked(tokenizer: Any) -> None:
    from transformers import AutoModelForSequenceClassification, Gemma3Config

    text = {**ARCHITECTURES["gemma3_text"], "vocab_size": len(tokenizer)}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=text, vision_config=vision | {"image_size": 28, "patch_size": 14}, num_labels=1
    )
    config.get_text_config().pad_token_id = tokenizer.pad_token_id
    check_scores_in_batch(AutoModelForSequenceClassification.from_config(config).eval(), tokenizer)


def test_a_model_of_which_this_process_has_a_part_is_not_asked(tokenizer: Any) -> None:
    policy, reward_model = make_model("rwkv"), make_model("convbert", len(tokenizer), scores=True)
    for parameter in (*policy.parameters(), *reward_model.parameters()):
        parameter.ds_id = 0  # as under DeepSpeed's ZeRO-3
        parameter.data = torch.empty(0)
    check_answers_in_batch(policy, "GRPOTrainer")
    check_scores_in_batch(reward_model, tokenizer)


@pytest.mark.parametrize("train", [train_grpo, train_rloo], ids=["train_grpo", "train_rloo"])
@pytest.mark.parametrize("model_type", ["rwkv", "recurrent_gemma"])
def test_a_policy_that_reads_padding_is_refused(
    model_type: str, train: Any, saved: Any, tokenizer: Any, tmp_path: Path
) -> None:
    base = saved(make_model(model_type, len(tokenizer)), "base")
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": row["prompt"]} for row in colour_rows(8)])
    with pytest.raises(
        ModelError, match=rf"\(model type {model_type}\) answers a prompt otherwise when a longer"
    ):
        train(
            rows,
            base,
            tmp_path / "model",
            tmp_path / "adapter",
            rewards={"think_format_reward": 1.0},
            training_args={"max_steps": 1, "bf16": False},
            peft_args={"peft_type": None},
        )


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_neither_student_nor_teacher_reads_padding(
    role: str, saved: Any, tokenizer: Any, tiny_model: Path, tmp_path: Path
) -> None:
    reads_padding = saved(make_model("rwkv", len(tokenizer)), "reads-padding")
    models = {"student": tiny_model, "teacher": tiny_model, role: reads_padding}
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": row["prompt"]} for row in colour_rows(8)])
    with pytest.raises(ModelError, match=r"\(model type rwkv\) answers a prompt otherwise"):
        distill(
            rows,
            models["student"],
            models["teacher"],
            tmp_path / "model",
            tmp_path / "adapter",
            training_args={"max_steps": 1, "bf16": False},
            peft_args={"peft_type": None},
        )


def test_a_reward_model_that_reads_padding_is_neither_trained_nor_asked(
    saved: Any, tokenizer: Any, tiny_model: Path, tmp_path: Path
) -> None:
    refused = (
        r"ConvBert\w+ \(model type convbert\) scores a text otherwise when a longer one stands beside it"
    )
    reads_padding = saved(make_model("convbert", len(tokenizer), scores=True), "reads-padding")
    arguments: dict[str, Any] = {
        "training_args": {"max_steps": 1, "bf16": False},
        "peft_args": {"peft_type": None},
    }
    with pytest.raises(ModelError, match=refused):
        train_reward(
            write_rows(tmp_path / "pairs.jsonl", preference_rows(8)),
            reads_padding,
            tmp_path / "model",
            tmp_path / "adapter",
            **arguments,
        )
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": row["prompt"]} for row in colour_rows(8)])
    with pytest.raises(ModelError, match=refused):
        train_grpo(
            rows,
            tiny_model,
            tmp_path / "policy",
            tmp_path / "policy-adapter",
            reward_model=reads_padding,
            **arguments,
        )
