"""A former revision of a service on its way back, as a task deals with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow_provider_llmops.backends.serving.base import Revision, Service
from airflow_provider_llmops.delivery.rollback import StepBack, step_back
from airflow_provider_llmops.delivery.rollout import Rollout
from airflow_provider_llmops.kinds.decided import DecidedRevisions
from airflow_provider_llmops.kinds.revision import name_in, service_of
from airflow_provider_llmops.remote.intent import Intent

__all__ = ["Rollbacks"]


class Rollbacks(DecidedRevisions[StepBack]):
    """Former revisions of one service that come back.

    What comes back, and what it replaces, is decided once and stored before anything is changed, so that no retry goes back a second time.

    Arguments are those of :class:`~airflow_provider_llmops.kinds.revision.Revisions`, and:

    :param to_revision: the revision that is to come back; the last good one when ``None``
    """

    def __init__(self, *arguments: Any, to_revision: str | None, **options: Any) -> None:
        super().__init__(*arguments, only_if_newer=False, **options)
        self._to_revision = to_revision

    def decide(self, service: Service) -> StepBack:
        """What comes back, and what it replaces."""
        return step_back(service, self._to_revision)

    def read_decision(self, text: str) -> StepBack:
        """A step back from its text."""
        return StepBack.read(text)

    @property
    def back_to(self) -> str | None:
        """What the revision was to replace."""
        return self.decided.replaced if self.decided is not None and self.decided.changes else None

    def return_of(self, intent: Intent) -> Callable[[], str]:
        """What starts the revision that comes back, or finds that it runs, and returns its key.

        :param intent: this attempt's
        """
        step = self._decided = self.decision_in(intent)
        return lambda: self._bring_back(step)

    def _bring_back(self, step: StepBack) -> str:
        place = (self.namespace, self.service_name)
        revision, self._is_new = self.backend.bring_back(*place, step.revision, replacing=step.replaced)
        what = (
            f"which replaces {step.replaced}" if step.changes else "which is the one that was asked for last"
        )
        how = "is starting again" if self._is_new else f"is {revision.state}"
        self.log.info("Revision %s of service %s %s, %s", step.revision, self.service_name, how, what)
        return self.key_of(revision)

    def stop_former(self, intent: Intent, seen: Revision | None) -> None:
        """After the task was cleared: stop what was coming back, unless requests go to it."""
        if seen is not None and not seen.state.is_lost:
            step = self.decision_in(intent)
            back_to = step.replaced if step.changes else None
            rollout = Rollout(self.backend, *service_of(intent), self.log, back_to=back_to)
            rollout.cancel(name_in(self.key_of(seen)))
