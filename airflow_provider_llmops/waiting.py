"""Notice that steps of a pipeline run wait for long, and say why: once for each reason, not at every look."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_provider_llmops.states import StepState

if TYPE_CHECKING:
    from airflow_provider_llmops.backends.base import Run, Wait

LONG_SECONDS = 60.0  # a pod that has to wait for nothing begins sooner
ASK_AGAIN_SECONDS = 60.0


class WaitWatch:
    """What the steps of a run wait for, as far as it was asked."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._reasons: dict[str, Wait] = {}
        self._asked_at: float | None = None

    def see(self, run: Run) -> None:
        """Note which steps wait now.

        :param run: the run, as it was just read
        """
        waiting = [name for name, state in run.tasks.items() if state == StepState.PENDING]
        if not run.tasks and not run.state.is_terminal:
            waiting = [""]  # not even its steps are known
        now = time.monotonic()
        self._since = {name: self._since.get(name, now) for name in waiting}
        self._reasons = {name: wait for name, wait in self._reasons.items() if name in self._since}

    @property
    def due_in(self) -> float | None:
        """Seconds after which to ask why; ``None`` while nothing waits."""
        if not self._since:
            return None
        at = min(self._since.values()) + LONG_SECONDS
        if self._asked_at is not None:
            at = max(at, self._asked_at + ASK_AGAIN_SECONDS)
        return max(at - time.monotonic(), 0.0)

    def learn(self, waits: Sequence[Wait]) -> list[str]:
        """Lines about the reasons that have not been told.

        :param waits: why steps wait; of all, where no step is named
        """
        self._asked_at = time.monotonic()
        lines = []
        for name, since in self._since.items():
            own = [wait for wait in waits if wait.step == name] or [wait for wait in waits if not wait.step]
            if not own and not name:
                own = list(waits[:1])
            known = self._reasons.get(name)
            if own and (known is None or known.kind != own[0].kind):
                self._reasons[name] = own[0]
                seconds = time.monotonic() - since
                lines.append(f"{_of(name or own[0].step)} has waited for {seconds:.0f} s: {own[0].reason}")
        return lines

    @property
    def reason(self) -> str | None:
        """Why the first step that still waits does so, if it is known."""
        first = next(iter(self._reasons.items()), None)
        return first and f"{_of(first[0] or first[1].step)} still waits: {first[1].reason.rstrip('.')}"


def _of(step: str) -> str:
    return f"Step {step!r}" if step else "The run"
