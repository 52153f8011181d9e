"""Record a model in MLflow: a run that says how it was made, and a version in the model registry."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops_components.comparison import Comparison, read_comparison
from llmops_components.errors import SettingError
from llmops_components.models.compression.methods import method_of
from llmops_components.models.directory import check_model_directory
from llmops_components.models.signing.keys import SigningKey
from llmops_components.moved import old_names
from llmops_components.redaction import flat, redact, redacted
from llmops_components.results import StepReport, digest_of
from llmops_components.tracking.alias import move_alias, note_date
from llmops_components.tracking.checkpoint import CheckpointFlavor
from llmops_components.tracking.client import (
    MAX_PARAM_CHARACTERS,
    PARAMS_PER_REQUEST,
    check_parent,
    find_dag_run,
    find_experiment,
    log_under_name,
)
from llmops_components.tracking.decision import check_decision, keep_decision
from llmops_components.tracking.server import (
    MODEL_NAME,
    check_alias,
    check_as_of,
    check_model_name,
    connection,
)
from llmops_components.tracking.signature import SIGNED_AT_TAG, SIGNED_BY_TAG, check_signable, sign_version
from llmops_components.uris import is_http

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

COMPARISON_FILE = "comparison.json"
MODEL_DIGEST_TAG = "llmops.model.digest"
COMPRESSION_TAG = "llmops.model.compression"


@old_names(name="model_name", params="params_to_log", metrics="model_metrics")
def register_model(
    model: str | os.PathLike[str],
    *,
    model_name: str,
    tracking_uri: str | None = None,
    experiment: str = "llmops",
    run_name: str | None = None,
    parent: str | None = None,
    alias: str | None = None,
    as_of: str | None = None,
    params_to_log: Mapping[str, Any] | None = None,
    model_metrics: Mapping[str, float] | None = None,
    comparison: Mapping[str, Any] | None = None,
    decision: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    datasets: Mapping[str, str | os.PathLike[str]] | None = None,
    artifacts: Mapping[str, str | os.PathLike[str]] | None = None,
    sign: bool = False,
    signature: str | os.PathLike[str] | None = None,
) -> StepReport:
    """Log a run and make a model version of a Transformers checkpoint.

    The version carries the digest of the model as a tag, and of a compressed one how it was compressed. If the registry already has a version with that digest under
    ``model_name``, it is used again, no run is made, and at most the alias moves; ``details["reused"]`` says so. What became of
    the alias, and why, is in ``details["alias_note"]``. The model is never loaded. It can be loaded with ``mlflow.transformers.load_model(details["model_uri"])``.

    How long an unreachable server is waited for is set by MLflow's own variables
    ``MLFLOW_HTTP_REQUEST_MAX_RETRIES``, ``MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR`` and ``MLFLOW_HTTP_REQUEST_TIMEOUT``;
    when they are not set it is at most about 20 seconds.

    Args:
        model: Directory with ``config.json``, ``*.safetensors`` and the tokenizer. Pickled files are not uploaded.
        model_name: Name in the registry: letters, digits, ``.``, ``_`` and ``-``.
        tracking_uri: Address of MLflow; None for the variable ``MLFLOW_TRACKING_URI``.
        experiment: Experiment of the run, made when it is missing.
        run_name: Name of the run; None for the model's name.
        parent: Key of the DAG's run, ``dag_id/run_id``: if its trainings were tracked in the experiment, the run is nested
            under the MLflow run that they are nested under.
        alias: Alias that is moved to the version, unless a version of a newer date has it; None leaves all as they are.
        as_of: Date or partition that the model is of, as text that sorts, for example ``2026-11-25T00:00:00Z``; a tag of the
            version. None where there is no such order: then the alias is moved in any case.
        params_to_log: Parameters of the run; nested mappings become dotted names, values over 6000 characters are cut.
        model_metrics: Metrics of the run; finite numbers.
        comparison: Of ``evaluate_model``. Metrics in MLflow are numbers of one model each, by which runs are sorted and charted;
            how two models differ, within which interval and on how many rows is a record, kept whole in ``comparison.json``.
        decision: What a gate has decided on the model, kept as ``decision.json``; its outcome is the tag ``llmops.decision`` of run and
            version, also where the version is used again, and what the model was compared with the version's tag
            ``llmops.decision.baseline``.
        tags: Tags of both run and version, for example the digests of the components.
        datasets: Dataset files by name; their digests become inputs of the run and tags of run and version.
        artifacts: Files or directories by the path that they get in the run, for example ``report.html``; with a decision they take the
            place of what a version that is used again has there.
        sign: Sign the model, and keep the signature with the version, whose tags say by which key and when. The private key is in the
            environment, see :class:`~llmops_components.models.signing.keys.SigningKey`.
        signature: Output file, the signature of a model that is signed.

    Returns:
        Run, version and links as details, with ``signed_by``, the fingerprint of the key, and ``signed_at``, which are None of a version
        without a signature; the model's size as a metric.

    Raises:
        ModelError: The directory is not a model that can be registered.
        SettingError: A setting has a wrong value, or MLflow refuses one.
        UnavailableError: MLflow could not be reached.
    """
    _check_settings(model_name, alias, as_of, model_metrics or {}, datasets or {}, artifacts or {})
    compared = read_comparison(comparison) if comparison is not None else None
    decided = check_decision(decision) if decision is not None else None
    if parent is not None:
        check_parent("parent", parent)
    directory = Path(model)
    check_model_directory(directory)
    key = None
    if sign:
        check_signable(directory)
        key = SigningKey.from_environment()
    digest, size = digest_of(directory)
    all_tags = {
        **redacted({key: str(value) for key, value in (tags or {}).items()}),
        **{f"llmops.dataset.{key}.digest": digest_of(path)[0] for key, path in (datasets or {}).items()},
        MODEL_DIGEST_TAG: digest,
    }
    if method := method_of(directory):
        all_tags[COMPRESSION_TAG] = method
    run = _Run(
        experiment=experiment,
        name=redact(run_name or model_name),
        parent=parent,
        tags=all_tags,
        params=params_to_log or {},
        metrics=model_metrics or {},
        datasets=datasets or {},
        artifacts=artifacts or {},
        comparison=compared,
    )
    with connection(tracking_uri) as (client, address):
        version = _find_version(client, model_name, digest)
        reused = version is not None
        if version is None:
            model_uri = _log_run(client, directory, run)
            version = _make_version(model_name, model_uri, all_tags)
            print(f"Registered {model_name} version {version.version} from run {version.run_id}.")
        else:
            print(
                f"{model_name} version {version.version} already has this model ({digest}); no new version is made."
            )
        if key is not None:
            sign_version(client, version, directory, key, None if signature is None else Path(signature))
        if decided is not None:
            keep_decision(client, version, decided)
            if reused and version.run_id:  # pages beside it say what was decided, too
                for key, path in run.artifacts.items():
                    log_under_name(client, version.run_id, key, Path(path))
        if as_of is not None:
            note_date(client, version, as_of)
        move = move_alias(client, version, alias, as_of) if alias is not None else None
        if move:
            print(move.note)
        experiment_id = client.get_run(version.run_id).info.experiment_id if version.run_id else None

    details: dict[str, Any] = {
        "name": model_name,
        "version": str(version.version),
        "alias": alias,
        "alias_moved": bool(move and move.moved),
        "alias_version": move.version if move else None,
        "alias_note": move.note if move else "No alias was asked for.",
        "as_of": as_of,
        "model_uri": f"models:/{model_name}/{version.version}",
        "run_id": version.run_id,
        "experiment_id": experiment_id,
        "model_digest": digest,
        "reused": reused,
        "signed_by": version.tags.get(SIGNED_BY_TAG),
        "signed_at": version.tags.get(SIGNED_AT_TAG),
        "links": _links(address, model_name, str(version.version), experiment_id, version.run_id),
    }
    return StepReport(metrics={"model_bytes": size}, details=details)


def _check_settings(
    name: str,
    alias: str | None,
    as_of: str | None,
    metrics: Mapping[str, float],
    datasets: Mapping[str, str | os.PathLike[str]],
    artifacts: Mapping[str, str | os.PathLike[str]],
) -> None:
    check_model_name(name)
    check_alias(alias)
    check_as_of(as_of)
    for key, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise SettingError(f"model_metrics[{key!r}] is {value!r}; a metric is a finite number.")
    for what, paths in (("datasets", datasets), ("artifacts", artifacts)):
        for key, path in paths.items():
            if not all(MODEL_NAME.fullmatch(part) for part in key.split("/")):
                raise SettingError(
                    f"{what} has the name {key!r}; use letters, digits, '.', '_', '-' and '/'."
                )
            if not Path(path).exists():
                raise SettingError(f"{what}[{key!r}] is {os.fspath(path)}, which does not exist.")


def _find_version(client: MlflowClient, name: str, digest: str) -> ModelVersion | None:
    # The name and the digest have been checked, so neither can end the quotation.
    found = client.search_model_versions(f"name = '{name}' and tags.`{MODEL_DIGEST_TAG}` = '{digest}'")
    ready = [version for version in found if version.status == "READY"]
    return max(ready, key=lambda version: int(version.version), default=None)


@dataclass(frozen=True)
class _Run:
    """What an MLflow run is made with, besides the model."""

    experiment: str
    name: str
    parent: str | None
    tags: Mapping[str, str]
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    datasets: Mapping[str, str | os.PathLike[str]]
    artifacts: Mapping[str, str | os.PathLike[str]]
    comparison: Comparison | None


def _log_run(client: MlflowClient, directory: Path, made: _Run) -> str:
    """Make the run; a run that fails on the way is marked so. Returns the address of the model logged with it."""
    import mlflow
    from mlflow.entities import Dataset, DatasetInput, Metric, Param
    from mlflow.models import Model

    experiment_id = find_experiment(client, made.experiment)
    above = find_dag_run(client, experiment_id, made.parent) if made.parent else None
    tags = {**made.tags, **({"mlflow.parentRunId": above} if above else {})}
    with mlflow.start_run(experiment_id=experiment_id, run_name=made.name, tags=tags) as run:
        run_id = run.info.run_id
        now = int(time.time() * 1000)
        shown = [Param(key, value[:MAX_PARAM_CHARACTERS]) for key, value in flat(made.params).items()]
        for start in range(0, len(shown), PARAMS_PER_REQUEST):
            client.log_batch(run_id, params=shown[start : start + PARAMS_PER_REQUEST])
        client.log_batch(run_id, metrics=[Metric(key, value, now, 0) for key, value in made.metrics.items()])
        if made.comparison is not None:
            client.log_dict(run_id, made.comparison.model_dump(), COMPARISON_FILE)
        inputs = [
            # MLflow shortens digests to 36 characters; the whole one is in the tags.
            DatasetInput(
                Dataset(
                    key,
                    tags[f"llmops.dataset.{key}.digest"].removeprefix("sha256:")[:36],
                    "local",
                    os.fspath(path),
                )
            )
            for key, path in made.datasets.items()
        ]
        if inputs:
            client.log_inputs(run_id, inputs)
        for key, path in made.artifacts.items():
            log_under_name(client, run_id, key, Path(path))
        info = Model.log(
            artifact_path=None,
            name="model",
            flavor=CheckpointFlavor,
            flavor_name="transformers",
            checkpoint=directory,
        )
        return info.model_uri


def _make_version(name: str, model_uri: str, tags: Mapping[str, str]) -> ModelVersion:
    import mlflow

    return mlflow.register_model(model_uri, name, tags=dict(tags))


def _links(
    address: str, name: str, version: str, experiment_id: str | None, run_id: str | None
) -> dict[str, str]:
    """Pages of the MLflow UI; none where MLflow is a database or a directory."""
    if not is_http(address):
        return {}
    links = {"model_version": f"{address}/#/models/{name}/versions/{version}"}
    if run_id and experiment_id:
        links["run"] = f"{address}/#/experiments/{experiment_id}/runs/{run_id}"
    return links
