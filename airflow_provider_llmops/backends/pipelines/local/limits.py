"""What cannot run on this machine, said before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.specs.ir import dags
from airflow_provider_llmops.specs.pipeline import BoundPipeline

_EXECUTOR = "kfp.dsl.executor_main"
_SHOWN = 5
_PLACEHOLDER = re.compile(r"\{\{\$\.([A-Za-z_]+)")
_PLACEHOLDERS = {
    "inputs",
    "pipeline_job_create_time_utc",
    "pipeline_job_name",
    "pipeline_job_resource_name",
    "pipeline_job_schedule_time_utc",
    "pipeline_job_uuid",
    "pipeline_root",
    "pipeline_task_name",
    "pipeline_task_uuid",
    "workspace_path",
}
_SEEN_BY_STEPS = {
    "configMapAsEnv",
    "configMapAsVolume",
    "emptyDirMounts",
    "fieldPathAsEnv",
    "genericEphemeralVolume",
    "pvcMount",
    "secretAsEnv",
    "secretAsVolume",
}


def require_runnable(pipeline: BoundPipeline) -> None:
    """Raise :class:`ConfigurationError` if a part of a pipeline needs a cluster.

    :param pipeline: the pipeline with its parameters
    """
    if found := list(dict.fromkeys(_obstacles(pipeline.spec))):
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ConfigurationError(
            f"{found[0][0].upper()}{found[0][1:]}, which the local backend cannot run"
            f"{'; nor: ' + '; '.join(found[1:_SHOWN]) if found[1:] else ''}{more}. It runs components made of a Python function "
            "(@dsl.component), importers, conditions, loops, nested pipelines and exit handlers. Give the connection a host to run "
            "it on Kubeflow, or replace that part.",
            f"Pipeline: {pipeline.name}",
        )


def kubernetes_settings(platform: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Settings of a platform specification that change what a step finds, by executor; none has an effect here.

    :param platform: the platform specification
    """
    executors = (
        (platform or {})
        .get("platforms", {})
        .get("kubernetes", {})
        .get("deploymentSpec", {})
        .get("executors", {})
    )
    found = {name: sorted(set(settings) & _SEEN_BY_STEPS) for name, settings in executors.items()}
    return {name: settings for name, settings in found.items() if settings}


def _obstacles(spec: dict[str, Any]) -> Iterator[str]:
    executors = spec["deploymentSpec"].get("executors", {})
    for component in dags(spec):
        for name, task in component["dag"]["tasks"].items():
            for source in task.get("inputs", {}).get("parameters", {}).values():
                text = str(source.get("runtimeValue", {}).get("constant", ""))
                for placeholder in _PLACEHOLDER.findall(text):
                    if placeholder not in _PLACEHOLDERS:
                        yield f"step {name} takes the placeholder {placeholder!r}"
            target = spec["components"].get(task["componentRef"]["name"], {})
            if "executorLabel" in target:
                executor = executors.get(target["executorLabel"], {})
                yield from (f"step {name} {reason}" for reason in _reasons(executor, target))


def _reasons(executor: Mapping[str, Any], component: Mapping[str, Any]) -> Iterator[str]:
    if "importer" in executor:
        return
    if "container" not in executor:
        yield f"is carried out by {', '.join(executor) or 'nothing'}"
        return
    container = executor["container"]
    command = [str(part) for part in container.get("command", ())]
    arguments = [str(part) for part in container.get("args", ())]
    if not any(_EXECUTOR in part for part in command):
        yield f"is a container component (image {container.get('image', '?')})"
    elif "--function_to_execute" not in arguments or command[-1].strip() in ("", _EXECUTOR):
        yield f"keeps its Python code in the image {container.get('image', '?')}"
    lists = [
        name
        for name, declared in component.get("outputDefinitions", {}).get("artifacts", {}).items()
        if declared.get("isArtifactList")
    ]
    if lists:
        yield f"writes lists of artifacts ({', '.join(lists)})"
