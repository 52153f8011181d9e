"""The operators of the components against their compiled specifications, and the gate."""

from __future__ import annotations

import importlib
import inspect
import re

import pytest

from airflow_provider_llmops.arguments import constructors_of
from airflow_provider_llmops.get_provider_info import get_provider_info
from airflow_provider_llmops.operators.benchmarks import RunBenchmarksOperator
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.operators.data import (
    FetchDatasetOperator,
    PrepareDatasetOperator,
    PrepareSampleDataOperator,
    ValidateDatasetOperator,
)
from airflow_provider_llmops.operators.evaluate_service import EvaluateServiceOperator
from airflow_provider_llmops.operators.evaluation import (
    CheckModelOperator,
    EvaluateModelOperator,
    QualityGateOperator,
)
from airflow_provider_llmops.operators.explaining import ExplainAnswersOperator
from airflow_provider_llmops.operators.history import RecordEvaluationOperator
from airflow_provider_llmops.operators.human import (
    CollectFeedbackOperator,
    CollectHumanLabelsOperator,
    WriteReviewSheetOperator,
)
from airflow_provider_llmops.operators.inference import BatchInferenceOperator, CompareRevisionsOperator
from airflow_provider_llmops.operators.judged import FURTHER_INPUTS
from airflow_provider_llmops.operators.profiling import ProfileDatasetOperator
from airflow_provider_llmops.operators.publishing import PublishDatasetOperator
from airflow_provider_llmops.operators.registry import (
    FetchModelOperator,
    RegisterModelOperator,
    SetAliasOperator,
)
from airflow_provider_llmops.operators.safety import PrepareSafetyProbesOperator
from airflow_provider_llmops.operators.training import (
    CompressModelOperator,
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
from airflow_provider_llmops.operators.versions import DiffDatasetsOperator, MonitorDataOperator
from airflow_provider_llmops.specs.pipeline import PipelineSpec

OPERATORS = {
    PrepareSampleDataOperator: {},
    FetchDatasetOperator: {"source": "/d"},
    DiffDatasetsOperator: {"before": "/a", "after": "/b"},
    MonitorDataOperator: {"dataset": "/a", "reference": "/b"},
    PublishDatasetOperator: {"prepared": "/d", "manifest": "/m", "catalog": "/c"},
    PrepareDatasetOperator: {"dataset": "/d", "steps": [{"step": "drop_duplicates"}]},
    ValidateDatasetOperator: {"dataset": "/d"},
    ProfileDatasetOperator: {"dataset": "/d"},
    ImportBaseModelOperator: {"source": "hf://org/name"},
    TrainSFTOperator: {"dataset": "/d", "base_model": "/m"},
    TrainRewardOperator: {"dataset": "/d", "base_model": "/m"},
    TrainDPOOperator: {"dataset": "/d", "base_model": "/m"},
    TrainKTOOperator: {"dataset": "/d", "base_model": "/m"},
    TrainGRPOOperator: {"dataset": "/d", "base_model": "/m", "reward_model": "/r"},
    TrainRLOOOperator: {"dataset": "/d", "base_model": "/m", "reward_model": "/r"},
    DistillOperator: {"dataset": "/d", "base_model": "/m", "teacher": "/t"},
    MergeAdapterOperator: {"base_model": "/m", "adapter": "/a"},
    CompressModelOperator: {"base_model": "/m"},
    CheckModelOperator: {"model": "/m"},
    EvaluateModelOperator: {"model": "/m", "dataset": "/d"},
    EvaluateServiceOperator: {"dataset": "/d", "url": "http://127.0.0.1:8080", "model_name": "m"},
    RunBenchmarksOperator: {"model": "/m", "task_names": ["boolq"]},
    BatchInferenceOperator: {"dataset": "/d", "url": "http://127.0.0.1:8080", "model_name": "m"},
    CompareRevisionsOperator: {"dataset": "/d", "url": "http://127.0.0.1:8080", "model_name": "m"},
    ExplainAnswersOperator: {"model": "/m", "dataset": "/d", "scores": "/s"},
    PrepareSafetyProbesOperator: {"more": "/p"},
    WriteReviewSheetOperator: {"scores": "/s"},
    CollectFeedbackOperator: {"requests": "/r", "feedback": "/f"},
    CollectHumanLabelsOperator: {"human_labels": "/l", "key": "/k"},
    RecordEvaluationOperator: {"scores": "/s", "history": "/h", "partition": "2026-11-25", "comparison": {}},
    RegisterModelOperator: {"model": "/m", "model_name": "name"},
    FetchModelOperator: {"model_name": "name"},
    SetAliasOperator: {"model_name": "name", "model_version": "1", "alias": "production"},
}


@pytest.fixture(autouse=True)
def mlflow_connection(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", "mlflow://user:secret@tracking:5000")


def test_every_component_operator_is_covered():
    for group in get_provider_info()["operators"]:
        for module in group["python-modules"]:
            importlib.import_module(module)

    def below(cls):
        return {cls, *(deeper for sub in cls.__subclasses__() for deeper in below(sub))}

    ours = {cls for cls in below(ComponentOperator) if cls.__module__.startswith("airflow_provider_llmops")}
    assert {cls for cls in ours if vars(cls).get("component")} == set(OPERATORS)


# Inputs that the worker knows: they are told by a connection, by the run of the DAG, or by another argument.
FROM_THE_RUN = {
    RegisterModelOperator: {"tracking_uri", "run_name", "parent", "sign"},
    CheckModelOperator: {"tracking_uri"},
    FetchModelOperator: {"tracking_uri"},
    SetAliasOperator: {"tracking_uri"},
    RecordEvaluationOperator: {"tracking_uri"},
    # Scores of further models are one argument, by name, and as many artifacts.
    **{
        operator: {*FURTHER_INPUTS, "further_names"}
        for operator in (EvaluateModelOperator, EvaluateServiceOperator, RunBenchmarksOperator)
    },
}
# What a connection may tell in place of the DAG.
FROM_A_CONNECTION = {EvaluateServiceOperator: {"url"}}
TYPES = {
    "str": "STRING",
    "int": "NUMBER_INTEGER",
    "float": "NUMBER_DOUBLE",
    "bool": "BOOLEAN",
    "list": "LIST",
    "Sequence": "LIST",
    "dict": "STRUCT",
    "Mapping": "STRUCT",
}


def own_arguments(operator) -> dict[str, inspect.Parameter]:
    """What the constructors of an operator take beside what all component operators do."""
    found = [inspect.signature(each).parameters for each in constructors_of(operator, ComponentOperator)]
    merged = {name: each for parameters in found for name, each in parameters.items()}
    return {name: each for name, each in merged.items() if name not in ("self", "kwargs")}


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda cls: cls.__name__)
def test_arguments_of_operator_and_component_have_the_same_names(operator):
    inputs = set(PipelineSpec.packaged(operator.component).inputs)
    assert set(operator.inputs) == set(own_arguments(operator)) - set(operator.own_arguments)
    assert set(operator.inputs) - inputs == set(), "the component lacks them"
    assert inputs - set(operator.inputs) == FROM_THE_RUN.get(operator, set()), "the operator cannot set them"
    assert set(operator.own_arguments) & inputs == set()


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda cls: cls.__name__)
def test_arguments_of_operator_and_component_have_the_same_types(operator):
    inputs = PipelineSpec.packaged(operator.component).inputs
    for name, argument in own_arguments(operator).items():
        if name not in inputs:
            continue
        declared = inputs[name]
        kinds = {kind.partition("[")[0] for kind in re.split(r" \| ", argument.annotation)} - {"None"}
        expected = "STRING" if "artifactType" in declared else declared["parameterType"]
        # A template gives text for anything; what is declared stands first.
        assert expected in {TYPES[kind] for kind in kinds}, name
        assert {TYPES[kind] for kind in kinds} <= {expected, "STRING"}, name
        is_optional = "defaultValue" in declared or declared.get("isOptional", False)
        is_optional = is_optional or name in FROM_A_CONNECTION.get(operator, ())
        assert is_optional == (argument.default is not inspect.Parameter.empty), name


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
    ours = [cls for cls in operator.__mro__ if cls.__module__.startswith("airflow_provider_llmops.")]
    classes = [cls for cls in ours if cls not in shared]
    own = {name for cls in classes for name in inspect.signature(cls.__init__).parameters} - {
        "self",
        "kwargs",
    }
    documentation = "".join(cls.__doc__ for cls in classes)
    assert own - {"drift_asset"} <= set(
        operator.template_fields
    )  # an asset is known before anything is rendered
    assert [name for name in own if f":param {name}:" not in documentation] == []


def test_operator_derives_its_inputs_its_fields_and_how_they_are_shown():
    assert TrainGRPOOperator.inputs == (*TrainSFTOperator.inputs, "rewards", "reward_model")
    assert TrainGRPOOperator.template_fields == (
        *ComponentOperator.template_fields,
        *("dataset", "base_model", "eval_dataset", "training_args", "peft_args", "model_args", "checkpoints"),
        *(
            "save_minutes",
            "budget",
            "tracking",
            "mlflow_conn_id",
            "processes",
            "preset",
            "rewards",
            "reward_model",
        ),
    )
    as_json = ("step_settings", "training_args", "peft_args", "model_args", "budget", "tracking", "rewards")
    assert TrainGRPOOperator.template_fields_renderers == dict.fromkeys(as_json, "json")


def test_subclass_of_a_component_operator_has_its_fields_and_arguments_of_its_own_besides():
    class Nightly(TrainSFTOperator):
        def __init__(self, *, night: str, **kwargs):
            super().__init__(dataset=f"/rows/{night}", **kwargs)

    task = Nightly(task_id="task", night="monday", base_model="/m")
    assert (Nightly.inputs, Nightly.template_fields) == (
        TrainSFTOperator.inputs,
        TrainSFTOperator.template_fields,
    )
    assert task.arguments()["dataset"] == "/rows/monday"


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda cls: cls.__name__)
def test_operator_survives_the_serialisation_of_its_dag(operator):
    from airflow.sdk import DAG
    from airflow.serialization.serialized_objects import DagSerialization

    with DAG("dag") as dag:
        operator(task_id="task", **OPERATORS[operator])
        required, *others = OPERATORS[operator] or {"seed": 1}
        rest = {name: OPERATORS[operator][name] for name in others}
        operator.partial(task_id="mapped", **rest).expand(**{required: ["/a", "/b"]})
    read = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    for task in ("task", "mapped"):
        assert tuple(read.task_dict[task].template_fields) == tuple(operator.template_fields)
        assert read.task_dict[task].template_fields_renderers == operator.template_fields_renderers


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
        "tags": {"airflow.conf": "{}", "llmops.provider_version": "0.1.0"},
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
