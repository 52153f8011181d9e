"""What somebody waits for of a service: that it answers, or that a revision has its share of the requests."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_llmops.backends.serving.base import Revision, Service


@dataclass(frozen=True)
class WantedService:
    """A service as it is waited for.

    :param namespace: its namespace
    :param name: its name
    :param revision: the revision that is waited for; any when ``None``
    :param percent: percent of the requests that the revision is to have; to be ready is enough when ``None``
    """

    namespace: str
    name: str
    revision: str | None = None
    percent: int | None = None

    def revision_in(self, service: Service | None) -> Revision | None:
        """The revision that is waited for, as it is.

        :param service: the service as it is; ``None`` if there is none
        """
        return service.revisions.get(self.revision) if service is not None and self.revision else None

    def is_met_by(self, service: Service | None) -> bool:
        """Whether the service is as it is waited for.

        :param service: the service as it is; ``None`` if there is none
        """
        if service is None:
            return False
        if self.revision is None:
            return service.is_serving
        revision = self.revision_in(service)
        if revision is None or not revision.state.is_ready:
            return False
        return self.percent is None or (service.is_reachable and revision.traffic >= self.percent)

    def described(self, service: Service | None) -> str:
        """What can be seen of it, in a sentence.

        :param service: the service as it is; ``None`` if there is none
        """
        if service is None:
            return f"There is no service {self.namespace}/{self.name} yet."
        seen = [f"{each.revision} {each.state} ({each.traffic}%)" for each in service.revisions.values()]
        reached = "" if service.is_reachable else "; nothing listens at its address"
        return f"Revisions of service {self.namespace}/{self.name}: {', '.join(seen) or 'none'}{reached}."
