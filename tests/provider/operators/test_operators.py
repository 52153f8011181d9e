"""The operators of the components against their compiled specifications, and the gate."""

from __future__ import annotations

import inspect

import pytest

from airflow_provider_llmops.exceptions import ConfigurationError, QualityGateFailed
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.operators.data import PrepareSampleDataOperator, ValidateDatasetOperator
from airflow_provider_llmops.operators.evaluation import EvaluateModelOperator, QualityGateOperator
from airflow_provider_llmops.operators.registry import RegisterModelOperator
from airflow_provider_llmops.operators.training import (
    DistillOperator,
    ImportBaseModelOperator,
    MergeAdapterOperator,
    TrainDPOOperator,
    TrainGRPOOperator,
    TrainKTOOperator,
    TrainRewardOperator,
    TrainRLOOOperator,
    TrainSFTOperator,
)
from airflow_provider_llmops.specs.pipeline import PipelineSpec

OPERATORS = {
    PrepareSampleDataOperator: {},
    ValidateDatasetOperator: {"dataset": "/d"},
    ImportBaseModelOperator: {"source": "hf://org/name"},
    TrainSFTOperator: {"dataset": "/d", "base_model": "/m"},
    TrainRewardOperator: {"dataset": "/d", "base_model": "/m"},
    TrainDPOOperator: {"dataset": "/d", "base_model": "/m"},
    TrainKTOOperator: {"dataset": "/d", "base_model": "/m"},
    TrainGRPOOperator: {"dataset": "/d", "base_model": "/m", "reward_model": "/r"},
    TrainRLOOOperator: {"dataset": "/d", "base_model": "/m", "reward_model": "/r"},
    DistillOperator: {"dataset": "/d", "base_model": "/m", "teacher": "/t"},
    MergeAdapterOperator: {"base_model": "/m", "adapter": "/a"},
    EvaluateModelOperator: {"model": "/m", "dataset": "/d"},
    RegisterModelOperator: {"model": "/m", "model_name": "name"},
}


@pytest.fixture(autouse=True)
def mlflow_connection(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", "mlflow://user:secret@tracking:5000")


def test_every_component_operator_is_covered():
    def below(cls):
        return {cls, *(deeper for sub in cls.__subclasses__() for deeper in below(sub))}

    ours = {cls for cls in below(ComponentOperator) if cls.__module__.startswith("airflow_provider_llmops")}
    assert {cls for cls in ours if "component" in vars(cls)} == set(OPERATORS)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda cls: cls.__name__)
def test_operator_fits_its_component(operator):
    task = operator(task_id="task", **OPERATORS[operator])
    spec = PipelineSpec.packaged(operator.component)
    assert set(task.arguments()) == set(spec.inputs)
    spec.bind(task.arguments())  # every default of the operator is accepted by the component


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda cls: cls.__name__)
def test_defaults_of_operator_and_component_are_the_same(operator):
    task = operator(task_id="task", **OPERATORS[operator])
    inputs = PipelineSpec.packaged(operator.component).inputs
    declared = {name: spec["defaultValue"] for name, spec in inputs.items() if "defaultValue" in spec}
    assert {name: task.arguments()[name] for name in declared} == declared


@pytest.mark.parametrize("operator", [*OPERATORS, QualityGateOperator], ids=lambda cls: cls.__name__)
def test_every_own_parameter_is_templated_and_documented(operator):
    shared = set(ComponentOperator.__mro__)
    classes = [cls for cls in operator.__mro__ if cls not in shared]
    own = {name for cls in classes for name in inspect.signature(cls.__init__).parameters} - {
        "self",
        "kwargs",
    }
    documentation = "".join(cls.__doc__ for cls in classes)
    assert own <= set(operator.template_fields)
    assert [name for name in own if f":param {name}:" not in documentation] == []


def test_registration_takes_the_servers_address_from_the_connection_and_its_credentials_from_the_environment():
    task = RegisterModelOperator(task_id="task", model="/m", model_name="name", tags={"a": "b"})
    assert task.arguments()["tracking_uri"] == "http://tracking:5000"
    assert task.environment() == {"MLFLOW_TRACKING_USERNAME": "user", "MLFLOW_TRACKING_PASSWORD": "secret"}
    assert "secret" not in repr(task.arguments())


def test_training_is_tracked_under_the_run_of_its_dag_with_credentials_from_the_environment(context):
    task = TrainSFTOperator(
        task_id="sft",
        dataset="/d",
        base_model="/m",
        mlflow_conn_id="mlflow_default",
        tracking={"experiment": "mine", "run_name": "first"},
    )
    assert task.arguments()["tracking"] == {
        "tracking_uri": "http://tracking:5000",
        "experiment": "mine",
        "run_name": "first",
    }
    task.tracking = None
    task._context = context
    ti = context["ti"]
    assert task.arguments()["tracking"] == {
        "tracking_uri": "http://tracking:5000",
        "parent": f"{ti.dag_id}/{ti.run_id}",
        "run_name": ti.task_id,
    }
    assert task.environment() == {"MLFLOW_TRACKING_USERNAME": "user", "MLFLOW_TRACKING_PASSWORD": "secret"}
    assert "secret" not in repr(task.arguments())


def test_training_is_tracked_nowhere_by_default():
    task = TrainSFTOperator(task_id="sft", dataset="/d", base_model="/m")
    assert task.arguments()["tracking"] is None
    assert task.environment() == {}


def test_where_a_training_is_tracked_does_not_keep_its_result_from_being_reused(connections, monkeypatch):
    def fingerprint(run: str, dataset: str = "/d"):
        tracking = {"tracking_uri": "http://tracking", "parent": f"dag/{run}"}
        task = TrainSFTOperator(
            task_id="sft", dataset=dataset, base_model="/m", tracking=tracking, reuse="identical"
        )
        monkeypatch.setattr(type(task.hook.backend), "input_digest", lambda self, uri: uri)
        return task.fingerprint(task.spec().bind(task.arguments()))

    assert fingerprint("one") == fingerprint("two") != ""
    assert fingerprint("one", dataset="/e") != fingerprint("one")


METRICS = {"rougeL": 0.50, "rougeL_baseline": 0.40, "rougeL_improvement": 0.1, "bleu": 3.0}


def gate(context, **arguments):
    return QualityGateOperator(
        task_id="gate", **{"metrics": METRICS, "metric": "rougeL", **arguments}
    ).execute(context)


def test_gate_passes_at_the_margin(context):
    assert gate(context, min_improvement=0.1) == {
        "metric": "rougeL",
        "baseline": 0.40,
        "candidate": 0.50,
        "improvement": 0.1,
        "min_improvement": 0.1,
        "passed": True,
    }


def test_gate_fails_just_above_the_margin_and_pushes_its_numbers(context):
    with pytest.raises(
        QualityGateFailed, match=r"^rougeL 0\.5 against 0\.4, at least \+0\.1001 asked for and \+0\.1 reached"
    ):
        gate(context, min_improvement=0.1001)
    assert context["ti"].xcom["return_value"]["passed"] is False


def test_gate_says_as_many_digits_as_tell_the_numbers_apart(context):
    with pytest.raises(QualityGateFailed, match=r"at least \+0\.10000001 asked for and \+0\.1 reached"):
        gate(context, min_improvement=0.10000001)


def test_gate_on_a_metric_without_baseline_is_refused(context):
    with pytest.raises(ConfigurationError, match=r"compared no metric 'rougel' \(did you mean 'rougeL'\?\)"):
        gate(context, metric="rougel")
    with pytest.raises(ConfigurationError, match="It compared: nothing"):
        gate(context, metrics={"rougeL": 0.5})
