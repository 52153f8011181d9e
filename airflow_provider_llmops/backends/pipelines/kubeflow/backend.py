"""Pipeline runs on Kubeflow Pipelines, through its REST API."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any
from urllib.parse import quote

from airflow_provider_llmops.backends.in_time import in_time
from airflow_provider_llmops.backends.kubernetes.cluster import Cluster, aconnect, connect
from airflow_provider_llmops.backends.pipelines import artifacts as artifact_store
from airflow_provider_llmops.backends.pipelines.base import Run, RunRequest, Wait, parse_time
from airflow_provider_llmops.backends.pipelines.kubeflow.api import (
    KfpApi,
    RefusedError,
    UnansweredError,
    WorkflowGoneError,
    joined,
    predicate,
    retrying,
)
from airflow_provider_llmops.backends.pipelines.kubeflow.failures import explain_failure
from airflow_provider_llmops.backends.pipelines.kubeflow.pods import QUESTION_SECONDS, RunPods
from airflow_provider_llmops.backends.pipelines.kubeflow.request import check_request
from airflow_provider_llmops.backends.pipelines.kubeflow.root import CONFIG_MAP, RootProblem, check_root
from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.backends.pipelines.kubeflow.steps import Step, Task, read_steps, read_tasks
from airflow_provider_llmops.backends.pipelines.kubeflow.versions import PipelineVersions
from airflow_provider_llmops.backends.pipelines.waiting import NO_CONNECTION
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    LLMOpsError,
    RunNotFoundError,
)
from airflow_provider_llmops.redaction import hide_in
from airflow_provider_llmops.specs.ir import handed_into_groups_as_null
from airflow_provider_llmops.specs.pipeline import BoundPipeline
from airflow_provider_llmops.states import RunState, StepState
from airflow_provider_llmops.uris import Address, place_of, scheme_of

log = logging.getLogger(__name__)

DEFAULT_EXPERIMENT = "Default"
EPOCH = datetime.fromtimestamp(0, UTC)
MAX_DESCRIPTION = 255
_LABELS_FIRST = ("fingerprint", "component_digest", "dag_version", "dag_run_id", "task_id", "dag_id")
MAX_RUNS_PER_READ = 100  # ids in one filter: about 5 KB of URL, below the 8 KB that common proxies take
NODES_LAG_SECONDS = 1.5
ROOT_SECONDS = 5.0  # before each run
MAX_VERSIONS_KEPT = 1000

# Tasks of the specifications that this process has met: a version never changes.
_tasks_of_versions: dict[tuple[str, str], Sequence[Task]] = {}
# The triggerer asks clusters why runs wait with threads of these: those of the event loop look at the runs of all tasks, and a
# cluster that is silent must not hold them.
_askers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="why-waiting")
# By the scheme of an address, what the web interface calls the store.
_SOURCES = {"minio": "minio", "s3": "s3", "gs": "gcs"}


class KubeflowPipelineBackend:
    """Carries out runs on an API server of Kubeflow Pipelines 2.

    :param settings: the connection's settings
    """

    poll_interval = 5.0

    def __init__(self, settings: KfpSettings) -> None:
        self.settings = settings
        self._api = KfpApi(settings)
        self._experiment_id: str | None = None

    @property
    def image(self) -> str | None:
        """Image to run the provider's own components in, where the connection names one."""
        return self.settings.image

    def impatient(self) -> KubeflowPipelineBackend:
        """The same, for a caller that repeats requests itself."""
        return KubeflowPipelineBackend(dataclasses.replace(self.settings, patience=0.0))

    def place(self, pipeline: BoundPipeline, addresses: Mapping[str, Address]) -> BoundPipeline:
        """As it is: what can be read is for the cluster to say."""
        for group, name in handed_into_groups_as_null(pipeline.spec, pipeline.parameters.keys()):
            log.warning(
                "Input %r has no value and no default, and task %r, a group of tasks, takes it: up to version 2.17 Kubeflow "
                "Pipelines hands no null into a group, and fails there. Give it a value, or compile a default",
                name,
                group,
            )
        return pipeline

    def submit(self, request: RunRequest) -> str:
        """Create the run, once, even if answers are lost.

        The API has no idempotency key. So after a request whose fate is unknown, the run is looked up by its name before
        another is sent, or before this gives up; and where two came into being after all, the younger is stopped.
        """
        self._refuse_secrets(request)
        check_request(request, uploads=self.settings.upload_versions)
        self._refuse_root()
        body = self._body(request)
        doubtful = False
        try:
            for attempt in retrying(self.settings.patience, changes=True):
                with attempt:
                    if doubtful and (run := self.find(request.display_name)):
                        return run.run_id
                    try:
                        answer = self._api.call_once(self._api.runs.run_service_create_run, body)
                    except UnansweredError as error:
                        doubtful = doubtful or error.may_have_happened
                        raise
        except LLMOpsError as error:
            if doubtful and (run_id := self._made_after_all(request.display_name, error)):
                return run_id
            raise
        run_id = str(answer["run_id"])
        return (doubtful and self._made_after_all(request.display_name, None)) or run_id

    def _made_after_all(self, display_name: str, error: LLMOpsError | None) -> str | None:
        """Id of the run whose request got no usable answer; ``None`` if a look shows that there is none.

        :param error: what came instead of an answer in the end
        :raises ApiUnavailableError: it cannot be looked for, so that its fate is unknown
        """
        try:
            run = (self.impatient() if error else self).find(display_name)
        except LLMOpsError as reason:
            raise ApiUnavailableError(
                f"A run may have been made, and cannot be looked for: {_first_line(error or reason)}. A retry looks for it.",
                f"Run: {display_name}",
                f"Looked for it: {_first_line(reason)}" if error and str(error) != str(reason) else None,
            ) from reason
        return run.run_id if run else None

    def get(self, run_id: str) -> Run:
        """Read one run; once more if it has just ended, for its nodes are about a second behind."""
        run = self._get(run_id, None)
        if run.state.is_terminal and not all(StepState(state).is_terminal for state in run.tasks.values()):
            time.sleep(NODES_LAG_SECONDS)
            run = self._get(run_id, None)
        return run

    def find(self, display_name: str) -> Run | None:
        """The run of that name. If there are several, the oldest; the others are stopped.

        The server's database compares without case, accents and spaces at the end; here every character counts.
        """
        named = predicate("display_name", "EQUALS", string_value=display_name)
        found = self._list(named, sort_by="created_at")
        runs = [run for run in found if run.display_name == display_name]
        for twin in runs[1:]:
            if not twin.state.is_terminal:
                log.warning("Run %s has the name of run %s and is stopped", twin.run_id, runs[0].run_id)
                self.cancel(twin.run_id)
        return runs[0] if runs else None

    def find_version(self, pipeline: str, version: str | None) -> dict[str, str]:
        """Ids of a pipeline on the server and of one of its versions."""
        return PipelineVersions(self._api).by_name(pipeline, version)

    def read_version(self, version: Mapping[str, str]) -> dict[str, Any]:
        """The specification that a version holds."""
        return PipelineVersions(self._api).spec(version)

    def find_reusable(self, fingerprint: str) -> Run | None:
        """The newest successful run whose labels hold a fingerprint."""
        line = f"fingerprint: {fingerprint}"
        # Found without case, and with wildcards in it; here the line is compared.
        wanted = predicate("description", "IS_SUBSTRING", string_value=line)
        succeeded = predicate("state", "EQUALS", string_value=RunState.SUCCEEDED)
        found = self._list_raw(wanted, succeeded, sort_by="created_at desc", page_size=1)
        same = (raw for raw in found if line in str(raw.get("description", "")).splitlines())
        return next((self._run(raw) for raw in same), None)

    def list_finished(self, since: datetime, *, with_steps_of: Container[str] = ()) -> Iterator[Run]:
        """Runs that finished at or after a moment, by the server's clock, which counts whole seconds.

        :param since: the moment
        :param with_steps_of: ids of the runs whose steps are told; each specification has to be read for that, and the
            runs are anybody's
        """
        after = since.astimezone(UTC).replace(microsecond=0).strftime("%Y-%m-%dT%H:%M:%SZ")
        # A run that has not finished carries the epoch, so the filter leaves it out.
        finished = predicate("finished_at", "GREATER_THAN_EQUALS", timestamp_value=after)
        return self._list(finished, sort_by="finished_at", with_steps_of=with_steps_of)

    def last_finished_at(self) -> datetime:
        """When the run that finished last did so, by the server's clock; the epoch if none has."""
        newest = next(self._list(sort_by="finished_at desc", page_size=1, with_steps_of=()), None)
        return (newest and newest.finished_at) or EPOCH + timedelta(seconds=1)

    def read_many(self, run_ids: Sequence[str]) -> dict[str, Run]:
        """Read several runs at once; those that do not exist are left out.

        :param run_ids: at most :data:`MAX_RUNS_PER_READ`
        """
        wanted = predicate("run_id", "IN", string_values={"values": list(run_ids)})
        return {run.run_id: run for run in self._list(wanted)}

    def cancel(self, run_id: str, patience: float | None = None) -> None:
        """Terminate a run; does nothing if it has ended.

        Of one whose workflow somebody has deleted nothing runs any more, though the server calls it CANCELING from then on.

        :param patience: seconds to go on trying; the connection's when ``None``
        """

        def is_over() -> bool:
            state = self._get(run_id, patience).state
            return state.is_terminal or state.is_canceled

        if not is_over():
            try:
                self._api.call(self._api.runs.run_service_terminate_run, run_id, patience=patience)
            except WorkflowGoneError as error:
                log.warning("Run %s is let go, since nothing of it runs: %s", run_id, error)
            except RefusedError:
                if not is_over():  # it ended between the two requests, or the answer to the first was lost
                    raise

    def retry(self, run_id: str) -> None:
        """Run the failed steps of a failed run again, and what depends on them."""
        try:
            self._api.call(self._api.runs.run_service_retry_run, run_id)
        except RefusedError:
            # Unless the answer to an earlier request was lost, and it goes on.
            if self.get(run_id).state.is_terminal:
                raise

    def read_result(self, run_id: str, pipeline: str, task: str) -> tuple[str, str]:
        """The step's ``result`` output in the artifact store."""
        roots = self._step_roots(run_id, pipeline, task)
        return artifact_store.read_result(roots, run_id, task, self.settings.storage_conn_id)

    def list_outputs(self, run_id: str, pipeline: str, task: str) -> dict[str, str]:
        """Address of each artifact that a step has written, by its name."""
        return artifact_store.list_outputs(
            self._step_roots(run_id, pipeline, task), self.settings.storage_conn_id
        )

    def input_digest(self, uri: str) -> str | None:
        """What the component that made the artifact said of it, or what the storage says."""
        return artifact_store.input_digest(uri, self.settings.storage_conn_id)

    def run_url(self, run_id: str) -> str:
        """The run's page in the web interface."""
        base = (self.settings.ui_url or self.settings.endpoint).rstrip("/")
        return f"{base}/#/runs/details/{run_id}"

    def page_url(self, uri: str, conn_id: str) -> str:
        """The artifact as the web interface of Kubeflow Pipelines hands it out."""
        source = _SOURCES.get(scheme_of(uri))
        if source is None:
            return ""
        base = (self.settings.ui_url or self.settings.endpoint).rstrip("/")
        namespace = f"?namespace={quote(self.settings.namespace)}" if self.settings.namespace else ""
        return f"{base}/artifacts/{source}/{quote(place_of(uri))}{namespace}"

    def why_waiting(self, run_id: str) -> list[Wait]:
        """From the pods, through the Kubernetes connection."""
        if not self.settings.kubernetes_conn_id:
            return [self._cannot_say()]
        try:
            return self.connect_pods().why_waiting(run_id)
        except Exception as error:  # whatever it is: the run goes on
            return [_unknown(error)]

    async def awhy_waiting(self, run_id: str) -> list[Wait]:
        """The same from the triggerer."""
        if not self.settings.kubernetes_conn_id:
            return [self._cannot_say()]
        try:
            async with asyncio.timeout(QUESTION_SECONDS):
                cluster = await aconnect(self.settings.kubernetes_conn_id)
                ask = partial(_ask_why_waiting, cluster, self.settings.namespace, run_id)
                return await asyncio.get_running_loop().run_in_executor(_askers, ask)
        except TimeoutError:
            return [_unknown(ApiUnavailableError(f"No answer within {QUESTION_SECONDS:.0f} s."))]
        except Exception as error:  # whatever it is: the run goes on
            return [_unknown(error)]

    def _cannot_say(self) -> Wait:
        return Wait(
            "",
            NO_CONNECTION,
            f"name a Kubernetes connection in 'kubernetes_conn_id' of connection {self.settings.conn_id!r} to see why",
        )

    def explain_failure(self, run: Run) -> Run:
        """With the reason from its steps' output in the artifact store, or else from their pods."""
        patience = min(self.settings.patience, self.settings.timeout)
        raw = self._api.call(self._api.runs.run_service_get_run, run.run_id, patience=patience)
        pipeline = str((self._spec_of(raw).get("pipelineInfo") or {}).get("name") or "")
        root = self._root_of(raw)
        return explain_failure(
            run,
            since=_went_on_at(raw),
            roots_of=lambda task: self._step_roots(run.run_id, pipeline, task, root),
            storage_conn_id=self.settings.storage_conn_id,
            connect_pods=self.connect_pods if self.settings.kubernetes_conn_id else None,
            root_problem=lambda: self._root_problem(root),
        )

    def connect_pods(self) -> RunPods:
        """The pods of the runs, through the Kubernetes connection that must be named."""
        return RunPods(connect(str(self.settings.kubernetes_conn_id)), self.settings.namespace)

    def check(self) -> str:
        """Ask for the server's version, then for its runs, which needs credentials."""
        patience = min(self.settings.patience, self.settings.timeout)
        endpoint = self.settings.endpoint
        try:
            health = self._api.call(self._api.health.healthz_service_get_healthz, patience=patience)
        except RefusedError as error:
            if error.status in (401, 403):
                raise RefusedError(f"Unauthorised: {error}", status=error.status) from error
            if error.status != 404:
                raise
            raise ConfigurationError(
                f"Wrong version: {endpoint} has no /apis/v2beta1. Kubeflow Pipelines 2.0 or newer is needed."
            ) from error
        except ApiUnavailableError as error:
            raise ApiUnavailableError(f"Unreachable: {error}") from error
        version = str(health.get("tag_name") or "unknown").removeprefix("v")
        if version.startswith(("0.", "1.")):
            raise ConfigurationError(
                f"Wrong version: {endpoint} runs Kubeflow Pipelines {version}; 2.0 or newer is needed."
            )
        if health.get("multi_user") and not self.settings.namespace:
            raise ConfigurationError(
                f"{endpoint} is multi-user: set 'namespace' of connection {self.settings.conn_id!r} to your profile's."
            )
        try:
            answer = self._api.call(
                self._api.runs.run_service_list_runs, page_size=1, patience=patience, **self._scope()
            )
        except RefusedError as error:
            if error.status in (401, 403):
                raise RefusedError(f"Unauthorised: {error}", status=error.status) from error
            raise
        problem = self._root_problem(self.settings.pipeline_root)
        if problem and problem.is_certain:
            raise ConfigurationError(problem.message)
        return (
            f"Kubeflow Pipelines {version} at {endpoint}: {answer.get('total_size', 0)} runs"
            + (f" in namespace {self.settings.namespace}" if self.settings.namespace else "")
            + f", artifacts under {self.settings.pipeline_root}"
            + (f". {problem.message}" if problem else "")
        )

    def _get(self, run_id: str, patience: float | None) -> Run:
        try:
            return self._run(self._api.call(self._api.runs.run_service_get_run, run_id, patience=patience))
        except RefusedError as error:
            if error.status == 404:
                raise RunNotFoundError(str(error)) from error
            raise

    def _body(self, request: RunRequest) -> dict[str, Any]:
        """The run as the API takes it."""
        config = {
            "parameters": request.pipeline.parameters,
            "pipeline_root": self.settings.pipeline_root,
        }
        body: dict[str, Any] = {
            "display_name": request.display_name,
            "description": _description(request.labels),
            "runtime_config": config,
        }
        if request.version is not None:
            body["pipeline_version_reference"] = request.version
        elif self.settings.upload_versions:
            body["pipeline_version_reference"] = PipelineVersions(self._api).reference(
                request.pipeline, request.labels
            )
        else:
            spec, platform = request.pipeline.spec, request.pipeline.platform
            body["pipeline_spec"] = {"pipeline_spec": spec, "platform_spec": platform} if platform else spec
        if experiment_id := self._experiment():
            body["experiment_id"] = experiment_id
        if self.settings.service_account:
            body["service_account"] = self.settings.service_account
        return body

    def _experiment(self) -> str | None:
        """Id of the connection's experiment, made if need be; ``None`` leaves it to the server."""
        name = self.settings.experiment or (DEFAULT_EXPERIMENT if self.settings.namespace else None)
        if name is None or self._experiment_id is not None:
            return self._experiment_id
        api = self._api.experiments
        scope = self._scope()
        wanted = joined(predicate("display_name", "EQUALS", string_value=name))

        def look() -> str | None:
            answer: dict[str, list[dict[str, str]]] = self._api.call(
                api.experiment_service_list_experiments, filter=wanted, page_size=1, **scope
            )
            found = next(iter(answer.get("experiments") or ()), None)
            if found is None:
                return None
            if found.get("display_name", name) != name:
                raise ConfigurationError(
                    f"Experiment {name!r} cannot be told from {found['display_name']!r}, which the server has already: its database "
                    "compares names without case and accents. Write it alike in 'experiment' of connection "
                    f"{self.settings.conn_id!r}, or choose another name."
                )
            return found["experiment_id"]

        experiment_id = look()
        if experiment_id is None:
            try:
                made = self._api.call(
                    api.experiment_service_create_experiment, {"display_name": name, **scope}
                )
                experiment_id = made["experiment_id"]
            except RefusedError:
                experiment_id = look()  # another task has just made it
                if experiment_id is None:
                    raise
        self._experiment_id = experiment_id
        return experiment_id

    def _list(
        self, *predicates: dict[str, Any], with_steps_of: Container[str] | None = None, **kwargs: Any
    ) -> Iterator[Run]:
        for raw in self._list_raw(*predicates, **kwargs):
            yield self._run(raw, with_steps=with_steps_of is None or raw["run_id"] in with_steps_of)

    def _list_raw(self, *predicates: dict[str, Any], **kwargs: Any) -> Iterator[dict[str, Any]]:
        if predicates:
            kwargs["filter"] = joined(*predicates)
        return self._api.pages(self._api.runs.run_service_list_runs, "runs", **kwargs, **self._scope())

    def _scope(self) -> dict[str, Any]:
        return {"namespace": self.settings.namespace} if self.settings.namespace else {}

    def _root_of(self, raw: Mapping[str, Any]) -> str:
        """Where a run writes: whoever made it may have chosen another root than the connection's."""
        root = str((raw.get("runtime_config") or {}).get("pipeline_root") or "")
        # Of files only the connection says which may be read.
        return self.settings.pipeline_root if scheme_of(root) in ("", "file") else root

    def _root_problem(self, root: str) -> RootProblem | None:
        """What speaks against the root, where the account may read its settings, and they are read soon."""
        if not self.settings.kubernetes_conn_id:
            return None

        def look() -> RootProblem | None:
            pods = self.connect_pods()
            return check_root(root, pods.read_config_map(CONFIG_MAP), pods.namespace)

        try:
            return in_time(look, ROOT_SECONDS)
        except LLMOpsError as error:
            log.info("The settings of pipeline roots cannot be read: %s", error)
        except Exception as error:  # whatever it is: it must not stop a run, nor hide why one has failed
            log.warning("The settings of pipeline roots cannot be read: %s: %s", type(error).__name__, error)
        return None

    def _refuse_root(self) -> None:
        problem = self._root_problem(self.settings.pipeline_root)
        if problem is None:
            return
        if problem.is_certain:
            raise ConfigurationError(problem.message, f"Pipeline root: {self.settings.pipeline_root}")
        log.warning("%s", problem.message)

    def _step_roots(self, run_id: str, pipeline: str, task: str, root: str | None = None) -> list[str]:
        """Where a step's attempts may have written their outputs.

        The server puts the pipeline's name and the run's id below the pipeline root (``backend/src/v2/metadata``); some
        versions qualify the name of an uploaded pipeline first. Of a task in a group it takes the task's own name.
        """
        names = [pipeline, f"pipeline/{pipeline}"]
        if self.settings.namespace:
            names.append(f"namespace/{self.settings.namespace}/pipeline/{pipeline}")
        root = (root or self.settings.pipeline_root).partition("?")[0].rstrip("/")
        return [f"{root}/{name}/{run_id}/{task.rpartition('/')[2]}" for name in names]

    def _refuse_secrets(self, request: RunRequest) -> None:
        platform = json.dumps(request.pipeline.platform or {})
        if missing := [name for name in request.environment if f'"{name}"' not in platform]:
            raise ConfigurationError(
                f"The steps of {request.display_name.rpartition(' ')[0]} need {', '.join(missing)} in their environment. "
                "Parameters of a run can be read by everybody, so on Kubeflow such values come from a Kubernetes secret: "
                "pass step_settings={'secrets_as_env': {'<secret>': {'<key>': '" + missing[0] + "'}}}."
            )

    def _run(self, raw: Mapping[str, Any], *, with_steps: bool = True) -> Run:
        state = _state_of(raw.get("state"))
        if state is RunState.FAILED and _was_terminated(raw):
            state = RunState.CANCELED
        steps = self._steps(raw, state) if with_steps else []
        tasks = {step.name: str(step.state) for step in steps}
        finished_at = parse_time(raw.get("finished_at"))
        return Run(
            run_id=raw["run_id"],
            display_name=raw.get("display_name", ""),
            state=state,
            tasks=tasks,
            waits=not state.is_terminal and _has_pending_node(raw),
            attempts={step.name: step.attempts for step in steps if step.attempts > 1},
            error=_error_of(raw) if state is RunState.FAILED else None,
            failed_steps=tuple(name for name, at in tasks.items() if at == RunState.FAILED)
            if state is RunState.FAILED
            else (),
            created_at=parse_time(raw.get("created_at")),
            finished_at=finished_at if finished_at and finished_at > EPOCH else None,
            log_hint=self.run_url(raw["run_id"]),
        )

    def _steps(self, raw: Mapping[str, Any], state: RunState) -> list[Step]:
        details = (raw.get("run_details") or {}).get("task_details")
        if not details:
            return []
        return read_steps(self._tasks_of(raw), details, state)

    def _tasks_of(self, raw: Mapping[str, Any]) -> Sequence[Task]:
        """The tasks of a run's specification, which is read once for each version."""
        if raw.get("pipeline_spec"):
            return read_tasks(self._spec_of(raw))
        reference = raw.get("pipeline_version_reference") or {}
        place = (self.settings.endpoint, str(reference.get("pipeline_version_id")))
        if place not in _tasks_of_versions:
            spec = self._spec_of(raw)
            while len(_tasks_of_versions) >= MAX_VERSIONS_KEPT:
                _tasks_of_versions.pop(next(iter(_tasks_of_versions)), None)
            _tasks_of_versions[place] = read_tasks(spec) if spec else ()
        return _tasks_of_versions[place]

    def _spec_of(self, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """A run's specification; nothing if its version was deleted since, or may not be read."""
        document = raw.get("pipeline_spec")
        if not document:
            try:
                document = PipelineVersions(self._api).spec(raw.get("pipeline_version_reference") or {})
            except (RefusedError, KeyError):
                return {}
        return document.get("pipeline_spec") or document


def _ask_why_waiting(cluster: Cluster, namespace: str | None, run_id: str) -> list[Wait]:
    return RunPods(cluster, namespace).why_waiting(run_id)


def _unknown(error: Exception) -> Wait:
    said = _first_line(error)
    if not isinstance(error, LLMOpsError):
        hide_in(error)
        log.warning("Why a run waits cannot be asked", exc_info=error)
        said = f"{type(error).__name__}: {said}"
    return Wait("", "Unknown", f"why cannot be told: {said}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _state_of(value: Any) -> RunState:
    try:
        return RunState(value)
    except ValueError:
        return RunState.PENDING  # RUNTIME_STATE_UNSPECIFIED, or nothing yet


def _went_on_at(raw: Mapping[str, Any]) -> datetime | None:
    """When a run ended that was then made to go on; ``None`` of one that has ended at most once."""
    ends = [
        before.get("update_time")
        for before, after in pairwise(raw.get("state_history") or ())
        if _state_of(before.get("state")).is_terminal and not _state_of(after.get("state")).is_terminal
    ]
    return parse_time(ends[-1]) if ends else None


def _has_pending_node(raw: Mapping[str, Any]) -> bool:
    details = (raw.get("run_details") or {}).get("task_details") or ()
    return any(detail.get("state") == RunState.PENDING for detail in details)


def _was_terminated(raw: Mapping[str, Any]) -> bool:
    """Whether somebody ended the run: the server has it end as failed, like any other that does not succeed."""
    history = [status["state"] for status in raw.get("state_history") or () if status.get("state")]
    return history[-2:-1] == [RunState.CANCELING]  # an earlier one was followed by a retry


def _error_of(raw: Mapping[str, Any]) -> str | None:
    """What is known of why it failed, in one line."""
    details = [
        detail for detail in (raw.get("run_details") or {}).get("task_details") or () if detail.get("error")
    ]
    history = [status for status in raw.get("state_history") or () if status.get("error")]
    for source in (*details, *reversed(history), raw):
        with suppress(AttributeError):
            if message := (source.get("error") or {}).get("message"):
                return str(message)
    return None


def _description(labels: Mapping[str, str]) -> str:
    """Where the run comes from, readable in the web interface and by :meth:`find_reusable`.

    The server's column has 255 characters, so what does not fit is left out, the least telling last.
    """
    lines: list[str] = []
    for name in (*_LABELS_FIRST, *labels):
        value = labels.get(name, "")
        line = f"{name}: {value[:23] if value.startswith('sha256:') else value}"
        if value and line not in lines and len("\n".join([*lines, line])) <= MAX_DESCRIPTION:
            lines.append(line)
    return "\n".join(lines)
