"""Prompts and padding cost no logits on a CPU either, and the training is the same."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import trl.trainer.utils
from llmops_components.training import driver
from llmops_components.training.label_positions import only_where_labelled
from llmops_components.training.methods.distill import distill
from llmops_components.training.methods.dpo import train_dpo
from llmops_components.training.methods.grpo import train_grpo
from llmops_components.training.methods.kto import train_kto
from llmops_components.training.methods.sft import train_sft
from tiny_model import colour_rows, preference_rows, write_rows
from trl.kernels import chunked_divergence

EXACT = {"bf16": False, "logging_steps": 1, "max_steps": 2, "per_device_train_batch_size": 4}
ANSWERING = {"num_generations": 4, "max_completion_length": 8, "beta": 0.1}
REWARDS = {"rewards": {"toy_rewards:brevity": 1.0}}
RUNS = {
    "train_sft": (train_sft, colour_rows, {}, {}),
    "train_dpo": (train_dpo, preference_rows, {}, {}),
    "train_kto": (train_kto, preference_rows, {}, {}),
    "train_grpo": (train_grpo, colour_rows, ANSWERING, REWARDS),
    "distill": (distill, colour_rows, {"max_completion_length": 8}, {}),
}


@pytest.fixture
def projected(monkeypatch) -> list[int]:
    """How many positions were multiplied with the vocabulary, an entry for each time."""
    counts: list[int] = []
    for function in (trl.trainer.utils._ChunkedLogProbFunction, chunked_divergence.ChunkedDivergenceFunction):

        def forward(ctx, hidden, *rest, original=function.forward):
            counts.append(hidden.shape[0])
            return original(ctx, hidden, *rest)

        monkeypatch.setattr(function, "forward", staticmethod(forward))
    return counts


@pytest.mark.parametrize("name", RUNS)
def test_positions_without_a_label_cost_nothing_and_change_nothing(
    name, projected, tiny_model, guessing_model, tmp_path, monkeypatch
):
    train, make_rows, settings, inputs = RUNS[name]
    if train is distill:
        inputs = {"teacher": tiny_model}
    monkeypatch.setenv("LLMOPS_REWARD_MODULES", "toy_rewards")
    rows = write_rows(tmp_path / "rows.jsonl", make_rows(16))

    def run(directory):
        projected.clear()
        train(
            rows,
            guessing_model,
            model=tmp_path / directory,
            adapter=tmp_path / f"{directory}-adapter",
            training_args=EXACT | settings,
            model_args={"dtype": "float32"},
            **inputs,
        )
        log = json.loads((tmp_path / directory / "training_log.json").read_text())
        return [entry["loss"] for entry in log if "loss" in entry], sum(projected)

    losses, positions = run("ours")
    monkeypatch.setattr(driver, "only_where_labelled", nullcontext)
    plain_losses, plain_positions = run("plain")

    assert len(losses) == 2
    assert losses == pytest.approx(plain_losses, rel=1e-4, abs=1e-5)
    # Of distillation's prompts TRL computes no logits itself; only padding is left to save.
    assert 0 < positions < plain_positions * (1 if train is distill else 0.7)


def test_trl_is_as_before_afterwards():
    before = trl.trainer.utils._use_triton
    with pytest.raises(ZeroDivisionError), only_where_labelled():
        assert trl.trainer.utils._use_triton is not before
        1 / 0  # noqa: B018
    assert trl.trainer.utils._use_triton is before
