"""A revision of a service on its way to all of the requests, as a task deals with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.backends.serving.base import Revision, Service
from airflow_provider_llmops.delivery.promotion import (
    Promotion,
    check_promotion,
    has_everything,
    promotion_in,
    share_again,
)
from airflow_provider_llmops.delivery.rollback import described
from airflow_provider_llmops.exceptions import LLMOpsError, QualityGateFailed, RunFailedError
from airflow_provider_llmops.kinds.decided import DecidedRevisions
from airflow_provider_llmops.kinds.revision import name_in
from airflow_provider_llmops.remote.intent import Intent
from airflow_provider_llmops.states import ServiceState

if TYPE_CHECKING:
    from airflow_provider_llmops.triggers.canary import PromotionTrigger

__all__ = ["Promotions"]


class Promotions(DecidedRevisions[Promotion]):
    """Revisions of one service that get all of the requests.

    None is ever stopped by the task: one that is not promoted keeps what it has.

    Arguments are those of :class:`~airflow_provider_llmops.kinds.revision.Revisions`, and:

    :param revision: the revision; the canary that is under way when ``None``
    """

    def __init__(self, *arguments: Any, revision: str | None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._revision = revision
        self._as_of: str | None = None

    def decide(self, service: Service) -> Promotion:
        """What is promoted, and what it has before."""
        return promotion_in(service, self._revision)

    def read_decision(self, text: str) -> Promotion:
        """A promotion from its text."""
        return Promotion.read(text)

    def date_of(self, intent: Intent, otherwise: str | None) -> str | None:
        """Date or partition of the revision's model.

        :param intent: this attempt's
        :param otherwise: what it is where nobody has noted it
        """
        self._decided = self.decision_in(intent)
        found = self.backend.get(self.namespace, self.service_name).revisions.get(self._decided.revision)
        self._as_of = (found.as_of if found is not None else None) or otherwise
        return self._as_of

    def start_promotion(self) -> Callable[[], str]:
        """What returns the key of the revision, which can have the requests; the watch gives it them.

        :raises ConfigurationError: it cannot
        """
        promotion = self.decided
        assert promotion is not None
        service = self.backend.get(self.namespace, self.service_name)
        found = check_promotion(service, promotion)
        if has_everything(service, found.revision):
            said = "has all of the requests already, and nothing is changed"
        else:
            said = f"has {found.traffic}% of the requests, and gets all of them"
        self.log.info("Revision %s of service %s %s", found.revision, self.service_name, said)
        return lambda: promotion.key

    def has_ended(self, key: str) -> bool:
        """Whether the revision has all of the requests already."""
        service = self.backend.get(self.namespace, self.service_name)
        return has_everything(service, name_in(key))

    def read(self, key: str, event: dict[str, Any]) -> Revision:
        """The revision, which is ready where the promotion has come to its end."""
        if event["error"]:
            return Revision(name_in(key), ServiceState.FAILED, error=event["error"])
        state = ServiceState.STARTING if event["timed_out"] else ServiceState.READY
        return Revision(name_in(key), state)

    def cancel(self, key: str, *, patience: float | None = None) -> None:
        """Give the revision the share that it had, unless it is the stable one by now."""
        promotion = self.decided
        if promotion is None:
            return
        place = (self.namespace, self.service_name)
        if share_again(self.backend, *place, promotion.revision, promotion.share):
            self.log.info("Revision %s has %s%% of the requests again", promotion.revision, promotion.share)

    def stop_former(self, intent: Intent, seen: Revision | None) -> None:
        """Nothing: what was promoted before the task was cleared serves on."""

    def failure(self, key: str, event: dict[str, Any], *, limits: str) -> Exception:
        """Why a revision has not all of the requests. It is not stopped.

        :param key: its key
        :param event: of the trigger
        :param limits: the limits that it may have reached
        """
        why = event["error"] or f"It took longer than {limits}."
        error = QualityGateFailed if event.get("is_final") else RunFailedError
        return error(
            f"Revision {name_in(key)} could not be given all of the requests: {why} {self._now()}".rstrip(),
            f"Service: {self.namespace}/{self.service_name}",
        )

    def _now(self) -> str:
        """What the revisions of the service have, where that can be read."""
        try:
            return f"The service has {described(self.backend.get(self.namespace, self.service_name))}."
        except LLMOpsError:  # it must not hide the failure
            return ""

    def trigger(self, key: str, *, poll_interval: float, deadline: float | None) -> PromotionTrigger:
        """What gives the revision the requests, and waits until it is the stable one."""
        from airflow_provider_llmops.triggers.canary import PromotionTrigger

        promotion = self.decided
        assert promotion is not None
        return PromotionTrigger(
            kserve_conn_id=self.hook.kserve_conn_id,
            namespace=self.namespace,
            name=self.service_name,
            revision=promotion.revision,
            as_of=self._as_of,
            poll_interval=poll_interval,
            deadline=deadline,
            cancel_on_kill=self.cancel_on_kill,
            only_if_newer=self.only_if_newer,
            former_share=promotion.share,
        )
