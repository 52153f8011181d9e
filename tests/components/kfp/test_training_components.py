"""Every training component as Kubeflow Pipelines calls it: artifacts in, numbers as floats, a result out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from kfp.dsl import Artifact, Dataset, Metrics, Model
from llmops_components.kfp import COMPONENTS
from llmops_components.models.directory import check_model_directory
from tiny_model import colour_rows, preference_rows, write_rows

# KFP's only number is the double.
SETTINGS = {"bf16": False, "max_steps": 2.0, "per_device_train_batch_size": 4.0, "logging_steps": 1.0}
GENERATING = SETTINGS | {"max_completion_length": 4.0, "temperature": 1.0}
BUDGET = {"max_minutes": 60.0, "price_per_device_hour": 2.0}
COMMON = ("model", "adapter", "metrics", "result")


def artifact(kind: type, path: Path):
    return kind(name=path.name, uri=str(path))


def call(name: str, tmp_path: Path, outputs: tuple[str, ...] = COMMON, **arguments) -> dict:
    kinds = {"metrics": Metrics, "result": Artifact}
    written = {output: artifact(kinds.get(output, Model), tmp_path / output) for output in outputs}
    COMPONENTS[name].python_func(**arguments, **written)
    result = json.loads((tmp_path / "result").read_text())
    assert result["component"] == name
    assert {
        key: value for key, value in written["metrics"].metadata.items() if key in result["metrics"]
    } == result["metrics"]
    return result


def train(name: str, tmp_path: Path, **arguments) -> dict:
    """What every trainer takes and says, whichever it is."""
    result = call(name, tmp_path, budget=BUDGET, **arguments)
    budget = result["details"]["budget"]
    assert (budget["limit"], budget["limits"]) == (None, {"max_minutes": 60})
    assert budget["used"]["cost"] >= 0
    described = next(path for path in (tmp_path / "model", tmp_path / "adapter") if path.exists())
    card = ModelCard.load(described / "README.md")
    assert card.data.tags[0] == "trl"
    assert "| train_loss |" in card.text
    return result


@pytest.fixture
def base(tiny_model) -> Model:
    return artifact(Model, tiny_model)


@pytest.fixture
def pairs(tmp_path) -> Dataset:
    return artifact(Dataset, write_rows(tmp_path / "pairs", preference_rows(8)))


@pytest.fixture
def rows(tmp_path) -> Dataset:
    return artifact(Dataset, write_rows(tmp_path / "rows", colour_rows(8)))


@pytest.mark.parametrize("name", ["train_reward", "train_dpo", "train_kto"])
def test_preference_trainer(base, pairs, tmp_path, name):
    result = train(
        name,
        tmp_path,
        dataset=pairs,
        base_model=base,
        eval_dataset=pairs,
        training_args=SETTINGS,
        peft_args={"r": 4.0},
        model_args={"dtype": "float32"},
        checkpoints=str(tmp_path / "checkpoints"),
    )
    assert result["details"]["budget"]["kept"] == "best"
    check_model_directory(tmp_path / "model")
    assert sorted(result["artifacts"]) == ["adapter", "model"]
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 4
    assert {"first_margin", "final_margin", "eval_margin", "eval_loss"} <= result["metrics"].keys()


@pytest.mark.parametrize("name", ["train_grpo", "train_rloo"])
def test_reinforcement_trainer_takes_the_reward_model_of_an_earlier_step(base, pairs, rows, tmp_path, name):
    (tmp_path / "judge").mkdir()
    train("train_reward", tmp_path / "judge", dataset=pairs, base_model=base, training_args=SETTINGS)
    result = train(
        name,
        tmp_path,
        dataset=rows,
        base_model=base,
        reward_model=artifact(Model, tmp_path / "judge" / "model"),
        rewards={"reward_model": 1.0, "think_format_reward": {"weight": 1.0}},
        eval_dataset=rows,
        training_args=GENERATING | {"num_generations": 4.0, "per_device_eval_batch_size": 4.0},
        checkpoints=str(tmp_path / "checkpoints"),
    )
    log = json.loads((tmp_path / "model" / "training_log.json").read_text())
    judged = {entry["step"]: entry["eval_reward"] for entry in log if "eval_reward" in entry}
    assert result["details"]["budget"]["kept_step"] == max(judged, key=judged.__getitem__)
    assert {
        "first_reward",
        "final_reward",
        "eval_reward",
        "final_entropy",
        "final_completion_length",
    } <= result["metrics"].keys()


def test_distillation_merging_and_compressing(base, talkative_model, rows, tmp_path):
    result = train(
        "distill",
        tmp_path,
        dataset=rows,
        base_model=base,
        teacher=artifact(Model, talkative_model),
        eval_dataset=rows,
        training_args=GENERATING,
        checkpoints=str(tmp_path / "checkpoints"),
    )
    assert result["details"]["budget"]["kept"] == "best"
    assert result["metrics"]["first_loss"] > 0
    merged = call(
        "merge_adapter",
        tmp_path / "merged",
        ("model", "metrics", "result"),
        base_model=base,
        adapter=artifact(Model, tmp_path / "adapter"),
    )
    assert merged["details"] == {"peft_type": "LORA"}
    assert merged["artifacts"]["model"]["digest"].startswith("sha256:")
    compressed = call(
        "compress_model",
        tmp_path / "compressed",
        ("model", "metrics", "result"),
        base_model=artifact(Model, tmp_path / "merged" / "model"),
        dataset=rows,
    )
    assert compressed["metrics"]["weight_bytes"] < compressed["metrics"]["base_weight_bytes"]
    assert {"loss", "base_loss", "tokens_per_second", "base_tokens_per_second"} <= compressed[
        "metrics"
    ].keys()


def test_tuned_prompt_is_a_result_without_a_model(base, rows, tmp_path):
    result = train(
        "train_sft",
        tmp_path,
        dataset=rows,
        base_model=base,
        training_args=SETTINGS,
        peft_args={"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4.0},
    )
    assert list(result["artifacts"]) == ["adapter"]
    assert result["findings"][0].startswith("A tuned prompt cannot be merged")


def test_step_can_train_in_several_processes(base, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the launcher sets variables for them
    result = train(
        "train_sft",
        tmp_path,
        dataset=rows,
        base_model=base,
        training_args=SETTINGS | {"max_steps": 1.0},
        processes=2,
        preset="cpu",
    )
    assert sorted(result["artifacts"]) == ["adapter", "model"]
    assert result["metrics"]["steps"] == 1
    assert result["metrics"]["epochs"] == 1  # eight rows: four in each process
    assert "| processes | 2 |" in (tmp_path / "model" / "README.md").read_text()


def test_cancelled_step_saves_and_says_that_it_may_be_retried(base, rows, tmp_path):
    script = textwrap.dedent(
        f"""
        import time
        from kfp.dsl import Artifact, Dataset, Metrics, Model
        from llmops_components.kfp import train_sft
        from llmops_components.training.callbacks import progress

        def slow(self, args, state, control, **kwargs):  # so that the signal lands in the middle
            time.sleep(0.1)

        progress.ProgressCallback.on_step_begin = slow
        kinds = {{"model": Model, "adapter": Model, "metrics": Metrics, "result": Artifact}}
        train_sft.python_func(
            dataset=Dataset(uri={rows.uri!r}),
            base_model=Model(uri={base.uri!r}),
            training_args={SETTINGS | {"max_steps": 40.0}!r},
            checkpoints={str(tmp_path / "checkpoints")!r},
            **{{name: kind(uri={str(tmp_path)!r} + "/" + name) for name, kind in kinds.items()}},
        )
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LLMOPS_ERROR_FILE": str(tmp_path / "error.json")},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 6/"):
            process.send_signal(signal.SIGTERM)
            break
    _, errors = process.communicate(timeout=60)

    (saved,) = (path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*"))
    step = int(saved.removeprefix("checkpoint-"))
    assert 6 <= step < 40
    message = f"Training was stopped by SIGTERM after step {step} of 40; it is saved."
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith(f"TrainingInterrupted: {message}")
    recorded = json.loads((tmp_path / "error.json").read_text())
    assert (recorded["type"], recorded["retryable"]) == ("TrainingInterrupted", True)
    assert not (tmp_path / "result").exists()
