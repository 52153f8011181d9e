"""Operators for services: deploy a model, ask it."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException, TaskDeferralError, TaskDeferralTimeout

from airflow_provider_llmops.arguments import names_of
from airflow_provider_llmops.assets import service_asset
from airflow_provider_llmops.backends.serving.access import ACCESS_FILE
from airflow_provider_llmops.backends.serving.base import Revision, Service
from airflow_provider_llmops.backends.serving.manifest import inference_service, without_gpus
from airflow_provider_llmops.delivery.as_of import as_of, is_backfill
from airflow_provider_llmops.delivery.rollout import SMOKE_PROMPT, facts_of, page_of
from airflow_provider_llmops.exceptions import RunFailedError, check_is_flag, shown_value
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.kinds.revision import Revisions
from airflow_provider_llmops.links import ServiceLink
from airflow_provider_llmops.openlineage.lineage import TaskLineage, Touched
from airflow_provider_llmops.remote.ending import describe_limits, has_retry
from airflow_provider_llmops.remote.intent import Intent
from airflow_provider_llmops.remote.operator import RemoteRunOperator
from airflow_provider_llmops.remote.origin import code_of
from airflow_provider_llmops.remote.traced import TracedOperator
from airflow_provider_llmops.xcom import cut_to_fit

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

__all__ = ["AskModelOperator", "DeployModelOperator"]

READY_TIMEOUT = timedelta(minutes=15)


class RevisionOperator(RemoteRunOperator[Revision]):
    """Base of the operators that have a revision of a service serve. Their ``run_timeout`` is called ``ready_timeout``."""

    operator_extra_links: Collection[BaseOperatorLink] = (ServiceLink(),)
    ui_color = "#e6f4ea"
    run_timeout_argument = "ready_timeout"
    kserve_conn_id: str
    _facts: Mapping[str, Any] | None = None

    @property
    @abstractmethod
    def kind(self) -> Revisions:
        """Revisions of the service."""

    @cached_property
    def hook(self) -> KServeHook:
        """The hook of the connection."""
        return KServeHook(self.kserve_conn_id)

    def lineage(self) -> TaskLineage:
        """The service, once it has what this task gives it."""
        facts = self._facts
        if facts is None:
            return TaskLineage(run={"runId": self._key})
        service = Touched(
            facts["url"], kind="SERVICE", known_as={"name": facts["name"], "version": facts["revision"]}
        )
        details = {
            name: facts[name]
            for name in ("name", "namespace", "revision", "shares", "replaced")
            if name in facts
        }
        return TaskLineage(outputs=(service,), run={"runId": facts["revision"], "details": details})

    def _stored_intent(self) -> Intent | None:
        """What an attempt has stored; ``None`` while the task does not run."""
        return Intent.load(self._context) if self._context is not None else None

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after the waiting. Where the trigger has failed and no attempt follows, nobody watches the revision any more.

        :param next_method: what follows, as Airflow has stored it
        :param next_kwargs: its arguments
        """
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralError, TaskDeferralTimeout):
            self._context = context
            intent = self._stored_intent()
            if intent is not None and intent.run_id is not None and not has_retry(context):
                self.left_unwatched(context, intent.run_id)
            raise

    def left_unwatched(self, context: Context, key: str) -> None:
        """What is done with a revision that nobody watches any more: nothing, where no requests go to it yet.

        :param context: of the task
        :param key: of the revision
        """

    def failure(self, key: str, seen: Revision | None, event: dict[str, Any]) -> Exception:
        """Why the revision is not ready; it is given up, and then the next attempt has time of its own."""
        error = self.kind.failure(key, event, limits=describe_limits(self))
        if self._context is not None and self.kind.is_given_up:
            Intent.drop(self._context)
        return error

    def _tell_of(
        self, facts: Mapping[str, Any], context: Context, predictor_args: Mapping[str, Any] | None = None
    ) -> None:
        """Push the addresses of a service, and the page that a person may open.

        :param facts: of the service
        :param context: of the task
        :param predictor_args: arguments of the model's server
        """
        self._facts = facts
        for key in ("url", "openai_url"):
            context["ti"].xcom_push(key=key, value=facts[key])
        access_file = self.hook.with_access_file(predictor_args).get(ACCESS_FILE)
        ServiceLink().push(context["ti"], page_of(facts["url"], asks_for_keys=access_file is not None))
        self.log.info("Service %s answers at %s", facts["name"], facts["openai_url"])


class DeployModelOperator(RevisionOperator):
    """Serve a model: start a new revision, wait until it is ready, ask it a question, give it the traffic.

    A revision that does not become ready, or does not answer, is stopped, and the one that served before goes on. The
    same manifest is applied once: a retry finds the revision that the first attempt started.

    Which model serves is a decision, never a matter of which run finishes last: where one of a newer date or partition
    serves, and in a backfill where any does, the task is skipped.

    XCom: ``url`` (the service's stable address), ``openai_url`` (base URL for OpenAI clients), and all facts together
    as ``return_value``.

    Further arguments are those of :class:`~airflow_provider_llmops.remote.operator.RemoteRunOperator`, ``ready_timeout`` in place of its
    ``run_timeout``. ``poll_interval`` is 1 on this machine, else 5, unless given. To cancel is to stop the new revision.

    :param service_name: name of the service and of the model that clients ask for
    :param model: URI of the model
    :param namespace: Kubernetes namespace
    :param model_digest: content digest of the model, kept in the manifest
    :param predictor_args: arguments of KServe's huggingfaceserver; ``access_file`` is the path of the file that says who may
        ask, by default the connection's
    :param predictor_resources: Kubernetes requests and limits of the predictor; the connection's when left out
    :param gpus: how many GPUs of NVIDIA each pod has; as many as ``predictor_resources`` say when left out
    :param runtime: name of the serving runtime that runs the model; the cluster chooses one when left out
    :param service_account: account of the pods, whose secrets fetch the model from a bucket; the connection's when left out
    :param min_replicas: fewest pods
    :param max_replicas: most pods, among which a cluster chooses by load; as many as ``min_replicas`` when left out
    :param autoscaling: by what a cluster chooses the number of pods: ``{"metric": "cpu", "target": 80}`` for percent of what a pod requests,
        of ``cpu`` or ``memory``, or how much memory a pod has on average, such as ``"8Gi"``; 80 percent of the CPU when left out
    :param logger: where a cluster sends requests and answers, with the fields of KServe's ``logger``: ``url``, ``mode`` (``all``, ``request``
        or ``response``) and ``metadataHeaders``
    :param lora_adapters: on a cluster, where LoRA adapters of the model lie, by the names that clients ask for; vLLM serves them. Each is asked
        the smoke question, too
    :param spec_overrides: further fields of the ``InferenceService``'s spec, merged into it as Kubernetes merges a pod's. Like the arguments from
        ``gpus`` on, it is for a cluster; this machine ignores what means nothing to it, says so in the log, and refuses the rest
    :param smoke_prompt: question that the new revision has to answer before it gets traffic
    :param ready_timeout: how long the revision may take to become ready, however many attempts wait for it
    :param only_if_newer: leave a service alone that serves a model of a newer date or partition, and in a backfill any that
        serves; ``False`` takes the traffic in any case, to go back to an older model for example
    :param kserve_conn_id: connection of type ``kserve``
    """

    starts_beside: bool = False
    """Whether the new revision gets no requests by itself, also where new revisions usually do."""

    def __init__(
        self,
        *,
        service_name: str,
        model: str,
        namespace: str = "default",
        model_digest: str | None = None,
        predictor_args: Mapping[str, Any] | None = None,
        predictor_resources: Mapping[str, Any] | None = None,
        gpus: int | str | None = None,
        runtime: str | None = None,
        service_account: str | None = None,
        min_replicas: int | str = 1,
        max_replicas: int | str | None = None,
        autoscaling: Mapping[str, Any] | None = None,
        logger: Mapping[str, Any] | None = None,
        lora_adapters: Mapping[str, str] | None = None,
        spec_overrides: Mapping[str, Any] | None = None,
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
        self.gpus = gpus
        self.runtime = runtime
        self.service_account = service_account
        self.min_replicas = min_replicas
        self.max_replicas = max_replicas
        self.autoscaling = autoscaling
        self.logger = logger
        self.lora_adapters = lora_adapters
        self.spec_overrides = spec_overrides
        self.smoke_prompt = smoke_prompt
        self.ready_timeout = ready_timeout
        self.only_if_newer = only_if_newer
        self.kserve_conn_id = kserve_conn_id

    template_fields: Sequence[str] = tuple(name for name in names_of(__init__) if name != "ready_timeout")

    @cached_property
    def kind(self) -> Revisions:
        """Revisions of the service."""
        return Revisions(
            self.hook,
            self.log,
            namespace=self.namespace,
            service_name=self.service_name,
            only_if_newer=self.only_if_newer is True,
            cancel_on_kill=self.cancel_on_kill,
            stored_intent=self._stored_intent,
        )

    def lineage(self) -> TaskLineage:
        """With the model, and its adapters."""
        adapters = (Touched(uri, kind="MODEL") for uri in (self.lora_adapters or {}).values())
        model = Touched(self.model, kind="MODEL", digest=self.model_digest or None)
        return replace(super().lineage(), inputs=(model, *adapters))

    def manifest(self) -> dict[str, Any]:
        """The manifest of the service."""
        usual = self.hook.usual_resources
        return inference_service(
            self.service_name,
            self.model,
            namespace=self.namespace,
            model_digest=self.model_digest,
            args=self.hook.with_access_file(self.predictor_args),
            resources=self.predictor_resources or (usual if self.gpus is None else without_gpus(usual)),
            gpus=self.gpus,
            runtime=self.runtime,
            service_account=self.service_account or self.hook.usual_service_account,
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            autoscaling=self.autoscaling,
            logger=self.logger,
            lora_adapters=self.lora_adapters,
            spec_overrides=self.spec_overrides,
        )

    def prepare(self, context: Context, intent: Intent) -> Callable[[], str]:
        """Look whether the service may be changed, and give what starts the revision."""
        check_is_flag("only_if_newer", self.only_if_newer)
        manifest, rollout = self.manifest(), self.kind.rollout
        service = rollout.find_service()
        if reason := rollout.reason_to_leave(service, as_of(context), is_backfill=is_backfill(context)):
            raise AirflowSkipException(reason)
        return self.kind.start_of(intent, manifest, service, as_of(context), beside=self.starts_beside)

    def outcome(self, context: Context, seen: Revision) -> dict[str, Any]:
        """Ask the revision that is ready, then give it the traffic."""
        attempt = self._begin(context)
        attempt.key = seen.revision  # until it has the traffic, whoever ends the task stops it
        answer = self.kind.rollout.ask(seen.revision, self.smoke_prompt)
        return self.bring_in(context, seen.revision, answer)

    def bring_in(self, context: Context, revision: str, answer: str) -> dict[str, Any]:
        """Give a revision that has answered all of the traffic, and say what there is to say of the service."""
        service, reason = self.kind.rollout.give_traffic(revision, as_of(context))
        self._begin(context).key = None
        if reason:
            raise AirflowSkipException(reason)
        return self.facts(context, service, revision, answer)

    def facts(self, context: Context, service: Service, revision: str, answer: str) -> dict[str, Any]:
        """What there is to say of a service whose new revision has its requests."""
        facts = facts_of(service, revision, self.smoke_prompt, answer)
        self._tell_of(facts, context, self.predictor_args)
        served = {
            "code": {**code_of(context)},  # a canary ends by no other way that tells it
            "service": facts["name"],
            **{name: facts[name] for name in ("namespace", "revision", "url")},
        }
        self.tell_assets(context, served, of=service_asset(facts["name"], facts["namespace"]))
        return facts


class AskModelOperator(TracedOperator):
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

    def lineage(self) -> TaskLineage:
        """The service that is asked."""
        return TaskLineage(inputs=(Touched(self.url, kind="SERVICE"),))

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
