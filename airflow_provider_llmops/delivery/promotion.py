"""Which revision of a service is to have all of its requests, and how a promotion that ends on its way is undone."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_llmops.backends.serving.base import Revision, Service, ServingBackend
from airflow_provider_llmops.delivery.revision_keys import key_of, parts_of
from airflow_provider_llmops.delivery.rollback import described
from airflow_provider_llmops.exceptions import ConfigurationError, shown_value

__all__ = ["Promotion", "check_promotion", "has_everything", "promotion_in", "share_again"]


@dataclass(frozen=True)
class Promotion:
    """What a promotion changes.

    :param revision: the revision that is to have all of the requests
    :param replaced: the one that is stable before; the same where the revision is that
    :param share: percent of the requests that the revision has before
    :param digest: of the revision's manifest
    """

    revision: str
    replaced: str
    share: int
    digest: str | None = None

    @property
    def key(self) -> str:
        """The revision as :class:`~airflow_provider_llmops.kinds.revision.Revisions` knows it."""
        return key_of(self.revision, self.digest)

    def __str__(self) -> str:
        """As it is stored."""
        return f"{self.replaced}={self.share}>{self.key}"

    @classmethod
    def read(cls, text: str) -> Promotion:
        """Read what was stored."""
        before, _, key = text.partition(">")
        replaced, _, share = before.partition("=")
        revision, digest = parts_of(key)
        return cls(revision, replaced, int(share), digest)


def promotion_in(service: Service, revision: str | None = None) -> Promotion:
    """Decide what is promoted: the canary that is under way, or the revision that somebody has chosen.

    :param service: the service as it is
    :param revision: the revision that is chosen
    :raises ConfigurationError: there is none, or there are several
    """
    chosen = revision or _canary_of(service)
    found = service.revisions.get(chosen)
    if found is None:
        raise ConfigurationError(
            f"Service {service.name!r} has no revision {shown_value(chosen)}. It has {described(service)}. Name one of these as revision.",
            _where(service),
        )
    others = [name for name in _with_requests(service) if name != chosen]
    if service.stable == chosen and service.is_settled and others:
        raise ConfigurationError(
            f"Revision {chosen} is the stable one, and {', '.join(others)} beside it would lose its requests. Promote that, or take it back "
            "with RollbackOperator.",
            _where(service),
        )
    return Promotion(chosen, service.stable or chosen, found.traffic, found.digest)


def _canary_of(service: Service) -> str:
    """The revision that shares the requests with the stable one, or is on its way to be that."""
    if not service.is_settled and service.wanted is not None:
        return service.wanted
    found = [name for name in _with_requests(service) if name != service.stable]
    if len(found) == 1:
        return found[0]
    trouble = (
        f"Several revisions share the requests with {service.stable}: {', '.join(found)}"
        if found
        else "No canary has any of the requests"
    )
    raise ConfigurationError(
        f"{trouble}. Service {service.name!r} has {described(service)}. Name the one that is to have all of them as revision.",
        _where(service),
    )


def _with_requests(service: Service) -> list[str]:
    return [name for name, each in service.revisions.items() if each.traffic]


def has_everything(service: Service, revision: str) -> bool:
    """Whether a revision is the stable one and has all of the requests, as is seen where they are shared out.

    :param service: the service as it is
    :param revision: the revision
    """
    found = service.revisions.get(revision)
    has_all = found is not None and found.state.is_ready and found.traffic == 100
    return has_all and service.stable == revision and service.is_settled and service.is_reachable


def check_promotion(service: Service, promotion: Promotion) -> Revision:
    """The revision, if it can have all of the requests.

    One that is on its way to be the stable revision has them already, and goes on.

    :param service: the service as it is
    :param promotion: what was decided
    :raises ConfigurationError: it is not ready, has failed, or is gone
    """
    found = service.revisions.get(promotion.revision)
    if found is None or found.digest != promotion.digest:
        raise ConfigurationError(
            f"Revision {promotion.revision} is gone, and was not promoted: the service was deployed anew. It has {described(service)}.",
            _where(service),
        )
    if not found.state.is_ready and service.is_settled:
        why = f": {found.error}" if found.error else ""
        raise ConfigurationError(
            f"Revision {found.revision} is {found.state}, and was not given the requests{why}. Service {service.name!r} has "
            f"{described(service)}. Promote one that is ready.",
            _where(service),
        )
    return found


def share_again(backend: ServingBackend, namespace: str, name: str, revision: str, share: int) -> bool:
    """Give a revision whose promotion has ended on its way the share that it had, unless it is the stable one by now.

    :param backend: where the service runs
    :param namespace: its namespace
    :param name: its name
    :param revision: the revision
    :param share: percent of the requests
    :return: whether anything was changed
    """
    service = backend.get(namespace, name)
    seen = service.revisions.get(revision)
    if seen is None or service.stable in (None, revision) or seen.traffic <= share:
        return False
    backend.set_traffic(namespace, name, {revision: share, service.stable: 100 - share})
    return True


def _where(service: Service) -> str:
    return f"Service: {service.namespace}/{service.name}"
