"""What the server says of a run, read as a :class:`~airflow_provider_llmops.backends.pipelines.base.Run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from airflow_provider_llmops.backends.pipelines.base import Run, parse_time
from airflow_provider_llmops.backends.pipelines.kubeflow.api import RefusedError
from airflow_provider_llmops.backends.pipelines.kubeflow.pages import run_page
from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.backends.pipelines.kubeflow.steps import Step, Task, read_steps, read_tasks
from airflow_provider_llmops.backends.pipelines.kubeflow.versions import PipelineVersions
from airflow_provider_llmops.states import RunState

EPOCH = datetime.fromtimestamp(0, UTC)  # what the server says of a run that has not ended
MAX_VERSIONS_KEPT = 1000

# Tasks of the specifications that this process has met: a version never changes.
_tasks_of_versions: dict[tuple[str, str], Sequence[Task]] = {}


class RunReader:
    """Reads the server's answers about runs.

    :param settings: the connection's settings
    :param versions: holds the specifications of runs that name a version
    """

    def __init__(self, settings: KfpSettings, versions: PipelineVersions) -> None:
        self._settings = settings
        self._versions = versions

    def read(self, answer: Mapping[str, Any], *, with_steps: bool = True) -> Run:
        """The run that an answer is about.

        :param answer: the server's JSON
        :param with_steps: whether its steps are told, for which its specification is read
        """
        state = state_of(answer.get("state"))
        if state is RunState.FAILED and _was_terminated(answer):
            state = RunState.CANCELED
        steps = self._steps(answer, state) if with_steps else []
        tasks = {step.name: str(step.state) for step in steps}
        finished_at = parse_time(answer.get("finished_at"))
        return Run(
            run_id=answer["run_id"],
            display_name=answer.get("display_name", ""),
            state=state,
            tasks=tasks,
            waits=not state.is_terminal and _has_pending_node(answer),
            attempts={step.name: step.attempts for step in steps if step.attempts > 1},
            error=_error_of(answer) if state is RunState.FAILED else None,
            failed_steps=tuple(name for name, at in tasks.items() if at == RunState.FAILED)
            if state is RunState.FAILED
            else (),
            created_at=parse_time(answer.get("created_at")),
            finished_at=finished_at if finished_at and finished_at > EPOCH else None,
            log_hint=run_page(self._settings, answer["run_id"]),
        )

    def specification_of(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """A run's specification; nothing if its version was deleted since, or may not be read.

        :param answer: the server's JSON about the run
        """
        document = answer.get("pipeline_spec")
        if not document:
            try:
                document = self._versions.spec(answer.get("pipeline_version_reference") or {})
            except (RefusedError, KeyError):
                return {}
        return document.get("pipeline_spec") or document

    def _steps(self, answer: Mapping[str, Any], state: RunState) -> list[Step]:
        details = (answer.get("run_details") or {}).get("task_details")
        if not details:
            return []
        return read_steps(self._tasks_of(answer), details, state)

    def _tasks_of(self, answer: Mapping[str, Any]) -> Sequence[Task]:
        """The tasks of a run's specification, which is read once for each version."""
        if answer.get("pipeline_spec"):
            return read_tasks(self.specification_of(answer))
        reference = answer.get("pipeline_version_reference") or {}
        place = (self._settings.endpoint, str(reference.get("pipeline_version_id")))
        if place not in _tasks_of_versions:
            spec = self.specification_of(answer)
            while len(_tasks_of_versions) >= MAX_VERSIONS_KEPT:
                _tasks_of_versions.pop(next(iter(_tasks_of_versions)), None)
            _tasks_of_versions[place] = read_tasks(spec) if spec else ()
        return _tasks_of_versions[place]


def state_of(value: Any) -> RunState:
    """The state that the server names; PENDING where it names none yet.

    :param value: the server's word
    """
    try:
        return RunState(value)
    except ValueError:
        return RunState.PENDING  # RUNTIME_STATE_UNSPECIFIED, or nothing yet


def went_on_at(answer: Mapping[str, Any]) -> datetime | None:
    """When a run ended that was then made to go on; ``None`` of one that has ended at most once.

    :param answer: the server's JSON about the run
    """
    ends = [
        before.get("update_time")
        for before, after in pairwise(answer.get("state_history") or ())
        if state_of(before.get("state")).is_terminal and not state_of(after.get("state")).is_terminal
    ]
    return parse_time(ends[-1]) if ends else None


def _has_pending_node(answer: Mapping[str, Any]) -> bool:
    details = (answer.get("run_details") or {}).get("task_details") or ()
    return any(detail.get("state") == RunState.PENDING for detail in details)


def _was_terminated(answer: Mapping[str, Any]) -> bool:
    """Whether somebody ended the run: the server has it end as failed, like any other that does not succeed."""
    history = [status["state"] for status in answer.get("state_history") or () if status.get("state")]
    return history[-2:-1] == [RunState.CANCELING]  # an earlier one was followed by a retry


def _error_of(answer: Mapping[str, Any]) -> str | None:
    """What is known of why it failed, in one line."""
    details = [
        detail
        for detail in (answer.get("run_details") or {}).get("task_details") or ()
        if detail.get("error")
    ]
    history = [status for status in answer.get("state_history") or () if status.get("error")]
    for source in (*details, *reversed(history), answer):
        with suppress(AttributeError):
            if message := (source.get("error") or {}).get("message"):
                return str(message)
    return None
