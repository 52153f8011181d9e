"""Submitting a run: what is sent, and that it is sent once even if answers are lost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from airflow_provider_llmops.backends.pipelines.base import RunRequest
from airflow_provider_llmops.backends.pipelines.kubeflow.api import KfpApi, UnansweredError, retrying
from airflow_provider_llmops.backends.pipelines.kubeflow.experiments import Experiment
from airflow_provider_llmops.backends.pipelines.kubeflow.request import check_request
from airflow_provider_llmops.backends.pipelines.kubeflow.root import refuse_root
from airflow_provider_llmops.backends.pipelines.kubeflow.runs import ServerRuns, description_of
from airflow_provider_llmops.backends.pipelines.kubeflow.versions import PipelineVersions
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, LLMOpsError
from airflow_provider_llmops.specs.pipeline import BoundPipeline


class Submission:
    """Submits runs.

    :param api: the server
    :param runs: finds a run that may have been made already
    :param versions: holds the specifications
    """

    def __init__(self, api: KfpApi, runs: ServerRuns, versions: PipelineVersions) -> None:
        self._api = api
        self._runs = runs
        self._versions = versions
        self._experiment = Experiment(api)

    def submit(self, request: RunRequest) -> str:
        """Create the run, once, and return its id.

        The API has no idempotency key. So after a request whose fate is unknown, the run is looked up by its name before
        another is sent, or before this gives up; and where two came into being after all, the younger is stopped.

        :param request: what to run
        """
        settings = self._api.settings
        refuse_secrets(request.display_name.rpartition(" ")[0], request.pipeline, request.environment)
        check_request(request, uploads=settings.upload_versions)
        refuse_root(settings)
        body = self.body(request)
        is_doubtful = False
        try:
            for attempt in retrying(settings.patience, changes=True):
                with attempt:
                    if is_doubtful and (run := self._runs.find(request.display_name)):
                        return run.run_id
                    try:
                        answer = self._api.call_once(self._api.runs.run_service_create_run, body)
                    except UnansweredError as error:
                        is_doubtful = is_doubtful or error.may_have_happened
                        raise
        except LLMOpsError as error:
            if is_doubtful and (run_id := self._made_after_all(request.display_name, error)):
                return run_id
            raise
        run_id = str(answer["run_id"])
        return (is_doubtful and self._made_after_all(request.display_name, None)) or run_id

    def body(self, request: RunRequest) -> dict[str, Any]:
        """The run as the API takes it.

        :param request: what to run
        """
        settings = self._api.settings
        pipeline = request.pipeline
        body: dict[str, Any] = {
            "display_name": request.display_name,
            "description": description_of(request.labels),
            "runtime_config": {
                "parameters": pipeline.parameters,
                "pipeline_root": settings.pipeline_root,
            },
        }
        if request.version is not None:
            body["pipeline_version_reference"] = request.version
        elif settings.upload_versions:
            body["pipeline_version_reference"] = self._versions.reference(pipeline, request.labels)
        elif pipeline.platform:
            body["pipeline_spec"] = {"pipeline_spec": pipeline.spec, "platform_spec": pipeline.platform}
        else:
            body["pipeline_spec"] = pipeline.spec
        if experiment_id := self._experiment.id():
            body["experiment_id"] = experiment_id
        if settings.service_account:
            body["service_account"] = settings.service_account
        return body

    def _made_after_all(self, display_name: str, error: LLMOpsError | None) -> str | None:
        """Id of the run whose request got no usable answer; ``None`` if a look shows that there is none.

        :param error: what came instead of an answer in the end
        :raises ApiUnavailableError: it cannot be looked for, so that its fate is unknown
        """
        try:
            run = self._runs.find(display_name, patience=0.0 if error else None)
        except LLMOpsError as reason:
            raise ApiUnavailableError(
                f"A run may have been made, and cannot be looked for: {_first_line(error or reason)}. A retry looks for it.",
                f"Run: {display_name}",
                f"Looked for it: {_first_line(reason)}" if error and str(error) != str(reason) else None,
            ) from reason
        return run.run_id if run else None


def refuse_secrets(what: str, pipeline: BoundPipeline, environment: Iterable[str]) -> None:
    """Refuse an environment that is not in the platform specification: parameters can be read by everybody.

    :param what: what the run is called
    :param pipeline: what is run
    :param environment: names of the variables that its steps need
    :raises ConfigurationError: one of them comes from no secret
    """
    platform = json.dumps(pipeline.platform or {})
    if missing := [name for name in environment if f'"{name}"' not in platform]:
        raise ConfigurationError(
            f"The steps of {what} need {', '.join(missing)} in their environment. "
            "Parameters of a run can be read by everybody, so on Kubeflow such values come from a Kubernetes secret: "
            "pass step_settings={'secrets_as_env': {'<secret>': {'<key>': '" + missing[0] + "'}}}."
        )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
