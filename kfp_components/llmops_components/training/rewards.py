"""Rewards for reinforcement learning: a reward model, TRL's own functions, functions of installed packages.

They are given by name, each with its weight, or with a weight and arguments::

    {"reward_model": 1.0, "think_format_reward": 0.5, "my_package.rewards:brevity": 0.1}
    {"get_repetition_penalty_reward": {"weight": 0.2, "args": {"ngram_size": 3, "max_penalty": -1.0}}}

A function of a package has to be allowed by whoever runs the component, in the environment variable
``LLMOPS_REWARD_MODULES`` (modules, separated by commas): an argument alone never chooses the code that runs.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops_components.errors import SettingError, check_known
from llmops_components.models.directory import check_model_directory
from llmops_components.models.loading import load_model
from llmops_components.models.precision import precision
from llmops_components.passthrough.declared import converted
from llmops_components.passthrough.functions import check_named, named_function
from llmops_components.passthrough.tables import REWARDS

REWARD_MODEL = "reward_model"
ALLOWED_ENVIRONMENT = "LLMOPS_REWARD_MODULES"
_NEED_MATH_VERIFY = ("accuracy_reward", "get_cosine_scaled_reward", "reasoning_accuracy_reward")


@dataclass(frozen=True)
class Reward:
    """One reward.

    Args:
        name: ``reward_model``, the name of a function in ``trl.rewards``, or ``module:function``.
        weight: What its value is multiplied by before the rewards are added up.
        args: Arguments for a function that makes the reward function.
    """

    name: str
    weight: float
    args: Mapping[str, Any] = field(default_factory=dict)


def parse_rewards(rewards: Mapping[str, Any] | None, *, has_model: bool) -> list[Reward]:
    """The rewards that a caller named, checked; nothing is imported yet.

    Args:
        rewards: Weight, or an object with ``weight`` and ``args``, by name. Left out, it is the reward model alone.
        has_model: Whether a reward model was given.
    """
    given = dict(converted(rewards, REWARDS, "rewards", {}) or ({REWARD_MODEL: 1.0} if has_model else {}))
    if not given:
        raise SettingError(
            "There is no reward to learn from. Give a reward model as the input reward_model, or name functions in "
            "rewards, for example {'think_format_reward': 1.0}."
        )
    if has_model != (REWARD_MODEL in given):
        raise SettingError(
            "rewards: a reward model was given but has no weight. Add 'reward_model' with its weight."
            if has_model
            else "rewards: 'reward_model' has a weight but no reward model was given. Give it as the input reward_model."
        )
    # KFP does not keep the order of an object's fields; sums of floats depend on it.
    return [_parse(name, given[name]) for name in sorted(given)]


def _parse(name: str, value: Any) -> Reward:
    options = dict(value) if isinstance(value, Mapping) else {"weight": value}
    check_known(options, ("weight", "args"), f"field of rewards[{name!r}]")
    weight, args = options.get("weight", 1.0), options.get("args") or {}
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise SettingError(f"rewards: the weight of {name!r} has to be a number, not {weight!r}.")
    if not isinstance(args, Mapping) or (args and name == REWARD_MODEL):
        raise SettingError(f"rewards: args of {name!r} make no sense: {args!r}. Leave them out.")
    if ":" in name:
        check_named(name, "rewards", ALLOWED_ENVIRONMENT)
    return Reward(name, float(weight), args)


def build_rewards(
    rewards: list[Reward], reward_model: str | os.PathLike[str] | None
) -> tuple[list[Any], list[Any]]:
    """Reward functions and models as TRL's trainers take them, and the tokenizer of each model.

    Args:
        rewards: What :func:`parse_rewards` returned.
        reward_model: Directory of the reward model.
    """
    functions, tokenizers = [], []
    for reward in rewards:
        tokenizer = None
        if reward.name == REWARD_MODEL and reward_model is not None:
            function, tokenizer = _load_reward_model(check_model_directory(reward_model))
        elif ":" in reward.name:
            function = _with_args(
                named_function(reward.name, "rewards", ALLOWED_ENVIRONMENT), reward, maker=bool(reward.args)
            )
        else:
            import trl.rewards

            known = [name for name in trl.rewards.__all__ if not name.startswith("_")]
            check_known([reward.name], [*known, REWARD_MODEL], "reward")
            _check_installed(reward.name)
            function = getattr(trl.rewards, reward.name)
            function = _with_args(function, reward, maker=reward.name.startswith("get_"))
        functions.append(function)
        tokenizers.append(tokenizer)
    return functions, tokenizers


def _check_installed(name: str) -> None:
    if name in _NEED_MATH_VERIFY and importlib.util.find_spec("math_verify") is None:
        raise SettingError(
            f"rewards: {name} needs the package math_verify, which is not installed. Install math-verify where the "
            "component runs, or name a function of your own."
        )


def _load_reward_model(directory: Path) -> tuple[Any, Any]:
    model, tokenizer = load_model(directory, dtype=precision(full=False)[0], task="SEQ_CLS")
    from llmops_components.models.probing import check_scores_in_batch

    model.config._name_or_path = REWARD_MODEL  # its name in the trainer's log
    if tokenizer.pad_token_id is None:  # as the trainers do
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    check_scores_in_batch(model, tokenizer)
    return model.eval().requires_grad_(False), tokenizer


def _with_args(function: Callable[..., Any], reward: Reward, *, maker: bool) -> Callable[..., Any]:
    """The reward function itself, or the one that a function makes from arguments (TRL's ``get_...``)."""
    if not maker:
        if reward.args:
            raise SettingError(f"rewards: {reward.name} takes no args. Leave them out.")
        return function
    try:
        inspect.signature(function).bind(**reward.args)
    except TypeError as error:
        raise SettingError(
            f"rewards: args of {reward.name} are wrong: {error}. It is called as "
            f"{reward.name}{inspect.signature(function)}."
        ) from error
    return function(**reward.args)
