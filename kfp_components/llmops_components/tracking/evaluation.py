"""An evaluation as an MLflow run of its own, whether or not a model is registered: figures, what it is of, and its page."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops_components.comparison import Comparison
from llmops_components.errors import reason_first
from llmops_components.redaction import flat, redact
from llmops_components.tracking.client import (
    MAX_PARAM_CHARACTERS,
    PARAMS_PER_REQUEST,
    find_experiment,
    find_or_make_dag_run,
    log_under_name,
)
from llmops_components.tracking.register import COMPARISON_FILE, MODEL_DIGEST_TAG
from llmops_components.tracking.sender import NOT_IN_A_METRIC
from llmops_components.tracking.server import connection
from llmops_components.tracking.settings import Tracking
from llmops_components.uris import is_http

if TYPE_CHECKING:
    from mlflow import MlflowClient

EVALUATION_TAG = "llmops.evaluation"
DATASET_DIGEST_TAG = "llmops.dataset.digest"
INTERVAL_TAG = "llmops.interval."
NOT_CONFIGURED = "no MLflow server is configured"


@dataclass(frozen=True, kw_only=True)
class EvaluationRun:
    """What is kept of an evaluation.

    Args:
        component: Name of the component.
        identity: What makes the evaluation what it is. Another one of the same in the same run of a DAG becomes the same run.
        params: Parameters; secrets in them are hidden.
        metrics: Numbers of the model.
        comparison: Both models, with their intervals.
        files: Files by the name that they get in the run.
        model_digest: Digest of the model, where it is known.
        dataset_digest: Digest of the rows, where it is known.
    """

    component: str
    identity: Mapping[str, Any]
    params: Mapping[str, Any]
    metrics: Mapping[str, float | int]
    comparison: Comparison
    files: Mapping[str, Path]
    model_digest: str | None = None
    dataset_digest: str | None = None

    @property
    def key(self) -> str:
        """Digest by which a retry finds the run that an earlier attempt has made."""
        text = json.dumps(self.identity, sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()

    @property
    def tags(self) -> dict[str, str]:
        """Short facts: digests, and the interval of each metric."""
        found = {EVALUATION_TAG: self.key, "llmops.component": self.component}
        for name, value in ((MODEL_DIGEST_TAG, self.model_digest), (DATASET_DIGEST_TAG, self.dataset_digest)):
            if value:
                found[name] = value
        for name, each in self.comparison.metrics.items():
            if each.candidate is not None:
                ends = f"{each.candidate.low:.4g} to {each.candidate.high:.4g}"
                rows = f"{each.rows_scored} of {each.rows_scored + each.rows_unscored} rows"
                found[f"{INTERVAL_TAG}{NOT_IN_A_METRIC.sub('_', name)}"[:250]] = f"{ends} ({rows})"
        return found


def log_evaluation(where: Tracking | None, run: EvaluationRun) -> tuple[dict[str, str], str | None]:
    """Keep an evaluation in MLflow. One that cannot be kept there is still good.

    Args:
        where: The server; None for none.
        run: What is kept.

    Returns:
        The run's id and page, or as ``not_logged`` why there is none; and a finding where that is a fault.
    """
    if where is None:
        return {"not_logged": NOT_CONFIGURED}, None
    try:
        with connection(where.tracking_uri) as (client, address):
            experiment_id = find_experiment(client, where.experiment)
            run_id = _log(client, experiment_id, where, run)
    except Exception as error:  # a store of artifacts raises errors of its own library, or lacks it
        why = reason_first(redact(str(error) or type(error).__name__))
        return {"not_logged": why[:500]}, f"The evaluation is not logged to MLflow: {why}"
    found = {"run_id": run_id, "experiment_id": experiment_id}
    if is_http(address):
        found["url"] = f"{address}/#/experiments/{experiment_id}/runs/{run_id}"
    return found, None


def _log(client: MlflowClient, experiment_id: str, where: Tracking, run: EvaluationRun) -> str:
    above, own = (
        find_or_make_dag_run(client, experiment_id, where.parent)
        if where.parent is not None
        else (None, None)
    )
    tags = {**where.tags, **run.tags, **({"mlflow.parentRunId": above} if above else {})}
    # Without a run of a DAG nobody can tell a retry from an evaluation of another day.
    run_id = _find(client, experiment_id, run.key) if where.parent is not None else None
    if run_id is None:
        name = redact(where.run_name or run.component)
        run_id = str(client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)
    else:
        client.update_run(run_id, status="RUNNING")
    try:
        _fill(client, run_id, run, tags)
    except Exception:
        with contextlib.suppress(Exception):  # what is told is why it could not be kept
            client.set_terminated(run_id, "FAILED")
        raise
    finally:
        if own is not None:  # nothing else of the DAG's run is tracked, so far
            with contextlib.suppress(Exception):
                client.set_terminated(own, "FINISHED")
    return run_id


def _fill(client: MlflowClient, run_id: str, run: EvaluationRun, tags: Mapping[str, str]) -> None:
    from mlflow.entities import Metric, RunTag

    _describe(client, run_id, run)
    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[
            Metric(NOT_IN_A_METRIC.sub("_", name), value, now, 0) for name, value in run.metrics.items()
        ],
        tags=[RunTag(*tag) for tag in tags.items()],
    )
    client.log_dict(run_id, run.comparison.model_dump(), COMPARISON_FILE)
    for name, path in run.files.items():
        log_under_name(client, run_id, name, path)
    client.set_terminated(run_id, "FINISHED")


def _find(client: MlflowClient, experiment_id: str, key: str) -> str | None:
    """The run of the same evaluation, the oldest should there be several."""
    runs = client.search_runs([experiment_id], f"tags.`{EVALUATION_TAG}` = '{key}'")
    return min(((each.info.start_time, each.info.run_id) for each in runs), default=(0, None))[1]


def _describe(client: MlflowClient, run_id: str, run: EvaluationRun) -> None:
    """Parameters and dataset, which do not change: what an earlier attempt has written stays."""
    from mlflow.entities import Dataset, DatasetInput, Param

    known = client.get_run(run_id)
    params = [
        Param(NOT_IN_A_METRIC.sub("_", name), value[:MAX_PARAM_CHARACTERS])
        for name, value in flat(run.params).items()
    ]
    params = [each for each in params if each.key not in known.data.params]
    for start in range(0, len(params), PARAMS_PER_REQUEST):
        client.log_batch(run_id, params=params[start : start + PARAMS_PER_REQUEST])
    if run.dataset_digest and not (known.inputs and known.inputs.dataset_inputs):
        short = run.dataset_digest.removeprefix("sha256:")[:36]  # MLflow's limit
        client.log_inputs(run_id, [DatasetInput(Dataset("dataset", short, "local", "dataset"))])
