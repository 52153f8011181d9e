"""The operator that sums up what a DAG's run took."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.arguments import names_of
from airflow_provider_llmops.exceptions import ConfigurationError, shown_value
from airflow_provider_llmops.hooks.mlflow import MlflowHook
from airflow_provider_llmops.remote.traced import TracedOperator
from airflow_provider_llmops.spending import cost_of, energy_of, joined_steps, spent_by

if TYPE_CHECKING:
    from airflow.sdk import DAG, Context

__all__ = ["RunCostOperator"]

_LOGGED = ("cost", "device_hours", "energy_kwh")


class RunCostOperator(TracedOperator):
    """Sum up what the steps of the DAG's run took, price it, and log it with the model version that the run has registered.

    ``return_value`` has ``spent`` (step seconds, CPU seconds, device hours and tokens of trainings, what judges took), ``cost``, ``device_hours``
    and ``energy_kwh``, each ``None`` where it is not known, ``unknown``, which says why, and ``mlflow_run_id``. Metrics of these names are logged with
    the MLflow run, once: one that is there with the same value is not logged again. A version that an earlier run has registered keeps that run's.

    What counts is what tasks have returned: attempts that failed are not in it. :meth:`last_of` puts the task where it belongs.

    :param price_per_hour: of a step; ``[llmops] price_per_hour`` when left out. Without either there is no cost
    :param watts_per_device: what a device draws while a training goes on; ``[llmops] watts_per_device`` when left out. Without either, energy is
        that which steps of yours have measured, as ``energy_kwh`` among their ``resources``
    :param mlflow_run_id: MLflow run that the metrics belong to; that of the version that a task of the run has registered when left out
    :param mlflow_conn_id: connection of type ``mlflow``
    """

    def __init__(
        self,
        *,
        price_per_hour: float | str | None = None,
        watts_per_device: float | str | None = None,
        mlflow_run_id: str | None = None,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"trigger_rule": "all_done", **kwargs})
        self.price_per_hour = price_per_hour
        self.watts_per_device = watts_per_device
        self.mlflow_run_id = mlflow_run_id
        self.mlflow_conn_id = mlflow_conn_id

    template_fields = names_of(__init__)
    ui_color = "#e8f0fe"

    @classmethod
    def last_of(cls, dag: DAG, task_id: str = "run_cost", **arguments: Any) -> RunCostOperator:
        """The task after all that the DAG has so far. It is a teardown, so that the run's state is that of the other tasks.

        :param dag: the DAG
        :param task_id: of the task
        :param arguments: those of the operator
        """
        leaves = dag.leaves
        task = cls(task_id=task_id, dag=dag, **arguments)
        task.set_upstream(leaves)
        task.as_teardown()
        return task

    def execute(self, context: Context) -> dict[str, Any]:
        """Read what the tasks have returned, and log what comes of it."""
        price = _number_of("price_per_hour", self.price_per_hour)
        watts = _number_of("watts_per_device", self.watts_per_device)
        results = list(self._results(context))
        spent = spent_by(results)
        value: dict[str, Any] = {
            "spent": {name: round(each, 6) for name, each in sorted(spent.items())},
            "price_per_hour": price,
            "watts_per_device": watts,
            "cost": None if price is None else round(cost_of(spent, price), 6),
            "device_hours": _rounded(spent.get("device_hours")),
            "energy_kwh": _rounded(energy_of(results, watts)),
            "mlflow_run_id": self.mlflow_run_id or _registered(results),
        }
        value["unknown"] = list(_unknown(context, results, value))
        self.log.info("%s", ", ".join(f"{name}: {value[name]}" for name in ("spent", *_LOGGED)))
        for sentence in value["unknown"]:
            self.log.info("Not known: %s.", sentence)
        context["ti"].xcom_push(key="return_value", value=value)  # whether or not MLflow answers
        self._log_with(value)
        return value

    def _log_with(self, value: Mapping[str, Any]) -> None:
        """Log what is known with the MLflow run, if it is not there yet."""
        run_id = value["mlflow_run_id"]
        if not run_id:
            self.log.info("Nothing is logged in MLflow: this run has registered no model version.")
            return
        hook = MlflowHook(self.mlflow_conn_id)
        logged = hook.run(run_id).get("data", {}).get("metrics", [])
        there = {each["key"]: each.get("value", 0.0) for each in logged}
        new = {
            name: value[name]
            for name in _LOGGED
            if value[name] is not None and there.get(name) != value[name]
        }
        if new:
            hook.log_metrics(run_id, new)

    def _results(self, context: Context) -> Iterator[Any]:
        """What the other tasks of the run have returned, each instance of mapped ones, and each step of those that join several."""
        ti: Any = context["ti"]
        for task_id in sorted(set(context["dag"].task_ids) - {self.task_id}):
            for value in ti.xcom_pull(task_ids=[task_id]):
                yield value
                for name in joined_steps(value):
                    yield from ti.xcom_pull(task_ids=[task_id], key=name)


def _unknown(context: Context, results: list[Any], value: Mapping[str, Any]) -> Iterator[str]:
    """What is not in the sums, and why."""
    ti: Any = context["ti"]
    states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
    if failed := sorted(name for name, state in states.items() if state == "failed"):
        yield f"what tasks took that have failed: {', '.join(failed)}"
    if value["cost"] is None:
        yield "cost: price_per_hour is not set"
    components = [
        str(each["component"])
        for each in results
        if isinstance(each, Mapping) and "component" in each and "device_hours" not in spent_by([each])
    ]
    if untold := sorted({each for each in components if each.startswith("train_")}):
        yield f"device_hours of {', '.join(untold)}"
    if value["device_hours"] is None:
        yield "device_hours: no training has told any"
    if value["energy_kwh"] is None:
        without = value["watts_per_device"] is None
        why = ", and watts_per_device is not set" if without else " or told hours of devices"
        yield f"energy_kwh: nothing has measured it{why}"


def _registered(results: list[Any]) -> str | None:
    """MLflow run of the version that was registered; ``None`` where there is none, or it is that of an earlier run."""
    for each in results:
        if isinstance(each, Mapping) and each.get("component") == "register_model":
            details = each.get("details") or {}
            if not details.get("reused"):
                return details.get("run_id")
    return None


def _number_of(name: str, given: Any) -> float | None:
    """A number that the operator or Airflow's configuration gives."""
    from airflow.sdk.configuration import conf

    if given in (None, ""):
        given = conf.get("llmops", name, fallback="").strip()
    if given == "":
        return None
    try:
        number = float(given)
    except (TypeError, ValueError):
        number = math.nan
    if not (0 <= number < math.inf):
        raise ConfigurationError(
            f"{name} is no number from 0: {shown_value(given)}. Correct it in the operator, or in section [llmops] of Airflow's configuration."
        )
    return number


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
