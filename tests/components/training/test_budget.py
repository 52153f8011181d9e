"""A training's budget: it stops at the step in which a limit is reached, and says what was used and kept."""

from __future__ import annotations

import pytest
from llmops_components.errors import SettingError
from llmops_components.training.budget import BudgetCallback, best_step
from llmops_components.training.survival import run_training
from tiny_training import Judged, losses, newest_checkpoint, sft_trainer
from transformers import TrainerCallback, TrainerState, TrainingArguments

SAVES = {"save_strategy": "steps", "save_steps": 100, "save_total_limit": 1}


class Clock(TrainerCallback):
    """Time that passes only with the steps of the training."""

    def __init__(self, seconds_per_step: float) -> None:
        self.now, self.seconds_per_step = 1000.0, seconds_per_step

    def monotonic(self) -> float:
        return self.now

    def on_step_begin(self, args, state, control, **kwargs):
        self.now += self.seconds_per_step


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock(seconds_per_step=30.0)
    monkeypatch.setattr("llmops_components.training.budget.time", clock)
    return clock


def test_minutes_stop_the_run_at_the_step_that_reaches_them(tiny_model, tmp_path, clock):
    budget = BudgetCallback(max_minutes=3.2)
    trainer = sft_trainer(tiny_model, tmp_path, callbacks=[clock, budget], **SAVES)
    run_training(trainer)

    assert budget.report() == {
        "limit": "max_minutes",
        "limits": {"max_minutes": 3.2},
        "used": {"minutes": 3.5, "device_hours": 0.05833, "tokens": budget.tokens},
        "steps": 7,
        "planned_steps": 20,
        "kept": "last",
        "kept_step": 7,
    }
    assert budget.finding() == (
        "Stopped by max_minutes=3.2 after step 7 of 20; the last weights (step 7) are kept."
    )
    assert newest_checkpoint(tmp_path).endswith("checkpoint-7")
    assert [step for step, _ in losses(trainer.state.log_history)] == list(range(1, 8))


def test_minutes_go_on_counting_after_a_resume_and_the_limit_can_be_raised(tiny_model, tmp_path, clock):
    run_training(sft_trainer(tiny_model, tmp_path, callbacks=[clock, BudgetCallback(max_minutes=3)], **SAVES))
    clock.now += 9999.0  # between the two attempts
    budget = BudgetCallback(max_minutes=5)
    run_training(
        sft_trainer(tiny_model, tmp_path, callbacks=[clock, budget], **SAVES), newest_checkpoint(tmp_path)
    )

    assert budget.report()["steps"] == 10
    assert budget.report()["used"]["minutes"] == 5.0


def test_run_that_was_stopped_makes_no_other_step_until_the_limit_is_raised(tiny_model, tmp_path, clock):
    budgets = [BudgetCallback(max_minutes=3) for _ in range(2)]
    for budget in budgets:
        trainer = sft_trainer(tiny_model, tmp_path, callbacks=[clock, budget], **SAVES)
        run_training(trainer, newest_checkpoint(tmp_path))

    assert budgets[0].report() == budgets[1].report()
    assert budgets[1].finding().startswith("Stopped by max_minutes=3 after step 6 of 20")


def test_attempt_that_failed_counts(tiny_model, tmp_path, clock):
    class FailsOnce(TrainerCallback):
        failed = False

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4 and not self.failed:
                self.failed = True
                raise MemoryError

    budget, fails = BudgetCallback(max_minutes=5), FailsOnce()
    with pytest.raises(MemoryError):
        run_training(sft_trainer(tiny_model, tmp_path, callbacks=[clock, fails, budget]))
    run_training(sft_trainer(tiny_model, tmp_path, callbacks=[clock, fails, budget]))

    assert budget.report()["steps"] == 6  # four of the ten half minutes went to the first attempt
    assert budget.report()["used"]["minutes"] == 5.0


def test_kept_step_is_that_of_a_checkpoint_and_not_of_a_better_evaluation(tmp_path):
    args = TrainingArguments(
        str(tmp_path), load_best_model_at_end=True, eval_strategy="steps", eval_steps=10, save_steps=20
    )
    state = TrainerState(best_model_checkpoint=str(tmp_path / "checkpoint-20"), best_global_step=30)
    assert best_step(args, state) == 20
    state.best_model_checkpoint = None
    assert best_step(args, state) is None


def test_checkpoint_made_without_a_budget_can_be_gone_on_with(tiny_model, tmp_path, clock):
    run_training(sft_trainer(tiny_model, tmp_path, max_steps=4, **SAVES))
    budget = BudgetCallback(max_minutes=1)
    run_training(
        sft_trainer(tiny_model, tmp_path, callbacks=[clock, budget], **SAVES), newest_checkpoint(tmp_path)
    )

    assert (budget.report()["steps"], budget.report()["limit"]) == (6, "max_minutes")


def test_tokens_without_a_limit_go_on_counting_after_a_resume(tiny_model, tmp_path):
    whole, first, second = BudgetCallback(), BudgetCallback(), BudgetCallback()
    run_training(sft_trainer(tiny_model, tmp_path / "whole", callbacks=[whole], max_steps=8))
    settings = SAVES | {"save_steps": 3, "max_steps": 8}
    trainer = sft_trainer(tiny_model, tmp_path / "a", callbacks=[first, StopAt(3)], **settings)
    run_training(trainer)
    trainer = sft_trainer(tiny_model, tmp_path / "a", callbacks=[second], **settings)
    run_training(trainer, newest_checkpoint(tmp_path / "a"))

    assert 0 < first.tokens < second.tokens == whole.tokens


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == self.step


def test_cost_is_the_price_of_all_devices(tiny_model, tmp_path, clock, monkeypatch):
    monkeypatch.setattr("llmops_components.training.budget.process_count", lambda: 4)
    budget = BudgetCallback(max_cost=0.5, price_per_device_hour=3.0)
    run_training(sft_trainer(tiny_model, tmp_path, callbacks=[clock, budget]))

    report = budget.report()
    assert (report["limit"], report["steps"]) == ("max_cost", 5)  # 4 devices x 150 s x 3.0 / 3600 s
    assert report["used"]["cost"] == 0.5
    assert report["used"]["device_hours"] == 0.16667


def test_tokens_are_counted_without_padding_and_over_a_resume(tiny_model, tmp_path):
    whole = BudgetCallback(max_tokens=10**9)
    run_training(sft_trainer(tiny_model, tmp_path / "whole", callbacks=[whole], max_steps=8))
    per_row = whole.tokens / 32  # eight steps of four rows are each row once
    assert whole.report()["limit"] is None

    budget = BudgetCallback(max_tokens=round(per_row * 16))
    trainer = sft_trainer(tiny_model, tmp_path / "a", callbacks=[budget], **SAVES)
    run_training(trainer)
    assert budget.report()["limit"] == "max_tokens"
    assert abs(budget.report()["steps"] - 4) <= 1
    used = budget.tokens

    again = BudgetCallback(max_tokens=whole.tokens)
    trainer = sft_trainer(tiny_model, tmp_path / "a", callbacks=[again], **SAVES)
    run_training(trainer, newest_checkpoint(tmp_path / "a"))
    assert used < again.tokens == whole.tokens
    assert again.report()["steps"] == 8
    num_tokens = [entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry]
    assert whole.tokens == num_tokens[budget.report()["steps"] - 1] + num_tokens[-1]  # TRL counts per attempt


def test_best_checkpoint_is_kept_when_the_run_evaluates(tiny_model, tmp_path, clock):
    import torch

    weights = {}

    class Watch(TrainerCallback):
        def on_evaluate(self, args, state, control, model, metrics, **kwargs):
            weights[state.global_step] = {
                name: parameter.detach().clone()
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            }

    budget = BudgetCallback(max_minutes=4.4)
    trainer = sft_trainer(
        tiny_model,
        tmp_path,
        callbacks=[clock, budget, Watch(), Judged(best=4)],
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        save_total_limit=1,
    )
    run_training(trainer)

    assert sorted(weights) == [2, 4, 6, 8, 9]  # the step that it stopped in is evaluated too
    assert budget.finding() == (
        "Stopped by max_minutes=4.4 after step 9 of 20; the best weights (step 4) are kept."
    )
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    kept = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert [name for name in kept if not torch.equal(kept[name], weights[4][name])] == []


def test_without_limits_the_use_is_reported_all_the_same(tiny_model, tmp_path, clock):
    budget = BudgetCallback(price_per_device_hour=6.0)
    run_training(sft_trainer(tiny_model, tmp_path, callbacks=[clock, budget], max_steps=4))

    assert budget.finding() is None
    report = budget.report()
    assert report["limit"] is None
    assert report["used"] == {
        "minutes": 2.0,
        "device_hours": 0.03333,
        "tokens": report["used"]["tokens"],
        "cost": 0.2,
    }
    assert report["used"]["tokens"] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_minuts": 5}, r"Unknown budget: 'max_minuts' \(did you mean 'max_minutes'\?\)"),
        ({"max_minutes": 0}, "budget: max_minutes is 0; give a number above zero"),
        ({"max_tokens": "many"}, "budget: max_tokens is 'many'"),
        ({"max_cost": float("nan"), "price_per_device_hour": 1}, "budget: max_cost is nan"),
        ({"max_cost": 5}, "max_cost needs price_per_device_hour"),
    ],
)
def test_wrong_budgets_are_named(settings, message):
    with pytest.raises(SettingError, match=message):
        BudgetCallback(**settings)


PAIR = {
    "prompt": "What colour is the sky?",
    "chosen": " It is blue.",
    "rejected": " It is red, or so they say.",
}
ROWS = {
    "DPO": [PAIR] * 8,
    "KTO": [{"prompt": PAIR["prompt"], "completion": PAIR["chosen"], "label": i % 2 == 0} for i in range(8)],
    "Reward": [PAIR] * 8,
    "GRPO": [{"prompt": PAIR["prompt"]}] * 8,
    "RLOO": [{"prompt": PAIR["prompt"]}] * 8,
}


@pytest.mark.parametrize("kind", ROWS)
def test_every_trainer_stops_at_its_tokens(talkative_model, tmp_path, kind):
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    budget = BudgetCallback(max_tokens=200)
    generates = kind in ("GRPO", "RLOO")
    settings = {"num_generations": 2, "max_completion_length": 8} if generates else {}
    args = getattr(trl, f"{kind}Config")(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        max_steps=50,
        per_device_train_batch_size=2,
        activation_checkpointing=False,
        **settings,
    )
    model_class = AutoModelForSequenceClassification if kind == "Reward" else AutoModelForCausalLM
    trainer = getattr(trl, f"{kind}Trainer")(
        model=model_class.from_pretrained(talkative_model, **({"num_labels": 1} if kind == "Reward" else {})),
        args=args,
        train_dataset=Dataset.from_list(ROWS[kind]),
        processing_class=AutoTokenizer.from_pretrained(talkative_model),
        callbacks=[budget],
        **(
            {"reward_funcs": lambda completions, **_: [float(len(text)) for text in completions]}
            if generates
            else {}
        ),
    )
    run_training(trainer)

    report = budget.report()
    assert report["limit"] == "max_tokens"
    assert 1 < report["steps"] < 20
    per_step = budget.tokens / report["steps"]
    assert 200 <= budget.tokens < 200 + 2 * per_step
    logged = [entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry]
    assert budget.tokens == logged[-1]  # TRL's own count


def test_trainers_that_generate_count_tokens_themselves(tmp_path):
    from trl import DPOConfig, GRPOConfig

    budget = BudgetCallback(max_tokens=5)
    for config, expected in ((DPOConfig, "non_padding"), (GRPOConfig, "no")):
        args = config(str(tmp_path), bf16=False, use_cpu=True)
        budget.on_init_end(args, None, None)
        assert args.include_num_input_tokens_seen == expected
