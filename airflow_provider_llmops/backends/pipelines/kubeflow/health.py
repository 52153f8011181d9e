"""Whether a connection's server can be used: what the button "Test connection" says."""

from __future__ import annotations

from airflow_provider_llmops.backends.pipelines.kubeflow.api import KfpApi, RefusedError
from airflow_provider_llmops.backends.pipelines.kubeflow.root import root_problem
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError


def check_server(api: KfpApi) -> str:
    """Ask for the server's version, then for its runs, which needs credentials; say in one line what was reached.

    :param api: the server
    :raises ApiUnavailableError: it does not answer
    :raises ConfigurationError: it refuses, is too old, or its steps cannot write below the pipeline root
    """
    settings = api.settings
    version = _version_of(api)
    try:
        answer = api.call(
            api.runs.run_service_list_runs, page_size=1, patience=settings.short_patience, **api.scope
        )
    except RefusedError as error:
        if error.status in (401, 403):
            raise RefusedError(f"Unauthorised: {error}", status=error.status) from error
        raise
    problem = root_problem(settings, settings.pipeline_root)
    if problem and problem.is_certain:
        raise ConfigurationError(problem.message)
    return (
        f"Kubeflow Pipelines {version} at {settings.endpoint}: {answer.get('total_size', 0)} runs"
        + (f" in namespace {settings.namespace}" if settings.namespace else "")
        + f", artifacts under {settings.pipeline_root}"
        + (f". {problem.message}" if problem else "")
    )


def _version_of(api: KfpApi) -> str:
    """The server's version, which must be one that this provider speaks to."""
    settings = api.settings
    try:
        health = api.call(api.health.healthz_service_get_healthz, patience=settings.short_patience)
    except RefusedError as error:
        if error.status in (401, 403):
            raise RefusedError(f"Unauthorised: {error}", status=error.status) from error
        if error.status != 404:
            raise
        raise ConfigurationError(
            f"Wrong version: {settings.endpoint} has no /apis/v2beta1. Kubeflow Pipelines 2.0 or newer is needed."
        ) from error
    except ApiUnavailableError as error:
        raise ApiUnavailableError(f"Unreachable: {error}") from error
    version = str(health.get("tag_name") or "unknown").removeprefix("v")
    if version.startswith(("0.", "1.")):
        raise ConfigurationError(
            f"Wrong version: {settings.endpoint} runs Kubeflow Pipelines {version}; 2.0 or newer is needed."
        )
    if health.get("multi_user") and not settings.namespace:
        raise ConfigurationError(
            f"{settings.endpoint} is multi-user: set 'namespace' of connection {settings.conn_id!r} to your profile's."
        )
    return version
