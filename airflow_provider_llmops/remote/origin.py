"""Which code a task is of, and with which settings its DAG runs: what is noted wherever something comes of it.

Nothing is looked up: a worker has been told all of it. What it has not been told is left out, and whoever reads says so.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.redaction import redacted

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["code_of", "conf_of", "provider_version", "tags_of"]

CONF, CONF_TOO_LARGE = "airflow.conf", "airflow.conf_too_large"
MAX_CONF_CHARACTERS = (
    5000  # MLflow cuts a run's tag at 8000 without a word, and older ones refuse one of more than 5000
)
_DISTRIBUTION = "airflow-provider-llmops"


@cache
def provider_version() -> str | None:
    """The release of this provider; ``None`` where it is not installed, but only on the path."""
    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:
        return None


def code_of(context: Context) -> dict[str, str]:
    """``dag_version``, ``bundle_name``, ``bundle_version`` and ``provider_version``, as far as they are known.

    Airflow's ``dag_run.dag_versions`` may name others than the task was run with, so it is the task instance's own. A bundle
    without versions, as a local folder is, has none, nor has a run that is not held to one.

    :param context: of the task
    """
    ti: Any = context["ti"]
    bundle = getattr(ti, "bundle_instance", None)
    found = {
        "dag_version": getattr(ti, "dag_version_id", None),
        "bundle_name": getattr(bundle, "name", None),
        "bundle_version": getattr(bundle, "version", None),
        "provider_version": provider_version(),
    }
    return {name: str(value) for name, value in found.items() if value}


def conf_of(context: Context) -> dict[str, Any]:
    """The settings of the DAG's run: what its form was given, and the defaults of everything else, without secrets.

    :param context: of the task
    """
    run: Any = context.get("dag_run")
    given = getattr(run, "conf", None) or {}
    params = dict(context.get("params") or {})
    declared = getattr(context.get("dag"), "params", None)
    # A task may have parameters of its own, which no run of the DAG takes.
    own = {
        name: value for name, value in params.items() if declared is None or name in declared or name in given
    }
    found: dict[str, Any] = redacted({**given, **own})
    return found


def tags_of(context: Context) -> dict[str, str]:
    """Where a run or a version in MLflow comes from: the code of :func:`code_of` and the settings of the DAG's run.

    :param context: of the task
    """
    found = {f"airflow.{name}": value for name, value in code_of(context).items()}
    if release := found.pop("airflow.provider_version", None):
        found["llmops.provider_version"] = release
    text = json.dumps(conf_of(context), sort_keys=True, default=str)
    if len(text) <= MAX_CONF_CHARACTERS:
        return {**found, CONF: text}
    return {**found, CONF_TOO_LARGE: str(len(text))}
