"""The tasks of a run as answers show them: one for every node of the Argo workflow, not one for every step.

Upstream: ``server/api_converter.go`` (``toModelTasks``, ``toApiPipelineTaskDetail``) and the templates that
``v2/compiler/argocompiler`` writes: a step ``train`` is a node ``train`` with two pods, ``train-driver`` and
``executor``, below a node ``root``, below a node with the workflow's own name.
"""

from __future__ import annotations

import uuid
from typing import Any

from .messages import rfc3339
from .rows import FINAL, Run

_ZERO_TIME = "0001-01-01T00:00:00Z"  # what a Go time that was never set becomes


def report(
    run: Run, states: dict[str, str], errors: dict[str, str], *, now: int, nodes: bool, final: bool
) -> None:
    """Writes what the workflow's nodes are now into the run.

    :param states: state of each step, by the step's name.
    :param errors: messages of failed steps. Upstream has no field with a step's message, see ``FakeKfpApi.advance``.
    :param nodes: also the nodes that Argo adds to the steps.
    """
    if nodes:
        whole = run.state if final else "RUNNING"
        _node(run, run.workflow, run.workflow, whole, now, [f"{run.workflow}.root-driver"])
        _node(run, f"{run.workflow}.root-driver", "root-driver", "SUCCEEDED", now, [f"{run.workflow}.root"])
        _node(run, f"{run.workflow}.root", "root", whole, now, [])
    for name, state in states.items():
        path = f"{run.workflow}.root.{name}"
        if nodes and state:
            driver = state if state == "PENDING" else "SUCCEEDED"
            _node(run, f"{path}-driver", f"{name}-driver", driver, now, [path])
        task = _node(run, path, name, state, now, [f"{path}.executor"] if nodes and state else [])
        if nodes and state:
            _node(run, f"{path}.executor", "executor", state, now, [])
        if name in errors:
            task["error"] = {"code": 13, "message": errors[name]}
    if nodes:
        drivers = [
            path for path in run.tasks if path.endswith("-driver") and not path.endswith(".root-driver")
        ]
        _node(run, f"{run.workflow}.root", "root", whole, now, drivers)
    run.changed()


def _node(run: Run, path: str, name: str, state: str, now: int, children: list[str]) -> dict[str, Any]:
    task = run.tasks.get(path)
    if task is None:
        task = run.tasks[path] = {
            "run_id": run.run_id,
            "task_id": str(uuid.uuid4()),
            "display_name": name,
            "create_time": rfc3339(run.created),
            "start_time": rfc3339(now),
            "end_time": _ZERO_TIME,
            "state_history": [],
        }
    changed = task.get("state") != state or not task["state_history"]
    if changed:
        # A node that Argo leaves out (Omitted) has no state of upstream's, so the field is missing.
        status = {"update_time": rfc3339(now)} | ({"state": state} if state else {})
        task["state_history"] = [*task["state_history"], status]
        task.pop("state", None)
        if state:
            task["state"] = state
        task["end_time"] = rfc3339(now) if state in FINAL else _ZERO_TIME
    if children:
        task["child_tasks"] = [{"pod_name": node_id(run.workflow, child)} for child in children]
    return task


def node_id(workflow: str, path: str) -> str:
    """Argo's id of a node: FNV-1a of its name. The pod of the node ends in the same number."""
    if path == workflow:
        return workflow
    value = 0x811C9DC5
    for byte in path.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return f"{workflow}-{value}"
