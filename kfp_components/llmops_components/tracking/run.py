"""One MLflow run for one training, under the run of its DAG; and no harm done where there is no MLflow.

Everything is sent from a thread of its own, and kept until it has arrived: a server that is slow, down or restarted
costs the training nothing. What has not arrived at the end is tried once more, and then given up with a warning; the
log and the curves are files beside the model as well.

Transformers' ``MLflowCallback`` is not used: it fails the training when the server is down at its start, loses what it
cannot send, makes a second run on resumption, and knows nothing of failures.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmops_components.errors import SettingError, TrainingInterrupted, check_known
from llmops_components.passthrough.training import TrackingSettings
from llmops_components.processes import is_main_process
from llmops_components.redaction import flat, redact
from llmops_components.state_files import StateFileError, read_json, write_json
from llmops_components.tracking.client import (
    DAG_RUN_TAG,
    MAX_PARAM_CHARACTERS,
    PARAMS_PER_REQUEST,
    PATIENCE,
    check_parent,
    environment_variables,
    find_dag_run,
    find_experiment,
    past_proxies,
    without_credentials,
)
from llmops_components.tracking.environment import environment
from llmops_components.tracking.pictures import draw_curves
from llmops_components.uris import is_http

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_FILE = "mlflow_run.json"
ERROR_TAG = "llmops.error"
STOPPED_TAG = "llmops.stopped_by"
CURVES_FILE = "training_curves.png"
SEND_SECONDS = 2.0
LAST_CHANCE_SECONDS = 30.0
_KEYS = tuple(TrackingSettings.__annotations__)
_NOT_IN_A_METRIC = re.compile(r"[^0-9A-Za-z_\-. :/]")
_METRICS_PER_REQUEST = 1000  # MLflow's limit
_MAX_TAG_CHARACTERS = 5000  # MLflow's limit


@dataclass(frozen=True)
class Tracking:
    """Where a training is tracked: :class:`~llmops_components.passthrough.training.TrackingSettings`, all of them."""

    tracking_uri: str
    experiment: str = "llmops"
    parent: str | None = None
    run_name: str | None = None

    @classmethod
    def find(cls, given: Mapping[str, str] | None = None) -> Tracking | None:
        """What the caller gives, else MLflow's own variables.

        Returns:
            None when nothing says where to track.
        """
        given = {key: value for key, value in (given or {}).items() if value is not None}
        check_known(given, _KEYS, "tracking")
        if wrong := [key for key, value in given.items() if not isinstance(value, str) or not value]:
            raise SettingError(f"tracking: {', '.join(wrong)} is not a text.")
        if "parent" in given:
            check_parent("tracking: parent", given["parent"])
        uri = given.pop("tracking_uri", None) or os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            return None
        if "experiment" not in given and (name := os.environ.get("MLFLOW_EXPERIMENT_NAME")):
            given["experiment"] = name
        return cls(uri, **given)


@contextmanager
def track(
    run: Mapping[str, Any],
    *,
    tracking: Mapping[str, str] | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
) -> Iterator[Tracker]:
    """Track a training; the run ends as the block does: FINISHED, FAILED with the error, or KILLED by SIGTERM.

    Args:
        run: What makes the run what it is: ``component``, ``dataset`` and ``base_model`` with their ``digest``, the
            arguments. It becomes the parameters; secrets in it are hidden.
        tracking: See :class:`Tracking`; None for what the environment says.
        checkpoints: Directory of the checkpoints. A training that goes on from there goes on with its MLflow run.

    Yields:
        The tracker, whose ``callback`` belongs into the trainer.

    Raises:
        SettingError: A key of the settings is unknown. Whatever goes wrong with MLflow is only a warning.
    """
    where = Tracking.find(tracking)
    if where is None or not is_main_process():
        yield Tracker(run, None)
        return
    with ExitStack() as stack:
        address, credentials = without_credentials(where.tracking_uri)
        is_server = is_http(address)
        patience = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", **PATIENCE}
        stack.enter_context(
            environment_variables(
                {name: os.environ.get(name, value) for name, value in patience.items()}
                | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
                | (credentials | past_proxies(address) if is_server else {})
            )
        )
        marker = Path(checkpoints) / RUN_FILE if checkpoints is not None else None
        sender = _Sender(where, address if is_server else where.tracking_uri, run, marker)
        tracker = Tracker(run, sender)
        sender.start()
        try:
            yield tracker
        except BaseException as error:
            killed = isinstance(error, TrainingInterrupted | KeyboardInterrupt)
            tracker._end("KILLED" if killed else "FAILED", error)
            raise
        tracker._end("FINISHED")


class Tracker:
    """What a training says of itself while it runs. Without MLflow all of it is silently dropped.

    Args:
        run: What makes the run what it is.
        sender: Who brings it to MLflow, if anybody.
    """

    def __init__(self, run: Mapping[str, Any], sender: _Sender | None) -> None:
        self.callback = _TrackingCallback(self)
        self.log_history: list[dict[str, Any]] = []
        self._run = run
        self._sender = sender
        self._repeated_until = -1

    def metrics(self, values: Mapping[str, float]) -> None:
        """What came out in the end, as points at the last step."""
        if self._sender:
            step = self.log_history[-1]["step"] if self.log_history else 0
            self._sender.metrics(values, step)

    def tags(self, values: Mapping[str, str]) -> None:
        """Short facts, for example why the training ended early."""
        if self._sender:
            self._sender.tags(values)

    def file(self, path: str | os.PathLike[str]) -> None:
        """A file to keep with the run, under its own name: the model card, the log. It is read when the run ends."""
        if self._sender:
            self._sender.files.append(Path(path))

    def details(self) -> dict[str, str]:
        """The run's id and page, for the result; empty while MLflow does not know of the run."""
        return self._sender.details() if self._sender else {}

    def _begin(self, log_history: list[dict[str, Any]]) -> None:
        # After an attempt for which the memory did not suffice, its steps are done once more; their points are there.
        self._repeated_until = max((entry["step"] for entry in self.log_history), default=-1)
        self.log_history = log_history

    def _log(self, logs: Mapping[str, Any], step: int) -> None:
        self.log_history.append({**logs, "step": step})
        if self._sender and step > self._repeated_until:
            self._sender.metrics(logs, step, live=True)

    def _end(self, status: str, error: BaseException | None = None) -> None:
        if self._sender is None:
            return
        if error is not None:
            self.tags({ERROR_TAG: f"{type(error).__name__}: {error}"})
        with tempfile.TemporaryDirectory(prefix="tracking-") as scratch:
            picture = Path(scratch) / CURVES_FILE
            if draw_curves(self.log_history, picture, title=str(self._run.get("component", "training"))):
                self.file(picture)
            self._sender.finish(status)


class _TrackingCallback(TrainerCallback):
    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._tracker._begin(list(state.log_history))
        self._tracker.tags(
            {
                "llmops.batch": f"{args.per_device_train_batch_size} x {args.gradient_accumulation_steps} "
                f"x {args.world_size} processes",
                "llmops.resumed_at_step": str(state.global_step),
            }
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero:
            self._tracker._log(logs, state.global_step)


class _Sender(threading.Thread):
    """Brings a run to MLflow; keeps what has not arrived."""

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
        now = int(time.time() * 1000)
        points = [
            (live, (_NOT_IN_A_METRIC.sub("_", name), float(value), now, step))
            for name, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        ]
        with self._lock:
            self._metrics += points

    def tags(self, values: Mapping[str, str]) -> None:
        with self._lock:
            self._tags |= {name: redact(str(value))[:_MAX_TAG_CHARACTERS] for name, value in values.items()}

    def details(self) -> dict[str, str]:
        if self._run_id is None or self._experiment_id is None:
            return {}
        found = {"run_id": self._run_id, "experiment_id": self._experiment_id}
        if is_http(self._shown):
            found["url"] = f"{self._shown}/#/experiments/{self._experiment_id}/runs/{self._run_id}"
        return found

    def run(self) -> None:
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
        tags = {}
        if self._where.parent:
            self._find_parent(client)
            tags = {"mlflow.parentRunId": self._parent_id or ""}
        name = redact(self._where.run_name or str(self._run.get("component", "training")))
        run_id = client.create_run(self._experiment_id or "", run_name=name, tags=tags).info.run_id
        if self._marker is not None:
            write_json(
                self._marker, {"server": self._shown, "experiment_id": self._experiment_id, "run_id": run_id}
            )
        self._run_id = run_id

    def _find_parent(self, client: MlflowClient) -> None:
        """The MLflow run of the DAG's run: the oldest with its key, made if there is none.

        MLflow cannot make it only once. So of those that trainings made in the same moment the oldest counts, whoever
        made another deletes it, and every training looks again at its end, when none is made any more.
        """

        def oldest() -> str | None:
            return find_dag_run(client, self._experiment_id or "", self._where.parent or "")

        found = oldest()
        if found is None:
            own = client.create_run(
                self._experiment_id or "", run_name=self._where.parent, tags={DAG_RUN_TAG: self._where.parent}
            )
            self._own_parent_id = own.info.run_id
            found = oldest() or self._own_parent_id
        if self._own_parent_id not in (None, found):
            client.delete_run(self._own_parent_id)
            self._own_parent_id = None
        if found != self._parent_id:
            client.update_run(found, status="RUNNING")
            self._parent_id = found

    def _describe(self, client: MlflowClient) -> None:
        from mlflow.entities import Dataset, DatasetInput, Param, RunTag

        run_id = self._run_id or ""
        params = [
            Param(_NOT_IN_A_METRIC.sub("_", name), value[:MAX_PARAM_CHARACTERS])
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
