"""A history as one MLflow run: what each metric has reached, with the partition's date as the step."""

from __future__ import annotations

import hashlib
import os
import re
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops_components.errors import SettingError
from llmops_components.evaluation.history.records import Record
from llmops_components.redaction import redact
from llmops_components.tracking.client import find_experiment
from llmops_components.tracking.sender import NOT_IN_A_METRIC
from llmops_components.tracking.server import connection
from llmops_components.uris import is_http

if TYPE_CHECKING:
    from mlflow import MlflowClient

HISTORY_TAG = "llmops.history"
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_SAME = 1e-9


def step_of(partition: str) -> int:
    """The step of a partition: days since 1970 of a date, seconds of a time.

    Args:
        partition: Its key.

    Raises:
        SettingError: It is neither.
    """
    try:
        if _DAY.fullmatch(partition):
            return date.fromisoformat(partition).toordinal() - date(1970, 1, 1).toordinal()
        at = datetime.fromisoformat(partition)
    except ValueError:
        raise SettingError(
            f"partition is {partition!r:.60}, which is no date: MLflow has numbers put its points in order. Give a date, such as 2026-11-25 or "
            "2026-11-25T06:00:00, or leave MLflow out."
        ) from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())


def log_partition(
    record: Record, *, history: str | os.PathLike[str], title: str, experiment: str, tracking_uri: str
) -> dict[str, Any]:
    """Log what a partition has reached to the history's run, which is made when it is missing.

    What is there already is not logged again. MLflow takes nothing back: another value of the same partition is one more point at its step.

    Args:
        record: The record.
        history: Directory of the history, by which its run is found.
        title: Name of the run.
        experiment: Experiment of the run, made when it is missing.
        tracking_uri: Address of MLflow.

    Returns:
        ``run_id``, ``experiment_id``, ``step``, and the address of the run's page as ``links``.

    Raises:
        SettingError: The partition is no date, or MLflow refuses something.
        UnavailableError: MLflow could not be reached.
    """
    step = step_of(record.partition)
    with connection(tracking_uri) as (client, address):
        from mlflow.entities import Metric

        experiment_id = find_experiment(client, experiment)
        run_id = find_run(client, experiment_id, os.fspath(Path(history).absolute()), redact(title))
        now = int(time.time() * 1000)
        values = {
            NOT_IN_A_METRIC.sub("_", name): each.candidate.value
            for name, each in record.metrics.items()
            if each.candidate is not None
        }
        new = {
            name: value for name, value in values.items() if not _is_there(client, run_id, name, step, value)
        }
        client.log_batch(run_id, metrics=[Metric(name, value, now, step) for name, value in new.items()])
        client.set_terminated(run_id)
    page = f"{address}/#/experiments/{experiment_id}/runs/{run_id}"
    return {
        "run_id": run_id,
        "experiment_id": experiment_id,
        "step": step,
        "links": {"run": page} if is_http(address) else {},
    }


def find_run(client: MlflowClient, experiment_id: str, history: str, name: str) -> str:
    """Id of the history's run, made when it is missing: the oldest, should two steps have made one at the same time.

    Args:
        client: Of the server.
        experiment_id: Where to look.
        history: Directory of the history.
        name: Name of a run that is made.
    """
    key = hashlib.sha256(os.fsencode(history)).hexdigest()[:32]

    def oldest() -> str | None:
        runs = client.search_runs([experiment_id], f"tags.`{HISTORY_TAG}` = '{key}'")
        return min(((run.info.start_time, run.info.run_id) for run in runs), default=(0, None))[1]

    if found := oldest():
        return found
    mine = client.create_run(experiment_id, run_name=name, tags={HISTORY_TAG: key}).info.run_id
    client.log_param(mine, "history", history)
    first = oldest() or mine
    if first != mine:
        client.delete_run(mine)
    return first


def _is_there(client: MlflowClient, run_id: str, name: str, step: int, value: float) -> bool:
    """Whether the newest point of a metric at a step has this value."""
    points = [each for each in client.get_metric_history(run_id, name) if each.step == step]
    newest = max(points, key=lambda each: each.timestamp, default=None)
    return newest is not None and abs(newest.value - value) < _SAME
