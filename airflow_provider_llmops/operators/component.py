"""The operator behind every component of this provider."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_llmops.arguments import constructors_of, names_of, names_of_objects
from airflow_provider_llmops.backends.pipelines.component import (
    bind_component,
    place_of_step,
    read_component_result,
)
from airflow_provider_llmops.exceptions import QualityGateFailed
from airflow_provider_llmops.links import MlflowRunLink, PageLink
from airflow_provider_llmops.openlineage.components import ComponentFacts, component_lineage
from airflow_provider_llmops.operators.pipeline_run import PipelineRunOperator
from airflow_provider_llmops.specs.pipeline import BoundPipeline, PipelineSpec
from airflow_provider_llmops.xcom import summary_of, table_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.backends.pipelines.base import Run
    from airflow_provider_llmops.openlineage.lineage import TaskLineage
    from airflow_provider_llmops.results import StageResult

__all__ = ["ComponentOperator"]


class ComponentOperator(PipelineRunOperator):
    """Run one component as a pipeline run and push its result.

    A subclass names its component, and its constructor takes the component's inputs under their names and keeps each as an
    attribute. That is all: from the constructors of the class and its bases follow ``inputs``, ``template_fields`` and how the
    fields are shown. Values are checked against the component's declared types in ``execute``. Artifact inputs take URIs.

    XCom gets the :class:`~airflow_provider_llmops.results.StageResult` as ``return_value``, the URI of each artifact
    under the artifact's name, so that ``train.output["model"]`` is the next task's input, the metrics as ``metrics``, and the
    comparison of an evaluation as ``comparison``.

    Further arguments are those of :class:`~airflow_provider_llmops.operators.pipeline_run.PipelineRunOperator`.
    """

    component: ClassVar[str]
    """Name of the component."""
    inputs: ClassVar[tuple[str, ...]] = ()
    """The component's inputs that the constructor takes; derived, unless a subclass lists them."""
    own_arguments: ClassVar[tuple[str, ...]] = ()
    """Arguments of the constructor that are for the worker alone, and no inputs of the component."""
    lineage_facts: ClassVar[ComponentFacts] = ComponentFacts()
    """What OpenLineage is told besides what follows from the component."""
    _ended_with: StageResult | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Derive what follows from the constructors, but for a class that inherits its component: its fields come with it."""
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "component") and "component" not in vars(cls):
            return
        constructors = [*constructors_of(cls, below=ComponentOperator)]
        names = [name for each in constructors for name in names_of(each)]
        objects = [name for each in constructors for name in names_of_objects(each)]
        if "inputs" not in vars(cls):
            cls.inputs = tuple(name for name in names if name not in cls.own_arguments)
        if "template_fields" not in vars(cls):
            cls.template_fields = (*ComponentOperator.template_fields, *names)
        if "template_fields_renderers" not in vars(cls):
            as_json = dict.fromkeys(objects, "json")
            cls.template_fields_renderers = {**ComponentOperator.template_fields_renderers, **as_json}

    @property
    def what(self) -> str:
        """Name of the component."""
        return self.spec().name

    def spec(self) -> PipelineSpec:
        """The compiled component."""
        return PipelineSpec.packaged(self.component)

    def arguments(self) -> dict[str, Any]:
        """Value of each input of the component; ``None`` means not given."""
        return {name: getattr(self, name) for name in self.inputs}

    def bind(self) -> BoundPipeline:
        """The component as a pipeline, in the connection's image if that names one."""
        image, own_image = self.hook.backend.image, self._own_image()
        return bind_component(self.component, self.spec(), self.arguments(), image=image, own_image=own_image)

    def _own_image(self) -> str | None:
        """The image that the operator's own settings name."""
        if not self.step_settings:
            return None
        from airflow_provider_llmops.settings.kubernetes import (
            image_set_for,
        )  # whoever reads DAGs runs nothing

        return image_set_for(self.step_settings, place_of_step(self.spec())[1])

    def labels(self) -> dict[str, str]:
        """The component and its digest."""
        return {"component": self.what, "component_digest": self.spec().digest}

    def check_result(self, run: Run) -> None:
        """Read the result of an earlier run."""
        self._result(run)

    def outcome(self, context: Context, run: Run) -> dict[str, Any]:
        """The component's result; raises :class:`QualityGateFailed` after pushing one that did not pass."""
        result = self._ended_with = self._result(run)
        value = result.to_xcom()
        ti = context["ti"]
        for name, uri in result.outputs().items():
            ti.xcom_push(key=name, value=uri)
        for link in self.operator_extra_links:
            if isinstance(link, PageLink) and (uri := result.outputs().get(link.artifact, "")):
                link.push(ti, self.hook.page_url(f"{uri}{link.file}"))
            if isinstance(link, MlflowRunLink):
                link.push(ti, (value["details"].get("tracking") or {}).get("url", ""))
        ti.xcom_push(key="metrics", value=value["metrics"])
        if "comparison" in value:
            ti.xcom_push(key="comparison", value=value["comparison"])
        if result.metrics:
            self.log.info("Metrics\n%s", table_of(result.metrics))
        for finding in value["findings"]:
            self.log.log(logging.INFO if result.passed else logging.ERROR, "%s", finding)
        if not result.passed:
            ti.xcom_push(key="return_value", value=value)
            raise QualityGateFailed(
                summary_of(value["findings"]),
                *run.places(self.what),
                *(f"{name}: {uri}" for name, uri in result.outputs().items()),
            )
        return value

    def lineage(self) -> TaskLineage:
        """The places among the arguments, and once there is a result, the artifacts in it."""
        given = self._given_places()
        found = component_lineage(
            self.spec(), given, self.addresses, self.lineage_facts, self._ended_with, self._digest_at
        )
        return replace(found, run={"runId": self._key, **found.run})

    def _given_places(self) -> dict[str, Any]:
        """The arguments as the DAG's author gives them, for which no connection is asked."""
        return {name: getattr(self, name) for name in self.inputs}

    def _result(self, run: Run) -> StageResult:
        own_image = self._own_image()
        return read_component_result(self.hook.backend, run.run_id, self.spec(), own_image=own_image)
