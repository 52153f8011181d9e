"""What all that speaks to MLflow shares."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llmops_components.errors import SettingError
from llmops_components.hosts import is_loopback
from llmops_components.uris import host_of, split_login

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_PARAM_CHARACTERS = 6000  # MLflow's limit
MAX_TAG_CHARACTERS = 5000  # likewise
PARAMS_PER_REQUEST = 100  # MLflow's limit

DAG_RUN_TAG = "llmops.dag_run"
_PARENT = re.compile(r"[^'\"`\\\x00-\x1f]{1,500}")

# MLflow's own defaults go on for four minutes before they give up. Set these variables to wait longer or shorter.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1"}


@contextlib.contextmanager
def environment_variables(values: Mapping[str, str]) -> Iterator[None]:
    """Variables of this process for the length of a block."""
    # MLflow itself sets the last one when it is told which server to use.
    before = {key: os.environ.get(key) for key in (*values, "MLFLOW_TRACKING_URI")}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def past_proxies(uri: str) -> dict[str, str]:
    """The variable by which a server on this machine is asked itself, whatever proxy the environment has for others.

    Args:
        uri: The server's address.
    """
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    host = host_of(uri)
    return {"no_proxy": f"{given},{host}".lstrip(",")} if is_loopback(host) and given != "*" else {}


def without_credentials(uri: str) -> tuple[str, dict[str, str]]:
    """An address that may be shown, and the credentials that were in it as MLflow's variables for them."""
    address, login = split_login(uri, "tracking_uri")
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    return address, dict(zip(names, login or (), strict=False))


def find_experiment(client: MlflowClient, name: str) -> str:
    """Id of an experiment, made when it is missing."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # With a database alone MLflow would keep files in ./mlruns of whoever came first, here a step's own directory.
        database = re.fullmatch(r"sqlite:///(/?[^?]+)", client.tracking_uri)
        location = (Path(database[1]).absolute().parent / "mlartifacts").as_uri() if database else None
        try:
            return client.create_experiment(name, location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = client.get_experiment_by_name(name)  # made by another run in the meantime
    if experiment.lifecycle_stage != "active":
        raise SettingError(f"MLflow experiment {name!r} is deleted. Restore it, or choose another name.")
    return experiment.experiment_id


def check_parent(what: str, key: str) -> None:
    """Raise :class:`SettingError` unless a key of a DAG's run can be searched for."""
    if not _PARENT.fullmatch(key):
        raise SettingError(f"{what} is dag_id/run_id, without quotes, at most 500 characters.")


def find_dag_run(client: MlflowClient, experiment_id: str, key: str) -> str | None:
    """The MLflow run that stands for a DAG's run: the oldest with its key, should there be several.

    Args:
        client: Of the server.
        experiment_id: Where to look.
        key: ``dag_id/run_id``.
    """
    runs = client.search_runs([experiment_id], f"tags.`{DAG_RUN_TAG}` = '{key}'")
    return min(((run.info.start_time, run.info.run_id) for run in runs), default=(0, None))[1]


def find_or_make_dag_run(
    client: MlflowClient, experiment_id: str, key: str, own: str | None = None
) -> tuple[str, str | None]:
    """The MLflow run that stands for a DAG's run, made if there is none.

    MLflow cannot make it only once. So of those that were made in the same moment the oldest counts, and whoever made another deletes it.

    Args:
        client: Of the server.
        experiment_id: Where it is.
        key: ``dag_id/run_id``.
        own: The one that the caller has made before, if it has.

    Returns:
        It, and the one that the caller has made, if that still stands.
    """
    found = find_dag_run(client, experiment_id, key)
    if found is None:
        own = str(client.create_run(experiment_id, run_name=key, tags={DAG_RUN_TAG: key}).info.run_id)
        found = find_dag_run(client, experiment_id, key) or own
    if own not in (None, found):
        client.delete_run(own)
        own = None
    return found, own


def log_under_name(client: MlflowClient, run_id: str, name: str, path: Path) -> None:
    """Keep a file or a directory with a run under another name than its own, which in a pipeline says nothing.

    Args:
        client: Of the server.
        run_id: The run.
        name: The name, with folders.
        path: The file or directory.
    """
    if path.is_dir():
        client.log_artifacts(run_id, str(path), name)
        return
    folder, _, file_name = name.rpartition("/")
    with tempfile.TemporaryDirectory() as aside:  # MLflow keeps the file's own name
        (Path(aside) / file_name).symlink_to(path.absolute())
        client.log_artifact(run_id, str(Path(aside) / file_name), folder or None)
