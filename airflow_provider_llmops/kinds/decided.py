"""Revisions of which one is chosen once, as a task that chooses it deals with them."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from airflow_provider_llmops.backends.serving.base import Service
from airflow_provider_llmops.kinds.revision import Revisions, service_of
from airflow_provider_llmops.remote.intent import Intent

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["DecidedRevisions"]


class HasKey(Protocol):
    """A choice of one revision, which is stored as text."""

    @property
    def key(self) -> str:
        """The revision's key."""


Choice = TypeVar("Choice", bound=HasKey)


class DecidedRevisions(Revisions, Generic[Choice]):
    """Revisions of one service, of which a task brings in one that is there.

    Which one, and what it replaces, is decided once and stored before anything is changed, so that a retry goes on with the same.

    Arguments are those of :class:`~airflow_provider_llmops.kinds.revision.Revisions`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._decided: Choice | None = None

    @abstractmethod
    def decide(self, service: Service) -> Choice:
        """Decide which revision it is.

        :param service: the service as it is
        """

    @abstractmethod
    def read_decision(self, text: str) -> Choice:
        """Read what was stored.

        :param text: a decision as text
        """

    @property
    def decided(self) -> Choice | None:
        """What this task, or an attempt before, has decided."""
        if self._decided is None and (intent := self._stored_intent()) is not None:
            self._decided = self.decision_in(intent)
        return self._decided

    def decision_in(self, intent: Intent) -> Choice:
        """What was decided when an intent was made.

        :param intent: the intent
        """
        return self.read_decision(intent.name.rpartition(" ")[2])

    def new_name(self, context: Context) -> str:
        """The service, a token, and what is decided; a retry takes what was."""
        former = Intent.load(context)
        if former is not None and service_of(former) == (self.namespace, self.service_name):
            return former.name
        service = self.backend.get(self.namespace, self.service_name)
        return f"{super().new_name(context)} {self.decide(service)}"

    def key_before(self, intent: Intent) -> str:
        """The revision is there before the task does anything with it."""
        return self.decision_in(intent).key
