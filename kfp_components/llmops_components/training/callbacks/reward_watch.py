"""Whether rewards teach anything: TRL turns what is missing or equal into a loss of zero, and says nothing of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmops_components.errors import SettingError

if TYPE_CHECKING:
    import torch

_ADVICE = (
    "A reward function returns a number for each answer that it can judge, and None for the others: look at what it gives "
    "for a row of these data."
)


class RewardWatch:
    """Counts what each reward said of the answers that a policy was trained on.

    The answers of all processes are counted; those of a run that this one goes on with are not.

    Args:
        names: Of the rewards, in the order of the trainer's.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._reset()

    def _reset(self) -> None:
        self._answers = 0
        self._missing = dict.fromkeys(self._names, 0)
        self._without_any = 0
        self._groups = 0
        self._groups_that_differ = 0
        self._goes_on: bool | None = None

    def attach(self, trainer: Any) -> None:
        """Begin to count, from zero, at a trainer for GRPO or RLOO."""
        self._reset()
        self._trainer = trainer
        calculate = trainer._calculate_rewards

        def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
            try:
                rewards = calculate(*args, **kwargs)
            except ValueError as error:
                if "reward function" not in str(error):
                    raise
                raise SettingError(f"rewards: {error}") from error  # how TRL says that their number is wrong
            self._check_finite(rewards)
            if trainer.model.training:
                if self._goes_on is None:
                    # The groups before a checkpoint may have taught all there is: what is left cannot judge the run.
                    self._goes_on = getattr(trainer.state, "global_step", 0) > 0
                self._count(rewards)
                if (trainer.state.epoch or 0) >= 1:  # each row has been asked once
                    self._check_scored()
            return rewards

        trainer._calculate_rewards = counted

    def findings(self) -> list[str]:
        """What was missing, with numbers.

        Raises:
            SettingError: No answer was scored, or all answers to a prompt were worth the same, each time, from the first
                step on.
        """
        if not self._answers:
            return []
        self._check_scored()
        if not self._groups_that_differ and not self._goes_on:
            raise SettingError(
                f"Nothing was learned: all answers to a prompt earned the same reward, in each of {self._groups} groups of "
                f"answers, by {_listed(self._names)}. Use a reward that tells answers apart, a higher temperature, or more "
                "num_generations."
            )
        found = [
            f"{name} gave no number for {count} of {self._answers} answers."
            for name, count in self._missing.items()
            if count
        ]
        if self._without_any and len(self._names) > 1:
            found.append(
                f"{self._without_any} of {self._answers} answers were scored by no reward and taught nothing."
            )
        return found

    def _check_scored(self) -> None:
        if self._without_any == self._answers and not self._goes_on:
            raise SettingError(
                f"No answer was scored: {_listed(self._names)} gave no number for any of {self._answers} answers. {_ADVICE}"
            )

    def _check_finite(self, rewards: torch.Tensor) -> None:
        for name, column in zip(self._names, rewards.T, strict=True):
            if column.isinf().any():
                raise SettingError(
                    f"The reward {name} is infinite for an answer, from which nothing can be learned. Let it return a finite "
                    "number, or None where it cannot judge."
                )

    def _count(self, rewards: torch.Tensor) -> None:
        missing = rewards.isnan()
        self._answers += len(rewards)
        for name, column in zip(self._names, missing.T, strict=True):
            self._missing[name] += int(column.sum())
        self._without_any += int(missing.all(dim=1).sum())
        self._groups += len(rewards) // self._trainer.num_generations
        self._groups_that_differ += self._differing(rewards)

    def _differing(self, rewards: torch.Tensor) -> int:
        """Groups of answers to one prompt of which one earned more than another."""
        weighted = (rewards * self._trainer.reward_weights.to(rewards.device)).nansum(dim=1)
        weighted[rewards.isnan().all(dim=1)] = float("nan")
        groups = weighted.view(-1, self._trainer.num_generations)
        highest = groups.nan_to_num(nan=float("-inf")).amax(dim=1)
        lowest = groups.nan_to_num(nan=float("inf")).amin(dim=1)
        return int((highest > lowest).sum())


def _listed(names: tuple[str, ...]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
