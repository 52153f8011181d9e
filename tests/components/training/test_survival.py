"""Trainings that are killed, stopped, short of memory or diverging: they go on, or say clearly why not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_training
from llmops_components.errors import SettingError, TrainingInterrupted
from llmops_components.passthrough.refusals import is_out_of_memory
from llmops_components.training.survival import (
    Checkpointing,
    LossGuard,
    halve_batch,
    interruptible,
    run_training,
    within_memory,
)
from tiny_training import losses, newest_checkpoint, same_course, sft_trainer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SAVES = {"save_strategy": "steps", "save_steps": 5, "save_total_limit": 1}


@pytest.fixture(scope="module")
def undisturbed(tiny_model, tmp_path_factory) -> list[tuple[int, float]]:
    trainer = sft_trainer(tiny_model, tmp_path_factory.mktemp("undisturbed"))
    run_training(trainer)
    trace = losses(trainer.state.log_history)
    assert [step for step, _ in trace] == list(range(1, 21))
    return trace


def train_until(signal_number: int, step: int, request: dict, tmp_path: Path) -> tuple[int, str]:
    """Train in a process of its own and send it a signal once it has printed a step."""
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request))
    process = subprocess.Popen(
        [sys.executable, tiny_training.__file__, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line == f"step {step}\n":
            process.send_signal(signal_number)
            break
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors.strip().splitlines()[-1] if errors.strip() else ""


def go_on(request: dict, tmp_path: Path) -> list[tuple[int, float]]:
    checkpoints = Path(request["checkpoints"])
    trainer = sft_trainer(Path(request["model"]), checkpoints, **request["training_args"])
    run_training(trainer, newest_checkpoint(checkpoints))
    return losses(trainer.state.log_history)


def test_run_that_is_killed_goes_on_with_the_same_losses(tiny_model, tmp_path, undisturbed):
    request = {
        "model": str(tiny_model),
        "checkpoints": str(tmp_path / "checkpoints"),
        "training_args": SAVES,
        "seconds_per_step": 0.05,
        "trace": str(tmp_path / "trace.json"),
    }
    returned, _ = train_until(signal.SIGKILL, 13, request, tmp_path)

    assert returned == -signal.SIGKILL
    assert newest_checkpoint(tmp_path / "checkpoints").endswith("checkpoint-10")
    assert go_on(request, tmp_path) == undisturbed


def test_sigterm_saves_the_step_it_is_in_and_the_run_goes_on_from_there(tiny_model, tmp_path, undisturbed):
    request = {
        "model": str(tiny_model),
        "checkpoints": str(tmp_path / "checkpoints"),
        "training_args": SAVES,
        "seconds_per_step": 0.2,
        "trace": str(tmp_path / "trace.json"),
    }
    returned, error = train_until(signal.SIGTERM, 7, request, tmp_path)

    assert returned == 1
    assert error == (
        "TrainingInterrupted retryable=True: Training was stopped by SIGTERM after step 7 of 20; it is saved. "
        "Run it again with the same checkpoints to go on from there."
    )
    assert newest_checkpoint(tmp_path / "checkpoints").endswith("checkpoint-7")
    assert not (tmp_path / "trace.json").exists()
    assert go_on(request, tmp_path) == undisturbed


class SigtermAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)


def test_losses_between_two_lines_of_the_log_are_not_lost_by_an_interruption(
    tiny_model, tmp_path, undisturbed
):
    settings = SAVES | {"logging_steps": 10}
    trainer = sft_trainer(tiny_model, tmp_path, callbacks=[SigtermAt(6)], **settings)
    with pytest.raises(TrainingInterrupted):
        run_training(trainer)
    trainer = sft_trainer(tiny_model, tmp_path, **settings)
    run_training(trainer, newest_checkpoint(tmp_path))

    each = [loss for _, loss in undisturbed]
    assert losses(trainer.state.log_history) == [
        (last, pytest.approx(sum(each[first:last]) / (last - first), rel=1e-5))
        for first, last in [(0, 5), (5, 7), (7, 10), (10, 15), (15, 20)]
    ]


def test_sigterm_without_checkpoints_says_that_nothing_is_saved(tiny_model, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    trainer = sft_trainer(tiny_model, tmp_path, callbacks=[SigtermAt(2)])
    with pytest.raises(TrainingInterrupted, match="after step 3 of 20; nothing is saved"):
        run_training(trainer)
    assert list(tmp_path.glob("checkpoint-*")) == []
    assert signal.getsignal(signal.SIGTERM) is before


EPOCHS = {"num_train_epochs": 3, "max_steps": -1, "save_strategy": "epoch", "logging_steps": 100}


def test_sigterm_saves_once_and_evaluates_nothing_where_the_schedule_is_by_epochs(tiny_model, tmp_path):
    done = []

    class Watch(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            done.append(("save", state.global_step))

        def on_evaluate(self, args, state, control, **kwargs):
            done.append(("evaluate", state.global_step))

    trainer = sft_trainer(
        tiny_model, tmp_path, callbacks=[SigtermAt(3), Watch()], eval_strategy="epoch", **EPOCHS
    )
    with pytest.raises(TrainingInterrupted, match="after step 4 of 24; it is saved"):
        run_training(trainer)
    assert done == [("save", 4)]


def test_checkpoints_by_epochs_leave_no_gap_in_the_losses(tiny_model, tmp_path):
    trainer = sft_trainer(tiny_model, tmp_path / "whole", **EPOCHS)
    run_training(trainer)
    whole = losses(trainer.state.log_history)
    assert [step for step, _ in whole] == [8, 16, 24]

    class KilledAt(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 11:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(sft_trainer(tiny_model, tmp_path, callbacks=[KilledAt()], **EPOCHS))
    trainer = sft_trainer(tiny_model, tmp_path, **EPOCHS)
    run_training(trainer, newest_checkpoint(tmp_path))
    assert losses(trainer.state.log_history) == whole


def test_loss_that_is_no_number_is_found_before_an_epoch_is_saved(tiny_model, tmp_path):
    class Broken(TrainerCallback):
        def on_step_begin(self, args, state, control, model, **kwargs):
            if state.global_step == 10:
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.data.fill_(float("nan"))

    with pytest.raises(SettingError, match="the loss at step 16 is nan"):
        run_training(sft_trainer(tiny_model, tmp_path, callbacks=[Broken()], **EPOCHS))
    assert newest_checkpoint(tmp_path).endswith("checkpoint-8")


def test_run_that_was_killed_after_its_last_step_makes_no_other(tiny_model, tmp_path):
    import torch

    def weights(trainer):
        return {
            name: of.detach().clone() for name, of in trainer.model.named_parameters() if of.requires_grad
        }

    settings = SAVES | {"max_steps": 5}
    first = sft_trainer(tiny_model, tmp_path, **settings)
    run_training(first)
    again = sft_trainer(tiny_model, tmp_path, **settings)
    run_training(again, newest_checkpoint(tmp_path))

    assert again.state.global_step == 5
    assert losses(again.state.log_history) == losses(first.state.log_history)
    before = weights(first)
    assert before and all(torch.equal(weight, before[name]) for name, weight in weights(again).items())


def test_trainer_that_counts_its_batches_goes_on_counting(tiny_model, tmp_path):
    run_training(sft_trainer(tiny_model, tmp_path, max_steps=5, save_strategy="steps", save_steps=5))
    trainer = sft_trainer(tiny_model, tmp_path, max_steps=8, gradient_accumulation_steps=2)
    trainer._step = 0
    run_training(trainer, newest_checkpoint(tmp_path))
    assert trainer._step == 10


def test_sigterm_before_the_first_step_is_an_interruption_too():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingInterrupted, match="before or after the training itself"), interruptible():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_saves_when_minutes_have_passed(tiny_model, tmp_path):
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    saved = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            clock.now += 20.0  # seconds a step

        def on_save(self, args, state, control, **kwargs):
            saved.append(state.global_step)

    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmops_components.training.survival.time", clock)
        trainer = sft_trainer(
            tiny_model, tmp_path, callbacks=[Watch()], max_steps=10, save_strategy="steps", save_steps=7
        )
        run_training(trainer, save_minutes=1)
    assert saved == [3, 6, 7, 10]


@pytest.mark.parametrize("minutes", [0, -1, "5"])
def test_save_minutes_have_to_be_positive(minutes):
    with pytest.raises(SettingError, match=r"save_minutes is .*; give a positive number"):
        Checkpointing(minutes)


def test_save_minutes_without_checkpoints_is_an_error(tiny_model, tmp_path):
    with pytest.raises(SettingError, match="no checkpoints are kept"):
        run_training(sft_trainer(tiny_model, tmp_path), save_minutes=5)


class OutOfMemoryAt(TrainerCallback):
    """Fails as the allocator does, at a step, as long as the batch is large."""

    def __init__(self, step: int, largest: int, error: Exception) -> None:
        self.step, self.largest, self.error = step, largest, error

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step and args.per_device_train_batch_size > self.largest:
            raise self.error


@pytest.mark.parametrize("at", [0, 12])
def test_out_of_memory_halves_the_batch_and_leaves_the_losses(tiny_model, tmp_path, undisturbed, capsys, at):
    error = RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 TB"
    )
    seen = []

    def build(smaller):
        seen.append(smaller)
        return {**SAVES, **smaller}

    def train(settings):
        trainer = sft_trainer(tiny_model, tmp_path, callbacks=[OutOfMemoryAt(at, 1, error)], **settings)
        for name, value in settings.items():
            assert getattr(trainer.args, name) == value
        run_training(trainer, newest_checkpoint(tmp_path))
        return losses(trainer.state.log_history)

    # The settings stand for the arguments that they become.
    class Args(dict):
        def __getattr__(self, name):
            defaults = {
                "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 1,
                "per_device_eval_batch_size": 8,
            }
            return self.get(name, defaults.get(name))

    trace = within_memory(lambda smaller: Args(build(smaller)), train)

    assert seen == [
        {},
        {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "per_device_eval_batch_size": 4,
        },
        {
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 4,
            "per_device_eval_batch_size": 2,
        },
    ]
    assert trace == same_course(undisturbed)
    printed = capsys.readouterr().out
    assert "Training again with per_device_train_batch_size=2, gradient_accumulation_steps=2" in printed


def test_out_of_memory_with_a_batch_of_one_is_a_clear_error(tmp_path):
    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=1, use_cpu=True, report_to="none")

    def train(_):
        raise MemoryError("Unable to allocate 3.00 TiB")

    with pytest.raises(
        SettingError,
        match=r"Out of memory while training, with per_device_train_batch_size=1 on 1 process\(es\) of cpu: Unable to allocate 3.00 TiB. "
        "Take a larger device or a smaller model, set a shorter max_length",
    ):
        within_memory(lambda _: args, train)


def evaluation_loop():
    raise MemoryError


def generate():
    raise MemoryError


def test_out_of_memory_while_evaluating_halves_the_batch_of_the_evaluation_alone(tmp_path):
    seen = []

    def build(smaller):
        seen.append(smaller)
        settings = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 4} | smaller
        return TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **settings)

    with pytest.raises(
        SettingError, match="Out of memory while evaluating, with per_device_eval_batch_size=1"
    ):
        within_memory(build, lambda args: evaluation_loop())
    assert seen == [{}, {"per_device_eval_batch_size": 2}, {"per_device_eval_batch_size": 1}]


def test_out_of_memory_while_generating_is_an_error_that_names_what_helps(tmp_path):
    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=8, use_cpu=True, report_to="none")
    with pytest.raises(
        SettingError, match=r"while generating.*lower num_generations or generation_batch_size"
    ):
        within_memory(lambda _: args, lambda _: generate())


def test_batch_is_not_halved_below_what_a_trainer_needs(tmp_path):
    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=4, use_cpu=True, report_to="none")
    assert halve_batch(args, smallest=2)["per_device_train_batch_size"] == 2
    args.per_device_train_batch_size = 2
    assert halve_batch(args, smallest=2) is None


def test_out_of_memory_in_one_of_several_processes_is_an_error_with_advice(tmp_path, monkeypatch):
    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=4, use_cpu=True, report_to="none")
    monkeypatch.setenv("WORLD_SIZE", "2")

    def train(_):
        raise MemoryError

    with pytest.raises(SettingError, match="set half of per_device_train_batch_size and twice"):
        within_memory(lambda _: args, train)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: 7 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory."), False),
    ],
)
def test_which_errors_mean_that_memory_ran_out(error, is_memory):
    assert is_out_of_memory(error) is is_memory


def test_real_allocation_that_fails_is_recognised():
    import torch

    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 62, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


def test_other_errors_pass_through(tmp_path):
    def train(_):
        raise ValueError("no such column")

    with pytest.raises(ValueError, match="no such column"):
        within_memory(lambda _: None, train)


def test_batch_that_is_odd_falls_to_a_divisor(tmp_path):
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=9, per_device_eval_batch_size=1, use_cpu=True
    )
    assert halve_batch(args) == {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 3}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"steps_per_generation": 1},
        {"generation_batch_size": 16},
        {"num_generations_eval": 8, "eval_strategy": "steps", "eval_steps": 1},
    ],
)
def test_groups_of_generations_stay_whole_when_the_batch_is_halved(tmp_path, given):
    from trl import GRPOConfig

    settings = {
        "output_dir": str(tmp_path),
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "bf16": False,
        "use_cpu": True,
    } | given
    args = GRPOConfig(**settings)
    batches = args.generation_batch_size
    for batch in (4, 2, 1):
        smaller = halve_batch(args)
        args = GRPOConfig(**settings | smaller)
        assert args.per_device_train_batch_size == batch
        assert args.generation_batch_size == batches
        assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 8
    assert halve_batch(args) is None


def test_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(tiny_model, tmp_path):
    class Poison(TrainerCallback):
        def on_step_begin(self, args, state, control, model, **kwargs):
            if state.global_step == 7:
                next(p for p in model.parameters() if p.requires_grad).data.fill_(float("nan"))

    trainer = sft_trainer(
        tiny_model, tmp_path, callbacks=[Poison()], **SAVES | {"save_steps": 2, "logging_steps": 20}
    )
    with pytest.raises(
        SettingError,
        match=r"Training diverged: the loss at step 8 is nan, with learning_rate=0.01. Lower learning_rate",
    ):
        run_training(trainer)
    assert newest_checkpoint(tmp_path).endswith("checkpoint-6")


def feed(guard: LossGuard, values: list[float], args: object = None) -> int | None:
    """The line of the log at which the guard stops."""
    state = TrainerState()
    guard.on_train_begin(args, state, TrainerControl())
    for state.global_step, loss in enumerate(values, 1):
        try:
            guard.on_log(args, state, TrainerControl(), {"loss": loss})
        except SettingError:
            return state.global_step
    return None


class Args:
    learning_rate = 1e-3


class GenerationArgs(Args):
    num_generations = 4


@pytest.mark.parametrize(
    ("values", "stops_at"),
    [
        ([2.5, 2.0, 1.5, 1.2, 1.0, 1.0, 9.0, 9.0, 9.0, 9.0, 9.0], 11),
        ([2.5, 2.0, 1.5, 1.2, 1.0, 1.0, 9.0, 9.0, 9.0, 9.0, 1.0, 9.0], None),  # four in a row
        ([2.5, 1.0, 0.1, 0.01, 0.01, 0.01, 0.01] + [0.4] * 20, None),  # noisy, but better than at the start
        ([0.69, 0.7, 0.68, 0.69, 0.7] + [2.0] * 20, None),  # worse, but not three times
        ([0.69, 0.7, 0.68, 0.69, 0.7] + [2.2] * 20, 10),
        ([2.0, float("inf")], 2),
    ],
)
def test_what_counts_as_diverged(values, stops_at):
    assert feed(LossGuard(), values, Args()) == stops_at


def test_guard_looks_only_for_numbers_when_it_is_switched_off_or_the_loss_is_a_policy_gradient():
    diverging = [0.7] * 6 + [90.0] * 9
    assert feed(LossGuard.from_setting(True), diverging, Args()) == 11
    assert feed(LossGuard.from_setting({"patience": 2}), diverging, Args()) == 8
    assert feed(LossGuard.from_setting(False), diverging, Args()) is None
    assert feed(LossGuard.from_setting(False), [*diverging, float("nan")], Args()) == 16
    assert feed(LossGuard(), diverging, GenerationArgs()) is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"patiense": 3}, r"Unknown loss_guard: 'patiense' \(did you mean 'patience'\?\)"),
        ({"factor": 1.0}, "factor is 1.0"),
        ({"window": 2}, "window at least patience"),
    ],
)
def test_wrong_guard_settings_are_named(setting, message):
    with pytest.raises(SettingError, match=message):
        LossGuard.from_setting(setting)


def test_real_divergence_is_stopped(tiny_model, tmp_path):
    class Break(TrainerCallback):
        def on_step_begin(self, args, state, control, model, **kwargs):
            if state.global_step == 40:
                for parameter in model.parameters():
                    parameter.data.mul_(30)

    trainer = sft_trainer(tiny_model, tmp_path, callbacks=[Break()], max_steps=60)
    with pytest.raises(
        SettingError, match=r"at step 45 is .* for 5 lines of the log more than 3 times its running"
    ):
        run_training(trainer)
