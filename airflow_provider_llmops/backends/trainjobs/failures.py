"""What the pods of a training that have failed wrote last: it goes to the task's log, and says why they failed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from airflow_provider_llmops.backends.kubernetes.messages import with_note
from airflow_provider_llmops.backends.kubernetes.pods import MAX_MESSAGE_CHARACTERS, MAX_PODS, PodProblem
from airflow_provider_llmops.backends.last_words import LastWords, read_last_words
from airflow_provider_llmops.backends.trainjobs.api import TrainJobs
from airflow_provider_llmops.exceptions import LLMOpsError, shortened

READ_LINES = 200  # of a log: below the exception of a process stands what launched it has to say
MAX_LOGS = 10


class FailureLog:
    """Reads and logs what failed pods wrote.

    :param backend: where the pods are
    :param namespace: their namespace
    :param logger: of the task
    """

    def __init__(self, backend: TrainJobs, namespace: str, logger: Any) -> None:
        self._backend = backend
        self._namespace = namespace
        self._log = logger
        # What a container's log said at its last end, by how it ended: a Job that gives up deletes the log with the pod.
        self._reasons: dict[tuple[str, str, str], PodProblem] = {}
        self._logged: set[tuple[str, str, str]] = set()

    def forget(self) -> None:
        """Forget what was read: the pods are others from now on."""
        self._reasons.clear()

    def explain(self, failures: Sequence[PodProblem]) -> list[PodProblem]:
        """Log new failures, and what the first of them wrote, since nodes that fail together mostly fail alike.

        :param failures: the first to fail first
        :return: the same, with the reasons that their logs give
        """
        return [self._explain(failure, is_read=number < MAX_PODS) for number, failure in enumerate(failures)]

    def _explain(self, failure: PodProblem, *, is_read: bool) -> PodProblem:
        words, problem = self._read_log(failure) if is_read else (LastWords(), "")
        explained = self._with_reason(failure, words.reason, is_unread=bool(problem))
        self._log.warning("Pod %s: %s", failure.pod, explained.message)
        # A Job that never restarts a pod makes another of another name, which fails alike.
        reason = without_numbers(_without_name(explained.message, failure.pod))
        content = (failure.container, reason, _without_name(problem, failure.pod))
        if is_read and content not in self._logged and len(self._logged) < MAX_LOGS:
            self._logged.add(content)
            self._log.warning("%s", problem or f"Last lines of pod {failure.pod}:")
            for line in words.lines:
                self._log.warning("  %s", line)
        return explained

    def _with_reason(self, failure: PodProblem, reason: str | None, *, is_unread: bool) -> PodProblem:
        """With the reason that its log gives; with the former one where it ended as before and the log cannot be read."""
        end = (failure.pod, failure.container, failure.message)
        if is_unread and failure.is_unexplained and end in self._reasons:
            return replace(failure, message=self._reasons[end].message)
        explained = _explained(failure, reason)
        if not is_unread:
            self._reasons[end] = explained
        return explained

    def _read_log(self, failure: PodProblem) -> tuple[LastWords, str]:
        """What the container that failed wrote last, or why that cannot be read: it must not hide the failure."""
        try:
            lines = self._backend.log_of(self._namespace, failure, lines=READ_LINES)
        except LLMOpsError as error:
            return LastWords(), f"(could not be read: {str(error).partition(chr(10))[0]})"
        return read_last_words("\n".join(lines)), ""


def without_numbers(text: str) -> str:
    """The text with each number hidden, so that what differs in them alone is the same.

    :param text: a message
    """
    return re.sub(r"\d+", "#", text)


def _explained(failure: PodProblem, reason: str | None) -> PodProblem:
    """With the reason that its log gives, where the container left no last words of its own."""
    if reason is None or not failure.is_unexplained:
        return failure
    how = failure.message.removeprefix("ended with ")
    return replace(failure, message=with_note(shortened(reason, MAX_MESSAGE_CHARACTERS), how))


def _without_name(text: str, name: str) -> str:
    """A text without a name, where it stands as a word of its own."""
    return re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", "", text)
