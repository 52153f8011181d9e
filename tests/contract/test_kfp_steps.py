"""The steps of runs, read off what Kubeflow Pipelines 2.17 answered: recorded, and made after its pattern."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from kfp_api.tasks import node_id
from pipelines import two_steps

from airflow_provider_llmops.backends.pipelines.kubeflow.steps import Step, Task, read_steps, read_tasks
from airflow_provider_llmops.states import RunState, StepState

RECORDED = json.loads((Path(__file__).parents[1] / "recorded" / "kfp-runs.json").read_text(encoding="utf-8"))
WITH_RETRIES, WITHOUT = "retryStrategy in workflowDefaults, as upstream installs it", "no retryStrategy"
DONE, CACHED, SKIPPED, FAILED = (
    StepState.SUCCEEDED,
    StepState.CACHED,
    StepState.SKIPPED,
    StepState.FAILED,
)
EXPECTED = {
    ("fail_v2", WITH_RETRIES): {"fail": FAILED},
    ("hello_world", WITH_RETRIES): {"echo": CACHED},
    ("if_else_with_oneof_parameters", WITH_RETRIES): {
        "condition-branches-1/condition-2/print-and-return": SKIPPED,
        "condition-branches-1/condition-3/print-and-return-2": DONE,
        "flip-coin": DONE,
        "print-and-return-3": StepState.PENDING,  # the nodes lag behind the run, which has succeeded
    },
    ("parallel_for_after_dependency", WITH_RETRIES): {
        "for-loop-2/0/print-op": DONE,
        "for-loop-2/1/print-op": DONE,
        "for-loop-2/2/print-op": DONE,
        "print-op-2": DONE,
        "print-op-3": DONE,
    },
    ("pipeline_in_pipeline", WITH_RETRIES): {
        "inner-pipeline/print-op1": DONE,
        "inner-pipeline/print-op2": DONE,
        "print-op1": DONE,
    },
    ("pipeline_with_condition", WITH_RETRIES): {
        "condition-1/flip-coin-op-2": DONE,
        "condition-1/print-op-2": CACHED,
        "condition-1/print-op-3": DONE,
        "flip-coin-op": DONE,
        "print-op": DONE,
    },
    ("pipeline_with_exit_handler", WITH_RETRIES): {
        "exit-handler-1/fail-op": FAILED,
        "exit-handler-1/print-op-2": DONE,
        "print-op": DONE,
    },
    ("pipeline_with_retry", WITH_RETRIES): {"add": DONE},
    ("component of this project, failed", WITH_RETRIES): {
        "import-model": DONE,
        "import-dataset": DONE,
        "import-baseline-scores": DONE,
        "evaluate-model": FAILED,
    },
    ("terminated by a user while wait-op ran; wait-op-2 never ran", WITH_RETRIES): {
        "wait-op": FAILED,
        "wait-op-2": StepState.OMITTED,
    },
    ("fail_v2", WITHOUT): {"fail": FAILED},
    ("hello_world", WITHOUT): {"echo": CACHED},
    ("parallel_for_after_dependency", WITHOUT): {
        "for-loop-2/0/print-op": CACHED,
        "for-loop-2/1/print-op": CACHED,
        "for-loop-2/2/print-op": CACHED,
        "print-op-2": CACHED,
        "print-op-3": CACHED,
    },
    ("pipeline_with_condition", WITHOUT): {
        "condition-1/flip-coin-op-2": SKIPPED,
        "condition-1/print-op-2": SKIPPED,
        "condition-1/print-op-3": SKIPPED,
        "flip-coin-op": DONE,
        "print-op": DONE,
    },
}


def tasks_of(recorded: dict[str, Any]) -> tuple[Task, ...]:
    """The recording has the tasks nested; ``*`` marks a loop."""
    return tuple(Task(name, tasks_of(inner), "*" in inner) for name, inner in recorded.items() if name != "*")


def nodes_of(details: list[dict[str, Any]], workflow: str, step: str) -> list[tuple[Any, ...]]:
    """Each node with its state, its history and the nodes behind it, the workflow's name left out."""
    paths = {f"{workflow}{attempt}" for attempt in ("", "(0)")}
    for name in ("root-driver", "root", f"{step}-driver", step, "executor"):
        paths |= {f"{path}.{name}{attempt}" for path in set(paths) for attempt in ("", "(0)")}
    named = {node_id(workflow, path): path.replace(workflow, "WORKFLOW") for path in paths}
    return sorted(
        (
            detail["display_name"].replace(workflow, "WORKFLOW"),
            detail.get("state"),
            [status.get("state") for status in detail["state_history"]],
            [named[child["pod_name"]] for child in detail.get("child_tasks", ())],
        )
        for detail in details
    )


@pytest.mark.parametrize(
    ("installation", "nodes"), [(WITH_RETRIES, "with retries"), (WITHOUT, "without retries")]
)
def test_fake_server_shows_the_nodes_of_a_run_as_they_were_recorded(api, installation, nodes):
    (recorded,) = [
        case["run"]["run_details"]["task_details"]
        for case in RECORDED
        if (case["name"], case["installation"]) == ("fail_v2", installation)
    ]
    api.nodes = nodes
    spec = json.loads(json.dumps(two_steps()))
    spec["pipelineInfo"]["name"] = "fail-pipeline"
    run = api.state.create_run({"display_name": "r", "pipeline_spec": spec})
    api.advance(run.run_id, "RUNNING", tasks={"fail": "PENDING"})
    api.finish(run.run_id, "FAILED", tasks={"fail": "FAILED"})
    made = api.runs[run.run_id]["run_details"]["task_details"]
    theirs = next(
        d["display_name"] for d in recorded if re.fullmatch(r"fail-pipeline-\w{5}", d["display_name"])
    )
    assert nodes_of(made, run.workflow, "fail") == nodes_of(recorded, theirs, "fail")


def test_every_recorded_run_is_expected():
    assert {(case["name"], case["installation"]) for case in RECORDED} == set(EXPECTED)


@pytest.mark.parametrize(
    "case", RECORDED, ids=[f"{case['name']}, {case['installation']}" for case in RECORDED]
)
def test_steps_of_a_recorded_run_are_the_tasks_of_its_specification(case):
    run = case["run"]
    details = run["run_details"]["task_details"]
    expected = [Step(name, state) for name, state in EXPECTED[case["name"], case["installation"]].items()]
    for order in (details, details[::-1]):
        found = read_steps(tasks_of(case["tasks_of_the_specification"]), order, RunState(run["state"]))
        assert found == expected


def node(
    path: str, state: str | None, *following: str, workflow: str = "wf", seconds: int = 9
) -> dict[str, Any]:
    """A node as the server shows it."""
    return {
        "display_name": path.rpartition(".")[2],
        **({} if state is None else {"state": state}),
        "start_time": "2026-01-01T00:00:00Z",
        "end_time": f"2026-01-01T00:00:0{seconds}Z",
        "child_tasks": [{"pod_name": node_id(workflow, following_path)} for following_path in following],
    }


def started(path: str, state: str, *, attempts: int = 1) -> list[dict[str, Any]]:
    """The nodes of a step on an installation with retries."""
    pods = [f"{path}(0).executor({number})" for number in range(attempts)]
    return [
        node(f"{path}-driver", "SUCCEEDED", f"{path}-driver(0)"),
        node(f"{path}-driver(0)", "SUCCEEDED", path),
        node(path, state, f"{path}(0)"),
        node(f"{path}(0)", state, f"{path}(0).executor"),
        node(f"{path}(0).executor", state, *pods),
        *(node(pod, "FAILED") for pod in pods[:-1]),
        node(pods[-1], state),
    ]


ROOT = [
    node("wf", "RUNNING", "wf(0)"),
    node("wf(0)", "RUNNING", "wf(0).root-driver"),
    node("wf(0).root-driver(0)", "SUCCEEDED", "wf(0).root"),
    node("wf(0).root", "RUNNING", "wf(0).root(0)"),
]


def test_attempts_of_a_step_are_counted():
    details = [*ROOT, *started("wf(0).root(0).train", "RUNNING", attempts=3)]
    assert read_steps([Task("train"), Task("after")], details, RunState.RUNNING) == [
        Step("train", StepState.RUNNING, 3)
    ]


def test_pipeline_that_is_used_twice_is_told_apart():
    details = [
        *ROOT,
        *started("wf(0).root(0).a(0).train", "SUCCEEDED"),
        *started("wf(0).root(0).b(0).train", "RUNNING"),
    ]
    for name in ("a", "b"):
        path = f"wf(0).root(0).{name}"
        details += [
            node(path, "RUNNING", f"{path}(0)"),
            node(f"{path}(0)", "RUNNING", f"{path}(0).train-driver"),
        ]
    tasks = [Task("a", (Task("train"),)), Task("b", (Task("train"),))]
    for order in (details, details[::-1]):
        assert read_steps(tasks, order, RunState.RUNNING) == [
            Step("a/train", StepState.SUCCEEDED),
            Step("b/train", StepState.RUNNING),
        ]


def test_step_whose_driver_fails_has_failed():
    path = "wf(0).root(0).train"
    details = [
        *ROOT,
        node("wf(0).root(0)", "FAILED", f"{path}-driver"),
        node(f"{path}-driver", "FAILED", f"{path}-driver(0)", path),
        node(f"{path}-driver(0)", "FAILED"),
        node(path, None),
    ]
    assert read_steps([Task("train")], details, RunState.FAILED) == [Step("train", StepState.FAILED)]


@pytest.mark.parametrize(
    ("installation", "nodes"), [(WITH_RETRIES, "with retries"), (WITHOUT, "without retries")]
)
@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_step_whose_pod_has_not_begun_is_pending_although_its_nodes_are_running(
    api, installation, nodes, state
):
    api.nodes = nodes
    run = api.state.create_run({"display_name": "r", "pipeline_spec": two_steps()})
    api.advance(run.run_id, "RUNNING", tasks={"train": "PENDING"})
    api.advance(run.run_id, "RUNNING", tasks={"train": state})
    details = api.runs[run.run_id]["run_details"]["task_details"]
    assert next(node["state"] for node in details if node["display_name"] == "train") == "RUNNING"
    found = read_steps((Task("train"), Task("report")), details, RunState.RUNNING)
    assert found == [Step("train", StepState(state))]


def test_pod_that_waits_is_told_from_that_of_a_step_that_began_earlier():
    details = [*ROOT]
    for second, step, state in ((1, "a", "RUNNING"), (5, "b", "PENDING")):
        made = started(f"wf(0).root(0).{step}", "RUNNING")
        made[-1]["state"] = state
        details += [{**one, "start_time": f"2026-01-01T00:00:0{second}Z"} for one in made]
    found = read_steps((Task("a"), Task("b")), details, RunState.RUNNING)
    assert found == [Step("a", StepState.RUNNING), Step("b", StepState.PENDING)]


def test_step_that_is_being_prepared_is_pending():
    path = "wf(0).root(0).train"
    details = [
        *ROOT,
        node("wf(0).root(0)", "RUNNING", f"{path}-driver"),
        node(f"{path}-driver", "RUNNING", f"{path}-driver(0)"),
    ]
    assert read_steps([Task("train")], details, RunState.RUNNING) == [Step("train", StepState.PENDING)]


@pytest.mark.parametrize("details", [[], [{"execution_id": "7"}], [node("wf", "RUNNING")]])
def test_run_without_nodes_has_no_steps(details):
    assert read_steps([Task("train")], details, RunState.RUNNING) == []


def test_tasks_come_after_those_that_they_depend_on():
    container = {"executorLabel": "e"}
    ir = {
        "root": {
            "dag": {
                "tasks": {
                    "a-report": {"componentRef": {"name": "c"}, "dependentTasks": ["train"]},
                    "each": {
                        "componentRef": {"name": "d"},
                        "parameterIterator": {},
                        "dependentTasks": ["a-report"],
                    },
                    "train": {"componentRef": {"name": "c"}},
                }
            }
        },
        "components": {"c": container, "d": {"dag": {"tasks": {"inner": {"componentRef": {"name": "c"}}}}}},
    }
    assert read_tasks(ir) == (Task("train"), Task("a-report"), Task("each", (Task("inner"),), is_loop=True))


def test_specification_that_uses_itself_ends():
    ir = {
        "root": {"dag": {"tasks": {"a": {"componentRef": {"name": "c"}}}}},
        "components": {"c": {"dag": {"tasks": {"a": {"componentRef": {"name": "c"}}}}}},
    }
    assert [task.name for task in read_tasks(ir)] == ["a"]
