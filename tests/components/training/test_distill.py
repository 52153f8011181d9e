"""distill on tiny models: the student comes to judge as its teacher does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from llmops_components.errors import ModelError, SettingError
from llmops_components.results import digest_of
from llmops_components.training.methods.distill import distill
from llmops_components.training.methods.sft import train_sft
from tiny_model import guessing_rows, write_rows
from weight_watch import WeightWatch

SETTINGS = {
    "bf16": False,
    "logging_steps": 10,
    "learning_rate": 1e-3,
    "max_steps": 60,
    "per_device_train_batch_size": 16,
    "max_completion_length": 16,
}
SHORT = SETTINGS | {"max_steps": 3, "logging_steps": 1}
ALL_WEIGHTS = {"peft_type": None}


@pytest.fixture(scope="module")
def teacher(tiny_model, tmp_path_factory, seed) -> Path:
    """A model to which everything is red."""
    directory = tmp_path_factory.mktemp("teacher")
    train_sft(
        write_rows(directory / "rows.jsonl", [row for row in guessing_rows() if " red." in str(row)]),
        tiny_model,
        directory / "model",
        directory / "adapter",
        training_args={
            "bf16": False,
            "seed": seed,
            "max_steps": 100,
            "learning_rate": 4e-3,
            "per_device_train_batch_size": 8,
        },
        peft_args=ALL_WEIGHTS,
    )
    return directory / "model"


@pytest.mark.learns
def test_student_comes_to_judge_as_its_teacher_does(guessing_model, teacher, sft_rows, tmp_path, seed):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    watch = WeightWatch()
    report = distill(
        sft_rows,
        guessing_model,
        teacher,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=SETTINGS | {"seed": seed},
        peft_args=ALL_WEIGHTS,
        eval_dataset=sft_rows,
        callbacks=[watch],
    )

    metrics = report.metrics
    assert metrics["final_loss"] < metrics["first_loss"] / 4
    assert metrics["eval_loss"] < metrics["first_loss"] / 4
    assert metrics["final_entropy"] < metrics["first_entropy"]
    assert watch.moved == watch.trainable
    assert not watch.frozen
    provenance = json.loads((tmp_path / "model" / "provenance.json").read_text())
    assert provenance["teacher"]["digest"] == digest_of(teacher)[0]
    assert provenance["base_model"]["digest"] == digest_of(guessing_model)[0]

    student = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    question = [{"role": "user", "content": "What colour is the sky?"}]
    inputs = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = student.generate(**inputs, max_new_tokens=20)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True).strip().endswith(" is red.")


def test_lora_moves_and_the_base_does_not(tiny_model, teacher, sft_rows, tmp_path):
    watch = WeightWatch()
    distill(
        sft_rows,
        tiny_model,
        teacher,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=SHORT,
        callbacks=[watch],
    )
    assert watch.moved == watch.trainable
    assert (len(watch.trainable), len(watch.frozen)) == (2 * 2 * 7, 20)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_teacher_of_another_vocabulary_is_refused(tiny_model, teacher, sft_rows, tmp_path):
    other = Path(shutil.copytree(teacher, tmp_path / "other"))
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="do not share a vocabulary: 2 tokens differ"):
        distill(sft_rows, tiny_model, other, tmp_path / "m", tmp_path / "a", training_args=SHORT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_args": {"peft_type": "PROMPT_TUNING"}}, "distill cannot tune a prompt"),
        ({"training_args": {"teacher_model_name_or_path": "x"}}, "teacher_model_name_or_path cannot be set"),
        ({"training_args": {"lmbda": 0.5}}, "'lmbda' is no longer an argument"),
    ],
)
def test_wrong_settings_are_named(tiny_model, teacher, sft_rows, tmp_path, settings, message):
    with pytest.raises(SettingError, match=message):
        distill(sft_rows, tiny_model, teacher, tmp_path / "m", tmp_path / "a", **settings)
