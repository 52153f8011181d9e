"""A registered version, checked, brought in step by step, or taken back: the tasks of the DAG `progressive_delivery`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from airflow.sdk import Asset, TaskGroup, task
from airflow.sdk.exceptions import AirflowSkipException

from airflow_provider_llmops.assets import model_asset, service_asset
from airflow_provider_llmops.conf import check_conf, given
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.groups.announced import IS_DELIVERED
from airflow_provider_llmops.groups.grouping import grouped
from airflow_provider_llmops.operators.canary import CanaryOperator
from airflow_provider_llmops.operators.evaluation import CheckModelOperator
from airflow_provider_llmops.operators.registry import FetchModelOperator, SetAliasOperator

__all__ = ["progressive_delivery_group"]

PARAMETERS = (
    "model_name",
    "version",
    "from_alias",
    "to_alias",
    "service",
    "probe_data",
    "min_answer_difference",
    "steps",
    "step_seconds",
    "min_requests",
    "max_error_rate",
    "max_latency_ratio",
    "on_undecided",
    "undecided_seconds",
    "probe_metric",
    "max_unscored",
    "probe_request",
    "probe_protocol",
    "allowed_licenses",
    "max_parameters",
    "scan",
    "signing_connection",
    "namespace",
    "kserve_connection",
    "kubeflow_connection",
    "mlflow_connection",
)
"""Names of the parameters that the tasks read."""


def progressive_delivery_group(
    group_id: str | None = "progressive_delivery",
    *,
    model_names: Sequence[str] = (),
    namespace: str = "default",
) -> TaskGroup | None:
    """Fetch a registered version, check it, bring it in as a canary, and move the alias, as the DAG `progressive_delivery` does.

    Which version it is says the event of the asset that started the run, or the parameters. The tasks read their settings from the
    parameters of the DAG's run, which has to have all of :data:`PARAMETERS`: see ``dags/progressive_delivery.py``, whose form has them
    with their limits. Tasks have the same ids in any group, so a DAG has the group once.

    :param group_id: name of the group; ``None`` puts the tasks into the DAG, or the group, that it is called in, and returns ``None``
    :param model_names: names of the models and services in the assets that the tasks read and tell, such as the default of the parameter
        ``model_name``; without any there are none
    :param namespace: of the service in its asset
    """
    models = [model_asset(name) for name in model_names]
    services = [service_asset(name, namespace) for name in model_names]
    return grouped(group_id, partial(_tasks, models, services))


def _tasks(models: Sequence[Asset], services: Sequence[Asset]) -> None:
    @task
    def check_settings(**context: Any) -> None:
        """Refuses what the DAG does not take, and leaves alone what no other run has to deliver."""
        check_conf(context)
        if registered(context).get("is_backfill"):
            raise AirflowSkipException("A backfill has registered the version: what serves is of newer data.")
        if registered(context).get(IS_DELIVERED):
            raise AirflowSkipException("The run that has registered the version brings it in itself.")

    fetch_model = FetchModelOperator(
        task_id="fetch_model",
        model_name=model_name,
        model_version=version,
        alias=lambda context, **_: None if version(context) else context["params"]["from_alias"],
        mlflow_conn_id=given("mlflow_connection"),
        kubeflow_conn_id=given("kubeflow_connection"),
    )
    check_model = CheckModelOperator(
        task_id="check_model",
        model=fetch_model.output["model"],
        model_digest=fetched("registered_digest"),
        allowed_licenses=given("allowed_licenses"),
        max_parameters=given("max_parameters"),
        scan=given("scan"),
        signature=signature,
        signing_conn_id=given("signing_connection"),
        model_name=model_name,
        model_version=fetched("version"),
        mlflow_conn_id=given("mlflow_connection"),
        kubeflow_conn_id=given("kubeflow_connection"),
    )
    canary = CanaryOperator(
        task_id="canary",
        service_name=service,
        namespace=given("namespace"),
        model=fetch_model.output["model"],
        model_digest=fetched("model_digest"),
        steps=given("steps"),
        step_duration=given("step_seconds"),
        min_requests=given("min_requests"),
        max_error_rate=given("max_error_rate"),
        max_latency_ratio=given("max_latency_ratio"),
        undecided_timeout=given("undecided_seconds"),
        on_undecided=given("on_undecided"),
        probes=probes,
        kserve_conn_id=given("kserve_connection"),
        inlets=models,
        outlets=services,
    )
    set_alias = SetAliasOperator(
        task_id="set_alias",
        model_name=model_name,
        model_version=fetched("version"),
        alias=given("to_alias"),
        mlflow_conn_id=given("mlflow_connection"),
        kubeflow_conn_id=given("kubeflow_connection"),
    )

    check_settings() >> fetch_model >> check_model >> canary >> set_alias


def registered(context: Any) -> dict[str, Any]:
    """What has started the run, if that is the registration of a version: its name and number."""
    events = [event for each in (context.get("triggering_asset_events") or {}).values() for event in each]
    newest = max(events, key=lambda event: event.timestamp, default=None)
    known: dict[str, Any] = newest.extra if newest else {}
    if newest and not {"model_name", "model_version"} <= known.keys():
        raise ConfigurationError(
            "The event of the model's asset does not say which version there is. Let RegisterModelOperator have it as outlet, or "
            'give {"model_name": ..., "model_version": ...} as its extra.'
        )
    return known


def model_name(context: Any, **_: Any) -> str:
    """Name of the registered model."""
    name: str = registered(context).get("model_name") or context["params"]["model_name"]
    return name


def version(context: Any, **_: Any) -> str | None:
    """Number of the version; None for the one that has the alias."""
    number: str | None = registered(context).get("model_version") or context["params"]["version"]
    return number


def service(context: Any, **_: Any) -> str:
    """Name of the service."""
    name: str = context["params"]["service"] or model_name(context)
    return name


def fetched(name: str) -> Callable[..., Any]:
    """What is known of the version that was fetched."""
    return lambda context, **_: context["ti"].xcom_pull("fetch_model")["details"][name]


def signature(context: Any, **_: Any) -> str | None:
    """Address of the signature that the version was registered with; None where nobody asks for one, or it has none."""
    wanted = context["params"]["signing_connection"]
    return context["ti"].xcom_pull("fetch_model", key="signature") if wanted else None


def probes(context: Any, **_: Any) -> dict[str, Any] | None:
    """What both revisions are asked in each step; None where no probe set is given."""
    params = context["params"]
    if not params["probe_data"]:
        return None
    return {
        "dataset": params["probe_data"],
        "metric": params["probe_metric"],
        "min_difference": params["min_answer_difference"],
        "max_unscored": params["max_unscored"],
        "arguments": {"request": params["probe_request"], "protocol": params["probe_protocol"]},
        "kubeflow_conn_id": params["kubeflow_connection"],
    }
