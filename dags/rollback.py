"""### Rollback: one click back to the last good revision of a service

The revision that served last before the one that was asked for last, and was not given up, is started again. When it is ready and has
answered a question, it gets the requests; the one that it replaces is given up, and no later rollback goes back to it. Where it does not
become ready, or does not answer, what serves goes on.

An alias of the model in MLflow stays where it is.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param
from airflow_provider_llmops.operators.rollback import RollbackOperator

params = {
    "service": Param(
        "stdlib-helper",
        type="string",
        pattern="^[a-z]([-a-z0-9]{0,46}[a-z0-9])?$",
        title="Service",
        description="Name of the service.",
    ),
    "namespace": Param(
        "default",
        type="string",
        pattern="^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
        title="Namespace",
        description="Namespace of the service.",
    ),
    "connection": Param(
        "kserve_default",
        type="string",
        minLength=1,
        title="Connection",
        description="Connection of type `kserve`, which says where the service runs.",
    ),
    "revision": Param(
        None,
        type=["null", "string"],
        minLength=1,
        title="Revision",
        description="Revision to go back to, whatever became of it. Left empty: the last good one.",
    ),
}

with DAG(
    dag_id="rollback",
    schedule=None,
    catchup=False,
    params=params,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=5)},
    doc_md=__doc__,
    tags=["llmops", "delivery"],
) as dag:
    RollbackOperator(
        task_id="roll_back",
        service_name="{{ params.service }}",
        namespace="{{ params.namespace }}",
        kserve_conn_id="{{ params.connection }}",
        to_revision="{{ params.revision or '' }}",
    )
