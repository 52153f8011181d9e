"""Operators for services: deploy a model, ask it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from airflow_provider_llmops.backends.serving.access import ACCESS_FILE
from airflow_provider_llmops.backends.serving.base import Revision, Service, ServingBackend
from airflow_provider_llmops.backends.serving.manifest import inference_service, manifest_digest
from airflow_provider_llmops.delivery.as_of import as_of, is_backfill
from airflow_provider_llmops.delivery.rollout import SMOKE_PROMPT, Rollout
from airflow_provider_llmops.exceptions import (
    ConfigurationError,
    RunFailedError,
    RunNotFoundError,
    shown_value,
)
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.links import ServiceLink
from airflow_provider_llmops.remote.ending import describe_limits
from airflow_provider_llmops.remote.intent import Intent
from airflow_provider_llmops.remote.operator import RemoteRunOperator
from airflow_provider_llmops.results import MAX_XCOM_BYTES, cut_to_fit
from airflow_provider_llmops.states import ServiceState

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.triggers.service import RevisionReadyTrigger

__all__ = ["AskModelOperator", "DeployModelOperator"]

READY_TIMEOUT = timedelta(minutes=15)


class DeployModelOperator(RemoteRunOperator[Revision]):
    """Serve a model: start a new revision, wait until it is ready, ask it a question, give it the traffic.

    A revision that does not become ready, or does not answer, is stopped, and the one that served before goes on. The
    same manifest is applied once: a retry finds the revision that the first attempt started.

    Which model serves is a decision, never a matter of which run finishes last: where one of a newer date or partition
    serves, and in a backfill where any does, the task is skipped.

    XCom: ``url`` (the service's stable address), ``openai_url`` (base URL for OpenAI clients), and all facts together
    as ``return_value``.

    Further arguments are those of :class:`~airflow_provider_llmops.remote.operator.RemoteRunOperator`, but for ``run_timeout``,
    whose place ``ready_timeout`` takes. ``poll_interval`` is 0.5 unless given. To cancel is to stop the new revision.

    :param service_name: name of the service and of the model that clients ask for
    :param model: URI of the model
    :param namespace: Kubernetes namespace
    :param model_digest: content digest of the model, kept in the manifest
    :param predictor_args: arguments of KServe's huggingfaceserver; ``access_file`` is the path of the file that says who may
        ask, by default the connection's
    :param predictor_resources: Kubernetes requests and limits of the predictor
    :param smoke_prompt: question that the new revision has to answer before it gets traffic
    :param ready_timeout: how long the revision may take to become ready, however many attempts wait for it
    :param only_if_newer: leave a service alone that serves a model of a newer date or partition, and in a backfill any that
        serves; ``False`` takes the traffic in any case, to go back to an older model for example
    :param kserve_conn_id: connection of type ``kserve``
    """

    template_fields: Sequence[str] = (
        "service_name",
        "model",
        "namespace",
        "model_digest",
        "predictor_args",
        "predictor_resources",
        "smoke_prompt",
        "only_if_newer",
        "kserve_conn_id",
    )
    operator_extra_links = (ServiceLink(),)
    ui_color = "#e6f4ea"
    kind = "revision"
    run_timeout_argument = "ready_timeout"

    def __init__(
        self,
        *,
        service_name: str,
        model: str,
        namespace: str = "default",
        model_digest: str | None = None,
        predictor_args: Mapping[str, Any] | None = None,
        predictor_resources: Mapping[str, Any] | None = None,
        smoke_prompt: str = SMOKE_PROMPT,
        ready_timeout: timedelta = READY_TIMEOUT,
        only_if_newer: bool = True,
        kserve_conn_id: str = KServeHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(run_timeout=ready_timeout, **kwargs)
        self.service_name = service_name
        self.model = model
        self.namespace = namespace
        self.model_digest = model_digest
        self.predictor_args = predictor_args
        self.predictor_resources = predictor_resources
        self.smoke_prompt = smoke_prompt
        self.ready_timeout = ready_timeout
        self.only_if_newer = only_if_newer
        self.kserve_conn_id = kserve_conn_id
        self._is_new = False
        self._digest: str | None = None
        self._former_revisions: frozenset[str] = frozenset()

    @cached_property
    def hook(self) -> KServeHook:
        """The hook of the connection."""
        return KServeHook(self.kserve_conn_id)

    def manifest(self) -> dict[str, Any]:
        """The manifest of the service."""
        args = dict(self.predictor_args or {})
        if (access_file := self._access_file()) is not None:
            args[ACCESS_FILE] = access_file
        return inference_service(
            self.service_name,
            self.model,
            namespace=self.namespace,
            model_digest=self.model_digest,
            args=args,
            resources=self.predictor_resources,
        )

    def _access_file(self) -> str | None:
        given = (self.predictor_args or {}).get(ACCESS_FILE)
        return self.hook.access_file if given is None else str(given)

    @property
    def backend(self) -> ServingBackend:
        """What runs the service."""
        return self.hook.backend

    @property
    def _rollout(self) -> Rollout:
        return Rollout(
            self.backend,
            self.namespace,
            self.service_name,
            self.log,
            only_if_newer=self.only_if_newer is True,
            is_ours=self._is_ours,
        )

    @property
    def _is_ours(self) -> bool:
        """Whether this task has started the revision: another one may have applied the same manifest before."""
        if self._key is not None and self._is_new:
            return True
        intent = Intent.load(self._context) if self._context is not None else None
        return intent is None or not intent.reused

    def execute(self, context: Context) -> dict[str, Any]:
        """Find or start the revision, wait for it, and give it the traffic."""
        if not isinstance(self.only_if_newer, bool):
            raise ConfigurationError(
                f"only_if_newer must be true or false, got the text {shown_value(self.only_if_newer)}. A template stays a truth value only "
                "in a DAG with render_template_as_native_obj=True."
            )
        return super().execute(context)

    def new_name(self, context: Context) -> str:
        """A token of the attempt's; the revision does not carry it, or each would be a change of the service."""
        return f"{self.namespace}/{self.service_name} {uuid.uuid4().hex}"

    def prepare(self, context: Context, intent: Intent) -> Callable[[], str]:
        """Look whether the service may be changed, and give what starts the revision."""
        manifest = self.manifest()
        service = self._rollout.find_service()
        self._skip_if_newer_serves(context, service)
        self._digest = manifest_digest(manifest)
        self._former_revisions = frozenset(service.revisions if service else ())

        def apply() -> str:
            revision, is_new = self.backend.apply(manifest)
            self._is_new = is_new
            how = "is starting" if is_new else f"runs this manifest already, and is {revision.state}"
            self.log.info("Revision %s of service %s %s", revision.revision, self.service_name, how)
            return self.key_of(revision)

        return apply

    def made(self, intent: Intent, former: Intent | None, key: str) -> Intent:
        """The time began when the revision was asked for, by whichever attempt; one of another task is not ours."""
        if self._is_new:
            return intent
        if former is not None and former.run_id in (None, key):
            self.log.info("Reconnected to %s", self.named(key))
            return replace(intent, at=former.at, reused=former.reused)
        return replace(intent, reused=True)

    def find(self, intent: Intent) -> Revision | None:
        """The revision that an attempt has started, if it still is that: a service that was made anew counts anew."""
        is_being_made = intent is self._making
        if intent.reused or intent.finished or (intent.run_id is None and not is_being_made):
            return None
        try:
            service = self.backend.get(*_service(intent))
        except RunNotFoundError:
            return None
        if intent.run_id is None:
            return self._started_meanwhile(service)
        found = service.revisions.get(_name(intent.run_id))
        return found if found is not None and self.key_of(found) == intent.run_id else None

    def _started_meanwhile(self, service: Service) -> Revision | None:
        """The revision that this attempt has started, whose answer has not come: it was not there before."""
        started = (each for name, each in service.revisions.items() if name not in self._former_revisions)
        return next((each for each in started if each.digest == self._digest), None)

    def may_be_on_its_way(self, *, is_retry: bool) -> bool:
        """No: what an earlier attempt has applied is answered when it is applied again."""
        return False

    def take_over(self, context: Context, intent: Intent, seen: Revision | None) -> str | None:
        """Nothing: the manifest is applied again, which finds what runs it, and nothing else."""
        return None

    def stop_former(self, intent: Intent, seen: Revision | None) -> None:
        """Stop the former revision, unless requests go to it."""
        if seen is not None and not seen.state.is_lost:
            Rollout(self.backend, *_service(intent), self.log).discard(seen.revision)

    def named(self, key: str) -> str:
        """What it is called in messages."""
        return f"revision {_name(key)} of service {self.service_name}"

    def key_of(self, seen: Revision) -> str:
        """The revision's name, and the digest of its manifest: a name comes again when a service is made anew."""
        return f"{seen.revision}@{seen.digest}"

    def key_in(self, event: dict[str, Any]) -> str:
        """Name of the revision that was waited for."""
        return str(event["revision"])

    def read(self, key: str, event: dict[str, Any]) -> Revision:
        """The revision as it was seen last: whether it still serves is asked of itself."""
        return Revision(revision=_name(key), state=ServiceState(event["state"]), error=event["error"])

    def cancel(self, key: str, *, patience: float | None = None) -> None:
        """Stop the revision, unless requests go to it."""
        self._rollout.discard(_name(key))

    def trigger(self, key: str, deadline: float | None) -> RevisionReadyTrigger:
        """What waits for the revision."""
        from airflow_provider_llmops.triggers.service import RevisionReadyTrigger

        return RevisionReadyTrigger(
            kserve_conn_id=self.kserve_conn_id,
            namespace=self.namespace,
            name=self.service_name,
            revision=_name(key),
            poll_interval=self.interval,
            deadline=deadline,
            cancel_on_kill=self.cancel_on_kill and self._is_ours,
        )

    def failure(self, key: str, seen: Revision | None, event: dict[str, Any]) -> Exception:
        """Why the revision is not ready; it is stopped."""
        is_late = event["timed_out"]
        why = f"was not ready within {describe_limits(self)}" if is_late else f"failed: {event['error']}"
        error = self._rollout.give_up(_name(key), why)
        if self._context is not None:
            Intent.drop(self._context)  # the next attempt has time of its own
        return error

    def outcome(self, context: Context, seen: Revision) -> dict[str, Any]:
        """Ask the revision that is ready, then give it the traffic."""
        revision = self._key = seen.revision  # until it has the traffic, whoever ends the task stops it
        answer = self._rollout.ask(revision, self.smoke_prompt)
        service, reason = self._rollout.give_traffic(revision, as_of(context))
        self._key = None
        if reason:
            raise AirflowSkipException(reason)
        return self._facts(context, service, revision, answer)

    def _facts(self, context: Context, service: Service, revision: str, answer: str) -> dict[str, Any]:
        facts = {
            "name": service.name,
            "namespace": service.namespace,
            "revision": revision,
            "url": service.url,
            "openai_url": f"{service.url}/openai/v1",
            **cut_to_fit({"smoke_prompt": self.smoke_prompt, "smoke_answer": answer}, MAX_XCOM_BYTES // 2),
        }
        for key in ("url", "openai_url"):
            context["ti"].xcom_push(key=key, value=facts[key])
        # A browser sends no key.
        page = (
            facts["openai_url"] + "/models"
            if self._access_file() is None
            else f"{service.url}/v2/health/ready"
        )
        ServiceLink().push(context["ti"], page)
        self.log.info("Service %s answers at %s", service.name, facts["openai_url"])
        return facts

    def _skip_if_newer_serves(self, context: Context, service: Service | None) -> None:
        reason = self._rollout.reason_to_leave(service, as_of(context), is_backfill=is_backfill(context))
        if reason:
            raise AirflowSkipException(reason)


def _service(intent: Intent) -> tuple[str, str]:
    """Namespace and name of the service that an intent is about, whatever the task's are by now."""
    namespace, _, name = intent.name.partition(" ")[0].partition("/")
    return namespace, name


def _name(key: str) -> str:
    """The revision's name in a key."""
    return key.partition("@")[0]


class AskModelOperator(BaseOperator):
    """Ask a service questions through its stable address, as a client would; fails when one is not answered.

    XCom: a list of ``{"prompt", "answer", "seconds"}`` of at most 16 KB: long texts are cut there, with a mark, and stand in the log.

    :param url: the service's address
    :param model_name: name of the model
    :param prompts: questions
    :param request: further fields of each request, for example ``{"max_tokens": 64}``
    :param kserve_conn_id: connection of type ``kserve`` whose password is the service's API key; the default one need not exist
    """

    template_fields: Sequence[str] = ("url", "model_name", "prompts", "request", "kserve_conn_id")
    ui_color = "#e6f4ea"

    def __init__(
        self,
        *,
        url: str,
        model_name: str,
        prompts: Sequence[str],
        request: Mapping[str, Any] | None = None,
        kserve_conn_id: str = KServeHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.url = url
        self.model_name = model_name
        self.prompts = prompts
        self.request = request
        self.kserve_conn_id = kserve_conn_id

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Ask one question after the other."""
        hook = KServeHook(self.kserve_conn_id)
        answers = []
        for prompt in self.prompts:
            started = time.monotonic()
            answer = hook.ask(self.url, self.model_name, prompt, **(self.request or {}))
            seconds = round(time.monotonic() - started, 3)
            if not answer.strip():
                raise RunFailedError(
                    f"The answer to {shown_value(prompt, 50)} is empty. Look at the service's log and at the evaluation's report.",
                    f"Service: {self.url}",
                )
            self.log.info("%s\n-> %s (%.2f s)", prompt, answer, seconds)
            answers.append({"prompt": prompt, "answer": answer, "seconds": seconds})
        shown: list[dict[str, Any]] = cut_to_fit(answers)
        if len(shown) < len(answers):
            self.log.warning(
                "%d answers do not fit into XCom, and are in this log alone", len(answers) - len(shown)
            )
        return shown
