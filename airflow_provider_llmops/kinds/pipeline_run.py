"""Pipeline runs, as a task deals with one."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.backends.pipelines.base import (
    PipelineBackend,
    PipelineServer,
    Run,
    RunRequest,
    pass_log_on,
)
from airflow_provider_llmops.backends.pipelines.ending import failure_of
from airflow_provider_llmops.exceptions import (
    ResultError,
    RunCanceledError,
    RunFailedError,
    RunNotFoundError,
)
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.links import PipelineRunLink
from airflow_provider_llmops.redaction import Redactor
from airflow_provider_llmops.remote.intent import Intent
from airflow_provider_llmops.remote.kind import RemoteKind

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.triggers.pipeline_run import PipelineRunTrigger

__all__ = ["PipelineRuns", "ResumableRuns"]

MAX_NAME_LENGTH = 150  # of 191 that Kubeflow Pipelines stores; the token needs 33


class PipelineRuns(RemoteKind[Run]):
    """Pipeline runs: found by their display name, which holds a token, and then by their id.

    :param hook: of the connection
    :param logger: of the task
    :param stream_logs: whether the run's log is passed on to the task's log
    :param cancel_on_kill: whether the triggerer cancels it when the waiting task is marked or cleared
    """

    noun = "run"

    def __init__(
        self, hook: KubeflowPipelinesHook, logger: Any, *, stream_logs: bool, cancel_on_kill: bool
    ) -> None:
        super().__init__(logger)
        self.hook = hook
        self.stream_logs = stream_logs
        self.cancel_on_kill = cancel_on_kill

    @property
    def backend(self) -> PipelineBackend:
        """What carries out pipeline runs."""
        return self.hook.backend

    def new_name(self, context: Context) -> str:
        """The run's display name."""
        ti = context["ti"]
        mapped = f"[{ti.map_index}]" if ti.map_index is not None and ti.map_index >= 0 else ""
        return f"{ti.dag_id}.{ti.task_id}{mapped}"[:MAX_NAME_LENGTH] + f" {uuid.uuid4().hex}"

    def key_of(self, seen: Run) -> str:
        """The run's id."""
        return seen.run_id

    def key_in(self, event: dict[str, Any]) -> str:
        """The id of the run that was waited for."""
        return str(event["run_id"])

    def submit(self, request: RunRequest) -> str:
        """Submit a run; returns its id."""
        run_id = self.hook.submit(request)
        self.log.info("Submitted run %s (%s)", run_id, request.display_name)
        return run_id

    def find(self, intent: Intent) -> Run | None:
        """The run by its id, or by its name while the id is not known."""
        try:
            return self.hook.get_run(intent.run_id) if intent.run_id else self.backend.find(intent.name)
        except RunNotFoundError as error:
            self.log.warning("The run of the previous attempt is gone: %s", error)
            return None

    def take_result(self, context: Context, fingerprint: str, check: Callable[[Run], None]) -> str | None:
        """The id of an earlier run with the same inputs and a result that can be read; the task takes that result.

        :param fingerprint: digest of everything that decides a run's result
        :param check: raises :class:`ResultError` if the result of a run cannot be taken
        """
        run = self.backend.find_reusable(fingerprint)
        if run is None:
            return None
        try:
            check(run)
        except ResultError as error:
            self.log.info("Run %s had the same inputs, but its result is gone: %s", run.run_id, error)
            return None
        self.log.info("Run %s (%s) had the same inputs: taking its result", run.run_id, run.display_name)
        former = Intent.load(context)  # of this cycle: that of another one has been dropped
        Intent.of(context, run.display_name, former=former, run_id=run.run_id, reused=True).store(context)
        return run.run_id

    def read(self, key: str, event: dict[str, Any]) -> Run:
        """The run, after the rest of its log."""
        run = self.hook.get_run(key)
        if run.state.is_terminal and self.stream_logs:
            pass_log_on(self.backend, key, event["log_offset"], self.log, Redactor())
        return run

    def cancel(self, key: str, *, patience: float | None = None) -> None:
        """Cancel the run."""
        self.backend.cancel(key, patience)

    def trigger(self, key: str, *, poll_interval: float, deadline: float | None) -> PipelineRunTrigger:
        """What waits for the run."""
        from airflow_provider_llmops.triggers.pipeline_run import PipelineRunTrigger

        return PipelineRunTrigger(
            kubeflow_conn_id=self.hook.kubeflow_conn_id,
            run_id=key,
            poll_interval=poll_interval,
            in_one_stream=isinstance(self.backend, PipelineServer),
            deadline=deadline,
            stream_logs=self.stream_logs,
            cancel_on_kill=self.cancel_on_kill,
        )

    def announce(self, context: Context, key: str) -> None:
        """Push the address of the run's page."""
        if url := self.backend.run_url(key):
            PipelineRunLink().push(context["ti"], url)
            self.log.info("Run page: %s", url)

    def has_ended(self, key: str) -> bool:
        """Whether the run has ended already; not where it is asked for together with others."""
        is_asked_alone = not isinstance(self.backend, PipelineServer)
        return is_asked_alone and self.hook.get_run(key).state.is_terminal

    def go_on(self, intent: Intent, seen: Run | None) -> str | None:
        """A new run is made for one that has failed."""
        if seen is not None:
            self.log.info("Run %s of the previous attempt is %s: starting a new one", seen.run_id, seen.state)
        return None

    def stop_former(self, intent: Intent, seen: Run | None) -> None:
        """Cancel it, unless it belongs to another task, whose result was taken."""
        if not intent.reused:
            super().stop_former(intent, seen)

    def failure(self, run: Run | None, event: dict[str, Any], *, what: str, limits: str) -> Exception:
        """Why a run brings no result; one that took too long is cancelled.

        :param run: the run as it is now
        :param event: of the trigger
        :param what: what was run, for messages
        :param limits: the limits that it may have reached
        """
        if event["timed_out"]:
            run_id, waits_for = self.key_in(event), event.get("waits_for")
            self.cancel(run_id)
            took = f"The run took longer than {limits} and was cancelled."
            return RunFailedError(
                f"{waits_for}. {took}" if waits_for else f"{took} Raise that, or give it less to do.",
                f"Run: {run_id} ({what})",
            )
        assert run is not None  # reading a run that is gone raises
        if run.state.is_canceled:
            return RunCanceledError(
                "The run was cancelled by somebody else. Clear the task to run it again.", *run.places(what)
            )
        return failure_of(self.backend, run, self.log, what)


class ResumableRuns(PipelineRuns):
    """Runs of several steps, of which a failed one goes on: only its failed steps and those that depend on them run again."""

    def go_on(self, intent: Intent, seen: Run | None) -> str | None:
        """Make the failed run go on, where that can be done."""
        if seen is None or seen.state.is_canceled:
            return super().go_on(intent, seen)
        from airflow_provider_llmops.backends.pipelines.kubeflow.api import RefusedError

        self.log.info("Going on with failed run %s", seen.run_id)
        try:
            self.hook.retry(seen.run_id)
        except (RefusedError, RunNotFoundError) as error:
            if getattr(error, "status", None) in (401, 403):
                raise
            self.log.warning("Run %s cannot go on: %s", seen.run_id, error)
            return super().go_on(intent, seen)
        return seen.run_id
