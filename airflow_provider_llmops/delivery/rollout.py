"""Bring a new revision of a service to those who use it: ask it, give it the traffic, or give it up; nobody else does."""

from __future__ import annotations

from typing import Any

from airflow_provider_llmops.backends.serving.base import Service, ServingBackend
from airflow_provider_llmops.exceptions import (
    ConfigurationError,
    LLMOpsError,
    RunFailedError,
    RunNotFoundError,
)
from airflow_provider_llmops.redaction import redact
from airflow_provider_llmops.xcom import MAX_XCOM_BYTES, cut_to_fit

SMOKE_PROMPT = "What is Python?"
SMOKE_MAX_TOKENS = 64
LAST_LINES = 20


class Rollout:
    """A service on its way from one revision to the next.

    Which model serves is a decision, never a matter of who is done last: where one of a newer date serves, the service is
    left alone, and in a backfill where any does.

    :param backend: what runs the service
    :param namespace: its namespace
    :param name: its name
    :param logger: of the task
    :param only_if_newer: whether a service is left alone that serves a model of a newer date
    :param is_ours: whether this task has started the new revision; one of another task is never stopped
    :param back_to: what serves again when the revision is given up; what served before it, unless given
    """

    def __init__(
        self,
        backend: ServingBackend,
        namespace: str,
        name: str,
        logger: Any,
        *,
        only_if_newer: bool = True,
        is_ours: bool = True,
        back_to: str | None = None,
    ) -> None:
        self.backend = backend
        self.namespace = namespace
        self.name = name
        self._log = logger
        self._only_if_newer = only_if_newer
        self.is_ours = is_ours
        self._back_to = back_to
        self.is_given_up = False

    def find_service(self) -> Service | None:
        """The service as it is, if there is one."""
        try:
            return self.backend.get(self.namespace, self.name)
        except RunNotFoundError:
            return None

    def reason_to_leave(self, service: Service | None, as_of: str | None, *, is_backfill: bool) -> str | None:
        """Why the service is left as it is, before anything is started; ``None`` if it is not.

        :param service: the service as it is
        :param as_of: date or partition of the new model
        :param is_backfill: whether a backfill brings it
        """
        if not self._only_if_newer or service is None:
            return None
        if service.is_newer_than(as_of):
            return self._newer_serves(service, as_of)
        if is_backfill and service.is_serving:
            return (
                f"A backfill leaves a service that serves as it is: {self.name!r}. only_if_newer=False takes the traffic in "
                "any case."
            )
        return None

    def ask(self, revision: str, prompt: str) -> str:
        """The answer of a revision that is ready, before it gets traffic; one that does not answer is given up.

        :param revision: the revision
        :param prompt: the question
        :raises RunFailedError: it has no answer
        """
        try:
            answer = self.backend.ask(self.namespace, self.name, revision, prompt, SMOKE_MAX_TOKENS)
        except LLMOpsError as error:
            raise self.give_up(revision, f"did not answer the smoke question: {error}") from error
        if not answer.strip():
            raise self.give_up(revision, "answered the smoke question with nothing")
        self._log.info("Smoke question: %s\nAnswer: %s", prompt, answer)
        return answer

    def give_traffic(self, revision: str, as_of: str | None) -> tuple[Service, str | None]:
        """Give a revision all of the traffic: the service then, and why it has not got it, where a newer model serves.

        :param revision: the revision; it is stopped where it does not get the traffic
        :param as_of: date or partition of its model
        """
        try:
            service = self.backend.set_traffic(
                self.namespace, self.name, {revision: 100}, as_of=as_of, only_if_newer=self._only_if_newer
            )
        except ConfigurationError as error:
            raise self.give_up(revision, f"could not be given the traffic: {error}") from error
        if self._only_if_newer and service.is_newer_than(as_of):
            self.discard(revision)
            return service, self._newer_serves(service, as_of)
        return service, None

    def split(self, revision: str, share: int, stable: str, as_of: str | None = None) -> Service:
        """Give a revision a share of the requests, and the stable one the rest: the service then.

        :param revision: the revision, which is ready
        :param share: in percent, below 100
        :param stable: the revision that has had all of them
        :param as_of: date or partition of the revision's model
        """
        shares = {revision: share, stable: 100 - share}
        try:
            return self.backend.set_traffic(
                self.namespace, self.name, shares, as_of=as_of, only_if_newer=False
            )
        except ConfigurationError as error:
            raise self.give_up(revision, f"could not be given {share}% of the requests: {error}") from error

    def give_back(self, revision: str, as_of: str | None) -> Service:
        """Give a revision that has come back all of the requests, and never go back to the one that it replaces.

        :param revision: the revision
        :param as_of: date or partition of its model
        """
        service = self.backend.set_traffic(
            self.namespace, self.name, {revision: 100}, as_of=as_of, only_if_newer=False
        )
        if self._back_to is not None:
            self.backend.give_up(self.namespace, self.name, self._back_to)
        return service

    def discard(self, revision: str) -> str | None:
        """Give up a revision that was not given all of the traffic, unless another task has started it.

        The revision that a deployment gives up may be the one that serves: applying the same manifest again returns it.

        :param revision: the revision
        :return: name of the revision that was started again for it
        """
        return self._withdraw(revision, is_bad=True)

    def cancel(self, revision: str) -> str | None:
        """Give up a revision because nobody waits for it any more; one that was to come back stays one to go back to.

        :param revision: the revision
        :return: name of the revision that was started again for it
        """
        return self._withdraw(revision, is_bad=self._back_to is None)

    def _withdraw(self, revision: str, *, is_bad: bool) -> str | None:
        if not self.is_ours:
            return None
        return self.backend.withdraw(
            self.namespace, self.name, revision, back_to=self._back_to, is_bad=is_bad
        )

    def give_up(self, revision: str, why: str) -> RunFailedError:
        """Stop a revision that this task has started, and say what serves now.

        :param revision: the revision
        :param why: what it did, behind "the new revision"
        """
        why = f"The {'new' if self._back_to is None else 'former'} revision {why}."
        where = f"Revision: {revision} of service {self.name}"
        try:  # which is often not there to be read, and keeps nobody from giving the revision up
            last_lines = self.backend.logs(self.namespace, self.name, revision, LAST_LINES)
            self._log.error("Last lines of revision %s:\n%s", revision, redact("\n".join(last_lines)))
        except LLMOpsError as error:
            self._log.warning("The log of revision %s cannot be read: %s", revision, error)
        try:
            again = self.discard(revision)
            self.is_given_up = True
            service = self.backend.get(self.namespace, self.name)
        except LLMOpsError as error:  # it must not hide the failure
            return RunFailedError(
                f"{why} Whether it was given up, and what serves, is not known.",
                where,
                str(error),
            )
        serving = ", ".join(
            f"{each.revision} ({each.traffic}%)"
            for each in service.revisions.values()
            if each.traffic and (each.revision != revision or not self.is_ours)
        )
        if serving:
            now = f"Serving as before: {serving}."
        else:
            now = f"Started again: {again}, which served before." if again else "Nothing is serving."
        return RunFailedError(f"{why} {now}", where)

    def _newer_serves(self, service: Service, as_of: str | None) -> str:
        return (
            f"Service {self.name!r} has a newer model, of {service.as_of}; this one is of {as_of}. only_if_newer=False takes the "
            "traffic in any case."
        )


def facts_of(service: Service, revision: str, question: str, answer: str) -> dict[str, Any]:
    """What a task tells of a service that has a new revision.

    :param service: the service
    :param revision: the revision that has the traffic
    :param question: what it was asked before
    :param answer: what it said
    """
    asked = cut_to_fit({"smoke_prompt": question, "smoke_answer": answer}, MAX_XCOM_BYTES // 2)
    return {**addresses_of(service, revision), **asked}


def addresses_of(service: Service, revision: str) -> dict[str, Any]:
    """Where a service answers, and which revisions do.

    :param service: the service
    :param revision: the revision that a task has dealt with
    """
    return {
        "name": service.name,
        "namespace": service.namespace,
        "revision": revision,
        "url": service.url,
        "openai_url": f"{service.url}/openai/v1",
        "shares": {name: each.traffic for name, each in service.revisions.items() if each.traffic},
    }


def page_of(url: str, *, asks_for_keys: bool) -> str:
    """The page of a service that a person may open.

    :param url: the service's address
    :param asks_for_keys: whether the service asks for keys, which a browser does not send
    """
    return f"{url}/v2/health/ready" if asks_for_keys else f"{url}/openai/v1/models"
