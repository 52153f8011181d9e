"""Watch a TrainJob: what its status, its pods and events say about how it goes, and why it does not."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from airflow_provider_llmops.backends.kubernetes.pods import (
    MAX_MESSAGE_CHARACTERS,
    MAX_PODS,
    PodTrouble,
    event_troubles,
    has_run,
    is_about_scheduling,
    is_creation_failure,
    is_live,
    is_running,
    is_scheduled,
    pod_troubles,
)
from airflow_provider_llmops.backends.last_words import LastWords, read_last_words
from airflow_provider_llmops.backends.trainjobs.job import CONTAINER as NODE
from airflow_provider_llmops.backends.trainjobs.job import (
    LAUNCHER,
    CredentialsRefusedError,
    TrainJob,
    TrainJobs,
    training_jobs,
)
from airflow_provider_llmops.exceptions import ApiUnavailableError, LLMOpsError, shortened
from airflow_provider_llmops.states import RunState

# JobSet puts it on every pod: the name of one of the jobs in a TrainJob's status.
REPLICATED_JOB_LABEL = "jobset.sigs.k8s.io/replicatedjob-name"
# How many of that name there are, and which of them it belongs to.
REPLICAS_LABEL = "jobset.sigs.k8s.io/replicatedjob-replicas"
JOB_INDEX_LABEL = "jobset.sigs.k8s.io/job-index"
READ_LINES = 200  # of a log: below the exception of a process stands what launched it has to say
MAX_LOGS = 10
# A line for each report of a training would be a line for each of its steps.
PROGRESS_POINTS = 5
PROGRESS_SECONDS = 300.0
# Controllers repeat what they cannot make after a quarter of an hour at the latest. What is older is over.
EVENT_SECONDS = 1200.0
# A status says that all are ready also while one is started again: it follows by a second or more.
PODS_SECONDS = 60.0
# After which it is asked again for what was refused: rights are given, and credentials renewed.
REFUSED_SECONDS = 300.0
NO_POD_LEFT = (
    "(No failed pod is left to read. A Job whose restartPolicy is OnFailure, as JobSet sets it, deletes its pods when it "
    "gives up; a runtime with restartPolicy: Never and backoffLimit: 0 keeps them.)"
)


class TrainJobWatch:
    """Looks at a TrainJob and logs what has changed since the last look.

    Pods are asked for when the status says anything new, and once a minute while all of them train: then a look costs one
    request. Events are asked for only while a pod is missing, or waits without saying why. The log of a container that
    failed is read when that is first seen: a Job that gives up deletes its pods.

    :param backend: where the TrainJob is
    :param namespace: its namespace
    :param name: its name
    :param logger: where the lines go
    :param deadline: Unix time at which its time is up in any case; never when ``None``
    :param run_timeout: seconds that it may take from its start on; any number when ``None``
    """

    def __init__(
        self,
        backend: TrainJobs,
        namespace: str,
        name: str,
        logger: Any,
        *,
        deadline: float | None = None,
        run_timeout: float | None = None,
    ) -> None:
        self.final_error: str | None = None
        self._deadline = deadline
        self._run_timeout = run_timeout
        self._backend = backend
        self._place = (namespace, name)
        self._log = logger
        self._before: TrainJob | None = None
        self._unanswered = False
        self._refused: dict[str, float] = {}
        self._has_run = self._all_run = False
        self._pods_seen_at = self._ran_at = float("-inf")
        self._wait: PodTrouble | None = None
        self._wait_told: PodTrouble | None = None
        self._failures: list[PodTrouble] = []
        # What a container's log said at its last end, by how it ended: a Job that gives up deletes the log with the pod.
        self._reasons: dict[tuple[str, str, str], PodTrouble] = {}
        self._seen: set[tuple[str, str, float | None]] = set()
        self._logs_told: set[tuple[str, str, str]] = set()
        self._progress: tuple[int | None, float] = (None, float("-inf"))

    @property
    def trouble(self) -> str | None:
        """The last known reason why it does not train, or has failed; ``None`` while all is well."""
        if self._failures and not self._all_run:
            first = _first(self._failures)
            return f"{first.message} (pod {first.pod})"
        return _describe(self._wait) if self._wait else None

    @property
    def is_over_time(self) -> bool:
        """Whether its time is up."""
        return self._left() <= 0.0

    def seconds_to_wait(self, poll_interval: float) -> float:
        """How long to wait before the next look: no longer than its time lasts."""
        return max(0.0, min(poll_interval, self._left()))

    def _left(self) -> float:
        ends = [self._deadline]
        if self._run_timeout is not None and self._before is not None and self._before.started_at is not None:
            ends.append(self._before.started_at + self._run_timeout)
        return min((end - time.time() for end in ends if end is not None), default=float("inf"))

    def look(self) -> TrainJob | None:
        """Look once; ``None`` when the API server did not answer.

        ``final_error`` is set from then on when the training itself has said that it will fail again: a runtime restarts
        its pods several times all the same, and each start would end alike.

        :raises RunNotFoundError: somebody has deleted it
        """
        try:
            job = self._backend.get(*self._place, patience=0.0)
        except ApiUnavailableError as error:
            if not self._unanswered:
                self._log.warning("Waiting on: %s", str(error).partition("\n")[0])
            self._unanswered = True
            return None
        self._unanswered = False
        failures: list[PodTrouble] = []
        if job.state is RunState.PAUSED:
            self._has_run = self._all_run = False
            self._wait, self._failures = None, []
            self._reasons.clear()
        elif job.state is RunState.SUCCEEDED:
            self._wait, self._failures = None, []
        elif not self._is_settled(job):
            failures = self._look_at_pods(job)
        job = self._as_seen(job)
        self._tell(job)
        self._tell_failures(failures)
        self._before = job
        return job

    def _is_settled(self, job: TrainJob) -> bool:
        """Whether all pods ran when they were last looked at, and nothing says otherwise since."""
        is_recent = time.monotonic() - self._pods_seen_at < PODS_SECONDS
        is_same = self._before is not None and self._before.jobs == job.jobs
        return job.all_ready and self._all_run and is_same and is_recent

    def _as_seen(self, job: TrainJob) -> TrainJob:
        """The TrainJob with what its pods add to its status, which counts Jobs, whether they have pods or not."""
        if job.state is RunState.PENDING and self._has_run:
            return replace(job, state=RunState.RUNNING)
        if job.state is RunState.PENDING and self._wait:
            return replace(job, reason=_describe(self._wait))
        return job

    def _tell(self, job: TrainJob) -> None:
        before = self._before
        for line in changes(before, job):
            is_new_wait = job.state is RunState.PENDING and job.reason and line.startswith("TrainJob ")
            (self._log.warning if is_new_wait else self._log.info)("%s", line)
        if self._wait and job.state is RunState.RUNNING and self._wait != self._wait_told:
            self._log.warning("Not all nodes run: %s", _describe(self._wait))
        self._wait_told = self._wait
        if before is not None and (before.progress, before.metrics) == (job.progress, job.metrics):
            return
        points, told_at = self._progress
        is_step = points is None or job.progress is None or abs(job.progress - points) >= PROGRESS_POINTS
        is_due = time.monotonic() - told_at >= PROGRESS_SECONDS
        if (line := describe_progress(job)) and (
            (is_step and job.progress != points) or is_due or job.state.is_terminal
        ):
            self._log.info("%s", line)
            self._progress = (job.progress, time.monotonic())

    def _look_at_pods(self, job: TrainJob) -> list[PodTrouble]:
        """Take notice of what pods and events say; what has failed since the last look is returned."""
        pods = self._ask("Why pods do not run", lambda: self._backend.pods(*self._place))
        if pods is None:
            return []
        self._pods_seen_at = time.monotonic()
        live = list(filter(is_live, pods))
        training = training_jobs([*job.jobs] or [NODE])
        training_pods = [pod for pod in live if replicated_job(pod) in training]
        missing = _missing(job, live)
        self._has_run |= any(map(has_run, training_pods))
        troubles = [trouble for pod in pods for trouble in pod_troubles(pod)]
        # A pod that failed waits no more; one that is being deleted still says why it never ran.
        waiting = [pod for pod in pods if (pod.get("status") or {}).get("phase") != "Failed"]
        waits = [trouble for pod in waiting for trouble in pod_troubles(pod) if not trouble.has_ended]
        waits = waits or self._look_at_events(job, live, missing, {trouble.pod for trouble in troubles})
        if waits:
            self._wait = _steady(self._wait, waits[0])
            self._has_run &= bool(training_pods)  # what ran is gone, and nothing takes its place
        elif live and (all(map(has_run, live)) or self._wait_is_over(live, missing)):
            self._wait = None
        new = self._notice([trouble for trouble in troubles if trouble.has_ended])
        if waits and not missing:  # what failed was replaced, and it is the new pods that do not start
            names = {pod["metadata"]["name"] for pod in live}
            self._failures = [trouble for trouble in self._failures if trouble.pod in names]
        self._all_run = not missing and all(map(is_running, live))
        if self._all_run:
            self._ran_at = time.time()
        return new

    def _wait_is_over(self, live: Sequence[Mapping[str, Any]], missing: Sequence[str]) -> bool:
        """Whether the pods show that what was waited for has come, although they do not run yet: an image is pulled."""
        if self._wait is None:
            return False
        if is_creation_failure(self._wait):
            return not missing
        return is_about_scheduling(self._wait) and all(is_scheduled(pod) or has_run(pod) for pod in live)

    def _look_at_events(
        self,
        job: TrainJob,
        live: Sequence[Mapping[str, Any]],
        missing: Sequence[str],
        explained: set[str],
    ) -> list[PodTrouble]:
        """Why pods are missing, or wait without saying why."""
        makers = [job.name, *(missing[:MAX_PODS] if job.jobs else ())]
        waits = list(filter(is_creation_failure, self._warnings(job, makers))) if missing else []
        if not job.state.is_terminal:
            silent = {pod["metadata"]["name"]: pod for pod in live if not has_run(pod)}
            names = [name for name in silent if name not in explained][:MAX_PODS]
            waits += [
                trouble
                for trouble in self._warnings(job, names)
                if not (is_about_scheduling(trouble) and is_scheduled(silent[trouble.pod]))
            ]
        return waits

    def _warnings(self, job: TrainJob, names: Sequence[str]) -> list[PodTrouble]:
        found: list[dict[str, Any]] = []
        for name in names:
            ask = partial(self._backend.warnings, job.namespace, name)
            found += self._ask("Why pods are not made", ask) or []
        since = max(time.time() - EVENT_SECONDS, self._ran_at)
        return [trouble for trouble in event_troubles(found) if trouble.at is None or trouble.at > since]

    def _notice(self, failures: Sequence[PodTrouble]) -> list[PodTrouble]:
        """Those that are new, the first to fail first. After all nodes ran again, what fails next has its own reason."""
        new = []
        for trouble in failures:
            key = (trouble.pod, trouble.container, trouble.at)
            if key not in self._seen and not trouble.was_told_to_end:
                new.append(trouble)
            self._seen.add(key)
        if new and self._all_run:
            self._failures = []
        self._failures += new
        if self.final_error is None:
            self.final_error = next((trouble.message for trouble in new if trouble.is_final), None)
        return sorted(new, key=_order)

    def _tell_failures(self, failures: Sequence[PodTrouble]) -> None:
        """Tell of new failures, and of what the first of them wrote: nodes that fail together mostly fail alike."""
        for number, trouble in enumerate(failures):
            words, problem = self._read_log(trouble) if number < MAX_PODS else (LastWords(), "")
            explained = self._explain(trouble, words.reason, is_unread=bool(problem))
            self._failures = [explained if known is trouble else known for known in self._failures]
            self._log.warning("Pod %s: %s", trouble.pod, explained.message)
            said = (trouble.container, _without_numbers(explained.message), problem)
            if number < MAX_PODS and said not in self._logs_told and len(self._logs_told) < MAX_LOGS:
                self._logs_told.add(said)
                self._log.warning("%s", problem or f"Last lines of pod {trouble.pod}:")
                for line in words.lines:
                    self._log.warning("  %s", line)

    def _explain(self, trouble: PodTrouble, reason: str | None, *, is_unread: bool) -> PodTrouble:
        """With the reason that its log gives; with the former one where it ended as before and the log cannot be read."""
        end = (trouble.pod, trouble.container, trouble.message)
        if is_unread and trouble.is_unexplained and end in self._reasons:
            return replace(trouble, message=self._reasons[end].message)
        explained = _explained(trouble, reason)
        if not is_unread:
            self._reasons[end] = explained
        return explained

    def _read_log(self, trouble: PodTrouble) -> tuple[LastWords, str]:
        """What the container that failed wrote last, or why that cannot be read: it must not hide the failure."""
        try:
            log = self._backend.log_of(self._place[0], trouble, lines=READ_LINES)
        except LLMOpsError as error:
            return LastWords(), f"(could not be read: {str(error).partition(chr(10))[0]})"
        return read_last_words("\n".join(log)), ""

    def _ask(self, what: str, ask: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]] | None:
        """What is not told, or not allowed to be read, ends no wait. The latter is said once, and asked again at times."""
        if time.monotonic() - self._refused.get(what, float("-inf")) < REFUSED_SECONDS:
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
            self._refused[what] = float("-inf") if is_over else time.monotonic()
            return None


def replicated_job(pod: Mapping[str, Any]) -> str | None:
    """The job of a TrainJob that a pod belongs to.

    :param pod: the pod as the API server has it
    """
    name: str | None = (pod["metadata"].get("labels") or {}).get(REPLICATED_JOB_LABEL)
    return name


def changes(before: TrainJob | None, job: TrainJob) -> list[str]:
    """What to tell of the state of a TrainJob that is not what it was.

    :param before: at the last look; ``None`` at the first
    :param job: now
    """
    lines = []
    if before is None or (before.state, before.reason) != (job.state, job.reason):
        lines.append(
            f"TrainJob {job.namespace}/{job.name} is {job.state}" + (f" ({job.reason})" if job.reason else "")
        )
    known = before.jobs if before else {}
    lines += [f"Job {name}: {counts}" for name, counts in job.jobs.items() if known.get(name) != counts]
    return lines


def describe_progress(job: TrainJob) -> str:
    """How far the training is, in a line; empty if it has not said."""
    parts = []
    if job.progress is not None:
        left = job.remaining_seconds
        parts.append(f"{job.progress} %" + (f", {_duration(left)} left" if left else ""))
    parts += [f"{name} = {value:g}" for name, value in job.metrics.items()]
    return f"Progress: {'; '.join(parts)}" if parts else ""


def _missing(job: TrainJob, live: Sequence[Mapping[str, Any]]) -> list[str]:
    """The Jobs that have fewer pods than they need. Those of an initializer, or a launcher, have one."""
    names = [*job.jobs] or [NODE]
    # An MPI runtime may run one of the nodes in its launcher.
    nodes = max(job.nodes - 1, 1) if LAUNCHER in names else job.nodes
    made = Counter((replicated_job(pod), _label(pod, JOB_INDEX_LABEL, 0)) for pod in live)
    return [
        f"{job.name}-{name}-{index}"
        for name in names
        if name not in job.done_jobs
        for index in range(_replicas(name, live))
        if made[name, index] < (nodes if name == NODE else 1)
    ]


def _replicas(name: str, live: Sequence[Mapping[str, Any]]) -> int:
    """How many Jobs there are of a name, as their pods say. Kubeflow Trainer lets only jobs that are not its own have several."""
    return max((_label(pod, REPLICAS_LABEL, 1) for pod in live if replicated_job(pod) == name), default=1)


def _label(pod: Mapping[str, Any], label: str, default: int) -> int:
    return int((pod["metadata"].get("labels") or {}).get(label, default))


def _first(failures: Sequence[PodTrouble]) -> PodTrouble:
    return min(failures, key=_order)


def _explained(trouble: PodTrouble, reason: str | None) -> PodTrouble:
    """With the reason that its log gives, where the container left no last words of its own."""
    if reason is None or not trouble.is_unexplained:
        return trouble
    how = trouble.message.removeprefix("ended with ")
    return replace(trouble, message=f"{shortened(reason, MAX_MESSAGE_CHARACTERS)} ({how})")


def _order(trouble: PodTrouble) -> tuple[bool, float]:
    """What the training says will happen again, then by time: a node that fails first takes the others with it."""
    return not trouble.is_final, float("inf") if trouble.at is None else trouble.at


def _steady(before: PodTrouble | None, now: PodTrouble) -> PodTrouble:
    """What was said before if it comes to the same: a kubelet says in turn why an image fails and that it waits.

    A scheduler's counts of nodes, and the names of pods that are tried one after another, are no news either.
    """
    if before is None or before.kind != now.kind:
        return now
    is_same = now.kind == "ImagePullBackOff" or _without_numbers(before.message) == _without_numbers(
        now.message
    )
    return before if is_same else now


def _describe(trouble: PodTrouble) -> str:
    return trouble.message if trouble.pod in trouble.message else f"{trouble.message} (pod {trouble.pod})"


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+", "#", text)


def _duration(seconds: int) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds} s"
