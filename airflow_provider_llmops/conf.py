"""The conf and the parameters of a DAG's run: refuse what the DAG does not take, and hand on what it was given.

Airflow checks the values of a DAG's parameters when a run is triggered, and takes any further key without a word, so that
a typo leaves a parameter at its default. A DAG that should refuse it begins with a task that calls :func:`check_conf`:

.. code-block:: python

    @task
    def check_settings(**context):
        check_conf(context)

    check_settings() >> ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown

if TYPE_CHECKING:
    from airflow.sdk import DAG, Context

__all__ = ["check_conf", "given", "gpu_pool", "parameter_names", "partition_key"]

# TriggerDagRunOperator puts it there where OpenLineage is installed.
_OF_AIRFLOW = ("openlineage",)
DEFAULT_POOL = "default_pool"
"""The pool that every Airflow has."""


def check_conf(context: Context, also: Iterable[str] = ()) -> None:
    """Refuse a run whose conf has keys that the DAG does not take.

    :param context: context of a task of the run
    :param also: keys that the DAG reads from the conf though they are not among its parameters
    :raises ConfigurationError: names each unknown key, and the nearest one that there is.
    """
    dag_run = context["dag_run"]
    known = {*parameter_names(context["dag"]), *also}
    given = [key for key in dag_run.conf or {} if key not in _OF_AIRFLOW]
    if unknown := describe_unknown(given, known):
        takes = ", ".join(sorted(known)) or "none"
        raise ConfigurationError(
            f"Unknown in the conf of this run: {unknown}. Parameters of {dag_run.dag_id}: {takes}. "
            f"Nothing has been started; trigger the DAG again with the right names."
        )


def parameter_names(dag: DAG | Any) -> set[str]:
    """Names of all parameters of a DAG, those of single tasks included."""
    return set(dag.params).union(*(task.params for task in dag.tasks))


def given(name: str) -> Callable[..., Any]:
    """The value of an operator's argument that is a parameter of the run, as it is: a template would make numbers of texts such as ``1e5``.

    :param name: name of the parameter
    """
    return lambda context, **_: context["params"][name]


def partition_key(context: Any, **_: Any) -> str:
    """Key of the partition that a run is of: that of its parameter ``partition``, or the run's own; of a run that somebody has started without
    one, its day.

    :param context: context of a task of the run
    """
    run = context["dag_run"]
    day = (getattr(run, "logical_date", None) or run.run_after).strftime("%Y-%m-%d")
    key: str = context["params"]["partition"] or run.partition_key or day
    return key


def gpu_pool() -> str:
    """Name of the pool of tasks that train a model or have it answer: ``[llmops] gpu_pool``, or Airflow's own where that says nothing.

    It is asked when a DAG is read, for a pool cannot be a template.
    """
    from airflow.sdk.configuration import conf

    name: str = conf.get("llmops", "gpu_pool", fallback="").strip()
    return name or DEFAULT_POOL
