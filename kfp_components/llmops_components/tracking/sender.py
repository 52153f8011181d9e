"""A thread that brings a run to MLflow while the training goes on, and keeps what has not arrived."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops_components.redaction import flat, redact
from llmops_components.state_files import StateFileError, read_json, write_json
from llmops_components.tracking.client import (
    MAX_PARAM_CHARACTERS,
    MAX_TAG_CHARACTERS,
    PARAMS_PER_REQUEST,
    find_experiment,
    find_or_make_dag_run,
)
from llmops_components.tracking.environment import environment
from llmops_components.tracking.settings import Tracking
from llmops_components.uris import is_http

if TYPE_CHECKING:
    from mlflow import MlflowClient

ERROR_TAG = "llmops.error"
STOPPED_TAG = "llmops.stopped_by"
SEND_SECONDS = 2.0
LAST_CHANCE_SECONDS = 30.0
NOT_IN_A_METRIC = re.compile(r"[^0-9A-Za-z_\-. :/]")
_METRICS_PER_REQUEST = 1000  # MLflow's limit


class Sender(threading.Thread):
    """Brings a run to MLflow; keeps what has not arrived.

    Args:
        where: Where it is tracked.
        uri: Address of the server, without credentials.
        run: What makes the run what it is.
        marker: File beside the checkpoints that names the MLflow run, for a training that goes on from there.
    """

    def __init__(self, where: Tracking, uri: str, run: Mapping[str, Any], marker: Path | None) -> None:
        super().__init__(name="tracking", daemon=True)
        self.files: list[Path] = []
        self._where, self._uri, self._run, self._marker = where, uri, run, marker
        self._shown = redact(uri)
        self._metrics: list[tuple[bool, tuple[str, float, int, int]]] = []
        self._tags: dict[str, str] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._warned = False
        self._client: MlflowClient | None = None
        self._run_id: str | None = None
        self._parent_id: str | None = None
        self._own_parent_id: str | None = None
        self._experiment_id: str | None = None
        self._described = False
        self._known_step = -1
        # Before a model takes the memory, and while the device is still free.
        self._environment = environment()

    def metrics(self, values: Mapping[str, Any], step: int, *, live: bool = False) -> None:
        """Points of the curves; those of a training that goes on are left out where an earlier attempt has sent them."""
        now = int(time.time() * 1000)
        points = [
            (live, (NOT_IN_A_METRIC.sub("_", name), float(value), now, step))
            for name, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        ]
        with self._lock:
            self._metrics += points

    def tags(self, values: Mapping[str, str]) -> None:
        """Short facts."""
        with self._lock:
            self._tags |= {name: redact(str(value))[:MAX_TAG_CHARACTERS] for name, value in values.items()}

    def details(self) -> dict[str, str]:
        """The run's id and page; empty while MLflow does not know of the run."""
        if self._run_id is None or self._experiment_id is None:
            return {}
        found = {"run_id": self._run_id, "experiment_id": self._experiment_id}
        if is_http(self._shown):
            found["url"] = f"{self._shown}/#/experiments/{self._experiment_id}/runs/{self._run_id}"
        return found

    def run(self) -> None:
        """Send what there is, again and again, until the training ends."""
        wait = 0.0
        while not self._ending.wait(wait):
            # A server that is down is asked less and less often, up to once in a minute.
            wait = SEND_SECONDS if self._try() else min(60.0, max(SEND_SECONDS, 2 * wait))

    def finish(self, status: str) -> None:
        """Send the rest and end the run; gives up when MLflow does not answer."""
        self._ending.set()
        self.join(LAST_CHANCE_SECONDS)
        if self.is_alive() or not self._try(status):
            print(
                f"Warning: MLflow at {self._shown} did not answer, so {len(self._metrics)} metrics and the end of the run "
                "are not tracked. The training is not affected; its log and curves are beside the model.",
                flush=True,
            )

    def _try(self, status: str | None = None) -> bool:
        try:
            self._send()
            if status is not None:
                self._finish(status)
        except Exception as error:  # whatever it is, it is not worth a training
            if not self._warned:
                self._warned = True
                cause = " ".join(redact(str(error)).split())[:200]
                print(
                    f"Warning: MLflow at {self._shown} cannot be used now ({type(error).__name__}: {cause}). The training "
                    "goes on; what it reports is kept and sent later.",
                    flush=True,
                )
            return False
        return True

    def _send(self) -> None:
        from mlflow.entities import Metric, RunTag

        client = self._begin()
        while True:
            with self._lock:
                batch, tags = self._metrics[:_METRICS_PER_REQUEST], dict(self._tags)
            if not batch and not tags:
                return
            client.log_batch(
                self._run_id or "",
                metrics=[Metric(*point) for live, point in batch if not live or point[3] > self._known_step],
                tags=[RunTag(*tag) for tag in tags.items()],
            )
            with self._lock:
                del self._metrics[: len(batch)]
                self._tags = {name: value for name, value in self._tags.items() if tags.get(name) != value}

    def _begin(self) -> MlflowClient:
        """The client, once the run exists and is described."""
        from mlflow import MlflowClient

        if self._client is None:
            self._client = MlflowClient(tracking_uri=self._uri)
        client = self._client
        if self._run_id is None:
            self._experiment_id = find_experiment(client, self._where.experiment)
            if not self._go_on(client):
                self._create(client)
        if not self._described:
            self._describe(client)
            self._described = True
        return client

    def _go_on(self, client: MlflowClient) -> bool:
        """Take up the run of the attempt that this one goes on with."""
        from mlflow.exceptions import MlflowException

        if self._marker is None or not self._marker.is_file():
            return False
        try:
            known = read_json(self._marker, {"experiment_id": str, "server": str, "run_id": str})
        except StateFileError:
            return False  # a run of its own shows what this attempt does
        if (
            not known.get("run_id")
            or known.get("experiment_id") != self._experiment_id
            or known.get("server") != self._shown
        ):
            return False
        try:
            found = client.get_run(known["run_id"])
            if found.info.lifecycle_stage != "active":
                return False
            # What a killed attempt did after its last checkpoint is done again; the points are there already.
            self._known_step = max(
                (point.step for point in client.get_metric_history(known["run_id"], "loss")), default=-1
            )
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        client.update_run(known["run_id"], status="RUNNING")
        for tag in {ERROR_TAG, STOPPED_TAG} & found.data.tags.keys():
            client.delete_tag(known["run_id"], tag)
        if self._where.parent:
            self._find_parent(client)
        self._described, self._run_id = True, known["run_id"]
        return True

    def _create(self, client: MlflowClient) -> None:
        tags = dict(self._where.tags)
        if self._where.parent:
            self._find_parent(client)
            tags["mlflow.parentRunId"] = self._parent_id or ""
        name = redact(self._where.run_name or str(self._run.get("component", "training")))
        run_id = client.create_run(self._experiment_id or "", run_name=name, tags=tags).info.run_id
        if self._marker is not None:
            write_json(
                self._marker, {"server": self._shown, "experiment_id": self._experiment_id, "run_id": run_id}
            )
        self._run_id = run_id

    def _find_parent(self, client: MlflowClient) -> None:
        """The MLflow run of the DAG's run. Every training looks again at its end, when none is made any more."""
        found, self._own_parent_id = find_or_make_dag_run(
            client, self._experiment_id or "", self._where.parent or "", self._own_parent_id
        )
        if found != self._parent_id:
            client.update_run(found, status="RUNNING")
            self._parent_id = found

    def _describe(self, client: MlflowClient) -> None:
        from mlflow.entities import Dataset, DatasetInput, Param, RunTag

        run_id = self._run_id or ""
        params = [
            Param(NOT_IN_A_METRIC.sub("_", name), value[:MAX_PARAM_CHARACTERS])
            for name, value in flat(self._run).items()
        ]
        for start in range(0, len(params), PARAMS_PER_REQUEST):
            client.log_batch(run_id, params=params[start : start + PARAMS_PER_REQUEST])
        tags = {
            "llmops.component": str(self._run.get("component", "")),
            "llmops.device": self._environment["device"],
        }
        for name in ("dataset", "base_model"):
            digest = (self._run.get(name) or {}).get("digest")
            if not digest:
                continue
            tags[f"llmops.{name}.digest"] = digest
            if name == "dataset":
                short = digest.removeprefix("sha256:")[:36]  # MLflow's limit
                client.log_inputs(run_id, [DatasetInput(Dataset(name, short, "local", name))])
        client.log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()])
        client.log_dict(run_id, self._environment, "environment.json")

    def _finish(self, status: str) -> None:
        client, run_id = self._begin(), self._run_id or ""
        for file in self.files:
            if file.exists():
                client.log_artifact(run_id, str(file))
        if self._where.parent:
            self._find_parent(client)
            client.set_tag(run_id, "mlflow.parentRunId", self._parent_id)
        client.set_terminated(run_id, status)
        if self._parent_id:
            client.set_terminated(self._parent_id, status)  # of the last of its trainings
