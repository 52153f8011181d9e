"""Several components as one pipeline run: what they become, what is refused, and what XCom gets."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred
from airflow.serialization.serialized_objects import DagSerialization
from attempts import retry
from pipelines import two_steps

from airflow_provider_llmops.exceptions import ConfigurationError, QualityGateFailed, RunFailedError
from airflow_provider_llmops.operators.data import PrepareSampleDataOperator, ValidateDatasetOperator
from airflow_provider_llmops.operators.joined import KubeflowJoinedOperator, output_of, step
from airflow_provider_llmops.operators.pipeline_run import with_settings
from airflow_provider_llmops.operators.training import TrainSFTOperator
from airflow_provider_llmops.settings.kubernetes import StepSettings
from airflow_provider_llmops.specs.pipeline import PipelineSpec
from airflow_provider_llmops.uris import ANY_ARTIFACT, Address

pytestmark = pytest.mark.usefixtures("connections")


def joined(steps, **arguments):
    return KubeflowJoinedOperator(
        task_id="task", steps=steps, **{"deferrable": False, "poll_interval": 0.05, **arguments}
    )


MADE = {"train_rows": 16, "preference_rows": 4, "evaluation_rows": 8, "seed": 3}


def made_and_checked(**arguments):
    return {
        "make": step("prepare_sample_data", MADE),
        "check": step(
            "validate_dataset",
            {"dataset": output_of("make", "train"), "dataset_format": "prompt_completion", **arguments},
        ),
    }


def tuned():
    return {
        "validate": step("validate_dataset", {"dataset": "/d.jsonl"}),
        "train": step("train_sft", {"dataset": output_of("validate", "validated"), "base_model": "/m"}),
        "evaluate-base": step("evaluate_model", {"model": "/m", "dataset": "/e.jsonl"}),
        "evaluate": step(
            "evaluate_model",
            {
                "model": output_of("train", "model"),
                "dataset": "/e.jsonl",
                "baseline_scores": output_of("evaluate-base", "scores"),
            },
        ),
    }


def stable(value, *names):
    return {
        "component": value["component"],
        "metrics": value["metrics"],
        "passed": value["passed"],
        "digests": {name: value["artifacts"][name]["digest"] for name in names},
    }


def test_one_run_has_the_outcome_of_a_task_for_each_step(context, backend):
    value = joined(made_and_checked()).execute(context)
    (run_id,) = {path.name for path in backend._runs.glob("[!.]*")}
    assert (value["run_id"], value["state"]) == (run_id, "SUCCEEDED")
    assert value["steps"] == {"make": "SUCCEEDED", "check": "SUCCEEDED"}
    together = dict(context["ti"].xcom)

    common = {"task_id": "task", "deferrable": False, "poll_interval": 0.05}
    context["ti"].xcom.clear()
    context["task_state_store"].values.clear()
    made = PrepareSampleDataOperator(**MADE, **common).execute(context)
    context["task_state_store"].values.clear()
    checked = ValidateDatasetOperator(
        dataset=context["ti"].xcom["train"], dataset_format="prompt_completion", **common
    ).execute(context)

    artifacts = ("validated", "rejected")
    assert stable(together["make"], "train", "evaluation") == stable(made, "train", "evaluation")
    assert stable(together["check"], *artifacts) == stable(checked, *artifacts)
    assert together["check.metrics"] == checked["metrics"]
    assert together["check"]["component_digest"] == checked["component_digest"]
    assert {name for name in together if name.startswith("check.")} == {
        "check.metrics", *(f"check.{name}" for name in checked["artifacts"])
    }  # fmt: skip
    assert together["make.train"] == together["make"]["artifacts"]["train"]["uri"]
    assert together["data_docs_url"].startswith("/")


@pytest.fixture
def toy(toy_spec, tmp_path) -> str:
    """A compiled component in a file."""
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(toy_spec.ir))
    return str(tmp_path / "toy.yaml")


def test_what_comes_after_a_gate_that_is_not_passed_does_not_run(context, backend, toy, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    steps = {
        "check": step("validate_dataset", {"dataset": str(tmp_path / "rows.jsonl"), "min_rows": 1000}),
        "again": step("validate_dataset", {"dataset": output_of("check", "validated")}),
        "last": step(toy, {"source": output_of("again", "validated")}),
        "beside": step(toy),
    }
    with pytest.raises(QualityGateFailed, match=r"(?s)^1 rows.*\nStep 'check' of run ") as caught:
        joined(steps).execute(context)
    xcom = context["ti"].xcom
    assert "rejected: /" in str(caught.value)
    assert [name for name in steps if name in xcom] == ["check", "beside"]
    assert [xcom[name]["passed"] for name in ("check", "beside")] == [False, True]
    assert xcom["return_value"]["state"] == "SUCCEEDED"
    assert xcom["return_value"]["steps"] == {
        "beside": "SUCCEEDED",
        "check": "SUCCEEDED",
        "check-again-passed": "SKIPPED",
        "check-passed": "SKIPPED",
        "import-check-dataset": "SUCCEEDED",
    }


GATE = """
from kfp.dsl import *
from typing import *

def gate(made: Output[Artifact], name: str, opens: bool = True, source: Input[Artifact] = None) -> NamedTuple(
    "Outputs", [("passed", bool), ("words", str)]
):
    before = open(source.path).read() if source else ""
    with open(made.path, "w") as file:
        file.write(f"{before}{name} ")
    return opens, f"I am {name}"
"""


@pytest.fixture
def gate(toy_spec, tmp_path) -> str:
    """A component of one's own, in a file: a gate that writes its name behind those before it."""
    ir = copy.deepcopy(toy_spec.ir)
    component, executor = ir["components"]["comp-toy"], ir["deploymentSpec"]["executors"]["exec-toy"]
    (task,) = ir["root"]["dag"]["tasks"].values()
    container = executor["container"]
    container["command"][-1], container["args"][-1] = GATE, "gate"
    artifact = {"artifactType": {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"}}
    outputs = {
        "artifacts": {"made": artifact},
        "parameters": {"passed": {"parameterType": "BOOLEAN"}, "words": {"parameterType": "STRING"}},
    }
    inputs = {
        "artifacts": {"source": {**artifact, "isOptional": True}},
        "parameters": {
            "name": {"parameterType": "STRING"},
            "opens": {"parameterType": "BOOLEAN", "defaultValue": True, "isOptional": True},
        },
    }
    component |= {"inputDefinitions": inputs, "outputDefinitions": outputs}
    ir["root"]["inputDefinitions"] = inputs
    ir["root"].pop("outputDefinitions")
    ir["root"]["dag"].pop("outputs")
    task["cachingOptions"] = {"enableCache": True}
    task["inputs"] = {
        "artifacts": {"source": {"componentInputArtifact": "source"}},
        "parameters": {name: {"componentInputParameter": name} for name in inputs["parameters"]},
    }
    (tmp_path / "gate.yaml").write_text(json.dumps(ir))
    return str(tmp_path / "gate.yaml")


def side_by_side(gate, **opens):
    """Two gates beside each other, a third one behind the first, and steps behind each, and behind several."""

    def of(name, source=None, after=()):
        arguments = {"name": name, "opens": opens.get(name, True)}
        given = {"source": output_of(source, "made")} if source else {}
        return step(gate, {**arguments, **given}, after=after)

    return {
        "a": of("a"),
        "b": of("b"),
        "c": of("c", "a"),
        "behind-a": of("behind-a", "a"),
        "behind-b": of("behind-b", "b"),
        "behind-c": of("behind-c", "c"),
        "behind-all": of("behind-all", "behind-c", after=["behind-b"]),
    }


@pytest.mark.parametrize(
    ("closed", "ran"),
    [
        (None, {"a", "b", "c", "behind-a", "behind-b", "behind-c", "behind-all"}),
        ("b", {"a", "b", "c", "behind-a", "behind-c"}),
        ("c", {"a", "b", "c", "behind-a", "behind-b"}),
    ],
)
def test_a_step_runs_if_the_gates_were_passed_that_it_needs(context, backend, gate, closed, ran):
    operator = joined(side_by_side(gate, **({closed: False} if closed else {})))
    if closed:
        with pytest.raises(
            QualityGateFailed, match=rf"did not run, since a gate .* not passed: .*'{closed}'"
        ):
            operator.execute(context)
    else:
        operator.execute(context)
    xcom = context["ti"].xcom
    assert {name for name in operator.steps if name in xcom} == ran
    for name in ran:
        assert Path(xcom[f"{name}.made"]).read_text().split()[-1] == name
        assert xcom[f"{name}.words"] == xcom[name]["outputs"]["words"] == f"I am {name}"
        assert xcom[f"{name}.passed"] is (name != closed)
    if not closed:
        assert Path(xcom["behind-all.made"]).read_text() == "a c behind-c behind-all "


def test_steps_behind_the_same_gates_are_a_group_and_groups_hand_on_what_others_take(gate):
    bound = joined(side_by_side(gate)).bind()
    tasks = bound.spec["root"]["dag"]["tasks"]
    inside = {
        name: sorted(bound.spec["components"][task["componentRef"]["name"]]["dag"]["tasks"])
        for name, task in tasks.items()
        if name.endswith("-passed")
    }
    assert sorted(tasks.keys() - inside.keys()) == ["a", "b"]
    steps = sorted(side_by_side(gate))
    assert sorted(sum(inside.values(), ["a", "b"])) == steps
    by_member = {tuple(members): tasks[name] for name, members in inside.items()}
    last = by_member["behind-all",]
    names = {members: name for name, members in ((name, tuple(of)) for name, of in inside.items())}
    assert last["inputs"]["artifacts"] == {
        "pipelinechannel--behind-c-made": {
            "taskOutputArtifact": {
                "outputArtifactKey": "pipelinechannel--behind-c-made",
                "producerTask": names["behind-c",],
            }
        }
    }
    assert set(last["dependentTasks"]) == {"a", "b", *names.values()} - {names["behind-all",]}
    # It is what the SDK would read: every reference leads somewhere.
    PipelineSpec.parse(json.dumps(bound.spec).encode(), where="joined")


def test_no_step_is_taken_from_the_backends_cache(gate):
    bound = joined(side_by_side(gate)).bind()
    options = [
        task.get("cachingOptions")
        for component in (bound.spec["root"], *bound.spec["components"].values())
        for task in component.get("dag", {}).get("tasks", {}).values()
    ]
    assert not any(options)


def test_the_result_of_an_earlier_run_of_the_same_steps_is_taken(context, backend, toy):
    steps = {"one": step(toy, {"text": "a"}), "two": step(toy, {"source": output_of("one", "echo")})}
    values = []
    for _ in range(2):
        context["task_state_store"].values.clear()
        values.append(joined(steps, reuse="identical").execute(context))
    assert values[0] == values[1]


def test_a_run_whose_gate_was_not_passed_is_taken_with_its_verdict(context, backend, gate):
    steps = {name: of for name, of in side_by_side(gate, b=False).items() if name in ("a", "b", "behind-b")}
    verdicts = []
    for _ in range(2):
        context["task_state_store"].values.clear()
        with pytest.raises(QualityGateFailed, match="before it was not passed: 'b'") as caught:
            joined(steps, reuse="identical").execute(context)
        verdicts.append(str(caught.value))
    assert verdicts[0] == verdicts[1]
    assert len(list(backend._runs.glob("[!.]*"))) == 1


def test_what_an_earlier_run_left_is_read_before_it_is_taken(context, backend, toy):
    runs = []
    for _ in range(2):
        context["task_state_store"].values.clear()
        runs.append(joined({"one": step(toy)}, reuse="identical").execute(context)["run_id"])
        for result in backend._runs.glob("*/artifacts/*/one/*"):
            result.unlink()
    assert len(set(runs)) == 2


def test_an_artifact_that_a_step_left_out_is_named(context, toy, capsys):
    joined({"one": step(toy, {"ending": "no_result"})}).execute(context)
    assert "Step one left nothing at its outputs result" in capsys.readouterr().out
    assert context["ti"].xcom["one"]["artifacts"].keys() == {"echo"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"checkpoints": "ckpt"}, "^train_checkpoints is 'ckpt', not an absolute path"),
        ({"checkpoints": "s3://b/c"}, "^train_checkpoints has the scheme s3://"),
        ({"dataset": "/"}, "^train_dataset is a directory, and a file is needed"),
        ({"base_model": "hf://org/model"}, "^train_base_model has the scheme hf://"),
    ],
)
def test_addresses_are_checked_as_by_the_operator_of_a_component(context, tmp_path, given, message):
    (tmp_path / "rows.jsonl").write_text("{}")
    arguments = {"dataset": str(tmp_path / "rows.jsonl"), "base_model": str(tmp_path), **given}
    with pytest.raises(ConfigurationError, match=message):
        joined({"train": step("train_sft", arguments)}).execute(context)
    with pytest.raises(ConfigurationError, match=message.replace("train_", "")):
        TrainSFTOperator(task_id="task", **arguments).execute(context)


def test_an_address_that_several_steps_take_is_what_each_of_them_may_read(toy):
    def schemes(*names):
        steps = {
            "train": step("train_sft", {"dataset": "hf://org/rows", "base_model": "/m"}),
            "evaluate": step("evaluate_model", {"model": "/m", "dataset": "hf://org/rows"}),
        }
        operator = joined({name: steps[name] for name in names})
        return operator.addresses[f"{names[0]}_dataset"]

    assert schemes("train") == Address(("hf",), "file")
    assert schemes("train", "evaluate") == Address((), "file")
    assert joined({"one": step(toy, {"source": "hf://org/x"})}).addresses == {"one_source": ANY_ARTIFACT}


def test_an_input_called_tracking_of_a_component_of_ones_own_makes_another_run(toy_spec, tmp_path):
    ir = json.loads(json.dumps(toy_spec.ir).replace('"text"', '"tracking"'))
    (tmp_path / "toy.yaml").write_text(json.dumps(ir))
    operators = [
        joined({"one": step(str(tmp_path / "toy.yaml"), {"tracking": place})}, reuse="identical")
        for place in ("north", "south")
    ]
    assert len({operator.fingerprint(operator.bind()) for operator in operators}) == 2


def test_the_trainings_of_a_mapped_task_are_told_apart(context, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", "mlflow://http%3A%2F%2Fmlflow.example.com")
    given = {"dataset": "/d", "base_model": "/m"}
    names = []
    for index in (0, 1):
        context["ti"].map_index = index
        operator = joined({"train": step("train_sft", given)}, mlflow_conn_id="mlflow_default")
        operator._context = context
        names.append(operator.bind().parameters["train_tracking"]["run_name"])
    assert names == ["task.train[0]", "task.train[1]"]


def test_where_a_training_is_tracked_makes_no_other_run_of_it(context, monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", "mlflow://http%3A%2F%2Fmlflow.example.com")
    (tmp_path / "content").write_text("a")
    given = dict.fromkeys(("dataset", "base_model"), str(tmp_path / "content"))
    fingerprints = set()
    for run_id in ("monday", "tuesday"):
        context["ti"].run_id = run_id
        operator = joined(
            {"train": step("train_sft", given)}, reuse="identical", mlflow_conn_id="mlflow_default"
        )
        operator._context = context
        pipeline = operator.bind()
        assert pipeline.parameters["train_tracking"]["run_name"] == "task.train"
        fingerprints.add(operator.fingerprint(pipeline))
    assert [len(fingerprint) for fingerprint in fingerprints] == [32]


def test_steps_before_the_one_that_fails_are_on_xcom_and_a_retry_starts_anew(context, backend, toy):
    steps = {
        "first": step(toy, {"text": "abc"}),
        "second": step(toy, {"source": output_of("first", "echo"), "ending": "{{ ending }}"}),
        "third": step(toy, after=["second"]),
    }
    operator = joined(steps)
    operator.render_template_fields({**context, "ending": "crash"})
    with pytest.raises(RunFailedError, match="RuntimeError: something broke"):
        operator.execute(context)
    xcom = context["ti"].xcom
    assert (xcom["first"]["metrics"], xcom["first.metrics"]) == ({"length": 3}, {"length": 3})
    assert "second" not in xcom
    operator = joined(steps)
    operator.render_template_fields({**context, "ending": "well"})
    value = operator.execute(retry(context))
    assert value["steps"] == {"first": "SUCCEEDED", "second": "SUCCEEDED", "third": "SUCCEEDED"}
    assert xcom["second.echo"] != xcom["first.echo"]
    assert Path(xcom["second.echo"]).read_text() == "abc"


def test_a_deferred_attempt_waits_for_the_run_and_a_retry_finds_it(context, backend, toy):
    steps = {"one": step(toy, {"seconds": 1.0}), "two": step(toy, {"source": output_of("one", "echo")})}
    with pytest.raises(TaskDeferred) as deferred:
        joined(steps, deferrable=True).execute(context)
    (run_id,) = {path.name for path in backend._runs.glob("[!.]*")}
    assert deferred.value.trigger.serialize()[1]["run_id"] == run_id
    value = joined(steps).execute(retry(context))
    assert value["run_id"] == run_id
    assert Path(context["ti"].xcom["two.echo"]).read_text() == "hello"


def test_artifacts_of_other_steps_and_addresses_given_twice_need_no_importer_of_their_own():
    bound = joined(tuned()).bind()
    assert bound.name == "validate-train-evaluate-base-evaluate"
    tasks = bound.spec["root"]["dag"]["tasks"]
    assert sorted(tasks) == [
        "evaluate-base", "import-evaluate-base-dataset", "import-evaluate-base-model", "import-validate-dataset", "validate",
        "validate-passed",
    ]  # fmt: skip
    assert sorted(bound.parameters) == [
        "evaluate-base_dataset_uri",
        "evaluate-base_model_uri",
        "validate_dataset_uri",
    ]
    group = tasks["validate-passed"]
    assert group["triggerPolicy"] == {
        "condition": "inputs.parameter_values['pipelinechannel--validate-passed'] == true"
    }
    assert group["inputs"]["artifacts"] == {
        "pipelinechannel--evaluate-base-scores": {
            "taskOutputArtifact": {"outputArtifactKey": "scores", "producerTask": "evaluate-base"}
        },
        "pipelinechannel--validate-validated": {
            "taskOutputArtifact": {"outputArtifactKey": "validated", "producerTask": "validate"}
        },
        "evaluate-base_dataset": {
            "taskOutputArtifact": {
                "outputArtifactKey": "artifact",
                "producerTask": "import-evaluate-base-dataset",
            }
        },
        "evaluate-base_model": {
            "taskOutputArtifact": {
                "outputArtifactKey": "artifact",
                "producerTask": "import-evaluate-base-model",
            }
        },
    }
    inner = bound.spec["components"][group["componentRef"]["name"]]["dag"]["tasks"]
    assert sorted(inner) == ["evaluate", "train"]
    assert inner["evaluate"]["dependentTasks"] == ["train"]
    assert inner["evaluate"]["inputs"]["artifacts"] == {
        "baseline_scores": {"componentInputArtifact": "pipelinechannel--evaluate-base-scores"},
        "dataset": {"componentInputArtifact": "evaluate-base_dataset"},
        "model": {"taskOutputArtifact": {"outputArtifactKey": "model", "producerTask": "train"}},
    }


def test_a_group_is_handed_no_parameter_that_is_null():
    bound = joined(tuned()).bind()
    declared = bound.spec["root"]["inputDefinitions"]["parameters"]
    handed_in = bound.spec["root"]["dag"]["tasks"]["validate-passed"]["inputs"]["parameters"]
    from_root = {
        source["componentInputParameter"]
        for source in handed_in.values()
        if len(source) == 1 and "componentInputParameter" in source
    }
    assert "train_preset" in from_root
    assert "train_budget" not in from_root | declared.keys()
    assert [
        name for name in from_root if "defaultValue" not in declared[name] and name not in bound.parameters
    ] == []
    inner = bound.spec["components"]["comp-validate-passed"]["dag"]["tasks"]["train"]["inputs"]["parameters"]
    assert "budget" not in inner
    # Where there is no group, the server hands null on, and the specification is the same whoever gives what.
    assert "evaluate-base_metric_names" in declared


def test_one_version_serves_every_combination_of_parameters():
    def spec(**arguments):
        return joined(made_and_checked(**arguments)).bind().spec

    assert spec() == spec(min_rows=3, max_rejected_fraction=0.5)


def test_steps_have_settings_of_their_own_and_keep_those_they_were_compiled_with(toy_spec, tmp_path):
    secret = {"secretNameParameter": {"componentInputParameter": "text"}, "mountPath": "/s"}
    platform = {
        "platforms": {
            "kubernetes": {"deploymentSpec": {"executors": {"exec-toy": {"secretAsVolume": [secret]}}}}
        }
    }
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump_all([toy_spec.ir, platform]))
    toy = str(tmp_path / "toy.yaml")
    operator = joined(
        {"one": step(toy, {"text": "a"}), "two": step(toy, after=["one"])},
        step_settings={"two": StepSettings(memory_limit="2Gi", node_selector={"a": "b"})},
    )
    bound = with_settings(operator.bind(), operator.step_settings)
    executors = bound.spec["deploymentSpec"]["executors"]
    limits = {name: executor["container"].get("resources") for name, executor in executors.items()}
    assert limits["exec-one"] is None
    assert limits["exec-two"]["resourceMemoryLimit"] == "2Gi"
    config = bound.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert config["exec-one"] == {
        "secretAsVolume": [
            {"secretNameParameter": {"componentInputParameter": "one_text"}, "mountPath": "/s"}
        ]
    }
    assert config["exec-two"]["nodeSelector"] == {"labels": {"a": "b"}}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({}, "There are no steps"),
        ({"a": "train_sft"}, r"^Step 'a' must be made by step\(component, arguments\), got 'train_sft'"),
        ({"A_b": step("train_sft")}, "^Step 'A_b' cannot be called so: lower-case letters, digits and '-'"),
        (
            {"a": step("train_sft", {"dataset": output_of("b", "x")})},
            "^Step 'a' waits for a step that there is not: 'b'",
        ),
        ({"a": step("train_sft", after=["b"])}, "^Step 'a' waits for a step that there is not: 'b'"),
        (
            {"a": step("/x.yaml", after=["b"]), "b": step("/x.yaml", {"y": output_of("a", "z")})},
            "^Steps wait for each other: (a -> b -> a|b -> a -> b)",
        ),
        ({"a": step("train_stf")}, r"no packaged component 'train_stf' \(did you mean 'train_sft'\?\)"),
        (
            {"a": step("train_sft", {"datset": "/d"})},
            r"^Step 'a' has no input 'datset' \(did you mean 'dataset'\?\)",
        ),
        (
            {**tuned(), "train": step("train_sft", {"dataset": output_of("validate", "valdated")})},
            r"^Step 'validate' has no output 'valdated' \(did you mean 'validated'\?\)",
        ),
        (
            {**tuned(), "train": step("train_sft", {"dataset": output_of("validate", "data_docs")})},
            r"^Input 'dataset' of step 'train' is an artifact \(system.Dataset\), and output 'data_docs' of step 'validate' is "
            r"an artifact \(system.HTML\)",
        ),
        (
            {**tuned(), "train": step("train_sft", {"dataset": output_of("validate", "passed")})},
            r"output 'passed' of step 'validate' is a parameter \(BOOLEAN\)",
        ),
        ({"a": {**step("train_sft"), "settings": {}}}, "^Step 'a' has 'settings'"),
        (
            {
                **tuned(),
                "train": step("train_sft", {"training_args": {"x": [output_of("validate", "result")]}}),
            },
            "^Step 'train': output_of stands for a whole input, and 'training_args' has it inside",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_when_the_dag_is_read(steps, message):
    with pytest.raises(ConfigurationError, match=message):
        joined(steps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_rows": "many"}, "^Step 'check': Component validate_dataset: input 'min_rows' must be int"),
        ({"dataset": None}, "^Step 'check': Component validate_dataset needs a value for: dataset"),
    ],
)
def test_values_are_checked_before_anything_runs(context, backend, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        joined(made_and_checked(**arguments)).execute(context)
    assert not backend._runs.exists() or not list(backend._runs.glob("[!.]*"))


def test_a_pipeline_of_several_steps_is_no_step(tmp_path):
    (tmp_path / "p.yaml").write_text(json.dumps(two_steps()))
    with pytest.raises(ConfigurationError, match=r"^Step 'a' is a pipeline, and components are joined here"):
        joined({"a": step(str(tmp_path / "p.yaml"))}).bind()


def pods(spec) -> int:
    """Pods that a run starts: drivers of the run and of groups, importers, and a driver and a container for each step."""

    def of(component) -> int:
        total = 1
        for task in component["dag"]["tasks"].values():
            target = spec["components"][task["componentRef"]["name"]]
            if "dag" in target:
                total += of(target)
                continue
            executor = spec["deploymentSpec"]["executors"][target["executorLabel"]]
            total += 1 if "importer" in executor else 2
        return total

    return of(spec["root"])


def test_a_joined_run_starts_fewer_pods_than_a_run_for_each_step():
    def alone(name, **artifacts):
        return pods(PipelineSpec.packaged(name).bind(artifacts).spec)

    validated = alone("validate_dataset", dataset="/d")
    trained = alone("train_sft", dataset="/d", base_model="/m")
    evaluated = alone("evaluate_model", model="/m", dataset="/e")
    compared = alone("evaluate_model", model="/m", dataset="/e", baseline_scores="/s")
    three = tuned()
    del three["evaluate-base"], three["evaluate"]["arguments"]["baseline_scores"]
    assert (validated + trained + evaluated, pods(joined(three).bind().spec)) == (14, 11)
    assert (validated + trained + evaluated + compared, pods(joined(tuned()).bind().spec)) == (20, 13)


def test_on_a_cluster_each_step_is_read_where_its_task_wrote(api, context, tmp_path, monkeypatch):
    extra = {"pipeline_root": f"file://{tmp_path}/root", "image": "registry.example.com/llmops:1"}
    monkeypatch.setenv(
        "AIRFLOW_CONN_KUBEFLOW_DEFAULT",
        json.dumps({"conn_type": "kubeflow", "host": api.url, "extra": extra}),
    )
    steps = tuned()
    del steps["evaluate"], steps["evaluate-base"]
    pipeline = "validate-train"

    def carry_out(run):
        for task, artifact in (("validate", "validated"), ("train", "model")):
            attempt = tmp_path / "root" / pipeline / run["run_id"] / task / "salt"
            attempt.mkdir(parents=True)
            uri = f"minio://b/{pipeline}/{task}/{artifact}"
            (attempt / "result").write_text(
                json.dumps(
                    {
                        "schema_version": 1,
                        "component": task,
                        "passed": True,
                        "findings": [],
                        "artifacts": {artifact: {"uri": uri, "digest": "sha256:a", "bytes": 1}},
                        "metrics": {"rows": 3},
                        "details": {},
                        "resources": {},
                    }
                )
            )
        api.finish(run["run_id"])

    api.on_run_created = carry_out
    operator = joined(steps)
    value = operator.execute(context)
    xcom = context["ti"].xcom
    assert xcom["train.model"] == f"minio://b/{pipeline}/train/model"
    assert (xcom["validate.metrics"], xcom["train"]["component"]) == ({"rows": 3}, "train")
    assert xcom["run_url"] == f"{api.url}/#/runs/details/{value['run_id']}"
    (run,) = api.runs.values()
    stored = operator.hook.backend.read_version(run["pipeline_version_reference"])
    images = {
        name: of.get("container", {}).get("image")
        for name, of in stored["deploymentSpec"]["executors"].items()
    }
    assert images["exec-train"] == images["exec-validate"] == "registry.example.com/llmops:1"
    assert run["runtime_config"]["parameters"] == {
        "validate_dataset_uri": "/d.jsonl",
        "train_base_model_uri": "/m",
    }


def test_addresses_from_other_tasks_make_dependencies_and_the_dag_can_be_stored():
    with DAG("d", schedule=None) as dag:
        data = PrepareSampleDataOperator(task_id="data")
        steps = {"check": step("validate_dataset", {"dataset": data.output["train"]})}
        KubeflowJoinedOperator(task_id="joined", steps=steps)
    assert dag.get_task("joined").upstream_task_ids == {"data"}
    stored = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    assert DagSerialization.from_dict(stored).get_task("joined").upstream_task_ids == {"data"}


def test_input_by_its_old_name_works_for_one_release_with_a_warning():
    from airflow.exceptions import AirflowProviderDeprecationWarning

    with pytest.warns(
        AirflowProviderDeprecationWarning, match="input 'name' of register_model is 'model_name' now"
    ) as warned:
        made = step("register_model", {"model": "/m", "name": "mine"})
    assert made == step("register_model", {"model": "/m", "model_name": "mine"})
    assert warned[0].filename == __file__
