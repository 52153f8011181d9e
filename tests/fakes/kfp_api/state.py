"""What the server knows: experiments, pipelines and runs, and the rules by which they change.

Upstream: ``resource/resource_manager.go``, ``storage/*.go``, ``server/{run,pipeline,experiment}_server.go`` and
``server/api_converter.go``. All times are whole seconds, as in upstream's database.
"""

from __future__ import annotations

import json
import random
import re
import string
import threading
import uuid
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from . import messages, rows, specs
from .errors import (
    FAILED_PRECONDITION,
    ApiError,
    already_exists,
    bad_request,
    compile_error,
    forbidden,
    internal,
    invalid,
    not_found,
)
from .filters import Options, collated, options, split_tags
from .rows import Experiment, Pipeline, Run, Version, status
from .specs import Spec

Query = Mapping[str, str]
_LOOKING = ("get", "list")
_TERMINABLE = frozenset({"PAUSED", "PENDING", "RUNNING", ""})
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_BEYOND_16_BITS = re.compile("[\U00010000-\U0010ffff]")
# Upstream's MySQL makes VARCHAR(255) of strings without a length (client_manager.go, DefaultStringSize).
_VARCHAR = 255


@dataclass(frozen=True)
class User:
    """An account of a multi-user installation.

    :param name: as the server names it
    :param reads: namespaces in which it may look
    :param writes: namespaces in which it may do anything
    """

    name: str
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()


class State:
    """The database and the resource manager; its methods are called with the lock held."""

    def __init__(self, *, multi_user: bool, page_limit: int, clock: Callable[[], float]) -> None:
        self.multi_user = multi_user
        self.page_limit = page_limit
        self.lock = threading.RLock()
        self.runs: dict[str, Run] = {}
        self.experiments: dict[str, Experiment] = {}
        self.pipelines: dict[str, Pipeline] = {}
        self.versions: dict[str, Version] = {}
        self.forbidden_namespaces: set[str] = set()
        self.packages: dict[str, str] = {}
        self.lost_workflows: set[str] = set()
        # Workflows whose run could not be stored.
        self.orphans: list[str] = []
        # Who asks; the error is raised where somebody has to be known. Without users everybody may do everything.
        self.caller: User | ApiError | None = None
        self.own_namespace = "kubeflow"
        self._clock = clock
        self._finished: list[tuple[int, str]] = []
        self._named: dict[str, set[str]] = {}
        self._default_experiment = ""
        if not multi_user:
            self._default("")

    def now(self) -> int:
        return int(self._clock())

    # Runs

    def create_run(self, body: Any) -> Run:
        """CreateRun. The query parameter ``experiment_id`` is not read: upstream takes the body's."""
        fields = messages.parse("V2beta1Run", body or {})
        if "pipeline_spec" in fields and "pipeline_version_reference" in fields:
            raise messages.refused(
                'error parsing "pipeline_version_reference", oneof kubeflow.pipelines.backend.api.v2beta1.Run.pipeline_source is '
                "already set"
            )
        if fields.get("plugins_output"):
            raise bad_request(
                "plugins_output must not be set by the client",
                "plugins_output is server-owned and populated exclusively via plugin lifecycle hooks",
            )
        if not fields.get("display_name"):
            # The converter refuses the empty name as an internal error: 500.
            converting = "Failed to convert a API run detail to its internal representation"
            error = invalid("Run name cannot be empty").as_internal(converting)
            raise error.wrap("CreateJob(job.ToV2())Failed to create a run due to conversion error")
        try:
            return self._create_run(fields)
        except ApiError as error:
            raise (error if error.is_of_compiler else error.wrap("Failed to create a new run")) from error

    def _create_run(self, fields: dict[str, Any]) -> Run:
        name = fields["display_name"]
        experiment = self._experiment_of(fields.get("experiment_id", ""))
        if self.multi_user:
            namespace = experiment.namespace
            with wrapped(
                "Failed to create a run due to authorization error. Check if you have write permissions to namespace "
                + namespace
            ):
                self._access_runs("create", namespace)
        try:
            spec, reference = self._source(fields)
        except ApiError as error:
            # NewInternalServerError hides the code: a bad spec and an unknown version are both 500.
            raise error.as_internal("Failed to create a run due to error fetching manifest") from error
        config = fields.get("runtime_config") or {}
        parameters = config.get("parameters")
        try:
            spec.check_parameters(parameters or {})
        except ApiError as error:
            raise error.wrap("Failed to generate the ExecutionSpec: invalid pipeline job inputs") from error
        if recurring := fields.get("recurring_run_id"):
            raise invalid(f"RecurringRunId doesn't exist: {recurring}").as_internal(
                "Failed to create a run due to invalid recurring run id"
            )
        if fault := spec.compile_fault():
            raise compile_error(fault)
        # The client's run_id is kept (toModelRun), though the contract calls it an output.
        run_id = fields.get("run_id") or str(uuid.uuid4())
        workflow = f"{spec.name}-{''.join(random.choices(string.ascii_lowercase, k=5))}"  # noqa: S311
        if not _LABEL_VALUE.fullmatch(run_id):
            raise _no_label(workflow, run_id)
        for column, value in (("DisplayName", name), ("Description", fields.get("description", ""))):
            if len(value) > _VARCHAR:
                raise self._not_stored(
                    name, workflow, f"Error 1406 (22001): Data too long for column '{column}' at row 1"
                )
        if found := _BEYOND_16_BITS.search(json.dumps(parameters, ensure_ascii=False)):
            raise self._not_stored(name, workflow, _no_utf8mb3(found[0]))
        if run_id in self.runs:
            raise self._not_stored(
                name, workflow, f"Error 1062 (23000): Duplicate entry '{run_id}' for key 'PRIMARY'"
            )
        now = self.now()
        run = Run(
            run_id=run_id,
            experiment_id=experiment.experiment_id,
            namespace=experiment.namespace,
            display_name=name,
            description=fields.get("description", ""),
            service_account=fields.get("service_account") or "pipeline-runner",
            storage_state=fields.get("storage_state") or "AVAILABLE",
            created=now,
            scheduled=fields.get("scheduled_at") or now,
            finished=fields.get("finished_at") or 0,
            state="PENDING",
            workflow=workflow,
            spec=None if reference else spec,
            reference=reference,
            parameters=parameters,
            pipeline_root=config.get("pipeline_root", ""),
            plugins_input=fields.get("plugins_input"),
            recurring_run_id=fields.get("recurring_run_id", ""),
            history=[status(now, "PENDING")],
        )
        self._insert(run)
        experiment.last_run = now
        return run

    def copies(self, run: Run, count: int) -> list[Run]:
        """Many more runs like ``run``, made without a request for each."""
        made = []
        for _ in range(count):
            copy = Run(
                **{**_fields(run), "run_id": str(uuid.uuid4()), "history": [status(self.now(), "PENDING")]}
            )
            copy.tasks, copy.display_name = {}, f"{run.display_name} {copy.run_id}"
            self._insert(copy)
            made.append(copy)
        return made

    def run(self, run_id: str) -> Run:
        if run_id not in self.runs:
            raise not_found("Run", run_id).wrap(f"Failed to fetch run {run_id}")
        return self.runs[run_id]

    def get_run(self, run_id: str) -> Run:
        return self._accessible_run(run_id, "get")

    def list_runs(self, query: Query) -> tuple[list[Run], int, str]:
        try:
            listing = options(rows.RUN, query, self.page_limit)
        except ApiError as error:
            raise error.wrap("Failed to create list options") if error.external else error from error
        try:
            experiment_id = query.get("experiment_id", "")
            # Without users there are no namespaces: the parameter is ignored (ReplaceNamespace).
            namespace = query.get("namespace", "") if self.multi_user else ""
            if experiment_id:
                with wrapped(
                    f"Failed to list runs due to error fetching namespace for experiment {experiment_id}. Try filtering based on namespace"
                ):
                    namespace = self._namespace_of(experiment_id)
            with wrapped(
                "Failed to list runs due to authorization error. Check if you have permission to access namespace "
                + namespace
            ):
                self._access_runs("list", namespace)
            found: Iterable[Run] = self._candidates(listing)
            if experiment_id:
                found = (run for run in found if run.experiment_id == experiment_id)
            elif self.multi_user:
                found = (run for run in found if run.namespace == namespace)
            with wrapped("Failed to list runs"):
                return listing.page(found)
        except ApiError as error:
            raise error.wrap("Failed to list runs") from error

    def terminate_run(self, run_id: str) -> Run:
        """Only a run that is pending, running or paused can be: anything else is 400, a second time included."""
        run = self._accessible_run(
            run_id, "terminate", f"Failed to terminate run {run_id} due to error fetching the run"
        )
        if run.state not in _TERMINABLE:
            raise invalid(f"Failed to terminate a run {run_id}. Row not found").wrap(
                f"Failed to terminate a run: Failed to terminate run {run_id}"
            )
        # storage.TerminateRun leaves the state history alone.
        run.state = "CANCELING"
        run.changed()
        if run_id in self.lost_workflows:
            failed = f"Failed to terminate workflow {run.workflow} due to patching error"
            raise internal(
                f'{failed} after multiple retries: {failed}: workflows.argoproj.io "{run.workflow}" not found',
                f"Failed to terminate run {run_id} due to error terminating its workflow",
            ).wrap("Failed to terminate a run")
        return run

    def retry_run(self, run_id: str) -> Run:
        run = self._accessible_run(run_id, "retry")
        if not run.reported:
            raise bad_request(
                "Invalid input error: Workflow manifest cannot be empty",
                f"Failed to retry run {run_id} due to error fetching workflow manifest",
            ).wrap("Failed to retry a run")
        if run.reported not in ("FAILED", "CANCELED"):
            raise bad_request("workflow cannot be retried", "Workflow must be Failed/Error to retry").wrap(
                f"Failed to retry a run: Failed to retry run {run_id}"
            )
        run.reported = "RUNNING"
        self.set_state(run, "RUNNING", finished=0)
        run.error = None
        return run

    def delete_run(self, run_id: str) -> None:
        run = self._accessible_run(run_id, "delete", f"Failed to delete run {run_id} as it does not exist")
        self.remove(run)

    def archive_run(self, run_id: str) -> None:
        run = self._accessible_run(run_id, "archive")
        run.storage_state = "ARCHIVED"
        run.changed()

    def unarchive_run(self, run_id: str) -> None:
        run = self._accessible_run(run_id, "unarchive")
        experiment = self.experiments[run.experiment_id]
        if experiment.storage_state == "ARCHIVED":
            external = f"Failed to unarchive run {run_id} as experiment {run.experiment_id} must be un-archived first"
            message = f"{external}: Unarchive the experiment first to allow the run to be restored"
            raise ApiError(FAILED_PRECONDITION, f"FailedPreconditionError: {message}", external).wrap(
                "Failed to unarchive a run"
            )
        run.storage_state = "AVAILABLE"
        run.changed()

    def remove(self, run: Run) -> None:
        del self.runs[run.run_id]
        self._named[collated(run.display_name)].discard(run.run_id)
        self._unindex(run)

    def set_state(self, run: Run, state: str, *, finished: int) -> None:
        """What the persistence agent's report of a workflow does to the run (ReportWorkflowResource)."""
        self._unindex(run)
        run.finished = finished
        if finished:
            insort(self._finished, (finished, run.run_id))
        if run.state == "CANCELING":  # noted when the workflow's end is, not when it was asked for
            run.history = [*run.history, status(self.now(), "CANCELING")]
        run.state = state
        if not run.history or run.history[-1].get("state") != state:
            run.history = [*run.history, status(self.now(), state)]
        run.changed()

    def _accessible_run(self, run_id: str, verb: str, fetching: str | None = None) -> Run:
        with wrapped(f"Failed to {verb} a run"):
            if not self.multi_user:
                with wrapped(fetching):
                    return self.run(run_id)
            with wrapped("Failed to authorize the request"):
                with wrapped(f"Failed to authorize with the run ID {run_id}"):
                    run = self.run(run_id)
                self._access_runs(verb, run.namespace, run_id, run.workflow)
            return run

    def _insert(self, run: Run) -> None:
        self.runs[run.run_id] = run
        self._named.setdefault(collated(run.display_name), set()).add(run.run_id)
        if run.finished:
            insort(self._finished, (run.finished, run.run_id))

    def _unindex(self, run: Run) -> None:
        if run.finished:
            position = bisect_left(self._finished, (run.finished, run.run_id))
            del self._finished[position]

    def _candidates(self, listing: Options) -> list[Run]:
        """The runs that can match, from an index where there is one."""
        filter_ = listing.filter or {}
        equal = filter_.get("EQ", {})
        if "UUID" in equal:
            return self._existing(equal["UUID"][:1])
        if "UUID" in filter_.get("IN", {}):
            return self._existing(sorted(set(filter_["IN"]["UUID"][0])))
        if "DisplayName" in equal:
            return self._existing(self._named.get(collated(equal["DisplayName"][0]), ()))
        for operation in ("GTE", "GT"):
            bounds = filter_.get(operation, {}).get("FinishedAtInSec", [])
            if bounds and isinstance(bounds[0], (int, float)) and bounds[0] > 0:
                start = bisect_left(self._finished, (int(bounds[0]), ""))
                return self._existing(run_id for _, run_id in self._finished[start:])
        return list(self.runs.values())

    def _existing(self, ids: Iterable[Any]) -> list[Run]:
        return [self.runs[run_id] for run_id in ids if run_id in self.runs]

    def _source(self, fields: dict[str, Any]) -> tuple[Spec, dict[str, str] | None]:
        """``fetchTemplateFromPipelineSpec``: without a version the pipeline's latest is taken."""
        reference = fields.get("pipeline_version_reference") or {}
        pipeline_id = reference.get("pipeline_id", "")
        version_id = reference.get("pipeline_version_id", "")
        prefix = "Failed to fetch a template due to error retrieving pipeline version"
        if version_id or pipeline_id:
            try:
                with wrapped(
                    f"Failed to fetch a pipeline version and its manifest from pipeline version {version_id}"
                    if version_id
                    else None
                ):
                    version = self.version(version_id) if version_id else self._latest(pipeline_id)
            except ApiError as error:
                raise error.wrap(prefix) from error
            if pipeline_id and version.pipeline_id != pipeline_id:
                raise invalid(
                    f"Pipeline version {version_id} belongs to pipeline {version.pipeline_id} (not {pipeline_id})"
                ).wrap(prefix)
            return version.spec, {
                "pipeline_id": version.pipeline_id,
                "pipeline_version_id": version.version_id,
            }
        struct = fields.get("pipeline_spec")
        if struct is None:
            raise invalid("Failed to fetch a template with an empty pipeline spec manifest")
        try:
            return Spec.from_struct(struct), None
        except ApiError as error:
            raise error.wrap("Failed to fetch a template with an invalid pipeline spec manifest") from error

    # Experiments

    def create_experiment(self, body: Any) -> Experiment:
        fields = messages.parse("V2beta1Experiment", body or {})
        name, description = fields.get("display_name", ""), fields.get("description", "")
        converting = "Failed to convert API experiment to model experiment"
        creating = "[ExperimentServer]: Failed to create a experiment due to conversion error"
        if not name:
            raise invalid("Experiment must have a non-empty name").as_internal(converting).wrap(creating)
        if len(name.encode()) > 128:
            raise invalid("Experiment.Name length cannot exceed 128").as_internal(converting).wrap(creating)
        namespace = fields.get("namespace", "") if self.multi_user else ""
        with wrapped("Failed to create a experiment"), wrapped("Failed to authorize the request"):
            self._access_experiments("create", namespace, name)
        if any(
            collated(e.display_name) == collated(name) and e.namespace == namespace
            for e in self.experiments.values()
        ):
            raise already_exists(
                f"Failed to create a new experiment. The name {name} already exists. Please specify a new name"
            ).wrap("Failed to create a experiment")
        return self._add_experiment(name, description, namespace)

    def experiment(self, experiment_id: str) -> Experiment:
        if experiment_id not in self.experiments:
            raise not_found("Experiment", experiment_id).wrap("Failed to fetch experiment")
        return self.experiments[experiment_id]

    def get_experiment(self, experiment_id: str) -> Experiment:
        experiment = self.experiment(experiment_id)
        self._access_experiments("get", experiment.namespace, experiment.display_name)
        return experiment

    def _namespace_of(self, experiment_id: str) -> str:
        if experiment_id not in self.experiments:
            raise not_found("Experiment", experiment_id).wrap(
                f"Failed to fetch namespace from experiment {experiment_id}"
            )
        return self.experiments[experiment_id].namespace

    def list_experiments(self, query: Query) -> tuple[list[Experiment], int, str]:
        listing = options(rows.EXPERIMENT, query, self.page_limit)
        namespace = query.get("namespace", "") if self.multi_user else ""
        with wrapped("List experiments failed"), wrapped("Failed to authorize with API"):
            self._access_experiments("list", namespace)
        found = [e for e in self.experiments.values() if not self.multi_user or e.namespace == namespace]
        return listing.page(found)

    def delete_experiment(self, experiment_id: str) -> None:
        experiment = self.get_experiment(experiment_id)
        if experiment_id == self._default_experiment:
            raise bad_request(
                f"Invalid input error: Experiment id cannot be equal to the default id {experiment_id}",
                f"Failed to delete experiment {experiment_id}. The default experiment cannot be deleted",
            ).wrap("Failed to delete experiment")
        del self.experiments[experiment.experiment_id]

    def archive_experiment(self, experiment_id: str, *, archived: bool) -> None:
        """Archiving an experiment archives its runs; unarchiving does not bring them back."""
        self.get_experiment(experiment_id).storage_state = "ARCHIVED" if archived else "AVAILABLE"
        for run in self.runs.values():
            if archived and run.experiment_id == experiment_id:
                run.storage_state = "ARCHIVED"
                run.changed()

    def _experiment_of(self, experiment_id: str) -> Experiment:
        """``GetValidExperimentNamespacePair``."""
        prefix = "Failed to create a run due to invalid experimentId and namespace combination"
        if experiment_id:
            with wrapped(prefix), wrapped(f"Failed to fetch namespace for experiment {experiment_id}"):
                self._namespace_of(experiment_id)
            return self.experiments[experiment_id]
        if self.multi_user:
            raise invalid("Experiment id can not be empty in multi-user mode").wrap(prefix)
        return self.experiments[self._default("")]

    def _default(self, namespace: str) -> str:
        if self._default_experiment not in self.experiments:
            description = "All runs created without specifying an experiment will be grouped here."
            self._default_experiment = self._add_experiment("Default", description, namespace).experiment_id
        return self._default_experiment

    def _add_experiment(self, name: str, description: str, namespace: str) -> Experiment:
        experiment = Experiment(str(uuid.uuid4()), name, description, self.now(), namespace)
        self.experiments[experiment.experiment_id] = experiment
        return experiment

    # Pipelines

    def create_pipeline(self, body: Any) -> Pipeline:
        fields = messages.parse("V2beta1Pipeline", body or {})
        # Before `name` existed `display_name` was the name, and it still stands in for it.
        name = fields.get("name") or fields.get("display_name", "")
        namespace = fields.get("namespace", "") if self.multi_user else ""
        if not name:
            raise invalid("name is required").wrap("Failed to create a pipeline due to server error")
        if len(name.encode()) > 128:
            raise (
                invalid("Pipeline.Name length cannot exceed 128")
                .as_internal("Failed to convert API pipeline to model pipeline")
                .wrap("Failed to create a pipeline as pipeline conversion failed")
            )
        with wrapped("Failed to create a pipeline due to server error"):
            with wrapped(
                "Failed to create a pipeline due to authorization error. Check if you have write permissions to namespace "
                + namespace
            ):
                self._access_pipelines("create", namespace, name=name)
            tags = fields.get("tags") or {}
            specs.check_tags(tags)
            with wrapped("Failed to create a pipeline in PipelineStore"):
                return self._add_pipeline(
                    name, fields.get("display_name") or name, fields.get("description", ""), namespace, tags
                )

    def upload_pipeline(self, query: Query, filename: str, text: str) -> Pipeline:
        """A pipeline and a first version of the same name, with the tags on the pipeline only."""
        namespace = query.get("namespace", "") if self.multi_user else ""
        if namespace:  # a shared one may be uploaded by everybody, though not be created
            self._access_pipelines("create", namespace)
        name = query.get("name") or query.get("display_name") or filename
        if len(name.encode()) > 128:
            raise NameTooLongError("Pipeline.Name length cannot exceed 128")
        tags = _tags(query)
        specs.check_tags(tags)
        spec = Spec.from_text(text)
        if not spec.argo:
            specs.check_pipeline_name(spec.name)
        display_name = query.get("display_name") or name
        description = query.get("description", "")
        pipeline = self._add_pipeline(name, display_name, description, namespace, tags)
        self._add_version(
            pipeline, name, display_name, description, spec, query.get("code_source_url", ""), {}
        )
        return pipeline

    def upload_version(self, query: Query, filename: str, text: str) -> Version:
        pipeline = self.pipeline(query.get("pipelineid", ""))
        self._access_pipelines("create", pipeline.namespace)
        name = query.get("name") or query.get("display_name") or filename
        if len(name.encode()) > 127:
            raise NameTooLongError("PipelineVersion.Name length cannot exceed 127")
        tags = _tags(query)
        spec = Spec.from_text(text)
        if not spec.argo:
            specs.check_pipeline_name(spec.name)
        specs.check_tags(tags)
        display_name = query.get("display_name") or name
        url = query.get("code_source_url", "")
        return self._add_version(pipeline, name, display_name, query.get("description", ""), spec, url, tags)

    def create_version(self, pipeline_id: str, body: Any) -> Version:
        """CreatePipelineVersion downloads the package; here ``packages`` has what would be found."""
        fields = messages.parse("V2beta1PipelineVersion", body or {})
        url = (fields.get("package_url") or {}).get("pipeline_url", "")
        if not url:
            raise invalid("Failed to create a pipeline version. Package URL is nil")
        if not fields.get("pipeline_id"):
            raise invalid("Failed to create a pipeline version. Parent pipeline id is empty")
        name = fields.get("name") or fields.get("display_name", "")
        if not name:
            raise invalid("name is required")
        pipeline = self.pipeline(pipeline_id)
        if url not in self.packages:
            raise invalid(f"Failed to fetch pipeline spec with url: {url}. Request returned 404 Not Found")
        spec = Spec.from_text(self.packages[url])
        tags = fields.get("tags") or {}
        specs.check_tags(tags)
        version = self._add_version(
            pipeline,
            name,
            fields.get("display_name") or name,
            fields.get("description", ""),
            spec,
            fields.get("code_source_url", ""),
            tags,
        )
        version.package_url = url
        return version

    def create_pipeline_and_version(self, body: Any) -> Pipeline:
        fields = messages.parse("V2beta1CreatePipelineAndVersionRequest", body or {})
        pipeline_fields, version_fields = fields.get("pipeline") or {}, fields.get("pipeline_version") or {}
        pipeline = self.create_pipeline(
            {k: v for k, v in pipeline_fields.items() if k not in ("created_at", "error")}
        )
        try:
            self.create_version(
                pipeline.pipeline_id,
                {
                    "pipeline_id": pipeline.pipeline_id,
                    "name": pipeline.name,
                    "display_name": pipeline.display_name,
                    "package_url": version_fields.get("package_url"),
                    "tags": version_fields.get("tags"),
                },
            )
        except ApiError:
            del self.pipelines[pipeline.pipeline_id]
            raise
        return pipeline

    def pipeline(self, pipeline_id: str) -> Pipeline:
        if pipeline_id not in self.pipelines:
            raise not_found("Pipeline", pipeline_id).wrap(f"Failed to get a pipeline with id {pipeline_id}")
        return self.pipelines[pipeline_id]

    def get_pipeline(self, pipeline_id: str) -> Pipeline:
        with wrapped(f"Failed to get a pipeline {pipeline_id}. Check error stack"):
            pipeline = self.pipeline(pipeline_id)
            self._access_pipelines("get", pipeline.namespace, pipeline_id, pipeline.name)
            return pipeline

    def pipeline_by_name(self, name: str, query: Query) -> Pipeline:
        namespace = query.get("namespace", "") if self.multi_user else ""
        with wrapped(
            f"Failed to get a pipeline with name {name} and namespace {namespace}. Check error stack."
        ):
            with wrapped(
                "Failed to fetch a pipeline due to authorization error. Check if you have read permission to namespace "
                + namespace
            ):
                self._access_pipelines("get", namespace, name=name)
            for pipeline in self.pipelines.values():
                # Asked without a namespace, the first of that name in any is taken.
                if collated(pipeline.name) == collated(name) and namespace in ("", pipeline.namespace):
                    return pipeline
            raise not_found("Namespace/Pipeline", f"{namespace}/{name}").wrap(
                f"Failed to get a pipeline named {name} in namespace {namespace}"
            )

    def list_pipelines(self, query: Query) -> tuple[list[Pipeline], int, str]:
        namespace = query.get("namespace", "") if self.multi_user else ""
        with (
            wrapped(f"Failed to list pipelines in namespace {namespace}. Check error stack"),
            wrapped(
                "Failed to list pipelines due to authorization error. Check if you have read permission to namespace "
                + namespace
            ),
        ):
            self._access_pipelines("list", namespace)
        found = [p for p in self.pipelines.values() if not self.multi_user or p.namespace == namespace]
        return options(rows.PIPELINE, query, self.page_limit).page(_tagged(found, query))

    def update_pipeline(self, pipeline_id: str, body: Any) -> Pipeline:
        fields = messages.parse("V2beta1Pipeline", body or {})
        pipeline = self.pipeline(pipeline_id)
        self._access_pipelines("update", pipeline.namespace, pipeline_id, pipeline.name)
        _update(pipeline, fields)
        return pipeline

    def delete_pipeline(self, pipeline_id: str, query: Query) -> None:
        """A pipeline that has versions is kept, unless ``cascade`` is set."""
        with wrapped(f"Failed to delete pipeline {pipeline_id}. Check error stack"):
            pipeline = self.pipeline(pipeline_id)
            with wrapped(
                f"Failed to delete a pipeline due authorization error for pipeline id {pipeline_id}"
            ):
                self._access_pipelines("delete", pipeline.namespace, pipeline_id, pipeline.name)
            versions = [v for v in self.versions.values() if v.pipeline_id == pipeline_id]
            if versions and query.get("cascade", "").lower() not in ("true", "1"):
                raise invalid(
                    f"Failed to delete pipeline with id {pipeline_id} as it has existing pipeline versions (e.g. "
                    f"{versions[-1].version_id}). Set cascade=true to delete all versions"
                )
            for version in versions:
                del self.versions[version.version_id]
            del self.pipelines[pipeline_id]

    def version(self, version_id: str) -> Version:
        if version_id not in self.versions:
            raise not_found("PipelineVersion", version_id).wrap(
                f"Failed to get a pipeline version with id {version_id}"
            )
        return self.versions[version_id]

    def get_version(self, version_id: str) -> Version:
        with wrapped(f"Failed to get a pipeline version {version_id}"):
            version = self.version(version_id)
            with wrapped(
                f"Failed to get a pipeline version due to authorization error for pipeline version id {version_id}"
            ):
                self._access_version("get", version)
            return version

    def list_versions(self, pipeline_id: str, query: Query) -> tuple[list[Version], int, str]:
        with wrapped(f"Failed to list pipeline versions for pipeline {pipeline_id}"):
            with (
                wrapped(
                    f"Failed to list pipeline versions due to error fetching the namespace for pipeline {pipeline_id}"
                ),
                wrapped(f"Failed to get namespace for pipeline id {pipeline_id}"),
            ):
                pipeline = self.pipeline(pipeline_id)
            with wrapped(
                "Failed to list pipeline versions due to authorization error. Check if you have read permission to namespace "
                + pipeline.namespace
            ):
                self._access_pipelines("list", pipeline.namespace)
        found = [v for v in self.versions.values() if v.pipeline_id == pipeline_id]
        return options(rows.VERSION, query, self.page_limit).page(_tagged(found, query))

    def update_version(self, version_id: str, body: Any) -> Version:
        fields = messages.parse("V2beta1PipelineVersion", body or {})
        version = self.version(version_id)
        self._access_version("update", version)
        _update(version, fields)
        return version

    def delete_version(self, version_id: str) -> None:
        """Upstream does not look whether the version belongs to the pipeline in the path."""
        self._access_version("delete", self.version(version_id))
        del self.versions[version_id]

    def _latest(self, pipeline_id: str) -> Version:
        self.pipeline(pipeline_id)
        versions = [v for v in self.versions.values() if v.pipeline_id == pipeline_id]
        if not versions:
            raise not_found("PipelineVersion", pipeline_id)
        # created_at has whole seconds; of versions made within one the highest id is taken, not the last one made.
        return max(versions, key=lambda version: (version.created, version.version_id))

    def _add_pipeline(
        self, name: str, display_name: str, description: str, namespace: str, tags: dict[str, str]
    ) -> Pipeline:
        if any(
            collated(p.name) == collated(name) and p.namespace == namespace for p in self.pipelines.values()
        ):
            raise already_exists(
                f"Failed to create a new pipeline. The name {name} already exist. Please specify a new name"
            )
        pipeline = Pipeline(
            str(uuid.uuid4()), name, display_name, description, self.now(), namespace, dict(tags)
        )
        self.pipelines[pipeline.pipeline_id] = pipeline
        return pipeline

    def _add_version(
        self,
        pipeline: Pipeline,
        name: str,
        display_name: str,
        description: str,
        spec: Spec,
        url: str,
        tags: dict[str, str],
    ) -> Version:
        if any(
            collated(v.name) == collated(name) and v.pipeline_id == pipeline.pipeline_id
            for v in self.versions.values()
        ):
            raise already_exists(
                f"Failed to create a new pipeline version. The name {name} already exist. Specify a new name"
            )
        version = Version(
            pipeline.pipeline_id,
            str(uuid.uuid4()),
            name,
            display_name,
            description,
            self.now(),
            spec,
            url,
            dict(tags),
        )
        self.versions[version.version_id] = version
        return version

    # Users

    def _access_runs(self, verb: str, namespace: str, run_id: str = "", workflow: str = "") -> None:
        if not self.multi_user:
            return
        if not namespace:
            raise invalid("A run cannot have an empty namespace in multi-user mode")
        with wrapped(f"Failed to access run {run_id}. Check if you have access to namespace {namespace}"):
            self._permit(verb, "runs", namespace, workflow)

    def _access_experiments(self, verb: str, namespace: str, name: str = "") -> None:
        if not self.multi_user:
            return
        if not namespace:
            raise invalid("An experiment cannot have an empty namespace in multi-user mode")
        with wrapped("Failed to authorize with API"):
            self._permit(verb, "experiments", namespace, name)

    def _access_pipelines(self, verb: str, namespace: str, pipeline_id: str = "", name: str = "") -> None:
        """Those without a namespace are shared: everybody may look at them."""
        if not self.multi_user or (not namespace and verb in _LOOKING):
            return
        if namespace:
            place = f"pipeline {pipeline_id}. Check if you have access to namespace {namespace}"
        else:
            place = f"shared pipeline {pipeline_id}. Check if you have permission to create shared pipelines"
        with wrapped(f"Failed to access {place}"):
            self._permit(verb, "pipelines", namespace or self.own_namespace, name)

    def _access_version(self, verb: str, version: Version) -> None:
        pipeline = self.pipeline(version.pipeline_id)
        self._access_pipelines(verb, pipeline.namespace, pipeline.pipeline_id, pipeline.name)

    def _permit(self, verb: str, resource: str, namespace: str, name: str) -> None:
        if isinstance(self.caller, ApiError):
            raise self.caller
        user = self.caller
        if namespace in self.forbidden_namespaces or (
            user and namespace not in user.writes and not (verb in _LOOKING and namespace in user.reads)
        ):
            raise forbidden(user.name if user else "somebody", verb, resource, namespace, name)

    def _not_stored(self, name: str, workflow: str, cause: str) -> ApiError:
        """The workflow was made in the cluster before this fails; upstream leaves it there."""
        self.orphans.append(workflow)
        return internal(cause, f"Failed to store run {name} to table").wrap("Failed to create a run")


class NameTooLongError(Exception):
    """An upload whose name is too long: answered in a form of its own."""


@contextmanager
def wrapped(prefix: str | None) -> Iterator[None]:
    """What every layer of upstream does with the errors of the one below."""
    try:
        yield
    except ApiError as error:
        raise (error.wrap(prefix) if prefix else error) from error


def _no_label(workflow: str, value: str) -> ApiError:
    return internal(
        f'Workflow.argoproj.io "{workflow}" is invalid: metadata.labels: Invalid value: "{value}": a valid label must be an empty string '
        "or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  "
        "or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        "Failed to create a workflow for ()",
    )


def _no_utf8mb3(character: str) -> str:
    """MariaDB and MySQL with ``charset=utf8``, as upstream connects."""
    bytes_ = "".join(f"\\x{byte:02X}" for byte in character.encode())
    return (
        f"Error 1366 (22007): Incorrect string value: '{bytes_}\\\"...' for column "
        "`mlpipeline`.`run_details`.`PipelineRuntimeManifest` at row 1"
    )


def _fields(run: Run) -> dict[str, Any]:
    return {name: value for name, value in vars(run).items() if not name.startswith("_")}


def _tags(query: Query) -> dict[str, str]:
    try:
        tags = json.loads(query.get("tags") or "{}")
    except ValueError:
        tags = None
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise invalid(
            "Failed to parse tags query parameter. Expected JSON object with string keys and values"
        )
    return tags


def _tagged(found: list[Any], query: Query) -> list[Any]:
    tags = split_tags(query.get("filter", ""))[1]
    return [row for row in found if tags.items() <= row.tags.items()]


def _update(row: Pipeline | Version, fields: dict[str, Any]) -> None:
    """Name, description and spec are not mutable; no ``tags`` leaves them, empty ones clear them."""
    tags = fields.get("tags")
    if tags is not None:
        specs.check_tags(tags)
        row.tags = dict(tags)
    row.display_name = fields.get("display_name") or row.display_name
