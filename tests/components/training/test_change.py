"""A training after which the model still equals its base is an error that says why."""

from __future__ import annotations

import pytest
from llmops_components.errors import SettingError
from llmops_components.training.methods.sft import train_sft
from safetensors.torch import load_file
from tiny_model import colour_rows, write_rows
from tiny_training import Judged
from transformers import TrainerCallback

SETTINGS = {"bf16": False, "logging_steps": 1, "learning_rate": 1e-2, "max_steps": 3}
FULL = {"peft_type": None}


def train(tiny_model, rows, tmp_path, *, training_args=None, **options):
    options = {"model_args": {"dtype": "float32"}, **options}
    return train_sft(
        rows,
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=SETTINGS | (training_args or {}),
        **options,
    )


@pytest.mark.parametrize("steps", [{"max_steps": 1}, {"max_steps": -1, "num_train_epochs": 1}])
def test_training_of_one_step_has_no_warm_up_by_default_and_learns(tiny_model, tmp_path, steps):
    rows = write_rows(tmp_path / "rows.jsonl", colour_rows(4))
    report = train(tiny_model, rows, tmp_path, training_args=steps)
    assert report.metrics["steps"] == 1
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert [name for name, weight in adapter.items() if "lora_B" in name and not weight.any()] == []


class Poison(TrainerCallback):
    """Puts a number into all gradients."""

    def __init__(self, value: float) -> None:
        self.value = value

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.fill_(self.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training_args": {"learning_rate": 0}}, "^training_args: learning_rate is 0, with which nothing"),
        (
            {"training_args": {"max_steps": 1, "warmup_steps": 1}},
            r"^Nothing was learned: after 1 step the model still equals its base, because the learning rate was 0 at every "
            r"step \(learning_rate=0.01, warmup_steps=1, lr_scheduler_type=cosine\). Train more steps, or set warmup_steps=0.",
        ),
        ({"callbacks": [Poison(0.0)]}, "^Nothing was learned: after 3 steps the model still equals its base"),
        (
            {"callbacks": [Poison(0.0)], "training_args": {"weight_decay": 0.1}},
            "^Nothing was learned: after 3 steps the model still equals its base",
        ),
        (
            {
                "peft_args": FULL,
                "model_args": {"dtype": "bfloat16"},
                "training_args": {"learning_rate": 1e-50},
            },
            "because every update was rounded away, with learning_rate=1e-50. Raise learning_rate, or train in float32",
        ),
        (
            {"training_args": {"num_train_epochs": 0, "max_steps": -1}},
            "^Nothing was learned: no step was made",
        ),
    ],
    ids=["rate", "warm-up", "gradient", "decay", "rounded", "no-step"],
)
def test_model_that_still_equals_its_base_is_an_error(tiny_model, sft_rows, tmp_path, settings, message):
    with pytest.raises(SettingError, match=message):
        train(tiny_model, sft_rows, tmp_path, **settings)
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "adapter").exists()


def test_best_checkpoint_from_before_anything_was_learned_is_an_error(tiny_model, sft_rows, tmp_path):
    with pytest.raises(
        SettingError, match="because by eval_loss the best checkpoint is that of step 1, before anything was"
    ):
        train(
            tiny_model,
            sft_rows,
            tmp_path,
            training_args={"save_steps": 1, "warmup_steps": 1},
            checkpoints=tmp_path / "checkpoints",
            eval_dataset=sft_rows,
            callbacks=[Judged(best=1)],
        )


def test_run_that_goes_on_after_its_last_step_has_changed_its_base(tiny_model, sft_rows, tmp_path):
    options = {"checkpoints": tmp_path / "checkpoints"}
    train(tiny_model, sft_rows, tmp_path / "first", **options)
    report = train(tiny_model, sft_rows, tmp_path / "again", **options)
    assert report.details["resumed_from"] == "checkpoint-3"
    assert report.metrics["steps"] == 3


def test_settings_that_freeze_everything_are_an_error(tiny_model, sft_rows, tmp_path):
    class Freeze(TrainerCallback):
        def on_init_end(self, args, state, control, model, **kwargs):
            model.requires_grad_(False)

    with pytest.raises(
        SettingError, match=r"^Nothing would be trained: the settings leave every weight frozen"
    ):
        train(tiny_model, sft_rows, tmp_path, callbacks=[Freeze()])
