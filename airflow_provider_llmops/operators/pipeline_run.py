"""The operator behind every pipeline run: submit once, wait, bring the outcome home."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from airflow.sdk import BaseOperator, BaseOperatorLink

from airflow_provider_llmops.backends.pipelines.base import Run, RunRequest, step_changes
from airflow_provider_llmops.backends.pipelines.waiting import WaitWatch
from airflow_provider_llmops.delivery.as_of import is_backfill
from airflow_provider_llmops.exceptions import (
    ConfigurationError,
    ResultError,
    RunCanceledError,
    RunFailedError,
    RunNotFoundError,
)
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.links import PipelineRunLink
from airflow_provider_llmops.redaction import Redactor, hide_in
from airflow_provider_llmops.remote.ending import (
    deadline,
    describe_limits,
    end_if_unwanted,
    is_timed_out,
    is_unwanted,
    seconds_to_wait,
)
from airflow_provider_llmops.remote.failing import failure_of
from airflow_provider_llmops.remote.intent import (
    Intent,
    concluding,
    find_in_flight,
    lineage_of,
    origin_of,
    outlasting,
)
from airflow_provider_llmops.specs.pipeline import BoundPipeline
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import Context

Reuse = Literal["never", "identical", "backfill"]

MAX_NAME_LENGTH = 150  # of 191 that Kubeflow Pipelines stores; the token needs 33


class PipelineRunOperator(BaseOperator):
    """Base of the operators that submit a pipeline run and wait for it.

    Exactly one run is made for each scheduled run of the task, whatever dies in between: before submitting, a token is
    stored in Airflow's task state store, and the run carries it in its name. An automatic retry finds the run again, or
    starts a new one if it has failed; clearing the task makes a new one.

    XCom gets the address of the run's page as ``run_url`` before the task waits.

    :param kubeflow_conn_id: connection of type ``kubeflow``
    :param deferrable: wait in the triggerer instead of in a worker
    :param poll_interval: seconds between two looks; 1 on the local backend, 5 on Kubeflow unless given
    :param run_timeout: how long a run may take before it is cancelled, however many attempts wait for it;
        ``execution_timeout``, of each attempt, counts as well, since Airflow does not apply that to a deferred task
    :param stream_logs: pass the run's log on to the task's log while it runs; only the local backend has one
    :param cancel_on_kill: cancel the run when the task is marked, cleared or timed out
    :param cancel_on_eviction: cancel the run when the worker is told to end while the task goes on, as when its pod is
        evicted; otherwise the retry reconnects to the run
    :param reuse: take the result of an earlier successful run of the same specification, image, arguments and input
        digests instead of starting one: ``never``, ``identical``, or ``backfill`` (in backfills only)
    :param step_settings: Kubernetes settings of the steps: a :class:`~airflow_provider_llmops.settings.kubernetes.StepSettings`,
        its fields as a dict, or one of either for each step's name. Without effect on the local backend.
    """

    template_fields: Sequence[str] = ("kubeflow_conn_id", "step_settings")
    template_fields_renderers = {"step_settings": "json"}
    operator_extra_links: Collection[BaseOperatorLink] = (PipelineRunLink(),)
    ui_color = "#e8f0fe"
    addresses: ClassVar[Mapping[str, Address]] = {}
    """Inputs that name places, with what each may be where there is no object storage."""

    def __init__(
        self,
        *,
        kubeflow_conn_id: str = KubeflowPipelinesHook.default_conn_name,
        deferrable: bool = True,
        poll_interval: float | None = None,
        run_timeout: timedelta | None = None,
        stream_logs: bool = True,
        cancel_on_kill: bool = True,
        cancel_on_eviction: bool = False,
        reuse: Reuse = "never",
        step_settings: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kubeflow_conn_id = kubeflow_conn_id
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.run_timeout = run_timeout
        self.stream_logs = stream_logs
        self.cancel_on_kill = cancel_on_kill
        self.cancel_on_eviction = cancel_on_eviction
        self.reuse = reuse
        self.step_settings = step_settings
        self._run_id: str | None = None
        self._submitting: str | None = None
        self.was_told_to_end = False
        self._context: Context | None = None
        self._redactor = Redactor()

    @cached_property
    def hook(self) -> KubeflowPipelinesHook:
        """The hook of the connection."""
        return KubeflowPipelinesHook(self.kubeflow_conn_id)

    @property
    def what(self) -> str:
        """What is run, for messages."""
        return self.task_id

    @abstractmethod
    def bind(self) -> BoundPipeline:
        """The pipeline with its parameters, checked."""

    @abstractmethod
    def outcome(self, context: Context, run: Run) -> dict[str, Any]:
        """What goes to XCom of a successful run."""

    def labels(self) -> dict[str, str]:
        """What the run's labels say besides where it comes from."""
        return {}

    def version(self) -> Mapping[str, str] | None:
        """Ids of a version on the server that is run instead of uploading the specification."""
        return None

    def environment(self) -> dict[str, str]:
        """Environment variables for the steps; the place for secrets, which are neither stored nor shown."""
        return {}

    def execute(self, context: Context) -> dict[str, Any]:
        """Find or make the run, then wait for it."""
        self._context = context
        if self.reuse not in get_args(Reuse):
            raise ConfigurationError(
                f"reuse must be one of {', '.join(get_args(Reuse))}, got {self.reuse!r}."
            )
        run_id = self._run_id = self._reconnect(context) or self._submit(context)
        end_if_unwanted(self, context, self._cancel)
        with outlasting(f"Run {run_id}"):
            return self._await(context, run_id)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Take the outcome of the run that the trigger waited for."""
        self._context = context
        run_id = event["run_id"]
        with outlasting(f"Run {run_id}"):
            run = self.hook.get_run(run_id)
            if run.state.is_terminal and (run.state.is_successful or not event["timed_out"]):
                return self._finish(context, run, log_offset=event["log_offset"])
            if event["timed_out"]:
                self.hook.cancel(run_id)
                raise self._timeout(run_id, event.get("waits_for"))
            if event["error"]:
                raise ConfigurationError(event["error"])
            self._run_id = run_id
            return self._await(context, run_id)  # somebody has made it go on

    def on_kill(self) -> None:
        """Cancel the run that this worker was submitting or waiting for, unless the task goes on elsewhere."""
        if self._context is None:
            return
        self.was_told_to_end = True
        if self.cancel_on_kill and is_unwanted(self._context, cancel_on_eviction=self.cancel_on_eviction):
            self._cancel()
        else:
            self.log.info("Run %s goes on; the next attempt will find it", self._run_id or self._submitting)

    def _cancel(self) -> None:
        """Cancel the run in the time that Airflow leaves before it kills the process."""
        run_id = self._run_id or self._submitted()
        if run_id is None:
            return
        self.log.info("Cancelling run %s", run_id)
        self.hook.backend.cancel(run_id, patience=3.0)
        if is_timed_out() and self.execution_timeout:
            self.log.error("%s", self._timeout(run_id))

    def _submitted(self) -> str | None:
        """Id of the run whose submission is being interrupted, if the server has it.

        Asked from a thread, for a short time: the interrupted request may hold what another one waits for.
        """
        if (name := self._submitting) is None:
            return None
        found: list[Run | None] = []
        thread = threading.Thread(target=lambda: found.append(self.hook.backend.find(name)), daemon=True)
        thread.start()
        thread.join(timeout=2.0)
        return next((run.run_id for run in found if run), None)

    def _submit(self, context: Context) -> str:
        """An earlier run whose result can be taken, or a new one."""
        pipeline = self.hook.backend.place(self._with_settings(self.bind()), self.addresses)
        fingerprint = self._fingerprint(pipeline)
        former = Intent.load(context)  # of this cycle: that of another one has been dropped
        return self._reusable(context, fingerprint, former) or self._start(
            context, pipeline, fingerprint, former
        )

    def _start(
        self, context: Context, pipeline: BoundPipeline, fingerprint: str, former: Intent | None
    ) -> str:
        unfinished = former if former and former.is_unfinished else None
        name = unfinished.name if unfinished else self._display_name(context, uuid.uuid4().hex)
        intent = Intent.of(context, name, former=former)
        request = RunRequest(
            display_name=name,
            pipeline=pipeline,
            version=self.version(),
            labels={**origin_of(context), **self.labels(), "fingerprint": fingerprint},
            environment=self.environment(),
            lineage=lineage_of(context, intent.began),
        )
        # The intent is stored first: if this worker dies at any later instant, the name leads to the run.
        intent.store(context)
        self._submitting = name
        end_if_unwanted(self, context)
        run_id = self._run_id = self.hook.submit(request)
        self._submitting = None
        # Before anything is stored: Airflow refuses that to an attempt that was cleared.
        end_if_unwanted(self, context, self._cancel)
        with outlasting(f"Run {run_id}"):
            if unfinished and (oldest := self.hook.backend.find(name)):
                run_id = self._run_id = oldest.run_id
        intent.fulfil(context, run_id)
        self.log.info("Submitted run %s (%s)", run_id, name)
        return run_id

    def _reconnect(self, context: Context) -> str | None:
        """The run of an earlier attempt, if it still can bring a result."""
        intent = Intent.load(context)
        if intent is None:
            return None
        with outlasting(f"Run {intent.run_id or intent.name}"):
            run = self._former_run(intent)
        has_failed = run is not None and run.state.is_lost
        if intent.is_of_this_cycle(context, is_useless=has_failed):
            return self._take_over(context, intent, run, has_failed=has_failed)
        if run is not None and not run.state.is_terminal and not intent.reused:
            self.log.info("Task was cleared: cancelling its former run %s", run.run_id)
            with outlasting(f"Run {run.run_id}"):
                self.hook.cancel(run.run_id)
        Intent.drop(context)
        return None

    def _former_run(self, intent: Intent) -> Run | None:
        try:
            if intent.run_id is not None:
                return self.hook.get_run(intent.run_id)
            return find_in_flight(lambda: self.hook.backend.find(intent.name), intent.at)
        except RunNotFoundError as error:
            self.log.warning("The run of the previous attempt is gone: %s", error)
            return None

    def _take_over(
        self, context: Context, intent: Intent, run: Run | None, *, has_failed: bool
    ) -> str | None:
        if run is None:
            return None
        if has_failed:
            # Its time begins anew if it is told to go on.
            intent.fulfil(context, run.run_id, at=time.time())
            return self._replace(run)
        intent.fulfil(context, run.run_id)
        self.log.info("Reconnected to run %s (%s), which is %s", run.run_id, run.display_name, run.state)
        return run.run_id

    def _replace(self, run: Run) -> str | None:
        """What to do on a retry about a run that has failed: a new one is started."""
        self.log.info("Run %s of the previous attempt is %s: starting a new one", run.run_id, run.state)
        return None

    def _reusable(self, context: Context, fingerprint: str, former: Intent | None) -> str | None:
        """An earlier run with the same inputs and a result that can be read."""
        if not fingerprint or (self.reuse == "backfill" and not is_backfill(context)):
            return None
        run = self.hook.backend.find_reusable(fingerprint)
        if run is None:
            return None
        try:
            self.check_result(run)
        except ResultError as error:
            self.log.info("Run %s had the same inputs, but its result is gone: %s", run.run_id, error)
            return None
        self.log.info("Run %s (%s) had the same inputs: taking its result", run.run_id, run.display_name)
        Intent.of(context, run.display_name, former=former, run_id=run.run_id, reused=True).store(context)
        return run.run_id

    def check_result(self, run: Run) -> None:
        """Raise :class:`ResultError` if the result of an earlier run cannot be taken."""

    def _fingerprint(self, pipeline: BoundPipeline) -> str:
        """Short digest of everything that decides a run's result; empty if it cannot be told, or nobody asks."""
        if self.reuse == "never":
            return ""
        parameters = dict(pipeline.parameters)
        for name in pipeline.artifact_parameters:
            digest = self.hook.backend.input_digest(parameters[name])
            if digest is None:
                self.log.info("Whether %s has changed cannot be told, so no run is reused", parameters[name])
                return ""
            parameters[name] = digest
        text = json.dumps([pipeline.spec, pipeline.platform, parameters, self.version()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _with_settings(self, pipeline: BoundPipeline) -> BoundPipeline:
        if not self.step_settings:
            return pipeline
        from airflow_provider_llmops.settings.steps import apply_settings

        return apply_settings(pipeline, self.step_settings)

    def _display_name(self, context: Context, token: str) -> str:
        ti = context["ti"]
        mapped = f"[{ti.map_index}]" if ti.map_index is not None and ti.map_index >= 0 else ""
        return f"{ti.dag_id}.{ti.task_id}{mapped}"[:MAX_NAME_LENGTH] + f" {token}"

    def _await(self, context: Context, run_id: str) -> dict[str, Any]:
        """Wait for the run where it was asked for."""
        backend = self.hook.backend
        if url := backend.run_url(run_id):
            PipelineRunLink().push(context["ti"], url)
            self.log.info("Run page: %s", url)
        asked_at = time.time()
        if self.run_timeout is not None and (intent := Intent.load(context)):
            asked_at = intent.at
        ends_at = deadline(self, run_started_at=asked_at)
        interval = backend.poll_interval if self.poll_interval is None else self.poll_interval
        if not self.deferrable:
            return self._wait(context, run_id, interval, ends_at)
        if not backend.waits_in_one_stream and (run := self.hook.get_run(run_id)).state.is_terminal:
            return self._finish(context, run, log_offset=0)
        self._defer(run_id, interval, ends_at)
        raise AssertionError("deferring raises")

    def _defer(self, run_id: str, interval: float, deadline: float | None) -> None:
        from airflow_provider_llmops.triggers.pipeline_run import PipelineRunTrigger

        self.defer(
            trigger=PipelineRunTrigger(
                kubeflow_conn_id=self.kubeflow_conn_id,
                run_id=run_id,
                poll_interval=interval,
                in_one_stream=self.hook.backend.waits_in_one_stream,
                deadline=deadline,
                stream_logs=self.stream_logs,
                cancel_on_kill=self.cancel_on_kill,
            ),
            method_name="execute_complete",
        )

    def _wait(self, context: Context, run_id: str, interval: float, deadline: float | None) -> dict[str, Any]:
        offset = 0
        states: dict[str, str] = {}
        watch = WaitWatch()
        while True:
            run = self.hook.get_run(run_id)
            for line in step_changes(states, run):
                self.log.info("%s", line)
            states = dict(run.tasks)
            watch.see(run)
            if watch.due_in == 0:
                self._say_why_it_waits(watch, run_id)
            offset = self._log_from(run_id, offset)
            if run.state.is_terminal:
                return self._finish(context, run, log_offset=offset)
            if deadline is not None and time.time() >= deadline:
                if watch.due_in is not None and not watch.reason:
                    self._say_why_it_waits(watch, run_id)  # while the run is there
                self.hook.cancel(run_id)
                raise self._timeout(run_id, watch.reason)
            time.sleep(seconds_to_wait(interval, deadline))

    def _say_why_it_waits(self, watch: WaitWatch, run_id: str) -> None:
        watch.ask()
        try:
            for line in watch.learn(self.hook.backend.why_waiting(run_id)):
                self.log.warning("%s", line)
        except Exception as error:  # whatever it is: the run goes on
            hide_in(error)
            self.log.warning("Why run %s waits cannot be asked", run_id, exc_info=True)

    def _finish(self, context: Context, run: Run, *, log_offset: int) -> dict[str, Any]:
        self._run_id = None
        self._log_from(run.run_id, log_offset)
        with concluding(context):
            self._raise_if_failed(run)
            return self.outcome(context, run)

    def _raise_if_failed(self, run: Run) -> None:
        if run.state.is_canceled:
            raise RunCanceledError(
                "The run was cancelled by somebody else. Clear the task to run it again.",
                *run.places(self.what),
            )
        if not run.state.is_successful:
            raise failure_of(self.hook.backend, run, self.log, self.what)

    def _log_from(self, run_id: str, offset: int) -> int:
        while self.stream_logs:
            lines, end = self.hook.backend.read_log(run_id, offset)
            for line in self._redactor.lines(lines):
                self.log.info("%s", line)
            if end == offset:
                break
            offset = end
        return offset

    def _timeout(self, run_id: str, waits_for: str | None = None) -> RunFailedError:
        took = f"The run took longer than {describe_limits(self)} and was cancelled."
        return RunFailedError(
            f"{waits_for}. {took}" if waits_for else f"{took} Raise that, or give it less to do.",
            f"Run: {run_id} ({self.what})",
        )


def task_label(operator: BaseOperator, context: Context, step: str | None = None) -> str:
    """The task's name; of a mapped one with what its ``map_index_template`` says of it, or its index.

    :param operator: the task
    :param context: of its execution
    :param step: a step of it, named behind the task
    """
    ti = context["ti"]
    name = f"{ti.task_id}.{step}" if step else str(ti.task_id)
    if ti.map_index is None or ti.map_index < 0:
        return name
    template = getattr(operator, "map_index_template", None)
    label = operator.render_template(template, context) if template else ti.map_index
    return f"{name}[{label}]"
