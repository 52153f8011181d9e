"""Which step of a pipeline is how far, read off the nodes of the workflow that carries it out.

The server answers with a run's nodes (``run_details.task_details``), not with its steps: drivers, pods, attempts, groups and
the workflow itself, in no order, several of one name. A node does not give its own id, but the ids of the nodes that follow it,
and Argo's id of a node is a hash of its path (``NodeID`` in Argo's ``workflow_types.go``). So each path that the specification
allows can be looked for, and the nodes of one name told apart by what follows them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_llmops.states import RunState, StepState

_MAX_DEPTH = 32  # a specification may use itself
_MAX_ATTEMPTS = 1000
_FNV_OFFSET, _FNV_PRIME = 0x811C9DC5, 0x01000193


@dataclass(frozen=True)
class Task:
    """A task of the specification.

    :param name: its name
    :param tasks: what it consists of, in order; nothing if it is a step itself
    :param is_loop: whether that is done once for each item
    """

    name: str
    tasks: tuple[Task, ...] = ()
    is_loop: bool = False


@dataclass(frozen=True)
class Step:
    """A step of a run.

    :param name: its path: the names of the tasks, and the numbers of the items of loops, that lead to it
    :param state: how far it is
    :param attempts: how many times its container was started
    """

    name: str
    state: StepState
    attempts: int = 1


def read_tasks(ir: Mapping[str, Any]) -> tuple[Task, ...]:
    """The tasks of a specification, each after those that it depends on.

    :param ir: KFP pipeline IR
    """
    return _tasks_of(ir, ir["root"], 0)


def _tasks_of(ir: Mapping[str, Any], component: Mapping[str, Any], depth: int) -> tuple[Task, ...]:
    found = []
    for name, task in _in_order((component.get("dag") or {}).get("tasks") or {}):
        inner = (ir.get("components") or {}).get((task.get("componentRef") or {}).get("name")) or {}
        tasks = _tasks_of(ir, inner, depth + 1) if depth < _MAX_DEPTH else ()
        found.append(Task(name, tasks, is_loop=bool(task.keys() & {"parameterIterator", "artifactIterator"})))
    return tuple(found)


def _in_order(tasks: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    left = dict(tasks)
    while left:
        ready = [
            name for name, task in left.items() if not set(task.get("dependentTasks") or ()) & left.keys()
        ]
        for name in ready or list(left):
            yield name, left.pop(name)


def read_steps(tasks: Sequence[Task], details: Sequence[Mapping[str, Any]], run: RunState) -> list[Step]:
    """The steps of a run in the order of the specification.

    Steps that have not begun are left out while the run goes on.

    :param tasks: of its specification
    :param details: its ``task_details``
    :param run: its state
    """
    nodes = _Nodes(details)
    if not nodes.workflow:
        return []
    root = nodes.attempts(f"{nodes.attempts(nodes.workflow)[-1]}.root")[-1]
    places = list(_places(nodes, tasks, root, ""))
    nodes.claim([path for place in places for path in (place.path, place.driver)])
    states = {place: _state_of(nodes, place, run) for place in places}
    return [Step(place.name, state, _attempts_of(nodes, place)) for place, state in states.items() if state]


@dataclass(frozen=True)
class _Place:
    """Where the node of a task is, if it has one.

    :param name: of the step
    :param path: of the node
    :param is_group: whether it holds other tasks, so that only its driver's failure is its own
    :param is_left_out: whether what it is in was not carried out
    """

    name: str
    path: str
    is_group: bool = False
    is_left_out: bool = False

    @property
    def driver(self) -> str:
        """Path of the node that prepares it."""
        return f"{self.path}-driver"


def _places(
    nodes: _Nodes, tasks: Sequence[Task], base: str, label: str, *, left_out: bool = False
) -> Iterator[_Place]:
    for task in tasks:
        path = f"{base}.{task.name}"
        if not task.tasks:
            yield _Place(
                f"{label}{task.name}", _exit_path(nodes, tasks, base, task) or path, is_left_out=left_out
            )
            continue
        yield _Place(f"{label}{task.name}", path, is_group=True, is_left_out=left_out)
        content = nodes.attempts(path)[-1]
        if not task.is_loop:
            is_empty = left_out or not nodes.has_begun(content, task)
            yield from _places(nodes, task.tasks, content, f"{label}{task.name}/", left_out=is_empty)
            continue
        number = 0
        while nodes.exists(item := f"{content}.iteration-iterations({number}:{number})"):
            inner = nodes.attempts(f"{nodes.attempts(item)[-1]}.iteration-item")[-1]
            yield from _places(nodes, task.tasks, inner, f"{label}{task.name}/{number}/", left_out=left_out)
            number += 1


def _exit_path(nodes: _Nodes, tasks: Sequence[Task], base: str, task: Task) -> str | None:
    """Where an exit task is: below the hook of the group that it follows."""
    for group in tasks:
        for hook in nodes.attempts(f"{base}.{group.name}.onExit"):
            if nodes.exists(path := f"{hook}.{task.name}") or nodes.exists(f"{path}-driver"):
                return path
    return None


def _state_of(nodes: _Nodes, place: _Place, run: RunState) -> StepState | None:
    """State of a step; of a group only that its driver has failed, for what fails in it fails there."""
    driver = (nodes.at(place.driver) or {}).get("state")
    if driver == RunState.FAILED:
        return StepState.FAILED
    if place.is_group:
        return None
    node = nodes.at(place.path)
    if node is None:
        if driver in (RunState.PENDING, RunState.RUNNING):
            return StepState.PENDING  # of a run that has ended, too: its nodes lag behind
        if not run.is_terminal:
            return None if driver is None else StepState.PENDING
        return StepState.SKIPPED if place.is_left_out and run.is_successful else StepState.OMITTED
    state = node.get("state")
    if state is None:
        return StepState.OMITTED
    if state == RunState.SUCCEEDED and nodes.took_no_time(node):
        return StepState.CACHED
    if state == RunState.RUNNING and nodes.waits_for_pod(node):
        return StepState.PENDING
    return StepState(state) if state in set(StepState) else StepState.PENDING


def _attempts_of(nodes: _Nodes, place: _Place) -> int:
    pods = [pod for attempt in nodes.attempts(place.path) for pod in nodes.attempts(f"{attempt}.executor")]
    return max(sum(map(nodes.exists, pods)), 1)


class _Nodes:
    """The nodes of a workflow, to be found by their paths."""

    def __init__(self, details: Sequence[Mapping[str, Any]]) -> None:
        self._by_name: dict[str, list[Mapping[str, Any]]] = {}
        self._next: dict[int, set[str]] = {}
        for detail in details:
            if name := detail.get("display_name"):
                self._by_name.setdefault(name, []).append(detail)
                children = detail.get("child_tasks") or ()
                self._next[id(detail)] = {str(child.get("pod_name")) for child in children}
        self._ids = {node for following in self._next.values() for node in following}
        self.workflow = next(iter(self._ids)).rpartition("-")[0] if self._ids else ""
        self._claimed: dict[str, Mapping[str, Any]] = {}
        self._pods = [
            node
            for name, named in self._by_name.items()
            if name.partition("(")[0] == "executor"
            for node in named
            if not self._next[id(node)]
        ]
        self._has_cached = any(
            node.get("state") == RunState.SKIPPED for node in self._by_name.get("executor", ())
        )

    def exists(self, path: str) -> bool:
        """Whether there is a node with that path, but for the first one, which follows none."""
        return f"{self.workflow}-{_fnv(path)}" in self._ids

    def attempts(self, path: str) -> list[str]:
        """The paths of a node's attempts where it may be tried again, else its own."""
        found: list[str] = []
        while len(found) < _MAX_ATTEMPTS and self.exists(attempt := f"{path}({len(found)})"):
            found.append(attempt)
        return found or [path]

    def has_begun(self, content: str, task: Task) -> bool:
        """Whether anything in a group exists."""
        return any(
            self.exists(f"{content}.{inner.name}-driver") or self.exists(f"{content}.{inner.name}")
            for inner in task.tasks
        )

    def claim(self, paths: Sequence[str]) -> None:
        """Say which nodes are looked for: what follows a node shows which of its name it is; the others are alike."""
        unsure = []
        for path in paths:
            following = {f"{self.workflow}-{_fnv(next_path)}" for next_path in _following(path)}
            if node := next((node for node in self._named(path) if self._next[id(node)] & following), None):
                self._claimed[path] = node
            elif self.exists(path):
                unsure.append(path)
        taken = {id(node) for node in self._claimed.values()}
        for path in unsure:
            if node := next((node for node in self._named(path) if id(node) not in taken), None):
                taken.add(id(node))
                self._claimed[path] = node

    def at(self, path: str) -> Mapping[str, Any] | None:
        """The node with a path that was claimed."""
        return self._claimed.get(path)

    def _named(self, path: str) -> list[Mapping[str, Any]]:
        return self._by_name.get(path.rpartition(".")[2], [])

    def took_no_time(self, node: Mapping[str, Any]) -> bool:
        """Whether a step's outputs were in the cache: its container was skipped, and it ended as it began."""
        return self._has_cached and node.get("start_time") == node.get("end_time")

    def waits_for_pod(self, node: Mapping[str, Any]) -> bool:
        """Whether the pod of a step has not begun: Argo has the step running from when it makes the pod.

        Pods are followed by nothing, so they cannot be told apart but by when they were made, at the same time as their step
        or, for another attempt, later.
        """
        unfinished = [pod for pod in self._pods if pod.get("state") in (RunState.PENDING, RunState.RUNNING)]
        begun = str(node.get("start_time"))
        same = [pod for pod in unfinished if pod.get("start_time") == begun]
        pods = same or [pod for pod in unfinished if str(pod.get("start_time")) > begun]
        return bool(pods) and all(pod["state"] == RunState.PENDING for pod in pods)


def _following(path: str) -> Iterator[str]:
    """Paths of what may follow a node and no other of its name."""
    yield f"{path}(0)"
    if path.endswith("-driver"):
        yield path.removesuffix("-driver")
    else:
        yield f"{path}.executor"
        yield f"{path}.iteration-driver"


def _fnv(text: str) -> int:
    """FNV-1a in 32 bits."""
    value = _FNV_OFFSET
    for byte in text.encode():
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return value
