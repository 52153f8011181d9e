"""The protocol between the KServe hook and whatever runs services."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.states import ServiceState


@dataclass(frozen=True)
class Answers:
    """What a revision has answered since some time. Requests that were refused as wrong are none.

    :param requests: how many requests
    :param errors: how many of them with an error of its own: a status from 500 on, or 429, no answer, or one that was cut off
    :param seconds: how many of the others took at most so long and longer than the next smaller number
    :param began: Unix time since which it is counted
    :param parts: what each of its processes has answered, by name, where each counts for itself; then the rest is their sum
    """

    requests: int = 0
    errors: int = 0
    seconds: Mapping[float, int] = field(default_factory=dict)
    began: float = 0.0
    parts: Mapping[str, Answers] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Mapping[str, Answers]) -> Answers:
        """What several processes have answered together.

        :param parts: what each has answered, by its name
        """
        seconds: Counter[float] = Counter()
        for part in parts.values():
            seconds.update(part.seconds)
        return cls(
            sum(part.requests for part in parts.values()),
            sum(part.errors for part in parts.values()),
            dict(seconds),
            min((part.began for part in parts.values()), default=0.0),
            dict(parts),
        )

    @property
    def error_rate(self) -> float | None:
        """Share of the errors, from 0 to 1; ``None`` without requests."""
        return self.errors / self.requests if self.requests else None

    def percentile(self, share: float) -> float | None:
        """Seconds within which a share of the answers without an error came; ``None`` without any.

        :param share: from 0 to 1
        """
        wanted = share * sum(self.seconds.values())
        counted = 0
        for bound, count in sorted(self.seconds.items()):
            counted += count
            if count and counted >= wanted:
                return bound
        return None

    def since(self, before: Answers) -> Answers:
        """Those that came later; all, where the count was begun anew.

        Of several processes each is compared with itself. What one that is gone has answered is lost, the errors, too.

        :param before: what was counted then
        """
        if self.parts or before.parts:
            nothing = Answers()
            return Answers.of(
                {name: part.since(before.parts.get(name, nothing)) for name, part in self.parts.items()}
            )
        if before.requests and before.began != self.began:
            return self
        bounds = {**self.seconds, **before.seconds}
        later = {bound: self.seconds.get(bound, 0) - before.seconds.get(bound, 0) for bound in bounds}
        return Answers(self.requests - before.requests, self.errors - before.errors, later, self.began)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        if self.parts:
            return {"parts": {name: part.to_json() for name, part in self.parts.items()}}
        seconds = {str(bound): count for bound, count in self.seconds.items()}
        return {"requests": self.requests, "errors": self.errors, "seconds": seconds, "began": self.began}

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Answers:
        """Read what was counted.

        :param value: of :meth:`to_json`
        """
        if "parts" in value:
            return cls.of({name: cls.read(part) for name, part in value["parts"].items()})
        seconds = {float(bound): count for bound, count in value["seconds"].items()}
        return cls(value["requests"], value["errors"], seconds, value["began"])


@dataclass(frozen=True)
class Revision:
    """One revision of a service.

    :param revision: its name
    :param state: whether it answers
    :param url: address that reaches this revision and no other
    :param traffic: its share of the service's requests in percent
    :param error: why it failed
    :param digest: of the manifest that it was started from
    :param answered: what it has answered so far; ``None`` where that is not counted, or cannot be read
    :param as_of: date or partition of its model, as text that sorts
    :param served_at: when it was given the requests last, as text that sorts; ``None`` if it never was
    :param is_given_up: whether it was given up since: nothing to go back to
    :param ignored: fields of its manifest that mean nothing where it runs
    """

    revision: str
    state: ServiceState
    url: str | None = None
    traffic: int = 0
    error: str | None = None
    digest: str | None = None
    answered: Answers | None = None
    as_of: str | None = None
    served_at: str | None = None
    is_given_up: bool = False
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Service:
    """A service as its backend sees it now.

    :param name: name of the service
    :param namespace: its namespace
    :param url: its stable address; ``None`` before it first got traffic
    :param revisions: its revisions by name
    :param as_of: date or partition of its model, as text that sorts
    :param is_reachable: whether what listens at its address runs
    :param stable: the revision that had all of the requests last, to which a canary's share goes back
    :param wanted: the revision that was asked for last, whether it has the requests or is on its way to them; ``None`` if that was
        none of ours
    :param is_managed: whether it was deployed by this provider
    :param is_settled: whether its requests are shared out as somebody has asked; where they are not, because that takes minutes,
        :meth:`ServingBackend.set_traffic` has to be called again
    :param has_pods_to_come: whether there is nothing to call it for yet: what it waits for neither serves nor has failed
    """

    name: str
    namespace: str
    url: str | None
    revisions: Mapping[str, Revision]
    as_of: str | None = None
    is_reachable: bool = True
    stable: str | None = None
    wanted: str | None = None
    is_managed: bool = True
    is_settled: bool = True
    has_pods_to_come: bool = False

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


def check_wanted(service: Service, revision: str, replacing: str) -> None:
    """Refuse to bring a revision back where another one than that which it was to replace was asked for since.

    :param service: the service as it is
    :param revision: the revision that is to come back
    :param replacing: the one that it is to replace
    :raises ConfigurationError: another one was
    """
    if service.wanted not in (revision, replacing):
        raise ConfigurationError(
            f"Revision {service.wanted} was asked for since, and nothing was changed: {revision} was to replace {replacing}. Look whether "
            "it is to be rolled back, too.",
            f"Service: {service.namespace}/{service.name}",
        )


class ServingBackend(Protocol):
    """Something that runs services described by a manifest."""

    poll_interval: float
    """Seconds between two looks, unless somebody says otherwise."""
    rolls_out: bool
    """Whether a revision that is asked for gets the requests by itself as soon as it is ready."""
    lags: bool
    """Whether who ``may_lag`` is answered with what was a moment ago, which others look at, too."""

    def apply(
        self, manifest: Mapping[str, Any], *, as_of: str | None = None, beside: bool = False
    ) -> tuple[Revision, bool]:
        """The revision that runs a manifest, and whether it was started now; returns at once.

        Traffic stays where it is, unless the backend rolls new revisions out by itself: there ``beside`` has the revision run beside the
        one that serves, if one does, without requests. For a backend that rolls out the date of the model is said now, since it counts
        from now on.
        """

    def reason_not_to_split(self, namespace: str) -> str | None:
        """Why requests are not shared out among revisions in a namespace, and what to set; ``None`` where they are."""

    def names(self, namespace: str, *, patience: float | None = None) -> list[str]:
        """Names of all services of a namespace, whoever has deployed them."""

    def get(
        self, namespace: str, name: str, *, patience: float | None = None, may_lag: bool = False
    ) -> Service:
        """Read a service; who looks again anyway has no ``patience`` with a server that does not answer.

        Who only waits for a change ``may_lag``, and decides nothing on what he is told then.
        """

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

    def way_to(self, service: Service, revision: str) -> tuple[str, str | None]:
        """How a client beside the service asks one revision and no other: the address, and the name to send where it is the service's."""

    def bring_back(
        self, namespace: str, name: str, revision: str, *, replacing: str
    ) -> tuple[Revision, bool]:
        """Have a former revision run again, and whether it was started now; returns at once. One that runs is left alone.

        Traffic is as with :meth:`apply`. ``replacing`` is the revision that was asked for last; where that is another one by now, nothing
        is changed.
        """

    def withdraw(
        self, namespace: str, name: str, revision: str, *, back_to: str | None = None, is_bad: bool = True
    ) -> str | None:
        """Stop a revision that :meth:`set_traffic` has not given all of the traffic; what served before it serves on, or again.

        The answer names the revision that had to be started again. ``back_to`` is the one that is to serve then, where that is known;
        one that is not bad can be gone back to.
        """

    def give_up(self, namespace: str, name: str, revision: str) -> None:
        """Stop a revision that another one has replaced, and never go back to it."""

    def delete(self, namespace: str, name: str) -> None:
        """Remove the service with all its revisions; nothing if there is none."""

    def left_of(self, namespace: str, name: str) -> list[str]:
        """What is still there of a service that was deleted, in words."""

    def logs(self, namespace: str, name: str, revision: str, lines: int) -> list[str]:
        """The last lines that a revision wrote."""

    def check(self) -> str:
        """Say in one line what was reached; raises if it cannot be used."""
