"""The tasks of a run as answers show them: one for every node of the Argo workflow, not one for every step.

Upstream: ``server/api_converter.go`` (``toModelTasks``, ``toApiPipelineTaskDetail``) and the templates that
``v2/compiler/argocompiler`` writes: a step ``train`` is a node ``train`` with two pods, ``train-driver`` and
``executor``, below a node ``root``, below a node with the workflow's own name. As upstream installs it, each of these may be done
again, so each is a node for all attempts and one, ``train(0)``, for each of them.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Literal

from .messages import rfc3339
from .rows import FINAL, Run

_ZERO_TIME = "0001-01-01T00:00:00Z"  # what a Go time that was never set becomes
Nodes = Literal["with retries", "without retries", "steps only"]


def report(
    run: Run, states: dict[str, str], errors: dict[str, str], *, now: int, nodes: Nodes, final: bool
) -> None:
    """Writes what the workflow's nodes are now into the run.

    :param states: state of each step, by the step's name; an empty one is that of a step that was left out.
    :param errors: messages of failed steps. Upstream has no field with a step's message, see ``FakeKfpApi.advance``.
    :param nodes: which nodes there are.
    """
    if nodes == "steps only":
        for name, state in states.items():
            _write(run, f"{run.workflow}.root.{name}", name, state, now, [])
    else:
        _Workflow(run, now, retries=nodes == "with retries").report(states, run.state if final else "RUNNING")
    for name, message in errors.items():
        step = next(task for task in run.tasks.values() if task["display_name"] == name)
        step["error"] = {"code": 13, "message": message}
    run.changed()


@dataclass
class _Workflow:
    run: Run
    now: int
    retries: bool

    def report(self, states: dict[str, str], whole: str) -> None:
        workflow = self.run.workflow
        top = self.attempt(workflow)
        root = self.attempt(f"{top}.root")
        self.group(workflow, whole, [f"{top}.root-driver"])
        self.pod(f"{top}.root-driver", "SUCCEEDED", [f"{top}.root"])
        for name, state in states.items():
            path = f"{root}.{name}"
            if not state:  # Argo leaves it out: no attempt at it
                self.node(f"{path}-driver", "", [path])
                self.node(path, "", [])
                continue
            executor = f"{self.attempt(path)}.executor"
            self.pod(f"{path}-driver", "SUCCEEDED", [path])
            self.group(path, "RUNNING" if state == "PENDING" else state, [executor])
            self.pod(executor, state, [])
        drivers = [
            path for path in self.run.tasks if path.startswith(f"{root}.") and path.endswith("-driver")
        ]
        self.group(f"{top}.root", whole, drivers)

    def attempt(self, path: str) -> str:
        return f"{path}(0)" if self.retries else path

    def group(self, path: str, state: str, children: list[str]) -> None:
        if self.retries:
            self.node(path, state, [self.attempt(path)], began="RUNNING")
        self.node(self.attempt(path), state, children, began="RUNNING")

    def pod(self, path: str, state: str, children: list[str]) -> None:
        if self.retries:
            self.node(path, "RUNNING" if state == "PENDING" else state, [self.attempt(path)], began="RUNNING")
        self.node(self.attempt(path), state, children, began="PENDING")

    def node(self, path: str, state: str, children: list[str], began: str = "") -> None:
        name = path if path in (self.run.workflow, f"{self.run.workflow}(0)") else path.rpartition(".")[2]
        _write(self.run, path, name, state, self.now, children, began)


def _write(
    run: Run, path: str, name: str, state: str, now: int, children: list[str], began: str = ""
) -> None:
    task = run.tasks.get(path)
    if task is None:
        task = run.tasks[path] = {
            "run_id": run.run_id,
            "task_id": str(uuid.uuid4()),
            "display_name": name,
            "create_time": rfc3339(run.created),
            "start_time": rfc3339(now),
            "end_time": _ZERO_TIME,
            "state_history": [_status(now, began)] if began and began != state else [],
        }
    if task.get("state") != state or not task["state_history"]:
        # A node that Argo leaves out (Omitted) has no state of upstream's, so the field is missing.
        task["state_history"] = [*task["state_history"], _status(now, state)]
        task.pop("state", None)
        if state:
            task["state"] = state
        task["end_time"] = rfc3339(now) if state in FINAL or not state else _ZERO_TIME
    if children:
        task["child_tasks"] = [{"pod_name": node_id(run.workflow, child)} for child in children]


def _status(now: int, state: str) -> dict[str, Any]:
    return {"update_time": rfc3339(now)} | ({"state": state} if state else {})


def node_id(workflow: str, path: str) -> str:
    """Argo's id of a node: FNV-1a of its name. The pod of the node ends in the same number."""
    if path == workflow:
        return workflow
    value = 0x811C9DC5
    for byte in path.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return f"{workflow}-{value}"
