"""What the tasks that made a model say of themselves, as tags of its version: components, images, base model, parent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError, shown_value
from airflow_provider_llmops.redaction import redact

__all__ = ["tags_of_tasks"]

COMPONENT, IMAGE, RUN = "component.", "image.", "run."  # followed by the component's name
NO_IMAGE = "none"
BASE_MODEL, BASE_MODEL_DIGEST = "llmops.base_model", "llmops.base_model.digest"
PARENT, PARENT_DIGEST = "llmops.parent", "llmops.parent.digest"
DATA_URI = "llmops.dataset.train.uri"


def tags_of_tasks(results: Any) -> dict[str, str]:
    """Tags of a model version.

    :param results: what the tasks that made the model have returned, in order; those that were skipped are ``None``
    :raises ConfigurationError: one of them is no component's
    """
    if not isinstance(results, Iterable) or isinstance(results, str | Mapping):
        raise ConfigurationError(
            f"made_by must be a list of what tasks have returned, such as [train.output], got {shown_value(results)}."
        )
    tags: dict[str, str] = {}
    for result in results:
        if result is None:
            continue
        component = result.get("component") if isinstance(result, Mapping) else None
        if not isinstance(component, str):
            raise ConfigurationError(
                f"made_by holds {shown_value(result)}, which no component has returned. Give it outputs of tasks, such as train.output."
            )
        name = _unused(component, tags)
        tags[f"{COMPONENT}{name}"] = str(result.get("component_digest") or "unknown")
        if "image" in result:
            tags[f"{IMAGE}{name}"] = redact(result["image"] or NO_IMAGE)
        if run_id := result.get("run_id") or result.get("name"):
            tags[f"{RUN}{name}"] = str(run_id)
        tags |= _ancestor(component, result)
    return tags


def _unused(component: str, tags: Mapping[str, str]) -> str:
    """The component's name, with a number where it ran before."""
    names = [component, *(f"{component}.{number}" for number in range(2, len(tags) + 3))]
    return next(name for name in names if f"{COMPONENT}{name}" not in tags)


def _ancestor(component: str, result: Mapping[str, Any]) -> dict[str, str]:
    """The model that a task has brought in: one from outside, or a registered version."""
    details = result.get("details") or {}
    if component == "import_base_model" and details.get("source"):
        revision = details.get("revision")
        digest = ((result.get("artifacts") or {}).get("model") or {}).get("digest")
        source = redact(f"{details['source']}@{revision}" if revision else str(details["source"]))
        return {BASE_MODEL: source, **({BASE_MODEL_DIGEST: digest} if digest else {})}
    if component == "fetch_model" and details.get("version"):
        digest = details.get("model_digest")
        parent = f"{details['name']}@{details['version']}"
        return {PARENT: parent, **({PARENT_DIGEST: digest} if digest else {})}
    return {}
