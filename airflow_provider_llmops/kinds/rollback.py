"""A former revision of a service on its way back, as a task deals with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.backends.serving.base import Revision
from airflow_provider_llmops.delivery.rollback import StepBack, step_back
from airflow_provider_llmops.delivery.rollout import Rollout
from airflow_provider_llmops.kinds.revision import Revisions, name_in, service_of
from airflow_provider_llmops.remote.intent import Intent

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["Rollbacks"]


class Rollbacks(Revisions):
    """Former revisions of one service that come back.

    What comes back, and what it replaces, is decided once and stored before anything is changed, so that no retry goes back a second time.

    Arguments are those of :class:`~airflow_provider_llmops.kinds.revision.Revisions`, and:

    :param to_revision: the revision that is to come back; the last good one when ``None``
    """

    def __init__(self, *arguments: Any, to_revision: str | None, **options: Any) -> None:
        super().__init__(*arguments, only_if_newer=False, **options)
        self._to_revision = to_revision
        self._decided: StepBack | None = None

    @property
    def step(self) -> StepBack | None:
        """What this task, or an attempt before, has decided."""
        if self._decided is None and (intent := self._stored_intent()) is not None:
            self._decided = _step_in(intent)
        return self._decided

    @property
    def back_to(self) -> str | None:
        """What the revision was to replace."""
        return self.step.replaced if self.step is not None and self.step.changes else None

    def new_name(self, context: Context) -> str:
        """The service, a token, and what is decided; a retry takes what was."""
        former = Intent.load(context)
        if former is not None and service_of(former) == (self.namespace, self.service_name):
            return former.name
        service = self.backend.get(self.namespace, self.service_name)
        return f"{super().new_name(context)} {step_back(service, self._to_revision)}"

    def return_of(self, intent: Intent) -> Callable[[], str]:
        """What starts the revision that comes back, or finds that it runs, and returns its key.

        :param intent: this attempt's
        """
        step = self._decided = _step_in(intent)
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

    def key_before(self, intent: Intent) -> str:
        """The revision is there before it comes back."""
        return _step_in(intent).key

    def stop_former(self, intent: Intent, seen: Revision | None) -> None:
        """After the task was cleared: stop what was coming back, unless requests go to it."""
        if seen is not None and not seen.state.is_lost:
            step = _step_in(intent)
            back_to = step.replaced if step.changes else None
            rollout = Rollout(self.backend, *service_of(intent), self.log, back_to=back_to)
            rollout.cancel(name_in(self.key_of(seen)))


def _step_in(intent: Intent) -> StepBack:
    return StepBack.read(intent.name.rpartition(" ")[2])
