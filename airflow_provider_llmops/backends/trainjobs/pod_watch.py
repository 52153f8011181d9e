"""Why the pods of a TrainJob do not run, or have failed: what they and the events about them say, look by look."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from airflow_provider_llmops.backends.kubernetes.asking import CredentialsRefusedError
from airflow_provider_llmops.backends.kubernetes.messages import with_note
from airflow_provider_llmops.backends.kubernetes.pods import (
    MAX_PODS,
    PodProblem,
    has_run,
    is_about_scheduling,
    is_creation_failure,
    is_live,
    is_running,
    is_scheduled,
    problems_in_events,
    problems_of_pod,
)
from airflow_provider_llmops.backends.trainjobs.api import TrainJobs
from airflow_provider_llmops.backends.trainjobs.failures import FailureLog, without_numbers
from airflow_provider_llmops.backends.trainjobs.job import NODE, TrainJob, training_jobs
from airflow_provider_llmops.backends.trainjobs.jobset import missing_jobs, replicated_job
from airflow_provider_llmops.exceptions import ApiUnavailableError, LLMOpsError

# Controllers repeat what they cannot make after a quarter of an hour at the latest. What is older is over.
EVENT_SECONDS = 1200.0
# After which it is asked again for what was refused: rights are given, and credentials renewed.
REFUSED_SECONDS = 300.0


@dataclass(frozen=True)
class Moment:
    """When a look is taken.

    :param steady: seconds of a clock that runs evenly
    :param unix: Unix time
    """

    steady: float = field(default_factory=time.monotonic)
    unix: float = field(default_factory=time.time)


class PodWatch:
    """Looks at the pods of a TrainJob.

    :param backend: where the TrainJob is
    :param namespace: its namespace
    :param name: its name
    :param logger: of the task
    """

    def __init__(self, backend: TrainJobs, namespace: str, name: str, logger: Any) -> None:
        self.final_error: str | None = None
        self.wait: PodProblem | None = None
        self.has_run = False
        self.all_run = False
        self.looked_at = float("-inf")
        self._backend = backend
        self._place = (namespace, name)
        self._log = logger
        self._failure_log = FailureLog(backend, namespace, logger)
        self._failures: list[PodProblem] = []
        self._seen: set[tuple[str, str, float | None]] = set()
        self._refused: dict[str, float] = {}
        self._ran_at = float("-inf")

    @property
    def reason(self) -> str | None:
        """The last known reason why they do not run, or have failed; ``None`` while all is well."""
        if self._failures and not self.all_run:
            first = min(self._failures, key=_order)
            return with_note(first.message, f"pod {first.pod}")
        return describe_wait(self.wait) if self.wait else None

    def stopped(self) -> None:
        """Forget everything of pods that are gone: the TrainJob is suspended, and will have others."""
        self.has_run = self.all_run = False
        self.wait, self._failures = None, []
        self._failure_log.forget()

    def succeeded(self) -> None:
        """Nothing is waited for any more, and no failure counts."""
        self.wait, self._failures = None, []

    def look(self, job: TrainJob, now: Moment) -> list[PodProblem]:
        """Take notice of what pods and events say.

        :param job: the TrainJob
        :param now: when the look is taken
        :return: what has failed since the last look, the first to fail first
        """
        pods = self._ask("Why pods do not run", lambda: self._backend.pods(*self._place), now)
        if pods is None:
            return []
        self.looked_at = now.steady
        live = list(filter(is_live, pods))
        training = training_jobs([*job.jobs] or [NODE])
        training_pods = [pod for pod in live if replicated_job(pod) in training]
        missing = missing_jobs(job, live)
        self.has_run |= any(map(has_run, training_pods))
        reasons = [reason for pod in pods for reason in problems_of_pod(pod)]
        # A pod that failed waits no more; one that is being deleted still says why it never ran.
        waiting = [pod for pod in pods if (pod.get("status") or {}).get("phase") != "Failed"]
        waits = [reason for pod in waiting for reason in problems_of_pod(pod) if not reason.has_ended]
        explained = {reason.pod for reason in reasons}
        waits = waits or self._waits_in_events(job, live, missing, explained=explained, now=now)
        if waits:
            self.wait = _steady(self.wait, waits[0])
            self.has_run &= bool(training_pods)  # what ran is gone, and nothing takes its place
        elif live and (all(map(has_run, live)) or self._wait_is_over(live, missing)):
            self.wait = None
        new = self._new_failures([reason for reason in reasons if reason.has_ended])
        if waits and not missing:  # what failed was replaced, and it is the new pods that do not start
            names = {pod["metadata"]["name"] for pod in live}
            self._failures = [failure for failure in self._failures if failure.pod in names]
        self.all_run = not missing and all(map(is_running, live))
        if self.all_run:
            self._ran_at = now.unix
        return new

    def explain(self, failures: Sequence[PodProblem]) -> None:
        """Log what has failed, and keep the reasons that the logs of the containers give.

        :param failures: as :meth:`look` has returned them
        """
        explained = dict(zip(map(id, failures), self._failure_log.explain(failures), strict=True))
        self._failures = [explained.get(id(failure), failure) for failure in self._failures]

    def _wait_is_over(self, live: Sequence[Mapping[str, Any]], missing: Sequence[str]) -> bool:
        """Whether the pods show that what was waited for has come, although they do not run yet: an image is pulled."""
        if self.wait is None:
            return False
        if is_creation_failure(self.wait):
            return not missing
        return is_about_scheduling(self.wait) and all(is_scheduled(pod) or has_run(pod) for pod in live)

    def _waits_in_events(
        self,
        job: TrainJob,
        live: Sequence[Mapping[str, Any]],
        missing: Sequence[str],
        *,
        explained: set[str],
        now: Moment,
    ) -> list[PodProblem]:
        """Why pods are missing, or wait without saying why.

        :param explained: names of the pods that say why
        """
        makers = [job.name, *(missing[:MAX_PODS] if job.jobs else ())]
        waits = list(filter(is_creation_failure, self._warnings(makers, now))) if missing else []
        if not job.state.is_terminal:
            silent = {pod["metadata"]["name"]: pod for pod in live if not has_run(pod)}
            names = [name for name in silent if name not in explained][:MAX_PODS]
            waits += [
                warning
                for warning in self._warnings(names, now)
                if not (is_about_scheduling(warning) and is_scheduled(silent[warning.pod]))
            ]
        return waits

    def _warnings(self, names: Sequence[str], now: Moment) -> list[PodProblem]:
        """What recent events say about the objects of these names."""
        found: list[dict[str, Any]] = []
        for name in names:
            ask = partial(self._backend.warnings, self._place[0], name)
            found += self._ask("Why pods are not made", ask, now) or []
        since = max(now.unix - EVENT_SECONDS, self._ran_at)
        return [warning for warning in problems_in_events(found) if warning.at is None or warning.at > since]

    def _new_failures(self, failures: Sequence[PodProblem]) -> list[PodProblem]:
        """Those that are new, the first to fail first. After all nodes ran again, what fails next has its own reason."""
        new = []
        for failure in failures:
            key = (failure.pod, failure.container, failure.at)
            if key not in self._seen and not failure.was_told_to_end:
                new.append(failure)
            self._seen.add(key)
        if new and self.all_run:
            self._failures = []
        self._failures += new
        if self.final_error is None:
            self.final_error = next((failure.message for failure in new if failure.is_final), None)
        return sorted(new, key=_order)

    def _ask(
        self, what: str, ask: Callable[[], list[dict[str, Any]]], now: Moment
    ) -> list[dict[str, Any]] | None:
        """The answer to a question; ``None`` where nobody answers, or it is refused, which ends no wait.

        A refusal is logged once, and the question is asked again at times.
        """
        if now.steady - self._refused.get(what, float("-inf")) < REFUSED_SECONDS:
            return None
        try:
            return ask()
        except ApiUnavailableError:
            return None
        except LLMOpsError as error:
            if what not in self._refused:
                self._log.warning("%s cannot be told: %s", what, error)
            # Credentials that were not taken may be just renewed: no right is missing.
            is_over = isinstance(error, CredentialsRefusedError)
            self._refused[what] = float("-inf") if is_over else now.steady
            return None


def describe_wait(wait: PodProblem) -> str:
    """Why a pod waits, with its name if the reason does not name it.

    :param wait: the reason
    """
    return wait.message if wait.pod in wait.message else with_note(wait.message, f"pod {wait.pod}")


def _order(failure: PodProblem) -> tuple[bool, float]:
    """What the training says will happen again, then by time: a node that fails first takes the others with it."""
    return not failure.is_final, float("inf") if failure.at is None else failure.at


def _steady(before: PodProblem | None, now: PodProblem) -> PodProblem:
    """The former reason if the new one comes to the same: a kubelet says in turn why an image fails and that it waits.

    A scheduler's counts of nodes, and the names of pods that are tried one after another, are no news either.
    """
    if before is None or before.kind != now.kind:
        return now
    is_same = now.kind == "ImagePullBackOff" or without_numbers(before.message) == without_numbers(
        now.message
    )
    return before if is_same else now
