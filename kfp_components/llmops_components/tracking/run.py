"""One MLflow run for one training, under the run of its DAG; and no harm done where there is no MLflow.

Everything is sent from a thread of its own, and kept until it has arrived: a server that is slow, down or restarted
costs the training nothing. What has not arrived at the end is tried once more, and then given up with a warning; the
log and the curves are files beside the model as well.

Transformers' ``MLflowCallback`` is not used: it fails the training when the server is down at its start, loses what it
cannot send, makes a second run on resumption, and knows nothing of failures.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmops_components.errors import TrainingInterrupted
from llmops_components.processes import is_main_process
from llmops_components.tracking.client import (
    PATIENCE,
    environment_variables,
    past_proxies,
    without_credentials,
)
from llmops_components.tracking.pictures import draw_curves
from llmops_components.tracking.sender import ERROR_TAG, Sender
from llmops_components.tracking.settings import Tracking
from llmops_components.uris import is_http

RUN_FILE = "mlflow_run.json"
CURVES_FILE = "training_curves.png"


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
        sender = Sender(where, address if is_server else where.tracking_uri, run, marker)
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

    def __init__(self, run: Mapping[str, Any], sender: Sender | None) -> None:
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
