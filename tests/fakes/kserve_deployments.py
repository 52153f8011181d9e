"""Deployments of a service to a fake cluster, as a task makes them, waiting included."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from airflow.sdk.exceptions import TaskDeferred

from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.operators.serving import DeployModelOperator

LIMITS = {"limits": {"cpu": "2", "memory": "8Gi"}}


def connect(monkeypatch: Any, extra: Mapping[str, Any], **fields: Any) -> None:
    """Set the connection ``kserve_default``."""
    connection = {"conn_type": "kserve", "extra": extra, **fields}
    monkeypatch.setenv("AIRFLOW_CONN_KSERVE_DEFAULT", json.dumps(connection))


def operator(version: str, **arguments: Any) -> DeployModelOperator:
    """The task that deploys a version of the service ``chat``."""
    return DeployModelOperator(
        **{
            "task_id": "deploy",
            "service_name": "chat",
            "namespace": "team",
            "model": f"hf://org/model-{version}",
            "poll_interval": 0.05,
            "deferrable": False,
            "predictor_resources": LIMITS,
            **arguments,
        }
    )


def deploy(version: str, context: Any, **arguments: Any) -> dict[str, Any]:
    """Run that task to its end."""
    return finished(operator(version, **arguments), context)


def finished(task: Any, context: Any) -> Any:
    """Run a task to its end, in the triggerer where it defers."""
    try:
        return task.execute(context)
    except TaskDeferred as deferred:
        return resumed(task, deferred, context)


def resumed(task: Any, deferred: TaskDeferred, context: Any) -> Any:
    """Wait in the triggerer, which builds the trigger from what Airflow has stored, and go on."""
    _, arguments = deferred.trigger.serialize()
    payload = fired(type(deferred.trigger)(**json.loads(json.dumps(arguments))))
    return getattr(task, deferred.method_name)(context, event=payload)


def fired(trigger: Any) -> dict[str, Any]:
    """What a trigger fires with."""

    async def events() -> list[Any]:
        return [event async for event in trigger.run()]

    (event,) = asyncio.run(events())
    payload: dict[str, Any] = event.payload
    return payload


def serving() -> dict[str, int]:
    """Percent of the requests by revision."""
    revisions = KServeHook().get_service("chat", "team").revisions
    return {name: each.traffic for name, each in revisions.items() if each.traffic}
