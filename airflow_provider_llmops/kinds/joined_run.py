"""A run of several components: what each step has left, told as the step's own task would tell it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.backends.pipelines.base import PipelineMachine, Run
from airflow_provider_llmops.exceptions import QualityGateFailed, ResultError
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.links import MlflowRunLink, PageLink
from airflow_provider_llmops.results import StageResult
from airflow_provider_llmops.specs.joining.pipeline import output_parameter
from airflow_provider_llmops.specs.joining.plan import Plan
from airflow_provider_llmops.states import StepState
from airflow_provider_llmops.xcom import MAX_XCOM_BYTES, states_that_fit, summary_of, table_of

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

__all__ = ["JoinedRun"]

_DONE = {StepState.SUCCEEDED, StepState.CACHED}
_LEFT_OUT = {StepState.SKIPPED, StepState.OMITTED}


class JoinedRun:
    """A run of joined components that has ended.

    :param run: the run
    :param plan: its steps
    :param hook: of the connection
    :param links: buttons of the task, for pages among the artifacts
    :param logger: of the task
    :param image_of: tells the image that a step ran in
    """

    def __init__(
        self,
        run: Run,
        plan: Plan,
        hook: KubeflowPipelinesHook,
        links: Collection[BaseOperatorLink],
        logger: Any,
        image_of: Callable[[str], str | None],
    ) -> None:
        self.run = run
        self.plan = plan
        self.hook = hook
        self.links = links
        self.log = logger
        self.image_of = image_of
        self.results: dict[str, StageResult] = {}

    @property
    def succeeded(self) -> list[str]:
        """Names of the steps that have succeeded, in order."""
        return [name for name, path in self.plan.joined.paths.items() if self.run.tasks.get(path) in _DONE]

    def check(self) -> None:
        """Look whether what the steps left can still be read, as their own tasks would.

        :raises ResultError: it cannot
        """
        closed: set[str] = set()
        for name in self.plan.joined.paths:
            if self._was_left_out(name, closed):
                continue
            result = self.result_of(name)
            if result is None and self.plan.steps[name].artifacts and not self._artifacts_of(name):
                raise ResultError(f"step {name} left nothing, or it was cleaned up")
            if result is not None and not result.passed:
                closed.add(name)

    def tell(self, context: Context, what: str) -> dict[str, Any]:
        """Push what each step's own task would; returns what becomes of the run.

        :param context: of the task
        :param what: names of the steps, for messages
        :raises QualityGateFailed: a gate was not passed
        :raises ResultError: the result of a step cannot be read
        """
        run = self.run
        results: dict[str, StageResult | None] = {}
        left_out: list[str] = []
        unreadable: ResultError | None = None
        for name in self.plan.joined.paths:
            if self._was_left_out(name, _not_passed(results)):
                left_out.append(name)
                continue
            try:
                results[name] = self.push(context, name)
            except ResultError as error:  # the verdict of a gate, if there is one, says more
                unreadable = unreadable or error
        facts = {
            "run_id": run.run_id,
            "display_name": run.display_name,
            "state": str(run.state),
            "url": self.hook.backend.run_url(run.run_id),
        }
        value = states_that_fit(facts, run.tasks)
        for name, result in _not_passed(results).items():
            context["ti"].xcom_push(key="return_value", value=value)
            raise QualityGateFailed(
                summary_of(result.to_xcom()["findings"]),
                f"Step {name!r} of run {run.run_id} ({what})",
                *run.places(what)[1:],
                *(f"{artifact}: {uri}" for artifact, uri in result.outputs().items()),
            )
        if unreadable:
            raise unreadable
        if left_out:  # a gate without this provider's result
            context["ti"].xcom_push(key="return_value", value=value)
            gates = sorted(
                {gate for name in left_out for gate in self.plan.joined.gates[name]} - set(left_out)
            )
            raise QualityGateFailed(
                f"Step {left_out[0]!r} did not run, since a gate before it was not passed: {' or '.join(map(repr, gates))}.",
                *run.places(what),
            )
        return value

    def push(self, context: Context, name: str) -> StageResult | None:
        """Push a step's artifacts and, of a component with this provider's ``result``, that; else its output parameters."""
        ti = context["ti"]
        result = self.result_of(name)
        if result is not None:
            self.results[name] = result
        artifacts = dict(result.outputs()) if result else self._artifacts_of(name)
        value = result.to_xcom() if result else self._facts_of(name, artifacts)
        if result is None:
            for output, of in value["outputs"].items():
                ti.xcom_push(key=f"{name}.{output}", value=of)
        else:
            ti.xcom_push(key=f"{name}.metrics", value=value["metrics"])
            if "comparison" in value:
                ti.xcom_push(key=f"{name}.comparison", value=value["comparison"])
            if result.metrics:
                self.log.info("Metrics of step %s\n%s", name, table_of(result.metrics))
            MlflowRunLink().push(ti, value["details"].get("tracking", {}).get("url", ""))
        for output, uri in artifacts.items():
            ti.xcom_push(key=f"{name}.{output}", value=uri)
        for link in self.links:
            if isinstance(link, PageLink) and (uri := artifacts.get(link.artifact, "")):
                link.push(ti, self.hook.page_url(f"{uri}{link.file}"))
        if len(json.dumps(value)) > MAX_XCOM_BYTES:  # of a component without this provider's result
            value = {**value, "outputs": {}, "artifacts": {}}
            self.log.warning("Addresses and outputs of step %s are on XCom under their own names alone", name)
        ti.xcom_push(key=name, value=value)
        level = logging.INFO if result and result.passed else logging.ERROR
        for finding in value.get("findings", ()):
            self.log.log(level, "Step %s: %s", name, finding)
        return result

    def result_of(self, name: str) -> StageResult | None:
        """The result that a step left, if its component is of this provider's schema."""
        step = self.plan.steps[name]
        if "result" not in step.artifacts:
            return None
        try:
            pipeline, task = self._place(name)
            text, address = self.hook.backend.read_result(self.run.run_id, pipeline, task)
            digest = step.spec.digest
            image = self.hook.backend.pinned(self.image_of(name), self.run.run_id, task)
            return StageResult.parse(
                text, run_id=self.run.run_id, component_digest=digest, where=address, image=image
            )
        except ResultError as error:
            if name in self.plan.packaged:
                raise
            self.log.info("Step %s has no result in this provider's schema: %s", name, error)
            return None

    def _facts_of(self, name: str, artifacts: Mapping[str, str]) -> dict[str, Any]:
        """What there is to tell of a step that left no result of this provider's schema."""
        step = self.plan.steps[name]
        if missing := sorted(step.artifacts - artifacts.keys()):
            self.log.warning("Step %s left nothing at its outputs %s", name, ", ".join(missing))
        return {
            "run_id": self.run.run_id,
            "component": step.spec.name,
            "artifacts": artifacts,
            "outputs": self._outputs.get(name, {}) if self.run.state.is_successful else {},
        }

    @cached_property
    def _outputs(self) -> dict[str, dict[str, Any]]:
        """Output parameters of the steps that have no result of this provider's schema, as far as the backend tells them."""
        declared = {
            output_parameter(name, output): (name, output)
            for name, step in self.plan.steps.items()
            for output, of in step.outputs.items()
            if "parameterType" in of and name not in self.plan.packaged
        }
        backend = self.hook.backend
        is_told = declared and isinstance(backend, PipelineMachine)
        found = backend.read_outputs(self.run.run_id) if is_told else {}  # type: ignore[attr-defined]
        given: dict[str, dict[str, Any]] = {}
        room = MAX_XCOM_BYTES // 2
        for own, value in found.items():
            if own not in declared:
                continue
            name, output = declared[own]
            room -= len(json.dumps({own: value}))
            if room < 0:
                self.log.warning(
                    "The output %r of step %s is not on XCom: together the outputs are larger than %d KB. Write it into an artifact",
                    output,
                    name,
                    MAX_XCOM_BYTES >> 11,
                )
                break
            given.setdefault(name, {})[output] = value
        return given

    def _was_left_out(self, name: str, closed: Collection[str]) -> bool:
        """Whether a step did not run since a gate before it was not passed.

        :param closed: gates that were not passed, of those before it
        """
        path = self.plan.joined.paths[name]
        states = {self.run.tasks.get(part) for part in (path, path.rpartition("/")[0])}
        return bool(states & _LEFT_OUT or self.plan.joined.gates[name] & set(closed))

    def _artifacts_of(self, name: str) -> dict[str, str]:
        """Addresses of the declared artifacts that a step has left."""
        declared = self.plan.steps[name].artifacts
        found = self.hook.backend.list_outputs(self.run.run_id, *self._place(name)) if declared else {}
        return {output: uri for output, uri in found.items() if output in declared}

    def _place(self, name: str) -> tuple[str, str]:
        """Names of the pipeline and of a step's task, below which its outputs lie."""
        return self.plan.joined.spec.pipeline_name, self.plan.joined.paths[name]


def _not_passed(results: Mapping[str, StageResult | None]) -> dict[str, StageResult]:
    return {name: result for name, result in results.items() if result is not None and not result.passed}
