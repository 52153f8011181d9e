"""What a service has answered in the window that ends now: from its own counts, or from Prometheus."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from airflow_provider_llmops.backends.serving.base import Answers, Revision, Service, ServingBackend
from airflow_provider_llmops.backends.serving.prometheus import PrometheusServer
from airflow_provider_llmops.exceptions import ApiUnavailableError, RunFailedError, RunNotFoundError

__all__ = ["AnswersInWindow", "CountedByPrometheus", "CountedByService", "NotKnownError", "NotYetError"]


SLOW_SECONDS = 60.0  # that a look may take longer than the next one was to come


class NotKnownError(Exception):
    """What was answered in the window is not known; the text says why."""


class NotYetError(NotKnownError):
    """It will be: it was not watched for a whole window yet."""


class AnswersInWindow(Protocol):
    """Says what was answered in the window that ends now."""

    lags: bool
    """Whether it looks at what others look at, too, which is behind."""

    def look(self, now: float, *, may_lag: bool = False) -> Answers:
        """Look once.

        :param now: Unix time
        :param may_lag: whether what others look at, too, is good enough
        :raises NotKnownError: that is not known, now or yet
        :raises RunFailedError: it never will be
        """

    @property
    def first(self) -> dict[str, Any] | None:
        """Of the look from which the next window may go, as plain JSON: somebody else may go on."""


class CountedByPrometheus:
    """Asks Prometheus.

    :param server: the server
    :param labels: of the series, as PromQL has them between braces
    :param window: seconds
    """

    first = None
    lags = False

    def __init__(self, server: PrometheusServer, labels: str, window: float) -> None:
        self._server = server
        self._labels = labels
        self._window = round(window)

    def look(self, now: float, *, may_lag: bool = False) -> Answers:
        """Ask once.

        :param now: Unix time
        :param may_lag: means nothing here
        :raises NotKnownError: Prometheus does not answer, or has no such series
        """
        try:
            found = self._server.answers(self._labels, self._window, now)
        except ApiUnavailableError as error:
            raise NotKnownError(str(error)) from error
        if found is None:
            raise NotKnownError(
                f"Prometheus has no counters of requests and errors in the window with the labels {self._labels}."
            )
        return found


class CountedByService:
    """Takes what the service's own counts were a window ago from what they are.

    :param backend: where the service runs
    :param namespace: its namespace
    :param name: its name
    :param revision: the revision; all of them together when ``None``
    :param window: seconds
    :param first: what somebody else has seen before, see :attr:`first`
    """

    def __init__(
        self,
        backend: ServingBackend,
        namespace: str,
        name: str,
        revision: str | None,
        window: float,
        first: Mapping[str, Any] | None = None,
    ) -> None:
        self._backend = backend
        self._place = (namespace, name)
        self._revision = revision
        self._window = window
        self.lags = backend.lags
        self._looks: deque[tuple[float, Answers]] = deque()
        if first is not None:
            self._looks.append((first["at"], Answers.read(first["answers"])))

    @property
    def first(self) -> dict[str, Any] | None:
        """The oldest look that is kept."""
        if not self._looks:
            return None
        at, answers = self._looks[0]
        return {"at": at, "answers": answers.to_json()}

    def look(self, now: float, *, may_lag: bool = False) -> Answers:
        """Look once. Looks are closer together than a window.

        :param now: Unix time
        :param may_lag: whether what others look at, too, is good enough
        :raises NotKnownError: it cannot be read, or was not watched for a whole window yet
        :raises RunFailedError: the revision has failed or is stopped
        """
        answered = self._answered(may_lag)
        looks = self._looks
        looks.append((now, answered))
        while len(looks) > 1 and looks[1][0] <= now - self._window:
            looks.popleft()
        while looks[0][0] < now - self._window - max(
            self._window, SLOW_SECONDS
        ):  # nobody has looked in between
            looks.popleft()
        at, before = looks[0]
        if at > now - self._window:
            raise NotYetError(f"It was watched for {now - at:.0f} of {self._window:g} s.")
        return answered.since(before)

    def _answered(self, may_lag: bool) -> Answers:
        where = "/".join(self._place)
        try:
            service = self._backend.get(*self._place, patience=0.0, may_lag=may_lag)
        except RunNotFoundError:
            raise NotKnownError(f"There is no service {where}.") from None
        except ApiUnavailableError as error:
            raise NotKnownError(f"The service could not be read: {error}") from error
        found = {each.revision: each.answered for each in self._asked(service)}
        known = {name: answered for name, answered in found.items() if answered is not None}
        if not known or len(known) < len(found):
            raise NotKnownError(
                f"What service {where} has answered could not be read, or is not counted where it runs."
            )
        return Answers.of(known)

    def _asked(self, service: Service) -> list[Revision]:
        where = f"{service.namespace}/{service.name}"
        if self._revision is None:  # those without requests may have had some
            return [each for each in service.revisions.values() if each.traffic or each.answered is not None]
        revision = service.revisions.get(self._revision)
        if revision is None:
            raise NotKnownError(f"Service {where} has no revision {self._revision}.")
        if revision.state.is_lost:
            why = f": {revision.error}" if revision.error else ""
            raise RunFailedError(
                f"Revision {revision.revision} of service {service.name} is {revision.state}{why}",
                f"Service: {where}",
            )
        return [revision]
