"""The operator that runs several components as one pipeline run."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.backends.pipelines.base import PipelineMachine
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    QualityGateFailed,
    ResultError,
    describe_unknown,
    shown_value,
)
from airflow_provider_llmops.hooks.mlflow import MlflowHook
from airflow_provider_llmops.links import DataDocsLink, MlflowRunLink, ModelCardLink, PageLink, ReportLink
from airflow_provider_llmops.moved import under_new_names
from airflow_provider_llmops.operators import data, evaluation, registry, training
from airflow_provider_llmops.operators.kubeflow import ResumablePipelineRun
from airflow_provider_llmops.operators.pipeline_run import task_label
from airflow_provider_llmops.remote.intent import dag_run_key
from airflow_provider_llmops.results import MAX_XCOM_BYTES, StageResult, states_that_fit, summary_of, table_of
from airflow_provider_llmops.settings.kubernetes import ALL_STEPS, StepSettings, settings_by_step
from airflow_provider_llmops.specs.joining.pipeline import Joined, join, output_parameter
from airflow_provider_llmops.specs.joining.steps import (
    JoinedStep,
    OutputOf,
    check_component,
    check_order,
    check_types,
)
from airflow_provider_llmops.specs.passing_on import checked, is_same_release
from airflow_provider_llmops.specs.pipeline import BoundPipeline, PipelineSpec
from airflow_provider_llmops.states import StepState
from airflow_provider_llmops.uris import ANY_ARTIFACT, Address

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_provider_llmops.backends.pipelines.base import Run

__all__ = ["KubeflowJoinedOperator", "output_of", "step"]

_STEP_KEYS = {"component", "arguments", "after"}
_OUTPUT_KEYS = {"output_of", "name"}
_TEMPLATE = "{{"
_DONE = {StepState.SUCCEEDED, StepState.CACHED}
_LEFT_OUT = {StepState.SKIPPED, StepState.OMITTED}


def step(
    component: str, arguments: Mapping[str, Any] | None = None, *, after: Sequence[str] = ()
) -> dict[str, Any]:
    """A step of :class:`KubeflowJoinedOperator`.

    :param component: name of a component of this provider, such as ``train_sft``, or path or URL of a compiled one
    :param arguments: value of each input; artifacts are given as URIs, or as :func:`output_of` another step
    :param after: names of steps that it waits for without taking anything from them
    """
    given = under_new_names(component, arguments or {})
    return {"component": component, "arguments": given, "after": list(after)}


def output_of(step: str, name: str) -> dict[str, str]:
    """What another step of the same run makes: an artifact or an output parameter.

    :param step: name of the step
    :param name: name of its output
    """
    return {"output_of": step, "name": name}


class KubeflowJoinedOperator(ResumablePipelineRun):
    """Run several compiled components as one pipeline run.

    What one step makes is the next one's input with no importer between them, and an address that several steps take is
    imported once, so that a cluster starts fewer pods than for a task each. A step behind gates (components with the output
    parameter ``passed``, such as ``validate_dataset``) runs if those were passed that it needs, itself or through other steps;
    when one was not, the task fails as the gate's own task would. No step takes anything from the backend's cache.

    XCom gets of each step what the step's own task would get: its result under the step's name, the URI of each artifact
    under ``<step>.<artifact>``, its metrics under ``<step>.metrics``, an evaluation's comparison under ``<step>.comparison``; also of the steps that succeeded before another one
    failed. On the local backend it gets output parameters of your own components, too, under ``<step>.<parameter>``, once the
    run has succeeded. ``return_value`` is ``{"run_id", "display_name", "state", "url", "steps"}``.

    Further arguments are those of :class:`~airflow_provider_llmops.operators.pipeline_run.PipelineRunOperator`;
    ``step_settings`` are given by the steps' names.

    :param steps: each step by its name, made by :func:`step`
    :param mlflow_conn_id: connection of type ``mlflow``: trainings are tracked there, as
        :class:`~airflow_provider_llmops.operators.training.TrainingOperator` does it
    :param resume_failed: on an automatic retry, go on with the failed run instead of starting anew: only its failed steps
        and those that depend on them run again. Not on the local backend.
    """

    template_fields: Sequence[str] = (*ResumablePipelineRun.template_fields, "steps", "mlflow_conn_id")
    template_fields_renderers = {**ResumablePipelineRun.template_fields_renderers, "steps": "json"}
    operator_extra_links: Collection[BaseOperatorLink] = (
        *ResumablePipelineRun.operator_extra_links,
        DataDocsLink(),
        ReportLink(),
        ModelCardLink(),
        MlflowRunLink(),
    )

    def __init__(
        self,
        *,
        steps: Mapping[str, Mapping[str, Any]],
        mlflow_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.steps = steps
        self.mlflow_conn_id = mlflow_conn_id
        if isinstance(steps, Mapping):  # not what another task makes
            _check_plan(steps)

    @property
    def what(self) -> str:
        """Names of the steps."""
        return ", ".join(self.steps)

    def bind(self) -> BoundPipeline:
        """The joined pipeline, this provider's own components in the connection's image if that names one."""
        pipeline = self._joined.spec.bind(self._joined.arguments)
        if image := self.hook.backend.image:
            from airflow_provider_llmops.settings.steps import apply_settings

            packaged = [name for name, given in self.steps.items() if not _is_file(given["component"])]
            if packaged:
                images = {self._joined.paths[name]: StepSettings(image=image) for name in packaged}
                pipeline = apply_settings(pipeline, images)
        return pipeline

    def labels(self) -> dict[str, str]:
        """The pipeline and its digest."""
        return {"pipeline": self._joined.spec.name, "component_digest": self._joined.spec.digest}

    def environment(self) -> dict[str, str]:
        """MLflow's credentials."""
        return MlflowHook(self.mlflow_conn_id).environment() if self.mlflow_conn_id else {}

    @property
    def addresses(self) -> Mapping[str, Address]:  # type: ignore[override]
        """Inputs of the joined pipeline that name places, with what each may be for every step that takes it."""
        found: dict[str, Address] = {}
        for (name, key), own in self._joined.inputs.items():
            component = self.steps[name]["component"]
            expected = None if _is_file(component) else _addresses_of(component).get(key)
            if expected is None and "artifactType" in self._joined_steps[name].spec.inputs[key]:
                expected = ANY_ARTIFACT
            if expected is not None:
                found[own] = found[own].and_also(expected) if own in found else expected
        return found

    def check_result(self, run: Run) -> None:
        """Look whether what the steps of an earlier run left can still be read, as their own tasks would."""
        closed: set[str] = set()
        for name in self._joined.paths:
            if self._was_left_out(run, name, closed):
                continue
            result = self._result(run, name)
            if result is None and self._joined_steps[name].artifacts and not self._artifacts_of(run, name):
                raise ResultError(f"step {name} left nothing, or it was cleaned up")
            if result is not None and not result.passed:
                closed.add(name)

    def outcome(self, context: Context, run: Run) -> dict[str, Any]:
        """Push what each step's own task would; raises :class:`QualityGateFailed` after it for a gate that was not passed."""
        results: dict[str, StageResult | None] = {}
        left_out: list[str] = []
        unreadable: ResultError | None = None
        given = self._read_outputs(run)
        for name in self._joined.paths:
            if self._was_left_out(run, name, _not_passed(results)):
                left_out.append(name)
                continue
            try:
                results[name] = self._push_result(context, run, name, given.get(name, {}))
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
                f"Step {name!r} of run {run.run_id} ({self.what})",
                *run.places(self.what)[1:],
                *(f"{artifact}: {uri}" for artifact, uri in result.outputs().items()),
            )
        if unreadable:
            raise unreadable
        if left_out:  # a gate without this provider's result
            context["ti"].xcom_push(key="return_value", value=value)
            gates = sorted({gate for name in left_out for gate in self._joined.gates[name]} - set(left_out))
            raise QualityGateFailed(
                f"Step {left_out[0]!r} did not run, since a gate before it was not passed: {' or '.join(map(repr, gates))}.",
                *run.places(self.what),
            )
        return value

    def deciding(self, pipeline: BoundPipeline) -> BoundPipeline:
        """Without where trainings are tracked, which differs from run to run, and does not change what comes out."""
        tracking = {
            own
            for (name, key), own in self._joined.inputs.items()
            if key == "tracking" and not _is_file(self.steps[name]["component"])
        }
        kept = {name: value for name, value in pipeline.parameters.items() if name not in tracking}
        return replace(pipeline, parameters=kept)

    def failure(self, key: str, seen: Run | None, event: dict[str, Any]) -> Exception:
        """Push what the steps before the failure have made, as their own tasks would have."""
        if seen is not None and not event["timed_out"] and self._context is not None:
            succeeded = [name for name, path in self._joined.paths.items() if seen.tasks.get(path) in _DONE]
            for name in succeeded:
                with suppress(ResultError, ApiUnavailableError, ConfigurationError):
                    self._push_result(self._context, seen, name, {})
        return super().failure(key, seen, event)

    def _was_left_out(self, run: Run, name: str, closed: Collection[str]) -> bool:
        """Whether a step did not run since a gate before it was not passed.

        :param closed: gates that were not passed, of those before it
        """
        path = self._joined.paths[name]
        states = {run.tasks.get(part) for part in (path, path.rpartition("/")[0])}
        return bool(states & _LEFT_OUT or self._joined.gates[name] & set(closed))

    def _read_outputs(self, run: Run) -> dict[str, dict[str, Any]]:
        """Output parameters of the steps that have no result of this provider's schema, as far as the backend tells them."""
        declared = {
            output_parameter(name, output): (name, output)
            for name, joined in self._joined_steps.items()
            for output, of in joined.outputs.items()
            if "parameterType" in of and _is_file(self.steps[name]["component"])
        }
        backend = self.backend
        found = backend.read_outputs(run.run_id) if declared and isinstance(backend, PipelineMachine) else {}
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

    def _result(self, run: Run, name: str) -> StageResult | None:
        """The result that a step left, if its component is of this provider's schema."""
        if "result" not in self._joined_steps[name].artifacts:
            return None
        try:
            text, address = self.hook.backend.read_result(run.run_id, *self._place(name))
            digest = self._joined_steps[name].spec.digest
            return StageResult.parse(text, run_id=run.run_id, component_digest=digest, where=address)
        except ResultError as error:
            if not _is_file(self.steps[name]["component"]):
                raise
            self.log.info("Step %s has no result in this provider's schema: %s", name, error)
            return None

    def _push_result(
        self, context: Context, run: Run, name: str, outputs: Mapping[str, Any]
    ) -> StageResult | None:
        """Push a step's artifacts and, of a component with this provider's ``result``, that; else its output parameters."""
        ti = context["ti"]
        spec = self._joined_steps[name].spec
        result = self._result(run, name)
        if result is None:
            artifacts = self._artifacts_of(run, name)
            if missing := sorted(self._joined_steps[name].artifacts - artifacts.keys()):
                self.log.warning("Step %s left nothing at its outputs %s", name, ", ".join(missing))
            value: dict[str, Any] = {
                "run_id": run.run_id,
                "component": spec.name,
                "artifacts": artifacts,
                "outputs": dict(outputs),
            }
            for output, of in outputs.items():
                ti.xcom_push(key=f"{name}.{output}", value=of)
        else:
            artifacts = dict(result.outputs())
            value = result.to_xcom()
            ti.xcom_push(key=f"{name}.metrics", value=value["metrics"])
            if "comparison" in value:
                ti.xcom_push(key=f"{name}.comparison", value=value["comparison"])
            if result.metrics:
                self.log.info("Metrics of step %s\n%s", name, table_of(result.metrics))
            MlflowRunLink().push(ti, value["details"].get("tracking", {}).get("url", ""))
        for output, uri in artifacts.items():
            ti.xcom_push(key=f"{name}.{output}", value=uri)
        for link in self.operator_extra_links:
            if isinstance(link, PageLink) and (uri := artifacts.get(link.artifact, "")):
                link.push(ti, self.hook.page_url(f"{uri}{link.file}"))
        if len(json.dumps(value)) > MAX_XCOM_BYTES:  # of a component without this provider's result
            value = {**value, "outputs": {}, "artifacts": {}}
            self.log.warning("Addresses and outputs of step %s are on XCom under their own names alone", name)
        ti.xcom_push(key=name, value=value)
        for finding in value.get("findings", ()):
            self.log.log(
                logging.INFO if result and result.passed else logging.ERROR, "Step %s: %s", name, finding
            )
        return result

    def _artifacts_of(self, run: Run, name: str) -> dict[str, str]:
        """Addresses of the declared artifacts that a step has left."""
        declared = self._joined_steps[name].artifacts
        found = self.hook.backend.list_outputs(run.run_id, *self._place(name)) if declared else {}
        return {output: uri for output, uri in found.items() if output in declared}

    def _place(self, name: str) -> tuple[str, str]:
        """Names of the pipeline and of a step's task, below which its outputs lie."""
        return self._joined.spec.pipeline_name, self._joined.paths[name]

    @cached_property
    def _joined(self) -> Joined:
        return join(self._joined_steps.values())

    @cached_property
    def _joined_steps(self) -> dict[str, JoinedStep]:
        _check_plan(self.steps)
        specs = {name: _spec_of(given["component"]) for name, given in self.steps.items()}
        for name, spec in specs.items():
            check_component(spec, name)
        steps = {name: _joined_step(name, given, specs[name]) for name, given in self.steps.items()}
        check_types(steps)
        return {
            name: _joined_step(name, given, specs[name], self._values(name, specs[name], steps[name].sources))
            for name, given in self.steps.items()
        }

    def _values(self, name: str, spec: PipelineSpec, sources: Collection[str]) -> dict[str, Any]:
        """Values of a step's inputs, checked as the component's own operator does it."""
        arguments = {
            key: value for key, value in self.steps[name].get("arguments", {}).items() if key not in sources
        }
        try:
            if not _is_file(self.steps[name]["component"]):
                arguments = self._checked(name, spec, arguments)
            return spec.check(arguments, elsewhere=sources)
        except ConfigurationError as error:
            raise ConfigurationError(f"Step {name!r}: {error}") from error

    def _checked(self, name: str, spec: PipelineSpec, arguments: dict[str, Any]) -> dict[str, Any]:
        if self.mlflow_conn_id and "tracking" in spec.inputs:
            found = {"tracking_uri": MlflowHook(self.mlflow_conn_id).tracking_uri()}
            if self._context:
                run_name = task_label(self, self._context, name)
                found |= {"parent": dag_run_key(self._context), "run_name": run_name}
            arguments["tracking"] = {**found, **(arguments.get("tracking") or {})}
        settings = settings_by_step(self.step_settings) if self.step_settings else {}
        images = [settings[key].image for key in (name, ALL_STEPS) if key in settings]
        image = next(filter(None, images), self.hook.backend.image)
        return checked(spec.name, arguments, same_release=is_same_release(image, spec.image))


def _not_passed(results: Mapping[str, StageResult | None]) -> dict[str, StageResult]:
    return {name: result for name, result in results.items() if result is not None and not result.passed}


def _check_plan(steps: Mapping[str, Mapping[str, Any]]) -> None:
    """What can be said of the steps when the DAG is read: names, what waits for what, and types of this provider's own."""
    needs: dict[str, set[str]] = {}
    for name, given in steps.items():
        if not isinstance(given, Mapping) or not given.get("component"):
            raise ConfigurationError(
                f"Step {shown_value(name)} must be made by step(component, arguments), got {shown_value(given)}."
            )
        if unknown := describe_unknown(given, _STEP_KEYS):
            raise ConfigurationError(
                f"Step {name!r} has {unknown}; it may have {', '.join(sorted(_STEP_KEYS))}."
            )
        for key, value in given.get("arguments", {}).items():
            if not _is_output(value) and any(map(_is_output, _parts(value))):
                raise ConfigurationError(
                    f"Step {name!r}: output_of stands for a whole input, and {key!r} has it inside: {shown_value(value)}."
                )
        sources = _sources_of(given)
        needs[name] = {source.step for source in sources.values()} | set(given.get("after", ()))
    check_order(needs)
    known = {
        name: _joined_step(name, given, PipelineSpec.packaged(given["component"]))
        for name, given in steps.items()
        if isinstance(given["component"], str)  # not what another task makes
        and not _is_file(given["component"])
        and _TEMPLATE not in given["component"]
    }
    for name, joined in known.items():
        if unknown := describe_unknown(steps[name].get("arguments", {}), joined.spec.inputs):
            raise ConfigurationError(
                f"Step {name!r} has no input {unknown}. Its inputs: {', '.join(sorted(joined.spec.inputs))}."
            )
    check_types(known)


def _joined_step(
    name: str, given: Mapping[str, Any], spec: PipelineSpec, values: Mapping[str, Any] | None = None
) -> JoinedStep:
    return JoinedStep(name, spec, values or {}, _sources_of(given), tuple(given.get("after", ())))


def _sources_of(given: Mapping[str, Any]) -> dict[str, OutputOf]:
    return {
        key: OutputOf(value["output_of"], value["name"])
        for key, value in given.get("arguments", {}).items()
        if _is_output(value)
    }


def _is_output(value: Any) -> bool:
    """Whether it was made by :func:`output_of`."""
    return isinstance(value, Mapping) and value.keys() == _OUTPUT_KEYS


def _parts(value: Any) -> Iterator[Any]:
    """What is in a value, at every depth."""
    inside = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    )
    for part in inside:
        yield part
        yield from _parts(part)


@cache
def _addresses_of(component: str) -> Mapping[str, Address]:
    """What a packaged component's own operator says of the inputs that name places."""
    for module in (data, evaluation, registry, training):
        for operator in vars(module).values():
            if isinstance(operator, type) and getattr(operator, "component", None) == component:
                addresses: Mapping[str, Address] = operator.addresses  # type: ignore[attr-defined]
                return addresses
    return {}


def _spec_of(component: str) -> PipelineSpec:
    return PipelineSpec.load(component) if _is_file(component) else PipelineSpec.packaged(component)


def _is_file(component: str) -> bool:
    """Whether it is the address of a file, and not the name of a component."""
    return "/" in component or "." in component
