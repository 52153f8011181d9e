"""What is to be said of a TrainJob, whose data, models and outputs lie on volumes."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airflow_provider_llmops.openlineage.components import ComponentFacts, component_lineage
from airflow_provider_llmops.openlineage.lineage import TaskLineage, Touched
from airflow_provider_llmops.settings.kubernetes import StepSettings
from airflow_provider_llmops.specs.pipeline import PipelineSpec

__all__ = ["on_claim", "train_job_lineage"]


def train_job_lineage(
    component: str, arguments: Any, settings: Any, value: Mapping[str, Any] | None, key: str | None
) -> TaskLineage:
    """The lineage of a TrainJob.

    :param component: name of the training component
    :param arguments: its arguments
    :param settings: Kubernetes settings of a node
    :param value: what the task returns; ``None`` before, or where it has failed
    :param key: namespace and name of the TrainJob
    """
    spec, ended = PipelineSpec.packaged(component), value or {}
    claims = StepSettings.of(settings).persistent_volume_claims
    given = arguments if isinstance(arguments, Mapping) else {}
    found = component_lineage(spec, given, {}, ComponentFacts(), None, lambda address: None)
    return TaskLineage(
        inputs=tuple(replace(each, address=on_claim(each.address, claims)) for each in found.inputs),
        outputs=tuple(
            Touched(on_claim(path, claims), kind="MODEL") for path in ended.get("artifacts", {}).values()
        ),
        run={**found.run, "image": spec.image, "runId": key},
        metrics={name: number for name, number in ended.get("metrics", {}).items() if _is_number(number)},
    )


def on_claim(path: str, claims: Mapping[str, str]) -> str:
    """The address of a path on a volume, as KServe has it too, so that a model has one name wherever it is mounted.

    :param path: as a node has it; an address of another kind stays as it is
    :param claims: mount path by name of the claim
    """
    for claim, mount in claims.items():
        if posixpath.normpath(path).startswith(f"{posixpath.normpath(mount).rstrip('/')}/"):
            return f"pvc://{claim}/{posixpath.relpath(path, mount)}"
    return path


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
