"""train_grpo and train_rloo on a tiny model that guesses: they learn to earn a reward that can be verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from llmops_components.errors import ModelError, SettingError
from llmops_components.training.methods.grpo import train_grpo
from llmops_components.training.methods.reward import train_reward
from llmops_components.training.methods.rloo import train_rloo
from tiny_model import colour_rows, preference_rows, taste_rows, write_rows
from transformers import TrainerCallback
from weight_watch import WeightWatch

TRAINERS = {"train_grpo": train_grpo, "train_rloo": train_rloo}
ALL_WEIGHTS = {"peft_type": None}
LEARN = {
    "bf16": False,
    "logging_steps": 5,
    "learning_rate": 1e-3,
    "max_steps": 60,
    "per_device_train_batch_size": 32,
    "num_generations": 8,
    "max_completion_length": 16,
}
SHORT = LEARN | {"logging_steps": 1, "max_steps": 3, "per_device_train_batch_size": 8}


@pytest.fixture(autouse=True)
def toy_rewards_are_allowed(monkeypatch):
    monkeypatch.setenv("LLMOPS_REWARD_MODULES", "other_package, toy_rewards")


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    rows = [{"prompt": row["prompt"], "solution": "red"} for row in colour_rows(8)]
    return write_rows(tmp_path_factory.mktemp("questions") / "questions.jsonl", rows)


def curve(model: Path, name: str = "reward") -> list[float]:
    log = json.loads((model / "training_log.json").read_text())
    return [entry[name] for entry in log if "loss" in entry]


@pytest.mark.learns
@pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
def test_policy_learns_a_verifiable_reward(guessing_model, questions, tmp_path, seed, train):
    report = train(
        questions,
        guessing_model,
        tmp_path / "model",
        tmp_path / "adapter",
        rewards={"toy_rewards:solved": 1.0},
        training_args=LEARN | {"seed": seed},
        peft_args=ALL_WEIGHTS,
        eval_dataset=questions,
    )

    rewards = curve(tmp_path / "model")
    print(f"\n{train.__name__}: " + " ".join(f"{reward:.2f}" for reward in rewards))
    assert sum(rewards[:2]) / 2 < 0.25  # a guess is right one time in eight
    assert sum(rewards[-4:]) / 4 > 0.75
    metrics = report.metrics
    assert (metrics["first_reward"], metrics["final_reward"]) == (rewards[0], rewards[-1])
    assert metrics["eval_reward"] > 0.75
    assert metrics["final_entropy"] < metrics["first_entropy"]
    assert 1 < metrics["final_completion_length"] <= 16
    assert 0 <= metrics["final_clipped_completions"] <= 1
    assert ("final_kl" in metrics) == (train is train_rloo)  # GRPO has no penalty for it by default
    assert metrics["tokens"] > 10_000


@pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
def test_every_trainable_weight_moves_and_no_frozen_one(guessing_model, questions, tmp_path, train):
    watch = WeightWatch()
    train(
        questions,
        guessing_model,
        tmp_path / "model",
        tmp_path / "adapter",
        rewards={"toy_rewards:brevity": 1.0},
        training_args=SHORT,
        callbacks=[watch],
    )
    assert watch.moved == watch.trainable
    assert len(watch.trainable) == 2 * 2 * 7
    assert len(watch.frozen) == 20
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.learns
def test_policy_learns_what_a_trained_reward_model_likes(guessing_model, questions, tmp_path, seed):
    """The whole of RLHF: fine-tuned policy, reward model from preferences, reinforcement learning with it."""
    judge = train_reward(
        write_rows(tmp_path / "likes.jsonl", taste_rows(56)),
        guessing_model,
        tmp_path / "judge",
        tmp_path / "judge-adapter",
        training_args={
            "bf16": False,
            "max_steps": 40,
            "learning_rate": 2e-3,
            "per_device_train_batch_size": 8,
            "seed": seed,
        },
    )
    report = train_grpo(
        questions,
        guessing_model,
        tmp_path / "model",
        tmp_path / "adapter",
        reward_model=tmp_path / "judge",
        rewards={"reward_model": 1.0, "toy_rewards:solved": 0.0},
        # Without a penalty for how far it goes from its base, it finds answers that the judge has never seen.
        training_args=LEARN | {"max_steps": 40, "beta": 0.1, "seed": seed},
        peft_args=ALL_WEIGHTS,
    )

    rise = report.metrics["final_reward"] - report.metrics["first_reward"]
    assert rise > judge.metrics["final_margin"] / 4
    solved = curve(tmp_path / "model", "rewards/solved/mean")  # never rewarded, only by the judge's taste
    assert (
        max(solved) > solved[0] + 0.1
    )  # and perhaps less at the end, when it knows how to please this judge better
    assert curve(tmp_path / "model", "rewards/reward_model/mean") == pytest.approx(curve(tmp_path / "model"))
    provenance = json.loads((tmp_path / "model" / "provenance.json").read_text())
    assert provenance["rewards"] == {
        "reward_model": {"weight": 1.0, "args": {}},
        "toy_rewards:solved": {"weight": 0.0, "args": {}},
    }
    assert provenance["reward_model"]["digest"].startswith("sha256:")


def test_reward_model_alone_needs_no_weights(guessing_model, questions, tmp_path, pairs_judge):
    report = train_rloo(
        questions,
        guessing_model,
        tmp_path / "model",
        tmp_path / "adapter",
        reward_model=pairs_judge,
        training_args=SHORT,
    )
    assert report.metrics["steps"] == 3
    assert curve(tmp_path / "model", "rewards/reward_model/mean") == pytest.approx(curve(tmp_path / "model"))


@pytest.fixture(scope="module")
def pairs_judge(tiny_model, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("judge")
    train_reward(
        write_rows(directory / "pairs.jsonl", preference_rows(8)),
        tiny_model,
        directory / "model",
        directory / "adapter",
        training_args={"bf16": False, "max_steps": 1},
    )
    return directory / "model"


@pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
def test_training_that_was_stopped_goes_on_to_the_same_rewards(guessing_model, questions, tmp_path, train):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise KeyboardInterrupt

    settings = {
        "rewards": {"toy_rewards:brevity": 1.0},
        "training_args": SHORT | {"save_steps": 2, "max_steps": 8},
        "peft_args": ALL_WEIGHTS,
    }
    whole = train(questions, guessing_model, tmp_path / "whole", tmp_path / "a", **settings)
    settings["checkpoints"] = tmp_path / "checkpoints"
    with pytest.raises(KeyboardInterrupt):
        train(questions, guessing_model, tmp_path / "model", tmp_path / "b", callbacks=[Stop()], **settings)
    report = train(questions, guessing_model, tmp_path / "model", tmp_path / "b", **settings)
    assert report.details["resumed_from"] == "checkpoint-4"
    assert len(curve(tmp_path / "whole")) == 8
    assert curve(tmp_path / "model") == curve(tmp_path / "whole")
    assert curve(tmp_path / "model", "loss") == curve(tmp_path / "whole", "loss")
    assert 0 < report.metrics["tokens"] < whole.metrics["tokens"]  # of this process


def test_rewards_are_added_up_by_weight(guessing_model, questions, tmp_path):
    train_grpo(
        questions,
        guessing_model,
        tmp_path / "model",
        tmp_path / "adapter",
        rewards={
            "toy_rewards:brevity": 0.5,
            "think_format_reward": 2,
            "toy_rewards:at_most": {"weight": 3.0, "args": {"characters": 1000}},
            "get_soft_overlong_punishment": {"args": {"max_completion_len": 12, "soft_punish_cache": 4}},
        },
        training_args=SHORT,
    )
    names = ("brevity", "think_format_reward", "short", "SoftOverlongPunishment")
    log = json.loads((tmp_path / "model" / "training_log.json").read_text())
    entries = [entry for entry in log if "loss" in entry]
    overlong = next(key for key in entries[0] if key.startswith("rewards/") and "verlong" in key).split("/")[
        1
    ]
    means = [[entry[f"rewards/{name}/mean"] for name in (*names[:3], overlong)] for entry in entries]
    assert [entry["reward"] for entry in entries] == pytest.approx(
        [0.5 * a + 2 * b + 3 * c + 1 * d for a, b, c, d in means]
    )
    assert all(row[0] < 0 and row[2] == 1 for row in means)


@pytest.mark.parametrize(
    ("train", "rewards", "message"),
    [
        (
            train_grpo,
            {"toy_rewards:nothing": 1.0},
            "^No answer was scored: toy_rewards:nothing gave no number for any of 24 answers. A reward function returns",
        ),
        (
            train_rloo,
            {"toy_rewards:always": {"args": {"value": 1.0}}},
            "^Nothing was learned: all answers to a prompt earned the same reward, in each of 3 groups of answers, by "
            "toy_rewards:always. Use a reward that tells answers apart",
        ),
        (
            train_grpo,
            {"toy_rewards:one_too_few": 1.0},
            r"^rewards: .*'one_too_few' returned 7 rewards, but 8 were expected",
        ),
    ],
    ids=["none", "equal", "too-few"],
)
def test_rewards_that_teach_nothing_are_an_error(
    guessing_model, questions, tmp_path, train, rewards, message
):
    with pytest.raises(SettingError, match=message):
        train(
            questions,
            guessing_model,
            tmp_path / "model",
            tmp_path / "adapter",
            rewards=rewards,
            training_args=SHORT | {"max_completion_length": 4},
        )
    assert not (tmp_path / "model").exists()


def test_answers_that_a_reward_does_not_judge_are_counted(guessing_model, questions, tmp_path):
    report = train_grpo(
        questions,
        guessing_model,
        tmp_path / "model",
        tmp_path / "adapter",
        rewards={"toy_rewards:only_of_the_sky": 1.0, "toy_rewards:nothing": 1.0},
        training_args=SHORT | {"max_steps": 4, "num_generations": 4, "max_completion_length": 4},
        eval_dataset=questions,  # whose answers do not count
    )
    assert report.findings == [
        "toy_rewards:nothing gave no number for 32 of 32 answers.",
        "toy_rewards:only_of_the_sky gave no number for 28 of 32 answers.",
        "28 of 32 answers were scored by no reward and taught nothing.",
    ]


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (None, "There is no reward to learn from"),
        ({}, "There is no reward to learn from"),
        ({"reward_model": 1.0}, "'reward_model' has a weight but no reward model was given"),
        ({"think_format_rewrd": 1.0}, r"'think_format_rewrd' \(did you mean 'think_format_reward'\?\)"),
        ({"toy_rewards:solvd": 1.0}, r"'solvd' \(did you mean 'solved'\?\)"),
        ({"toy_rewards:solved": "high"}, "the weight of 'toy_rewards:solved' has to be a number, not 'high'"),
        ({"toy_rewards:solved": {"wait": 1}}, r"'wait' \(did you mean 'weight'\?\)"),
        ({"think_format_reward": {"args": {"a": 1}}}, "think_format_reward takes no args"),
        (
            {"get_repetition_penalty_reward": {"args": {"n": 3}}},
            "args of get_repetition_penalty_reward are wrong",
        ),
        ({"os:getcwd": 1.0}, "functions of the module os are not allowed here.*LLMOPS_REWARD_MODULES"),
        ({"toy_rewards_evil:f": 1.0}, "functions of the module toy_rewards_evil are not allowed here"),
        ({"toy_rewards:getcwd": 1.0}, "toy_rewards:getcwd is not a function that toy_rewards defines"),
        ({"toy_rewards:COLOURS": 1.0}, "toy_rewards:COLOURS is not a function"),
        ({"toy_rewards:__import__": 1.0}, "does not name a function"),
        ({"toy_rewards:solved; import os": 1.0}, "does not name a function"),
        ({"other_package:reward": 1.0}, "the module other_package cannot be imported"),
        ({"accuracy_reward": 1.0}, "accuracy_reward needs the package math_verify"),
    ],
)
def test_wrong_rewards_are_named(tiny_model, questions, tmp_path, rewards, message):
    with pytest.raises(SettingError, match=message):
        train_grpo(
            questions,
            tiny_model,
            tmp_path / "model",
            tmp_path / "adapter",
            rewards=rewards,
            training_args=SHORT,
        )
    assert not (tmp_path / "model").exists()


def test_nothing_is_imported_without_the_variable(tiny_model, questions, tmp_path, monkeypatch):
    monkeypatch.delenv("LLMOPS_REWARD_MODULES")
    with pytest.raises(SettingError, match="the module toy_rewards are not allowed here"):
        train_grpo(questions, tiny_model, tmp_path / "m", tmp_path / "a", rewards={"toy_rewards:solved": 1.0})


def test_language_model_is_no_reward_model(tiny_model, questions, tmp_path):
    with pytest.raises(
        ModelError, match=r"lacks 1 weights that its config.json asks for, for example score\.weight"
    ):
        train_grpo(
            questions,
            tiny_model,
            tmp_path / "model",
            tmp_path / "adapter",
            reward_model=tiny_model,
            training_args=SHORT,
        )


@pytest.mark.parametrize("rewards", [{"toy_rewards:solved": 1.0}, {"think_format_reward": 1}])
def test_reward_model_without_a_weight_is_an_error(tiny_model, questions, tmp_path, rewards):
    with pytest.raises(SettingError, match="a reward model was given but has no weight"):
        train_rloo(
            questions,
            tiny_model,
            tmp_path / "model",
            tmp_path / "adapter",
            rewards=rewards,
            reward_model=tiny_model,
        )


@pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
def test_weights_of_rewards_are_not_set_twice(tiny_model, questions, tmp_path, train):
    with pytest.raises(SettingError, match="reward_weights cannot be set"):
        train(
            questions,
            tiny_model,
            tmp_path / "model",
            tmp_path / "adapter",
            rewards={"think_format_reward": 1.0},
            training_args={"reward_weights": [1.0]},
        )


def test_rows_of_any_format_with_a_prompt_will_do(tiny_model, sft_rows, tmp_path):
    report = train_grpo(
        sft_rows,
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        rewards={"toy_rewards:brevity": 1.0},
        training_args=SHORT | {"max_steps": 1, "temperature": 1},  # KFP hands 1.0 over as 1
    )
    provenance = json.loads((tmp_path / "model" / "provenance.json").read_text())
    assert provenance["dataset"]["format"] == "prompt_only (conversational)"
    assert report.metrics["steps"] == 1
