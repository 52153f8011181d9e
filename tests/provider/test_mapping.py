"""What mapped tasks hand on, and what their trainings are called."""

from __future__ import annotations

import pytest

from airflow_provider_llmops.mapping import artifact
from airflow_provider_llmops.operators.training import TrainSFTOperator


def test_artifact_is_found_in_results_of_every_kind():
    assert artifact("model")({"artifacts": {"model": {"uri": "/m", "digest": "sha256:0"}}}) == "/m"
    assert artifact("model")({"artifacts": {"model": "/m"}}) == "/m"
    with pytest.raises(KeyError, match=r"There is no artifact 'modle' in the result. It has: model"):
        artifact("modle")({"artifacts": {"model": "/m"}})


@pytest.mark.parametrize(
    ("map_index", "template", "name"),
    [
        (-1, None, "task"),
        (2, None, "task[2]"),
        (2, "rate {{ task.training_args['learning_rate'] }}", "task[rate 0.001]"),
    ],
)
def test_mapped_trainings_have_names_of_their_own(context, monkeypatch, map_index, template, name):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", "mlflow://tracking:5000")
    task = TrainSFTOperator(
        task_id="task",
        dataset="/d",
        base_model="/m",
        training_args={"learning_rate": 0.001},
        mlflow_conn_id="mlflow_default",
        map_index_template=template,
    )
    context["ti"].map_index = map_index
    task._context = context | {"task": task}
    assert task.arguments()["tracking"]["run_name"] == name
