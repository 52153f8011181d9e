"""Notice that steps of a pipeline run wait for long, and say why: once for each reason, not at every look."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_provider_llmops.states import StepState

if TYPE_CHECKING:
    from airflow_provider_llmops.backends.pipelines.base import Run, Wait

LONG_SECONDS = 60.0  # a pod that has to wait for nothing begins sooner
ASK_AGAIN_SECONDS = 60.0
# Kind of a wait that nobody can be asked about, so that no other answer comes.
NO_CONNECTION = "NoConnection"


class WaitWatch:
    """What the steps of a run wait for, as far as it was asked."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._asked_at: float | None = None
        self._is_answered = True
        self._logged: set[tuple[str, str]] = set()
        self._reasons: dict[str, Wait] = {}

    def see(self, run: Run) -> None:
        """Note which steps wait now.

        :param run: the run, as it was just read
        """
        waiting = [name for name, state in run.tasks.items() if state == StepState.PENDING]
        if not waiting and not run.state.is_terminal and (run.waits or not run.tasks):
            waiting = [""]  # some step, or the run before its steps are known
        now = time.monotonic()
        self._since = {name: self._since.get(name, now) for name in waiting}
        if not waiting:
            self._reasons = {}

    @property
    def due_in(self) -> float | None:
        """Seconds after which to ask why; ``None`` while nothing waits, or nobody can tell."""
        if not self._since or not self._is_answered:
            return None
        at = min(self._since.values()) + LONG_SECONDS
        if self._asked_at is not None:
            at = max(at, self._asked_at + ASK_AGAIN_SECONDS)
        return max(at - time.monotonic(), 0.0)

    def ask(self) -> None:
        """Note that why is being asked, whether an answer comes or not."""
        self._asked_at = time.monotonic()

    def learn(self, waits: Sequence[Wait]) -> list[str]:
        """Lines about the reasons that have not been told.

        :param waits: why steps wait; of all, where no step is named
        """
        if not self._since:
            return []  # everything has begun since it was asked
        self._is_answered = all(wait.kind != NO_CONNECTION for wait in waits)
        reasons: dict[str, Wait] = {}
        lines = []
        for wait in sorted(waits, key=lambda wait: wait.since or 0.0):  # the longest first
            for name in [wait.step] if wait.step else list(self._since):
                known = self._reasons.get(name)
                # The first words say most: a kubelet has the reason of a back-off only before it.
                # Kept however short the wait is, since the run's time may be up before anybody is asked again.
                reasons[name] = known if known and known.kind == wait.kind else wait
                seconds = self._waited(name, wait)
                if seconds >= LONG_SECONDS and (name, wait.kind) not in self._logged:
                    self._logged.add((name, wait.kind))
                    lines.append(f"{_of(name)} has waited for {seconds:.0f} s: {wait.reason}")
        self._reasons = reasons
        return lines

    @property
    def reason(self) -> str | None:
        """Why the first step that still waits does so, if it is known."""
        waiting = (item for item in self._reasons.items() if item[0] in self._since or "" in self._since)
        first = next(waiting, None)
        return first and f"{_of(first[0])} still waits: {first[1].reason.rstrip('.')}"

    def _waited(self, name: str, wait: Wait) -> float:
        if wait.since is not None:
            return max(time.time() - wait.since, 0.0)
        return time.monotonic() - self._since.get(name, min(self._since.values(), default=time.monotonic()))


def _of(step: str) -> str:
    return f"Step {step!r}" if step else "The run"
