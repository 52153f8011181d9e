"""Reward functions of a package, as GRPO and RLOO call them."""

from __future__ import annotations

from os import getcwd as getcwd  # what a module imports is not what it defines

from tiny_model import COLOURS


def solved(completions: list, solution: list[str], **kwargs: object) -> list[float]:
    """1 where the answer names the solution and no other colour."""
    return [
        float([colour for colour in COLOURS.values() if colour in text] == [expected])
        for text, expected in zip(_texts(completions), solution, strict=True)
    ]


def brevity(completions: list, **kwargs: object) -> list[float]:
    """Minus a tenth for each character."""
    return [-len(text) / 10 for text in _texts(completions)]


def nothing(completions: list, **kwargs: object) -> list[None]:
    """No reward for any answer."""
    return [None] * len(completions)


def always(value: float):
    """Make a reward that is the same for all answers."""

    def constant(completions: list, **kwargs: object) -> list[float]:
        return [value] * len(completions)

    return constant


def only_of_the_sky(prompts: list, completions: list, **kwargs: object) -> list[float | None]:
    """Brevity, of answers to questions about the sky."""
    return [
        value if "sky" in prompt[0]["content"] else None
        for prompt, value in zip(prompts, brevity(completions), strict=True)
    ]


def one_too_few(completions: list, **kwargs: object) -> list[float]:
    """A reward for all answers but the last."""
    return brevity(completions)[1:]


def at_most(characters: int):
    """Make a reward of 1 for answers of at most so many characters."""

    def short(completions: list, **kwargs: object) -> list[float]:
        return [float(len(text) <= characters) for text in _texts(completions)]

    return short


def _texts(completions: list) -> list[str]:
    return [completion[0]["content"] for completion in completions]
