"""Every training component as Kubeflow Pipelines calls it: artifacts in, numbers as floats, a result out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kfp.dsl import Artifact, Dataset, Metrics, Model
from llmops_components.kfp import COMPONENTS
from llmops_components.models import check_model_directory
from tiny_model import colour_rows, preference_rows, write_rows

# KFP's only number is the double.
SETTINGS = {"bf16": False, "max_steps": 2.0, "per_device_train_batch_size": 4.0, "logging_steps": 1.0}
GENERATING = SETTINGS | {"max_completion_length": 4.0, "temperature": 1.0}
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
    result = call(
        name,
        tmp_path,
        dataset=pairs,
        base_model=base,
        eval_dataset=pairs,
        training_args=SETTINGS,
        peft_args={"r": 4.0},
        model_args={"dtype": "float32"},
    )
    check_model_directory(tmp_path / "model")
    assert sorted(result["artifacts"]) == ["adapter", "model"]
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 4
    assert {"first_margin", "final_margin", "eval_margin", "eval_loss"} <= result["metrics"].keys()


@pytest.mark.parametrize("name", ["train_grpo", "train_rloo"])
def test_reinforcement_trainer_takes_the_reward_model_of_an_earlier_step(base, pairs, rows, tmp_path, name):
    (tmp_path / "judge").mkdir()
    call("train_reward", tmp_path / "judge", dataset=pairs, base_model=base, training_args=SETTINGS)
    result = call(
        name,
        tmp_path,
        dataset=rows,
        base_model=base,
        reward_model=artifact(Model, tmp_path / "judge" / "model"),
        rewards={"reward_model": 1.0, "think_format_reward": {"weight": 1.0}},
        training_args=GENERATING | {"num_generations": 4.0},
    )
    assert {"first_reward", "final_reward", "final_entropy", "final_completion_length"} <= result[
        "metrics"
    ].keys()


def test_distillation_and_merging(base, rows, tmp_path):
    result = call("distill", tmp_path, dataset=rows, base_model=base, teacher=base, training_args=GENERATING)
    assert result["metrics"]["first_loss"] == pytest.approx(0, abs=1e-4)  # its own teacher
    merged = call(
        "merge_adapter",
        tmp_path / "merged",
        ("model", "metrics", "result"),
        base_model=base,
        adapter=artifact(Model, tmp_path / "adapter"),
    )
    assert merged["details"] == {"peft_type": "LORA"}
    assert merged["artifacts"]["model"]["digest"].startswith("sha256:")


def test_tuned_prompt_is_a_result_without_a_model(base, rows, tmp_path):
    result = call(
        "train_sft",
        tmp_path,
        dataset=rows,
        base_model=base,
        training_args=SETTINGS,
        peft_args={"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4.0},
    )
    assert list(result["artifacts"]) == ["adapter"]
    assert result["findings"][0].startswith("A tuned prompt cannot be merged")
