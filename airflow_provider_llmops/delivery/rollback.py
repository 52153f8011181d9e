"""Which revision of a service comes back, and which one it replaces."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_llmops.backends.serving.base import Revision, Service
from airflow_provider_llmops.delivery.revision_keys import key_of, parts_of
from airflow_provider_llmops.exceptions import ConfigurationError, shown_value


@dataclass(frozen=True)
class StepBack:
    """What a rollback changes.

    :param revision: the revision that comes back
    :param replaced: the one that it replaces; the same where it is the one that was asked for last
    :param digest: of the manifest of the revision that comes back
    """

    revision: str
    replaced: str
    digest: str | None = None

    @property
    def key(self) -> str:
        """The revision as :class:`~airflow_provider_llmops.kinds.revision.Revisions` knows it."""
        return key_of(self.revision, self.digest)

    @property
    def changes(self) -> bool:
        """Whether another revision is to serve than the one that was asked for last."""
        return self.revision != self.replaced

    def __str__(self) -> str:
        """As it is stored."""
        return f"{self.replaced}>{self.key}"

    @classmethod
    def read(cls, text: str) -> StepBack:
        """Read what was stored."""
        replaced, _, key = text.partition(">")
        revision, digest = parts_of(key)
        return cls(revision, replaced, digest)


def step_back(service: Service, to_revision: str | None = None) -> StepBack:
    """Decide what comes back: the revision that served last before the one that was asked for last, and was not given up.

    :param service: the service as it is
    :param to_revision: a revision that somebody has chosen, whatever became of it
    :raises ConfigurationError: there is none to go back to
    """
    where = f"Service: {service.namespace}/{service.name}"
    if service.wanted is None:
        raise ConfigurationError(
            f"Service {service.name!r} was changed by somebody else since it was deployed, and is not rolled back. Deploy a model to it.",
            where,
        )
    found = service.revisions.get(to_revision) if to_revision else last_good(service)
    if found is None:
        missing = (
            f"Service {service.name!r} has no revision {shown_value(to_revision)}."
            if to_revision
            else f"There is no good revision of service {service.name!r} to go back to: none has served before {service.wanted} and was "
            "not given up since."
        )
        raise ConfigurationError(
            f"{missing} It has {described(service)}. Deploy a model, or name one of these as to_revision.",
            where,
        )
    return StepBack(found.revision, service.wanted, found.digest)


def last_good(service: Service) -> Revision | None:
    """The revision that served last, but for the one that was asked for last and those that were given up.

    :param service: the service as it is
    """
    others = (
        each
        for each in service.revisions.values()
        if each.served_at is not None and not each.is_given_up and each.revision != service.wanted
    )
    return max(others, key=lambda each: each.served_at or "", default=None)


def described(service: Service) -> str:
    """The revisions of a service, with what is known of each.

    :param service: the service as it is
    """
    return ", ".join(_described(each) for each in service.revisions.values()) or "none"


def _described(revision: Revision) -> str:
    if revision.traffic:
        what = f"has {revision.traffic}% of the requests"
    elif revision.is_given_up:
        what = "given up"
    elif revision.served_at is None:
        what = f"{revision.state}, never noted to serve"
    else:
        what = f"served from {revision.served_at[:19]} on"
    return f"{revision.revision} ({what})"
