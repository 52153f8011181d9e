"""A packaged component as a run of its own: bound in the image that runs it, and its result read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.specs.passing_on import checked, is_same_release
from airflow_provider_llmops.specs.pipeline import BoundPipeline, PipelineSpec

if TYPE_CHECKING:
    from airflow_provider_llmops.backends.pipelines.base import PipelineBackend
    from airflow_provider_llmops.results import StageResult

__all__ = ["bind_component", "place_of_step", "read_component_result"]


def bind_component(
    component: str,
    spec: PipelineSpec,
    arguments: Mapping[str, Any],
    *,
    image: str | None,
    own_image: str | None = None,
) -> BoundPipeline:
    """A component as a pipeline, in the connection's image if that names one.

    :param component: its name
    :param spec: the compiled component
    :param arguments: value of each input; ``None`` means not given
    :param image: that the connection names
    :param own_image: that is set over it afterwards
    """
    same_release = is_same_release(own_image or image, spec.image)
    pipeline = spec.bind(checked(component, arguments, same_release=same_release))
    if not image:
        return pipeline
    from airflow_provider_llmops.settings.kubernetes import StepSettings
    from airflow_provider_llmops.settings.steps import apply_settings

    return apply_settings(pipeline, StepSettings(image=image))


def place_of_step(spec: PipelineSpec) -> tuple[str, str]:
    """Names of a component's pipeline and of its step, below which the outputs lie.

    :param spec: the compiled component
    """
    return spec.pipeline_name, next(iter(spec.ir["root"]["dag"]["tasks"]))


def read_component_result(
    backend: PipelineBackend, run_id: str, spec: PipelineSpec, *, own_image: str | None = None
) -> StageResult:
    """The result of a component's run.

    :param backend: where it ran
    :param run_id: the run
    :param spec: the compiled component
    :param own_image: that was set over the connection's
    """
    from airflow_provider_llmops.results import StageResult  # whoever reads DAGs runs nothing

    pipeline, task = place_of_step(spec)
    text, address = backend.read_result(run_id, pipeline, task)
    image = backend.pinned(backend.image_of(spec.image, own_image), run_id, task)
    return StageResult.parse(text, run_id=run_id, component_digest=spec.digest, where=address, image=image)
