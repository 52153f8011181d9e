"""The operator that runs several components as one pipeline run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, cast

from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, ResultError
from airflow_provider_llmops.hooks.mlflow import MlflowHook
from airflow_provider_llmops.links import DataDocsLink, MlflowRunLink, ModelCardLink, ReportLink
from airflow_provider_llmops.moved import under_new_names
from airflow_provider_llmops.openlineage.components import (
    ComponentFacts,
    component_lineage,
    joined_lineage,
)
from airflow_provider_llmops.operators import data, evaluation, registry, training
from airflow_provider_llmops.operators.kubeflow import ResumablePipelineRun
from airflow_provider_llmops.operators.pipeline_run import tracking_of, with_settings
from airflow_provider_llmops.settings.kubernetes import StepSettings, image_set_for
from airflow_provider_llmops.specs.passing_on import checked, is_same_release
from airflow_provider_llmops.specs.pipeline import BoundPipeline, PipelineSpec
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_provider_llmops.backends.pipelines.base import Run
    from airflow_provider_llmops.kinds.joined_run import JoinedRun
    from airflow_provider_llmops.openlineage.lineage import TaskLineage
    from airflow_provider_llmops.operators.component import ComponentOperator
    from airflow_provider_llmops.specs.joining.plan import Plan

__all__ = ["KubeflowJoinedOperator", "output_of", "step"]


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
    under ``<step>.<artifact>``, its metrics under ``<step>.metrics``, an evaluation's comparison under
    ``<step>.comparison``; also of the steps that succeeded before another one failed. On the local backend it gets output parameters of your own components, too, under ``<step>.<parameter>``, once the
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
        self._told_of: JoinedRun | None = None
        if isinstance(steps, Mapping):  # not what another task makes
            from airflow_provider_llmops.specs.joining.plan import (
                check_plan,  # only DAGs that join steps pay for it
            )

            check_plan(steps)

    @property
    def what(self) -> str:
        """Names of the steps."""
        return ", ".join(self.steps)

    @cached_property
    def plan(self) -> Plan:
        """The steps and the pipeline that they become."""
        from airflow_provider_llmops.specs.joining.plan import Plan

        return Plan(self.steps, self._checked)

    def bind(self) -> BoundPipeline:
        """The joined pipeline, this provider's own components in the connection's image if that names one."""
        joined, image = self.plan.joined, self.hook.backend.image
        images = {joined.paths[name]: StepSettings(image=image) for name in self.plan.packaged if image}
        return with_settings(joined.spec.bind(joined.arguments), images)

    def labels(self) -> dict[str, str]:
        """The pipeline and its digest."""
        spec = self.plan.joined.spec
        return {"pipeline": spec.name, "component_digest": spec.digest}

    def environment(self) -> dict[str, str]:
        """MLflow's credentials."""
        return MlflowHook(self.mlflow_conn_id).environment() if self.mlflow_conn_id else {}

    @property
    def addresses(self) -> Mapping[str, Address]:  # type: ignore[override]
        """Inputs of the joined pipeline that name places, with what each may be for every step that takes it."""
        return self.plan.addresses(_addresses_of)

    def deciding(self, pipeline: BoundPipeline) -> BoundPipeline:
        """Without where trainings are tracked, which differs from run to run, and does not change what comes out."""
        tracking = self.plan.inputs_called("tracking")
        kept = {name: value for name, value in pipeline.parameters.items() if name not in tracking}
        return replace(pipeline, parameters=kept)

    def lineage(self) -> TaskLineage:
        """That of each step, as its own operator would tell it."""
        results = self._told_of.results if self._told_of is not None else {}
        steps = {}
        for name, given in self.steps.items():
            operator, spec = _operator_of(given["component"]), self.plan.steps[name].spec
            facts = operator.lineage_facts if operator is not None else ComponentFacts()
            arguments, result = given.get("arguments", {}), results.get(name)
            steps[name] = component_lineage(
                spec, arguments, _addresses_of(spec.name), facts, result, self._digest_at
            )
        return joined_lineage(steps, {"component": self.what, "runId": self._key})

    def check_result(self, run: Run) -> None:
        """Look whether what the steps of an earlier run left can still be read, as their own tasks would."""
        self._ended(run).check()

    def outcome(self, context: Context, run: Run) -> dict[str, Any]:
        """Push what each step's own task would; raises :class:`QualityGateFailed` after it for a gate that was not passed."""
        self._told_of = ended = self._ended(run)
        return ended.tell(context, self.what)

    def failure(self, key: str, seen: Run | None, event: dict[str, Any]) -> Exception:
        """Push what the steps before the failure have made, as their own tasks would have."""
        if seen is not None and not event["timed_out"] and self._context is not None:
            self._told_of = ended = self._ended(seen)
            for name in ended.succeeded:
                with suppress(ResultError, ApiUnavailableError, ConfigurationError):
                    ended.push(self._context, name)
        return super().failure(key, seen, event)

    def _ended(self, run: Run) -> JoinedRun:
        from airflow_provider_llmops.kinds.joined_run import JoinedRun  # whoever reads DAGs runs nothing

        return JoinedRun(run, self.plan, self.hook, self.operator_extra_links, self.log, self._image_of)

    def _image_of(self, name: str) -> str | None:
        """The image that a step ran in; the connection's counts for this provider's own components alone."""
        compiled, own = self.plan.steps[name].spec.image, image_set_for(self.step_settings, name)
        return self.hook.backend.image_of(compiled, own if name in self.plan.packaged else own or compiled)

    def _checked(self, name: str, spec: PipelineSpec, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a component of this provider, checked as its own operator does it."""
        if self.mlflow_conn_id and "tracking" in spec.inputs:
            arguments["tracking"] = tracking_of(self, self.mlflow_conn_id, arguments.get("tracking"), name)
        image = image_set_for(self.step_settings, name) or self.hook.backend.image
        return checked(spec.name, arguments, same_release=is_same_release(image, spec.image))


def _addresses_of(component: str) -> Mapping[str, Address]:
    """What a packaged component's own operator says of the inputs that name places."""
    operator = _operator_of(component)
    return operator.addresses if operator is not None else {}


@cache
def _operator_of(component: str) -> type[ComponentOperator] | None:
    """A packaged component's own operator."""
    for module in (data, evaluation, registry, training):
        for operator in vars(module).values():
            if isinstance(operator, type) and getattr(operator, "component", None) == component:
                return cast("type[ComponentOperator]", operator)
    return None
