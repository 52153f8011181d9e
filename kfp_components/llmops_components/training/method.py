"""What tells one way of training from another, and what a caller asks of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llmops_components.data.formats import FormatName
from llmops_components.data.sources import Source
from llmops_components.models import loading
from llmops_components.passthrough.training import TrainingOptions
from llmops_components.passthrough.trainings import TRAININGS


@dataclass(frozen=True)
class Method:
    """What tells one way of training from another.

    Args:
        component: Name of the component.
        formats: Formats of the rows that it takes.
        columns: Columns that it reads; None for all.
        learning_rate: Default for an adapter.
        defaults: Further defaults of the arguments.
        fixed: Arguments that the caller may not set.
        curves: Figures worth reporting besides the loss: names in the trainer's log by the names to report.
        shown: Which of them each line of progress shows.
        task: Kind of model.
        prompt_tuning: Whether prompt tuning works with it.
        judged_by: Figure of the evaluation by which checkpoints are compared.
        keeps_order: Whether the trainer takes the rows in their order, so that they are shuffled before it.
        smallest_batch: Rows that a batch of one process needs at least.
        answers: Whether the model answers prompts while it is trained.
        expand: Makes several rows of one.
    """

    component: str
    formats: tuple[FormatName, ...]
    learning_rate: float
    columns: tuple[str, ...] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, str] = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    task: loading.TaskType = "CAUSAL_LM"
    prompt_tuning: bool = True
    judged_by: str = "eval_loss"
    keeps_order: bool = False
    smallest_batch: int = 1
    answers: bool = False
    expand: Callable[[dict[str, Any]], list[dict[str, Any]]] | None = None

    @property
    def trainer(self) -> str:
        """Class in ``trl``."""
        return TRAININGS[self.component].trainer

    @property
    def config(self) -> str:
        """Class of its arguments in ``trl``."""
        return TRAININGS[self.component].config

    @property
    def splits(self) -> bool:
        """Whether its losses are the same however the rows of a step are split into batches."""
        return TRAININGS[self.component].splits

    @property
    def counts_tokens(self) -> bool:
        """Whether its losses are a mean over the tokens of a step, and not over its rows."""
        return TRAININGS[self.component].counts_tokens

    @property
    def learns_text(self) -> bool:
        """Whether the model learns to write what is in the rows, as it does not where it judges or explores."""
        return self.task == "CAUSAL_LM" and "prompt_only" not in self.formats


class Watch(Protocol):
    """Looks at what a trainer does besides its loss."""

    def attach(self, trainer: Any) -> None:
        """Begin to look, at a trainer that has not trained yet."""

    def findings(self) -> list[str]:
        """Sentences for the result; an :class:`InputError` if the outcome is of no use."""


@dataclass(frozen=True)
class Asked:
    """A training as somebody asks for it.

    Args:
        method: What is special about the method.
        rows: Rows to train on.
        eval_rows: Rows held out from it.
        base_model: Directory of the model to start from.
        options: What every trainer takes.
        facts: What else makes the run what it is, for the provenance.
        trainer_args: Makes further arguments for the trainer's constructor.
        watch: Looks at what matters for this method alone.
    """

    method: Method
    rows: Source
    eval_rows: Source | None
    base_model: Path
    options: TrainingOptions
    facts: Mapping[str, Any]
    trainer_args: Callable[[], Mapping[str, Any]]
    watch: Watch | None
