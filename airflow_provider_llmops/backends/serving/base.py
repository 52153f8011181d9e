"""The protocol between the KServe hook and whatever runs services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from airflow_provider_llmops.states import ServiceState


@dataclass(frozen=True)
class Revision:
    """One revision of a service.

    :param revision: its name
    :param state: whether it answers
    :param url: address that reaches this revision and no other
    :param traffic: its share of the service's requests in percent
    :param error: why it failed
    :param digest: of the manifest that it was started from
    """

    revision: str
    state: ServiceState
    url: str | None = None
    traffic: int = 0
    error: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Service:
    """A service as its backend sees it now.

    :param name: name of the service
    :param namespace: its namespace
    :param url: its stable address; ``None`` before it first got traffic
    :param revisions: its revisions by name
    :param as_of: date or partition of its model, as text that sorts
    :param is_reachable: whether what listens at its address runs
    """

    name: str
    namespace: str
    url: str | None
    revisions: Mapping[str, Revision]
    as_of: str | None = None
    is_reachable: bool = True

    @property
    def is_serving(self) -> bool:
        """Whether a revision answers the service's requests."""
        return self.is_reachable and any(
            each.traffic and each.state.is_ready for each in self.revisions.values()
        )

    def is_newer_than(self, as_of: str | None) -> bool:
        """Whether it serves a model of a newer date.

        :param as_of: date or partition of another model
        """
        return bool(self.is_serving and as_of and self.as_of and self.as_of > as_of)


class ServingBackend(Protocol):
    """Something that runs services described by a manifest."""

    poll_interval: float
    """Seconds between two looks, unless somebody says otherwise."""

    def apply(self, manifest: Mapping[str, Any], *, as_of: str | None = None) -> tuple[Revision, bool]:
        """The revision that runs a manifest, and whether it was started now; returns at once.

        Traffic stays where it is, unless the backend rolls new revisions out by itself. For one that does the date of the model is said
        now, since it counts from now on.
        """

    def get(self, namespace: str, name: str, *, patience: float | None = None) -> Service:
        """Read a service; who looks again anyway has no ``patience`` with a server that does not answer."""

    def set_traffic(
        self,
        namespace: str,
        name: str,
        percent: Mapping[str, int],
        *,
        as_of: str | None = None,
        only_if_newer: bool = True,
    ) -> Service:
        """Share the requests out among revisions that are ready; the others are stopped.

        With ``as_of`` and ``only_if_newer`` nothing changes where a model of a newer date serves:
        :meth:`Service.is_newer_than` of the answer tells.
        """

    def ask(self, namespace: str, name: str, revision: str, prompt: str, max_tokens: int) -> str:
        """Ask one revision a question, whoever else may ask it; with fewer tokens where its context has no room for so many."""

    def withdraw(self, namespace: str, name: str, revision: str) -> str | None:
        """Stop a revision that :meth:`set_traffic` has not given the traffic; what served before it serves on, or again.

        The answer names the revision that had to be started again.
        """

    def delete(self, namespace: str, name: str) -> None:
        """Remove the service with all its revisions."""

    def logs(self, namespace: str, name: str, revision: str, lines: int) -> list[str]:
        """The last lines that a revision wrote."""

    def check(self) -> str:
        """Say in one line what was reached; raises if it cannot be used."""
