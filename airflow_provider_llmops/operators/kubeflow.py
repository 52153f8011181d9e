"""Operators for pipelines and components of your own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.backends.pipelines.base import PipelineMachine, server_of
from airflow_provider_llmops.backends.pipelines.component import place_of_step
from airflow_provider_llmops.exceptions import (
    ConfigurationError,
    ResultError,
    ResultTooLargeError,
)
from airflow_provider_llmops.kinds.pipeline_run import PipelineRuns, ResumableRuns
from airflow_provider_llmops.links import PipelineRunLink
from airflow_provider_llmops.openlineage.components import ComponentFacts, component_lineage
from airflow_provider_llmops.openlineage.lineage import TaskLineage, Touched
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.operators.pipeline_run import PipelineRunOperator
from airflow_provider_llmops.specs.pipeline import BoundPipeline, PipelineSpec
from airflow_provider_llmops.xcom import MAX_XCOM_BYTES, states_that_fit

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.backends.pipelines.base import Run

__all__ = ["KubeflowComponentOperator", "KubeflowPipelineOperator", "ResumablePipelineRun"]

_KEYS_IN_USE = {"return_value", PipelineRunLink.key}


class ResumablePipelineRun(PipelineRunOperator):
    """Base of the operators for runs of several steps, which a retry may go on with.

    :param resume_failed: on an automatic retry, go on with the failed run instead of starting anew: only its failed steps
        and those that depend on them run again. Where the server refuses that, a new one is made. Not on the local backend.
    """

    def __init__(self, *, resume_failed: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.resume_failed = resume_failed

    @cached_property
    def kind(self) -> PipelineRuns:
        """Pipeline runs of the connection."""
        runs = ResumableRuns if self.resume_failed else PipelineRuns
        return runs(self.hook, self.log, stream_logs=self.stream_logs, cancel_on_kill=self.cancel_on_kill)


class KubeflowPipelineOperator(ResumablePipelineRun):
    """Run a compiled pipeline, from a file or as it is on the server.

    XCom gets ``{"run_id", "display_name", "state", "url", "outputs", "steps"}``; of a pipeline with hundreds of steps as many
    as fit into 16 KB. On the local backend ``outputs`` holds the pipeline's output parameters, and each of them is on XCom
    under its own name as well. The API of Kubeflow Pipelines does not give them: there a step writes what the DAG needs into
    an artifact.

    Further arguments are those of :class:`~airflow_provider_llmops.operators.pipeline_run.PipelineRunOperator`.

    :param pipeline: path or URL of what the KFP compiler wrote: YAML, JSON, ``.zip`` or ``.tar.gz``
    :param pipeline_name: name of a pipeline on the server, instead of ``pipeline``
    :param pipeline_version: name of its version; the newest when left out
    :param parameters: value of each input, checked against the pipeline before anything is sent
    :param caching: whether steps may take results from the backend's cache; as compiled when left out
    :param resume_failed: on an automatic retry, go on with the failed run instead of starting anew: only its failed steps
        and those that depend on them run again. Where the server refuses that, a new one is made. Not on the local backend.
    """

    template_fields: Sequence[str] = (
        *PipelineRunOperator.template_fields,
        "pipeline",
        "pipeline_name",
        "pipeline_version",
        "parameters",
    )
    template_fields_renderers = {**PipelineRunOperator.template_fields_renderers, "parameters": "json"}

    def __init__(
        self,
        *,
        pipeline: str | None = None,
        pipeline_name: str | None = None,
        pipeline_version: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        caching: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pipeline = pipeline
        self.pipeline_name = pipeline_name
        self.pipeline_version = pipeline_version
        self.parameters = parameters
        self.caching = caching

    @property
    def what(self) -> str:
        """Name or file of the pipeline."""
        return self.pipeline or self.pipeline_name or self.task_id

    def bind(self) -> BoundPipeline:
        """The pipeline with its parameters; of one on the server, only what is sent with the run."""
        if bool(self.pipeline) == bool(self.pipeline_name):
            raise ConfigurationError(
                "One of pipeline (a file) and pipeline_name (on the server) is needed, and the task has "
                f"{'both' if self.pipeline else 'neither'}."
            )
        if self.pipeline_version and not self.pipeline_name:
            raise ConfigurationError("pipeline_version belongs to pipeline_name, not to a file.")
        if self.pipeline_name and (self.step_settings or self.caching is not None):
            raise ConfigurationError(
                f"step_settings and caching are compiled into a pipeline, and {self.pipeline_name!r} is "
                "on the server already. Pass its file as 'pipeline' instead."
            )
        bound = self._spec.bind(self.parameters or {}, caching=self.caching)
        if self.pipeline_name and bound.artifact_parameters:
            raise ConfigurationError(
                f"Pipeline {self.pipeline_name!r} takes artifacts ({', '.join(bound.artifact_parameters)}), which a version on "
                "the server cannot be given. Pass its file as 'pipeline' instead."
            )
        return bound

    def lineage(self) -> TaskLineage:
        """The artifacts among the parameters of a pipeline in a file; what its steps leave is not known."""
        if not self.pipeline:  # nobody asks the server again
            return TaskLineage(run={"component": self.what, "runId": self._key})
        given = self.parameters or {}
        found = component_lineage(self._spec, given, {}, ComponentFacts(), None, self._digest_at)
        return replace(found, run={**found.run, "runId": self._key})

    def labels(self) -> dict[str, str]:
        """The pipeline and its digest."""
        return {"pipeline": self._spec.name, "component_digest": self._spec.digest}

    def version(self) -> Mapping[str, str] | None:
        """Ids of the version on the server, for a pipeline that is there already."""
        return self._version if self.pipeline_name else None

    def outcome(self, context: Context, run: Run) -> dict[str, Any]:
        """The run's state, its outputs, and the states of its steps."""
        value = {
            "run_id": run.run_id,
            "display_name": run.display_name,
            "state": str(run.state),
            "url": self.hook.backend.run_url(run.run_id),
            "outputs": _push_outputs(self, context, self._spec, run),
        }
        return states_that_fit(value, run.tasks)

    @cached_property
    def _version(self) -> dict[str, str]:
        server = server_of(self.backend, f"Pipeline {self.pipeline_name!r}")
        return server.find_version(self.pipeline_name or "", self.pipeline_version)

    @cached_property
    def _spec(self) -> PipelineSpec:
        if self.pipeline:
            return PipelineSpec.load(self.pipeline)
        return PipelineSpec.stored(
            server_of(self.backend, f"Pipeline {self.pipeline_name!r}").read_version(self._version),
            where=f"pipeline {self.pipeline_name} on the server",
        )


class KubeflowComponentOperator(ComponentOperator):
    """Run one compiled component: any that the KFP compiler wrote, from a file or URL.

    XCom gets the address of each artifact that the component has written under the artifact's name, so that
    ``task.output["model"]`` is the next task's input, and on the local backend each output parameter under its name (the API
    of Kubeflow Pipelines does not give them). A component that leaves a ``result`` of this provider's schema is
    treated like the provider's own.

    Further arguments are those of :class:`~airflow_provider_llmops.operators.pipeline_run.PipelineRunOperator`.

    :param component: path or URL of the compiled component
    :param arguments: value of each input; artifacts are given as URIs
    :param caching: whether the component may take its result from the backend's cache; as compiled when left out
    """

    component = ""  # each task has its own
    inputs = ()
    template_fields: Sequence[str] = (*ComponentOperator.template_fields, "component", "component_arguments")
    template_fields_renderers = {
        **ComponentOperator.template_fields_renderers,
        "component_arguments": "json",
    }

    def __init__(
        self,
        *,
        component: str,
        arguments: Mapping[str, Any] | None = None,
        caching: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.component = component  # type: ignore[misc]
        self.component_arguments = arguments
        self.caching = caching
        self._artifacts: Mapping[str, str] = {}

    def spec(self) -> PipelineSpec:
        """The compiled component."""
        return self._spec

    def arguments(self) -> dict[str, Any]:
        """Value of each input of the component."""
        return dict(self.component_arguments or {})

    def _given_places(self) -> dict[str, Any]:
        """The arguments."""
        return self.arguments()

    def lineage(self) -> TaskLineage:
        """With the artifacts of a component that leaves no result of this provider's."""
        made = tuple(Touched(uri) for uri in self._artifacts.values())
        found = super().lineage()
        return found if found.outputs else replace(found, outputs=made)

    def bind(self) -> BoundPipeline:
        """The component as a pipeline, in the image that it was compiled with."""
        steps = list(self._spec.ir["root"]["dag"]["tasks"])
        if len(steps) != 1:
            raise ConfigurationError(
                f"A pipeline of {len(steps)} steps is no component. Use KubeflowPipelineOperator.",
                f"Specification: {self.component}",
            )
        return self._spec.bind(self.arguments(), caching=self.caching)

    def check_result(self, run: Run) -> None:
        """Look whether the artifacts of an earlier run are still there."""
        declared = self._declared_artifacts()
        if declared and not self.hook.backend.list_outputs(run.run_id, *place_of_step(self.spec())):
            raise ResultError(f"none of {', '.join(sorted(declared))} is left")

    def outcome(self, context: Context, run: Run) -> dict[str, Any]:
        """Addresses of the artifacts, or the component's own result."""
        declared = self._declared_artifacts()
        found = self.hook.backend.list_outputs(run.run_id, *place_of_step(self.spec())) if declared else {}
        if "result" in found:
            try:
                return super().outcome(context, run)
            except ResultError as error:
                self.log.info("Its artifact 'result' is not in this provider's schema: %s", error)
        artifacts = self._artifacts = {name: uri for name, uri in found.items() if name in declared}
        if missing := sorted(declared - set(artifacts)):
            self.log.warning("The component left nothing at its outputs %s", ", ".join(missing))
        for name, uri in artifacts.items():
            context["ti"].xcom_push(key=name, value=uri)
        outputs = _push_outputs(self, context, self._spec, run)
        value = {"run_id": run.run_id, "component": self.what, "artifacts": artifacts, "outputs": outputs}
        if len(json.dumps(value)) > MAX_XCOM_BYTES:
            raise ResultTooLargeError(
                "The addresses of the artifacts do not fit into XCom. Give it fewer outputs.",
                *run.places(self.what),
            )
        return value

    def _declared_artifacts(self) -> set[str]:
        spec = self._spec.ir
        task = next(iter(spec["root"]["dag"]["tasks"].values()))
        component = spec["components"][task["componentRef"]["name"]]
        return set(component.get("outputDefinitions", {}).get("artifacts", {}))

    @cached_property
    def _spec(self) -> PipelineSpec:
        return PipelineSpec.load(self.component)


def _push_outputs(
    operator: PipelineRunOperator, context: Context, spec: PipelineSpec, run: Run
) -> dict[str, Any]:
    """Push a run's output parameters, each under its name; returns those that fit into XCom together."""
    declared = spec.ir["root"].get("outputDefinitions", {}).get("parameters", {})
    if not declared:
        return {}
    backend = operator.backend
    found = backend.read_outputs(run.run_id) if isinstance(backend, PipelineMachine) else {}
    if not found:
        operator.log.info(
            "The output parameters %s are not on XCom: the backend does not tell them, or no step gave them",
            ", ".join(sorted(declared)),
        )
    room = MAX_XCOM_BYTES // 2  # the rest is for states and addresses
    outputs: dict[str, Any] = {}
    for name, value in found.items():
        room -= len(json.dumps({name: value}))
        if room < 0:
            operator.log.warning(
                "The output %r is not on XCom: together the outputs are larger than %d KB. Write it into an artifact",
                name,
                MAX_XCOM_BYTES >> 11,
            )
            break
        outputs[name] = value
        if name not in _KEYS_IN_USE:
            context["ti"].xcom_push(key=name, value=value)
    return outputs
