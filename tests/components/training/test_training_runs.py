"""What every training does beside training: it survives, keeps to its budget, keeps the best, and says what it made.

Each is tested through train_sft, since all trainers are built, run and saved in one place.
"""

from __future__ import annotations

import json
import logging
import re
import runpy
import shutil
import signal
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from llmops_components.errors import SettingError, TrainingInterrupted
from llmops_components.results import digest_of
from llmops_components.training.methods.sft import train_sft
from tiny_model import colour_rows, write_rows
from tiny_training import Judged, losses, same_course
from transformers import TrainerCallback

SETTINGS = {"bf16": False, "logging_steps": 1, "learning_rate": 1e-2, "max_steps": 12}
FLOAT32 = {"dtype": "float32"}


class At(TrainerCallback):
    """Does something when a step begins."""

    def __init__(self, step: int, do) -> None:
        self.step, self.do = step, do

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.do(args)


def log(model: Path) -> list[dict]:
    return json.loads((model / "training_log.json").read_text())


def train(tiny_model: Path, rows: Path, out: Path, *, training_args=None, **options):
    options = {
        "training_args": SETTINGS | (training_args or {}),
        "model_args": FLOAT32,
        **options,
    }
    return train_sft(rows, tiny_model, out / "model", out / "adapter", **options)


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory) -> list[tuple[int, float]]:
    """Losses of a run that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole")
    train(tiny_model, write_rows(out / "rows.jsonl", colour_rows(32)), out)
    return losses(log(out / "model"))


def test_budget_stops_the_run_says_so_and_can_be_raised(tiny_model, sft_rows, tmp_path, whole, capfd):
    kept = {"checkpoints": tmp_path / "checkpoints"}
    stopped = train(tiny_model, sft_rows, tmp_path / "a", budget={"max_tokens": 700}, **kept)

    steps = stopped.metrics["steps"]
    assert 1 < steps < 12
    finding = f"Stopped by max_tokens=700 after step {steps} of 12; the last weights (step {steps}) are kept."
    assert stopped.findings == [finding]
    assert finding in capfd.readouterr().out
    assert f"- {finding}" in (tmp_path / "a" / "model" / "README.md").read_text()
    used = stopped.details["budget"].pop("used")
    assert stopped.details["budget"] == {
        "limit": "max_tokens",
        "limits": {"max_tokens": 700},
        "steps": steps,
        "planned_steps": 12,
        "kept": "last",
        "kept_step": steps,
    }
    assert 700 <= used["tokens"] < 1000

    raised = {"max_tokens": 10**6, "price_per_device_hour": 3600.0}
    report = train(tiny_model, sft_rows, tmp_path / "b", budget=raised, **kept)
    assert report.details["resumed_from"] == f"checkpoint-{steps}"
    assert report.findings == []
    assert losses(log(tmp_path / "b" / "model")) == whole
    again = report.details["budget"]["used"]
    assert again["tokens"] == pytest.approx(used["tokens"] * 12 / steps, rel=0.1)
    assert again["cost"] > 0


def test_sigterm_saves_and_the_run_goes_on_with_the_same_losses(tiny_model, sft_rows, tmp_path, whole):
    kept = {"checkpoints": tmp_path / "checkpoints", "training_args": {"save_steps": 100}}
    sigterm = At(4, lambda args: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(TrainingInterrupted, match="stopped by SIGTERM after step 5 of 12; it is saved"):
        train(tiny_model, sft_rows, tmp_path, callbacks=[sigterm], **kept)
    assert not (tmp_path / "model").exists()

    report = train(tiny_model, sft_rows, tmp_path, **kept)
    assert report.details["resumed_from"] == "checkpoint-5"
    assert losses(log(tmp_path / "model")) == whole


def test_checkpoints_by_minutes_are_gone_on_from(tiny_model, sft_rows, tmp_path, whole):
    kept = {
        "checkpoints": tmp_path / "checkpoints",
        "training_args": {"save_steps": 100},
        "save_minutes": 1e-9,
    }

    def crash(args):
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_model, sft_rows, tmp_path, callbacks=[At(7, crash)], **kept)

    report = train(tiny_model, sft_rows, tmp_path, **kept)
    assert report.details["resumed_from"] == "checkpoint-7"
    assert losses(log(tmp_path / "model")) == whole


def test_run_that_goes_on_is_not_warned_of_its_own_settings(tiny_model, sft_rows, tmp_path, caplog):
    kept = {
        "checkpoints": tmp_path / "checkpoints",
        "training_args": {"logging_steps": 0.25, "save_steps": 0.5},
    }

    def crash(args):
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_model, sft_rows, tmp_path, callbacks=[At(8, crash)], **kept)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        report = train(tiny_model, sft_rows, tmp_path, **kept)
    finally:
        logger.removeHandler(caplog.handler)
    assert report.details["resumed_from"] == "checkpoint-6"
    assert [step for step, _ in losses(log(tmp_path / "model"))] == [1, 3, 6, 9, 12]
    assert [record.message for record in caplog.records if "do not match" in record.message] == []


def test_out_of_memory_halves_the_batch_and_leaves_losses_and_provenance(
    tiny_model, sft_rows, tmp_path, whole, capfd
):
    import torch

    def allocate(args):
        if args.per_device_train_batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    report = train(tiny_model, sft_rows, tmp_path, callbacks=[At(3, allocate)])

    assert report.metrics["steps"] == 12
    assert losses(log(tmp_path / "model")) == same_course(whole)
    assert re.search(r"^Out of memory .*per_device_train_batch_size=2", capfd.readouterr().out, re.MULTILINE)
    provenance = json.loads((tmp_path / "model" / "provenance.json").read_text())
    assert provenance["training_args"]["per_device_train_batch_size"] == 4


@pytest.fixture
def best_in_its_middle(tmp_path):
    """Options of a run of which a checkpoint in the middle is the best, by figures that do not depend on what it learns."""
    return {
        "training_args": {"save_steps": 1},
        "eval_dataset": write_rows(tmp_path / "held_out.jsonl", colour_rows(4)),
        "checkpoints": tmp_path / "checkpoints",
    }


def test_best_checkpoint_is_the_outcome_where_rows_are_held_out(
    tiny_model, sft_rows, tmp_path, best_in_its_middle
):
    import torch
    from safetensors.torch import load_file

    weights = {}

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            weights[state.global_step] = {
                name.replace(".default", ""): parameter.detach().clone()
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            }

    report = train(tiny_model, sft_rows, tmp_path, callbacks=[Watch(), Judged(best=5)], **best_in_its_middle)

    judged = {entry["step"]: entry["eval_loss"] for entry in log(tmp_path / "model") if "eval_loss" in entry}
    assert judged == {step: 1.0 + abs(step - 5) for step in range(1, 13)}
    assert report.metrics["eval_loss"] == 1.0
    kept = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert [name for name, weight in weights[5].items() if not torch.equal(kept[name], weight)] == []
    assert [name for name, weight in weights[12].items() if torch.equal(kept[name], weight)] == []
    assert (report.details["budget"]["kept"], report.details["budget"]["kept_step"]) == ("best", 5)
    provenance = json.loads((tmp_path / "model" / "provenance.json").read_text())
    assert provenance["training_args"]["metric_for_best_model"] == "eval_loss"
    assert provenance["eval_dataset"]["digest"] == digest_of(tmp_path / "held_out.jsonl")[0]


@pytest.mark.parametrize("limit", [{}, {"save_total_limit": 1}])
def test_sigterm_goes_on_from_the_step_it_came_in_even_if_an_older_checkpoint_is_better(
    tiny_model, sft_rows, tmp_path, best_in_its_middle, limit
):
    best_in_its_middle["training_args"] |= limit
    sigterm = At(8, lambda args: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(TrainingInterrupted):
        train(tiny_model, sft_rows, tmp_path, callbacks=[sigterm, Judged(best=5)], **best_in_its_middle)

    report = train(tiny_model, sft_rows, tmp_path, callbacks=[Judged(best=5)], **best_in_its_middle)
    assert report.details["resumed_from"] == "checkpoint-9"
    assert report.details["budget"]["kept_step"] == 5


def test_model_comes_with_a_card(tiny_model, sft_rows, tmp_path):
    report = train(tiny_model, sft_rows, tmp_path, eval_dataset=sft_rows)

    text = (tmp_path / "model" / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.to_dict() == {
        "license": "unknown",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["trl", "sft"],
    }
    for line in (
        f"| digest | {digest_of(sft_rows)[0]} |",
        "| source | sft_rows.jsonl |",
        "| held out: rows | 32 |",
        f"| digest | {digest_of(tiny_model)[0]} |",
        "| training_args.learning_rate | 0.01 |",
        f"| eval_loss | {report.metrics['eval_loss']:.4g} |",
        "![Curves of the training](training_curves.png)",
    ):
        assert line in text.splitlines()
    assert str(tmp_path) not in text and str(tiny_model) not in text
    assert (tmp_path / "model" / "training_curves.png").read_bytes().startswith(b"\x89PNG")


def test_tuned_prompt_has_its_card_with_the_adapter(tiny_model, sft_rows, tmp_path, monkeypatch):
    train(tiny_model, sft_rows, tmp_path, peft_args={"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4})

    assert not (tmp_path / "model").exists()
    text = (tmp_path / "adapter" / "README.md").read_text()
    assert "a prompt tuned" in text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path / "adapter")
    (tmp_path / "use.py").write_text(code.replace('"base_model"', repr(str(tiny_model))))
    runpy.run_path(str(tmp_path / "use.py"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"trainng_args": {}},
            r"arguments of train_sft: 'trainng_args' \(did you mean 'training_args'\?\)",
        ),
        ({"budget": {"max_minute": 1}}, r"budget: 'max_minute' \(did you mean 'max_minutes'\?\)"),
        ({"budget": {"max_cost": 1}}, "max_cost needs price_per_device_hour"),
        ({"tracking": {"uri": "x"}}, "Unknown tracking: 'uri'"),
        ({"save_minutes": 0}, "save_minutes is 0"),
        ({"loss_guard": {"factr": 2}}, r"loss_guard: 'factr' \(did you mean 'factor'\?\)"),
    ],
)
def test_wrong_options_are_named_before_anything_is_loaded(
    tiny_model, sft_rows, tmp_path, options, message, capfd
):
    with pytest.raises(SettingError, match=message):
        train(tiny_model, sft_rows, tmp_path, **options)
    assert "Training" not in capfd.readouterr().out


def test_no_secret_lies_beside_the_model_or_the_checkpoints(tiny_model, sft_rows, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    (base / "provenance.json").write_text(json.dumps({"source": "https://ann:pa55word@host/model"}))
    train(
        base,
        sft_rows,
        tmp_path,
        training_args={"max_steps": 1, "run_name": "hf_abcdefghijklmnopqrstuvwx"},
        checkpoints=tmp_path / "checkpoints",
    )
    written = [
        path for path in tmp_path.rglob("*") if path.suffix in (".json", ".md") and base not in path.parents
    ]
    assert {"provenance.json", "run.json"} <= {path.name for path in written}
    for path in written:
        if not path.is_relative_to(tmp_path / "checkpoints") or path.name == "run.json":
            text = path.read_text()
            assert "pa55word" not in text and "hf_abcdefghijklm" not in text, path


@pytest.mark.parametrize("given", [{"fp16": True}, {"bf16": True}, {}])
def test_half_precision_that_the_caller_chooses_takes_the_place_of_ours(given, tmp_path):
    from llmops_components.models.precision import precision
    from llmops_components.training import settings
    from trl import SFTConfig

    ours = {} if given else precision(full=False)[1]
    assert sum(bool(ours.get(name)) for name in ("bf16", "fp16")) <= 1
    config = settings.build_config(
        SFTConfig,
        given,
        what="training_args",
        defaults={**settings.training_defaults(given), **ours},
        fixed={"output_dir": str(tmp_path)},
    )
    assert all(getattr(config, name) for name in given)


def test_what_the_trainer_refuses_is_an_error_of_settings(tiny_model, sft_rows, tmp_path):
    with pytest.raises(SettingError, match=r"SFTTrainer refuses these settings for .*rows.*Target modules"):
        train(tiny_model, sft_rows, tmp_path, peft_args={"target_modules": ["no_such_module"]})


def test_another_number_of_processes_is_another_run(tiny_model, sft_rows, tmp_path, monkeypatch):
    train(tiny_model, sft_rows, tmp_path, training_args={"max_steps": 1}, checkpoints=tmp_path / "c")
    monkeypatch.setattr("llmops_components.training.plan.process_count", lambda: 2)
    with pytest.raises(SettingError, match=r"another run \(different: processes\)"):
        train(
            tiny_model,
            sft_rows,
            tmp_path / "again",
            training_args={"max_steps": 1},
            checkpoints=tmp_path / "c",
        )


def test_checkpoint_that_was_cut_off_is_not_gone_on_from(tiny_model, sft_rows, tmp_path, whole):
    settings = {"save_steps": 4, "save_total_limit": 5}
    rows = write_rows(tmp_path / "rows.jsonl", colour_rows(32))
    with pytest.raises(KeyboardInterrupt):
        stop = At(10, lambda args: (_ for _ in ()).throw(KeyboardInterrupt))
        train(
            tiny_model, rows, tmp_path, training_args=settings, checkpoints=tmp_path / "c", callbacks=[stop]
        )
    state = tmp_path / "c" / "checkpoint-8" / "trainer_state.json"
    state.write_text(state.read_text()[:100])
    report = train(tiny_model, rows, tmp_path, training_args=settings, checkpoints=tmp_path / "c")
    assert report.details["resumed_from"] == "checkpoint-4"
    assert losses(log(tmp_path / "model")) == whole


@pytest.fixture
def for_a_retry(tmp_path, monkeypatch) -> Path:
    """Where checkpoints go that nobody asked for."""
    directory = tmp_path / "for-a-retry"
    monkeypatch.setenv("LLMOPS_CHECKPOINTS", str(directory))
    return directory


def test_retry_goes_on_from_checkpoints_that_nobody_asked_for(tiny_model, tmp_path, whole, for_a_retry):
    rows = write_rows(tmp_path / "rows.jsonl", colour_rows(32))
    stop = At(7, lambda args: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(TrainingInterrupted, match="it is saved"):
        train(tiny_model, rows, tmp_path, callbacks=[stop], training_args={"save_steps": 2})
    assert [path.name for path in for_a_retry.glob("checkpoint-*")] == ["checkpoint-8"]

    report = train(tiny_model, rows, tmp_path, training_args={"save_steps": 2})
    assert report.details["resumed_from"] == "checkpoint-8"
    assert losses(log(tmp_path / "model")) == whole
    assert not for_a_retry.exists()


def test_retry_with_other_settings_begins_anew(tiny_model, sft_rows, tmp_path, for_a_retry):
    stop = At(3, lambda args: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(TrainingInterrupted):
        train(tiny_model, sft_rows, tmp_path, callbacks=[stop])
    report = train(tiny_model, sft_rows, tmp_path, training_args={"max_steps": 2})
    assert report.details["resumed_from"] is None
    assert report.metrics["steps"] == 2


def test_checkpoints_that_nobody_asked_for_do_not_change_what_comes_out(
    tiny_model, tmp_path, for_a_retry, monkeypatch
):
    rows = write_rows(tmp_path / "rows.jsonl", colour_rows(16))
    with_them = train(tiny_model, rows, tmp_path / "with", eval_dataset=rows)
    monkeypatch.delenv("LLMOPS_CHECKPOINTS")
    without = train(tiny_model, rows, tmp_path / "without", eval_dataset=rows)
    assert digest_of(tmp_path / "with/model/model.safetensors") == digest_of(
        tmp_path / "without/model/model.safetensors"
    )
    assert with_them.metrics["eval_loss"] == without.metrics["eval_loss"]
    with pytest.raises(SettingError, match="save_strategy cannot be set"):
        train(tiny_model, rows, tmp_path / "other", training_args={"save_strategy": "steps"})
