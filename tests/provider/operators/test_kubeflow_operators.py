"""Operators on a Kubeflow connection: what they send, wait for, and hand on. The server is the fake one."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import kfp_server_api
import pytest
import yaml
from airflow.sdk.api.datamodels._generated import DagRunType
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from attempts import retry
from executor_logs import leave_log
from kfp_api.connection import Answer
from kube_pods import FakePods
from kube_pods import waiting as waiting_pod
from pipelines import two_steps

from airflow_provider_llmops.backends.pipelines import waiting
from airflow_provider_llmops.backends.pipelines.base import Run
from airflow_provider_llmops.backends.pipelines.kubeflow import pods as run_pods
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    InvalidInputError,
    RunCanceledError,
    RunFailedError,
)
from airflow_provider_llmops.operators.kubeflow import KubeflowComponentOperator, KubeflowPipelineOperator
from airflow_provider_llmops.operators.training import TrainSFTOperator
from airflow_provider_llmops.remote.intent import INTENT_KEY
from airflow_provider_llmops.remote.origin import code_of
from airflow_provider_llmops.sensors.pipeline_run import PipelineRunSensor
from airflow_provider_llmops.settings.kubernetes import StepSettings
from airflow_provider_llmops.states import RunState
from airflow_provider_llmops.triggers.pipeline_run import PipelineRunTrigger
from airflow_provider_llmops.xcom import MAX_XCOM_BYTES


@pytest.fixture
def connect(api, tmp_path, monkeypatch):
    """Makes the connection; further fields of its extra may be given."""

    def connect(**extra):
        fields = {"pipeline_root": f"file://{tmp_path}/root", "patience": 10, **extra}
        monkeypatch.setenv(
            "AIRFLOW_CONN_KUBEFLOW_DEFAULT",
            json.dumps({"conn_type": "kubeflow", "host": api.url, "extra": fields}),
        )

    connect()
    return connect


@pytest.fixture
def pipeline(connect, tmp_path) -> str:
    """A compiled pipeline of two steps."""
    path = tmp_path / "two_steps.yaml"
    path.write_text(yaml.safe_dump(two_steps()))
    return str(path)


@pytest.fixture
def component(connect, toy_spec, tmp_path) -> str:
    """The compiled toy component."""
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(toy_spec.ir))
    return str(path)


def cluster(api, tmp_path: Path, *outputs: str, result: dict | None = None):
    """Carry runs of the toy component out: write what its step would, then end."""

    def carry_out(run):
        attempt = tmp_path / "root" / "toy-run" / run["run_id"] / "toy" / "salt"
        attempt.mkdir(parents=True)
        for output in outputs:
            (attempt / output).write_text(output)
        if result is not None:
            (attempt / "result").write_text(json.dumps(result))
        api.finish(run["run_id"], tasks={"toy": "SUCCEEDED"})

    api.on_run_created = carry_out


async def events_of(trigger):
    """The trigger's event, as the triggerer's shared stream brings it about."""
    poll = asyncio.create_task(anext(PipelineRunTrigger.open_shared_stream(trigger.serialize()[1])))
    try:
        return [event async for event in trigger.filter_shared_stream(None)]
    finally:
        poll.cancel()


def finish(operator, context):
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    trigger = PipelineRunTrigger(**deferred.value.trigger.serialize()[1])
    assert trigger.shared_stream_key() is not None
    (event,) = asyncio.run(events_of(trigger))
    return operator.execute_complete(context, event.payload)


# Pipelines


def test_pipeline_runs_from_its_file_and_reports_its_steps(api, pipeline, context):
    api.on_run_created = lambda run: api.finish(
        run["run_id"], tasks={"train": "SUCCEEDED", "report": "SUCCEEDED"}
    )
    operator = KubeflowPipelineOperator(
        task_id="task", pipeline=pipeline, parameters={"steps": 7}, poll_interval=0.1
    )
    value = finish(operator, context)
    (run,) = api.runs.values()
    assert value == {
        "run_id": run["run_id"],
        "display_name": run["display_name"],
        "state": "SUCCEEDED",
        "url": f"{api.url}/#/runs/details/{run['run_id']}",
        "outputs": {},
        "steps": {"train": "SUCCEEDED", "report": "SUCCEEDED"},
    }
    assert run["display_name"].startswith("dag.task ")
    assert run["runtime_config"]["parameters"] == {"steps": 7}


def test_link_to_the_run_is_there_before_the_task_waits(api, pipeline, context):
    with pytest.raises(TaskDeferred):
        KubeflowPipelineOperator(task_id="task", pipeline=pipeline).execute(context)
    (run_id,) = api.runs
    url = f"{api.url}/#/runs/details/{run_id}"
    code = code_of(context)
    assert context["ti"].xcom == {"run_url": url, "_link_PipelineRunLink": url, "code": code}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"step": 1}, r"Pipeline two-steps has no input 'step' \(did you mean 'steps'\?\)"),
        ({"steps": "many"}, "input 'steps' must be int, got str 'many'"),
        ({"steps": True}, "input 'steps' must be int, got bool True"),
    ],
)
def test_parameters_are_checked_before_anything_is_sent(api, pipeline, context, parameters, message):
    operator = KubeflowPipelineOperator(task_id="task", pipeline=pipeline, parameters=parameters)
    with pytest.raises(ConfigurationError, match=message) as caught:
        operator.execute(context)
    assert isinstance(caught.value, AirflowFailException)
    assert api.requests == []
    assert context["task_state_store"].values == {}


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: argoproj.io/v1alpha1\nkind: Workflow\nspec: {}\n",
        "name: a\nimplementation:\n  container: {image: a}\n",
        "a: [1, 2",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "<!DOCTYPE html><html>Log in</html>",
    ],
)
def test_what_is_no_specification_is_refused_before_anything_is_sent(api, connect, context, tmp_path, text):
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"pipeline\.yaml"):
        KubeflowPipelineOperator(task_id="task", pipeline=str(path)).execute(context)
    assert api.requests == []


def test_pipeline_on_the_server_runs_by_name_and_version(api, pipeline, context):
    first = KubeflowPipelineOperator(task_id="task", pipeline=pipeline)
    with pytest.raises(TaskDeferred):
        first.execute(context)
    (reference,) = [run["pipeline_version_reference"] for run in api.runs.values()]
    version = first.hook.backend._api.call(
        first.hook.backend._api.pipelines.pipeline_service_get_pipeline_version, *reference.values()
    )["name"]
    for wanted in (None, version):
        operator = KubeflowPipelineOperator(
            task_id="task",
            pipeline_name="two-steps",
            pipeline_version=wanted,
            parameters={"steps": 2},
            deferrable=False,
            poll_interval=0.05,
        )
        api.on_run_created = lambda run: api.finish(run["run_id"])
        context["task_state_store"].values.clear()
        value = operator.execute(context)
        assert api.runs[value["run_id"]]["pipeline_version_reference"] == reference
    assert api.count("POST", "upload_version$") == 1


def test_pipeline_with_a_platform_document_runs_by_its_name_on_the_server(api, connect, context):
    ir = two_steps()
    ir["root"]["inputDefinitions"]["parameters"]["secret"] = {"isOptional": True, "parameterType": "STRING"}
    secret = {"secretNameParameter": {"componentInputParameter": "secret"}, "mountPath": "/s"}
    platform = {
        "platforms": {
            "kubernetes": {"deploymentSpec": {"executors": {"exec-train": {"secretAsVolume": [secret]}}}}
        }
    }
    api.state.upload_pipeline({"name": "two-steps"}, "p.yaml", yaml.safe_dump_all([ir, platform]))
    api.on_run_created = lambda run: api.finish(run["run_id"])
    for parameters in ({}, {"secret": "s"}, {"steps": 5}):
        operator = KubeflowPipelineOperator(
            task_id="task",
            pipeline_name="two-steps",
            parameters=parameters,
            deferrable=False,
            poll_interval=0.05,
        )
        context["task_state_store"].values.clear()
        value = operator.execute(context)
        assert api.runs[value["run_id"]]["runtime_config"].get("parameters", {}) == parameters


def test_one_version_serves_every_combination_of_parameters_and_one_that_is_there_already(
    api, connect, context, tmp_path
):
    ir = two_steps()
    ir["root"]["inputDefinitions"]["parameters"]["note"] = {"isOptional": True, "parameterType": "STRING"}
    uploaded = {**ir, "root": {**ir["root"], "outputDefinitions": {"parameters": {}}}}
    api.state.upload_pipeline({"name": "two-steps"}, "p.yaml", json.dumps(uploaded))
    ir["root"]["outputDefinitions"] = {}  # what the server makes of an empty map
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(ir))
    for parameters in ({}, {"note": "n"}, {"steps": 5, "note": "n"}):
        operator = KubeflowPipelineOperator(
            task_id="task", pipeline=str(tmp_path / "p.yaml"), parameters=parameters
        )
        context["task_state_store"].values.clear()
        with pytest.raises(TaskDeferred):
            operator.execute(context)
    assert [version.name for version in api.state.versions.values()] == ["two-steps"]
    assert len({json.dumps(run["pipeline_version_reference"]) for run in api.runs.values()}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "One of pipeline .* is needed, and the task has neither"),
        ({"pipeline": "a.yaml", "pipeline_name": "a"}, "the task has both"),
        ({"pipeline": "a.yaml", "pipeline_version": "v1"}, "pipeline_version belongs to pipeline_name"),
        ({"pipeline_name": "no-such"}, "There is no pipeline 'no-such' on http"),
        ({"pipeline_name": "two-steps", "pipeline_version": "v9"}, "has no version 'v9'. It has: sha256-"),
        ({"pipeline_name": "two-steps", "parameters": {"stebs": 1}}, "did you mean 'steps'"),
        ({"pipeline_name": "two-steps", "caching": False}, "compiled into a pipeline"),
    ],
)
def test_arguments_that_do_not_fit_together_are_explained(api, pipeline, context, arguments, message):
    with pytest.raises(TaskDeferred):
        KubeflowPipelineOperator(task_id="other", pipeline=pipeline).execute(context)
    context["task_state_store"].values.clear()
    with pytest.raises(ConfigurationError, match=message):
        KubeflowPipelineOperator(task_id="task", **arguments).execute(context)
    assert len(api.runs) == 1


def test_result_of_five_hundred_steps_fits_into_xcom(api, pipeline, context):
    steps = {f"a-rather-long-name-of-a-step-{n}": "SUCCEEDED" for n in range(500)}
    operator = KubeflowPipelineOperator(task_id="task", pipeline=pipeline)
    value = operator.outcome(context, Run("id", "name", RunState.SUCCEEDED, tasks=steps))
    assert len(json.dumps(value)) <= MAX_XCOM_BYTES
    assert len(value["steps"]) + value["steps_left_out"] == 500
    assert len(value["steps"]) > 200


@pytest.fixture
def fails(api, tmp_path):
    """Lets each run fail at its step ``train``, which printed a text."""

    def fails(text, **report):
        def end(run):
            if text is not None:
                leave_log(tmp_path / "root", "two-steps", run["run_id"], "train", text)
            api.finish(run["run_id"], "FAILED", tasks={"train": "FAILED", "report": ""}, **report)

        api.on_run_created = end

    return fails


def test_failed_run_says_why_then_where_and_shows_the_end_of_the_steps_output(
    api, fails, pipeline, context, capsys
):
    fails("\n".join(f"line {n}" for n in range(30)) + "\ntorch.OutOfMemoryError: CUDA out of memory\n")
    with pytest.raises(RunFailedError) as caught:
        finish(KubeflowPipelineOperator(task_id="task", pipeline=pipeline, poll_interval=0.05), context)
    (run_id,) = api.runs
    said = str(caught.value).split("\n")
    assert said[:3] == [
        "torch.OutOfMemoryError: CUDA out of memory",
        f"Step 'train' of run {run_id} ({pipeline})",
        f"Log: {api.url}/#/runs/details/{run_id}",
    ]
    assert said[3].startswith("Output of the step: file:///")
    assert said[4:] == [
        "It ends with:",
        *(f"  line {n}" for n in range(26, 30)),
        "  torch.OutOfMemoryError: CUDA out of memory",
    ]
    shown = capsys.readouterr()
    assert "line 11" in shown.out + shown.err
    assert "line 10" not in shown.out + shown.err


def test_error_of_a_component_is_final_for_operator_and_sensor(api, fails, pipeline, context):
    error = {"type": "DataError", "message": "row 3 is empty", "retryable": False}
    fails(f"LLMOPS_ERROR: {json.dumps(error)}\nDataError: row 3 is empty\n")
    operator = KubeflowPipelineOperator(
        task_id="task", pipeline=pipeline, deferrable=False, poll_interval=0.05
    )
    with pytest.raises(InvalidInputError, match=r"^row 3 is empty\nStep 'train' of run "):
        operator.execute(context)
    (run_id,) = api.runs
    with pytest.raises(InvalidInputError, match=r"^row 3 is empty\nStep 'train' of run "):
        PipelineRunSensor(task_id="wait", run_id=run_id).execute(context)


def test_forged_error_fails_its_own_task_and_nothing_else(api, fails, pipeline, context):
    fails('LLMOPS_ERROR: {"type": "RunNotFoundError", "message": "gone", "retryable": false, "run_id": "x"}')
    with pytest.raises(InvalidInputError, match=r"^gone\n"):
        finish(KubeflowPipelineOperator(task_id="task", pipeline=pipeline, poll_interval=0.05), context)


def test_server_that_is_gone_when_it_is_asked_why_leaves_the_steps_name(
    api, fails, pipeline, context, connect
):
    def operator():
        return KubeflowPipelineOperator(task_id="task", pipeline=pipeline)

    fails("boom")
    with pytest.raises(TaskDeferred) as deferred:
        operator().execute(context)
    connect(patience=0.1)
    waiting = operator()
    while not (run := waiting.hook.get_run(deferred.value.trigger.run_id)).state.is_terminal:
        time.sleep(0.01)
    with api.pause(), pytest.raises(RunFailedError, match=r"^Step 'train' failed; its log says why\n"):
        raise waiting.failure(run.run_id, run, {"timed_out": False})


@pytest.fixture
def waits(api, connect, monkeypatch):
    """Lets a step wait from the beginning, for a node that there is not, and asks why at once."""
    monkeypatch.setattr(waiting, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(waiting, "ASK_AGAIN_SECONDS", 0.05)
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "no node",
    }
    with FakePods() as pods:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", pods.connection())
        connect(kubernetes_conn_id="cluster")

        def wait(run):
            pods.pods.append(
                waiting_pod("p", run["run_id"], "train.executor", None, conditions=[unschedulable])
            )
            api.advance(run["run_id"], "RUNNING", tasks={"train": "PENDING"})

        api.on_run_created = wait
        yield pods


def resume_late(operator, context, events=events_of):
    """Let the triggerer see that the time is up two seconds from now."""
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    arguments = {**deferred.value.trigger.serialize()[1], "deadline": time.time() + 2}
    (event,) = asyncio.run(events(PipelineRunTrigger(**arguments)))
    return operator.execute_complete(context, event.payload)


async def events_in_line(trigger):
    """The trigger's event, as ``dag.test()`` brings it about."""
    return [event async for event in trigger.run()]


WAYS_TO_WAIT = {
    "worker": lambda operator, context: operator.execute(context),
    "triggerer": resume_late,
    "dag.test": partial(resume_late, events=events_in_line),
}


@pytest.mark.parametrize("at_the_end", [False, True], ids=["after a minute", "at the end"])
@pytest.mark.parametrize("way", WAYS_TO_WAIT)
def test_step_that_waits_for_long_says_why_once_and_the_reason_is_in_the_error_when_its_time_is_up(
    waits, pipeline, context, capsys, way, at_the_end, monkeypatch
):
    if at_the_end:  # the time is up before a wait is long
        monkeypatch.setattr(waiting, "LONG_SECONDS", 60.0)
    operator = KubeflowPipelineOperator(
        task_id="task",
        pipeline=pipeline,
        poll_interval=0.05,
        deferrable=way != "worker",
        run_timeout=timedelta(seconds=1),
    )
    with pytest.raises(RunFailedError) as caught:
        WAYS_TO_WAIT[way](operator, context)
    assert str(caught.value).split("\n")[0] == (
        "Step 'train' still waits: Unschedulable: no node. The run took longer than its run_timeout of 0:00:01 and was "
        "cancelled."
    )
    shown = capsys.readouterr()
    told = re.findall(r"Step 'train' has waited for \d+ s: Unschedulable: no node", shown.out + shown.err)
    assert len(told) == 1
    asked = waits.requests.count("/api/v1/namespaces/kubeflow/pods")
    assert asked == 1 if at_the_end else asked > (2 if way != "worker" else 0)


@pytest.mark.parametrize(
    ("extra", "deferrable", "why"),
    [
        ({}, True, "name a Kubernetes connection in 'kubernetes_conn_id' of connection 'kubeflow_default' to see why"),
        ({"kubernetes_conn_id": "cluster"}, True, "why cannot be told: The cluster answered 403: "),
        ({"kubernetes_conn_id": "nosuch"}, True, "why cannot be told: Kubernetes connection 'nosuch' cannot be used: "),
        ({"kubernetes_conn_id": "nosuch"}, False, "why cannot be told: Kubernetes connection 'nosuch' cannot be used: "),
        ({"kubernetes_conn_id": "page"}, True, "why cannot be told: The cluster's answer is no document of Kubernetes"),
    ],
)  # fmt: skip
def test_step_of_which_nobody_can_say_why_it_waits_waits_on(
    waits, connect, pipeline, context, capsys, extra, why, deferrable, monkeypatch
):
    waits.forbidden.add("pods")
    if extra == {"kubernetes_conn_id": "page"}:
        monkeypatch.setenv("AIRFLOW_CONN_PAGE", waits.connection())
        waits._answer = lambda parts, query: (200, "text/html", "<html>Sign in</html>")
    connect(**extra)
    operator = KubeflowPipelineOperator(
        task_id="task",
        pipeline=pipeline,
        poll_interval=0.05,
        run_timeout=timedelta(seconds=1),
        deferrable=deferrable,
    )
    with pytest.raises(RunFailedError, match="The run took longer than its run_timeout"):
        resume_late(operator, context) if deferrable else operator.execute(context)
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count(f"Step 'train' has waited for 0 s: {why}") == 1


def test_run_that_ends_is_noticed_while_a_silent_cluster_is_asked_why_it_waited(
    api, waits, pipeline, context, monkeypatch
):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", waits.connection().replace(waits.url, address))
        monkeypatch.setattr(run_pods, "ANSWER_SECONDS", 3.0)
        operator = KubeflowPipelineOperator(task_id="task", pipeline=pipeline, poll_interval=0.05)
        with pytest.raises(TaskDeferred) as deferred:
            operator.execute(context)
        trigger = PipelineRunTrigger(**deferred.value.trigger.serialize()[1])

        async def scenario():
            events = asyncio.create_task(events_of(trigger))
            connection, _ = await asyncio.to_thread(silent.accept)
            asked_at = time.monotonic()
            api.finish(trigger.run_id)
            (event,) = await events
            connection.close()
            return event.payload["error"], time.monotonic() - asked_at

        error, seconds = asyncio.run(scenario())
    assert error is None
    assert seconds < 2.5


def test_retry_after_a_failed_run_starts_anew_or_goes_on_with_it(api, pipeline, context):
    def operator(**arguments):
        return KubeflowPipelineOperator(
            task_id="task", pipeline=pipeline, deferrable=False, poll_interval=0.05, **arguments
        )

    api.on_run_created = lambda run: api.finish(run["run_id"], "FAILED", tasks={"train": "FAILED"})
    with pytest.raises(RunFailedError):
        operator().execute(context)
    api.on_run_retried = lambda run: api.finish(run["run_id"], tasks={"train": "SUCCEEDED"})
    value = operator(resume_failed=True).execute(retry(context))
    assert list(api.runs) == [value["run_id"]]
    api.finish(value["run_id"], "FAILED")
    api.on_run_created = lambda run: api.finish(run["run_id"])
    again = operator().execute(retry(context))
    assert list(api.runs) == [value["run_id"], again["run_id"]]


@pytest.mark.parametrize(
    "message", ["Workflow manifest cannot be empty", "Workflow must be Failed/Error to retry"]
)
def test_run_that_cannot_go_on_is_replaced_and_missing_rights_are_told(api, pipeline, context, message):
    def operator():
        return KubeflowPipelineOperator(
            task_id="task", pipeline=pipeline, deferrable=False, poll_interval=0.05, resume_failed=True
        )

    api.on_run_created = lambda run: api.finish(run["run_id"], "FAILED")
    with pytest.raises(RunFailedError):
        operator().execute(context)
    answer = api.answer
    refused = [
        Answer(403, b'{"message": "no right"}'),
        Answer(409, json.dumps({"message": message}).encode()),
    ]
    api.answer = lambda asked: refused.pop(0) if asked.path.endswith(":retry") else answer(asked)
    with pytest.raises(ConfigurationError, match="no right"):
        operator().execute(retry(context))
    api.on_run_created = lambda run: api.finish(run["run_id"])
    value = operator().execute(retry(context))
    assert [run["state"] for run in api.runs.values()] == ["FAILED", "SUCCEEDED"]
    assert list(api.runs)[1] == value["run_id"]


def test_run_that_somebody_terminates_is_named(api, pipeline, context):
    api.on_run_created = lambda run: api.finish(run["run_id"], "CANCELED")
    with pytest.raises(RunCanceledError, match="was cancelled by somebody else"):
        finish(KubeflowPipelineOperator(task_id="task", pipeline=pipeline, poll_interval=0.1), context)


@pytest.mark.parametrize("died", [False, True], ids=["attempt saw its end", "attempt died before"])
def test_failed_run_that_a_person_terminated_is_not_gone_on_with(api, pipeline, context, died):
    """The server has a terminated run end as FAILED, and would carry it on."""

    def operator():
        return KubeflowPipelineOperator(
            task_id="task", pipeline=pipeline, resume_failed=True, poll_interval=0.05
        )

    with pytest.raises(TaskDeferred) as deferred:
        operator().execute(context)
    (run_id,) = api.runs
    person = kfp_server_api.RunServiceApi(
        kfp_server_api.ApiClient(kfp_server_api.Configuration(host=api.url))
    )
    person.run_service_terminate_run(run_id)
    deadline = time.monotonic() + 10
    while api.runs[run_id]["state"] != "FAILED" and time.monotonic() < deadline:
        time.sleep(0.02)
    if not died:
        (event,) = asyncio.run(events_of(PipelineRunTrigger(**deferred.value.trigger.serialize()[1])))
        with pytest.raises(RunCanceledError, match="was cancelled by somebody else"):
            operator().execute_complete(context, event.payload)
    with pytest.raises(TaskDeferred) as deferred:
        operator().execute(retry(context))
    assert deferred.value.trigger.run_id != run_id
    assert api.count("POST", ":retry$") == 0
    assert [run["state"] for run in api.runs.values()] == ["FAILED", "PENDING"]


def test_run_that_is_deleted_while_its_task_waits_fails_the_task(api, pipeline, context):
    api.on_run_created = lambda run: api.delete(run["run_id"])
    operator = KubeflowPipelineOperator(task_id="task", pipeline=pipeline, poll_interval=0.1)
    with pytest.raises(ConfigurationError, match=r"^Refused with 404: .* It was deleted"):
        finish(operator, context)


def test_refusal_while_a_run_goes_on_fails_the_attempt_and_a_retry_reconnects(api, pipeline, context):
    def operator(**arguments):
        return KubeflowPipelineOperator(
            task_id="task", pipeline=pipeline, **{"poll_interval": 0.1, **arguments}
        )

    with pytest.raises(TaskDeferred) as deferred:
        operator().execute(context)
    (run_id,) = api.runs
    api.token = "renewed"  # noqa: S105
    (event,) = asyncio.run(events_of(PipelineRunTrigger(**deferred.value.trigger.serialize()[1])))
    assert "cannot be watched any more" in event.payload["error"]
    refused = rf"(?s)missing, wrong or expired\..*\nRun {run_id} goes on; a retry reconnects to it\.$"
    for attempt in (
        lambda: operator().execute_complete(context, event.payload),
        lambda: operator().execute(retry(context)),
        lambda: operator(deferrable=False).execute(retry(context)),
    ):
        with pytest.raises(ApiUnavailableError, match=refused) as caught:
            attempt()
        assert not isinstance(caught.value, AirflowFailException)
    api.token = None
    with pytest.raises(ApiUnavailableError, match=refused):
        operator().execute_complete(context, event.payload)
    with pytest.raises(TaskDeferred) as deferred:
        operator().execute(retry(context))
    assert deferred.value.trigger.run_id == run_id
    assert list(api.runs) == [run_id]
    api.finish(run_id)
    assert operator().execute_complete(context, event.payload)["state"] == "SUCCEEDED"


def test_run_that_somebody_has_made_go_on_is_waited_for_again(api, pipeline, context):
    operator = KubeflowPipelineOperator(task_id="task", pipeline=pipeline)
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    (run_id,) = api.runs
    event = {"run_id": run_id, "timed_out": False, "error": None, "log_offset": 0}
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute_complete(context, event)
    assert (deferred.value.trigger.run_id, deferred.value.method_name) == (run_id, "execute_complete")


def test_failed_run_that_goes_on_has_its_time_again(api, pipeline, context):
    def operator(**arguments):
        return KubeflowPipelineOperator(
            task_id="task", pipeline=pipeline, run_timeout=timedelta(hours=1), **arguments
        )

    with pytest.raises(TaskDeferred):
        operator().execute(context)
    (run_id,) = api.runs
    begin_earlier(context, 3601)
    api.finish(run_id, "FAILED", tasks={"train": "FAILED"})
    with pytest.raises(TaskDeferred) as deferred:
        operator(resume_failed=True).execute(retry(context))
    assert deferred.value.trigger.run_id == run_id
    assert time.time() + 3500 < deferred.value.trigger.deadline


def begin_earlier(context, seconds):
    store = context["task_state_store"]
    intent = store.get(INTENT_KEY)
    store.set(INTENT_KEY, {**intent, "at": intent["at"] - seconds})


def test_mapped_tasks_and_clears_get_runs_of_their_own(api, pipeline, context):
    for map_index in (0, 1):
        context["ti"].map_index = map_index
        context["task_state_store"].values.clear()
        with pytest.raises(TaskDeferred):
            KubeflowPipelineOperator(task_id="task", pipeline=pipeline).execute(context)
    names = [run["display_name"].rpartition(" ")[0] for run in api.runs.values()]
    assert names == ["dag.task[0]", "dag.task[1]"]


# Components


def test_component_from_a_file_hands_its_artifacts_on(api, component, context, tmp_path):
    cluster(api, tmp_path, "echo", "result")
    operator = KubeflowComponentOperator(
        task_id="task",
        component=component,
        arguments={"text": "abc", "source": "s3://bucket/data.jsonl"},
        poll_interval=0.1,
    )
    value = finish(operator, context)
    (run_id,) = api.runs
    at = f"file://{tmp_path}/root/toy-run/{run_id}/toy/salt"
    assert value == {
        "run_id": run_id,
        "component": "toy",
        "artifacts": {"echo": f"{at}/echo", "result": f"{at}/result"},
        "outputs": {},
    }
    assert context["ti"].xcom["echo"] == f"{at}/echo"
    assert api.runs[run_id]["runtime_config"]["parameters"] == {
        "text": "abc",
        "source_uri": "s3://bucket/data.jsonl",
    }


def stage_result(**fields):
    return {
        "schema_version": 1,
        "component": "toy",
        "passed": True,
        "findings": [],
        "artifacts": {"echo": {"uri": "s3://b/echo", "digest": "sha256:1", "bytes": 3}},
        "metrics": {"length": 3},
        "details": {},
        "resources": {},
        **fields,
    }


def test_component_with_a_result_of_the_providers_schema_is_treated_like_its_own(
    api, component, context, tmp_path
):
    cluster(api, tmp_path, "echo", result=stage_result())
    operator = KubeflowComponentOperator(task_id="task", component=component, poll_interval=0.1)
    value = finish(operator, context)
    assert (value["metrics"], value["artifacts"]["echo"]["digest"]) == ({"length": 3}, "sha256:1")
    assert context["ti"].xcom["echo"] == "s3://b/echo"


def test_pipeline_is_not_taken_for_a_component(api, pipeline, context):
    with pytest.raises(ConfigurationError, match="A pipeline of 2 steps is no component"):
        KubeflowComponentOperator(task_id="task", component=pipeline).execute(context)
    assert api.requests == []


def test_step_settings_and_the_connections_image_are_compiled_in(api, connect, context):
    connect(image="registry.example.com/llmops:1", upload_versions=False)
    operator = TrainSFTOperator(
        task_id="task",
        dataset="s3://data/train",
        base_model="s3://models/base",
        step_settings={"accelerator_type": "nvidia.com/gpu", "accelerator_count": 2, "memory_limit": "64Gi"},
    )
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    (run,) = api.runs.values()
    executors = run["pipeline_spec"]["deploymentSpec"]["executors"]
    container = executors["exec-train-sft"]["container"]
    assert container["image"] == "registry.example.com/llmops:1"
    assert container["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert container["resources"]["resourceMemoryLimit"] == "64Gi"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory": "1Gi"}, "memory"),
        ({"memory_limit": "1 gigabyte"}, "memory_limit"),
        ({"tain": StepSettings(cpu_limit="1")}, "did you mean"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_sent(
    api, pipeline, context, settings, message
):
    operator = KubeflowPipelineOperator(task_id="task", pipeline=pipeline, step_settings=settings)
    with pytest.raises(ConfigurationError, match=message):
        operator.execute(context)
    assert api.runs == {}


# Reuse


def reusing(component, tmp_path, **arguments):
    source = tmp_path / "data.jsonl"
    if not source.exists():
        source.write_text("a")
    return KubeflowComponentOperator(
        **{
            "task_id": "task",
            "component": component,
            "arguments": {"text": "abc", "source": f"file://{source}"},
            "poll_interval": 0.05,
            "deferrable": False,
            "reuse": "identical",
            **arguments,
        }
    )


def test_identical_run_is_reused_until_an_input_changes(api, component, context, tmp_path):
    def execute(**arguments):
        context["task_state_store"].values.clear()
        return reusing(component, tmp_path, **arguments).execute(context)

    cluster(api, tmp_path, "echo", result=stage_result())
    first = execute()
    assert execute() == first
    assert len(api.runs) == 1
    changed = {"text": "abcd", "source": f"file://{tmp_path}/data.jsonl"}
    assert execute(arguments=changed)["run_id"] != first["run_id"]
    (tmp_path / "data.jsonl").write_text("ab")
    assert execute()["run_id"] not in (first["run_id"],)
    assert execute(step_settings={"image": "other:1"})["run_id"] != first["run_id"]
    assert len(api.runs) == 4
    assert execute(reuse="never")["run_id"] not in list(api.runs)[:4]


def test_changed_input_is_seen_with_settings_for_the_steps_too(api, component, context, tmp_path):
    def execute():
        context["task_state_store"].values.clear()
        return reusing(component, tmp_path, step_settings={"image": "other:1"}).execute(context)

    cluster(api, tmp_path, "echo", result=stage_result())
    first = execute()
    assert execute() == first
    (tmp_path / "data.jsonl").write_text("the same address")
    assert execute()["run_id"] != first["run_id"]


def test_inputs_are_read_once_and_not_again_to_reconnect(api, component, context, tmp_path, monkeypatch):
    cluster(api, tmp_path, "echo", result=stage_result())
    operator = reusing(component, tmp_path)
    backend, read = operator.hook.backend, []
    digest = backend.input_digest
    monkeypatch.setattr(backend, "input_digest", lambda uri: read.append(uri) or digest(uri))
    first = operator.execute(context)
    assert operator.execute(retry(context)) == first
    assert read == [f"file://{tmp_path}/data.jsonl"]


def test_run_whose_artifacts_are_gone_is_not_reused(api, component, context, tmp_path):
    import shutil

    cluster(api, tmp_path, "echo", result=stage_result())
    first = reusing(component, tmp_path).execute(context)
    shutil.rmtree(tmp_path / "root")
    context["task_state_store"].values.clear()
    assert reusing(component, tmp_path).execute(context)["run_id"] != first["run_id"]


def test_backfills_reuse_when_they_are_told_to(api, component, context, tmp_path):
    cluster(api, tmp_path, "echo", result=stage_result())
    ids = []
    for run_type in (DagRunType.BACKFILL, DagRunType.BACKFILL, DagRunType.SCHEDULED):
        context["dag_run"].run_type = run_type
        context["task_state_store"].values.clear()
        ids.append(reusing(component, tmp_path, reuse="backfill").execute(context)["run_id"])
    assert ids[0] == ids[1] != ids[2]


def test_killing_a_task_that_took_an_earlier_result_does_not_touch_that_run(
    api, component, context, tmp_path
):
    cluster(api, tmp_path, "echo", result=stage_result())
    reusing(component, tmp_path).execute(context)
    context["task_state_store"].values.clear()
    with pytest.raises(TaskDeferred):
        reusing(component, tmp_path, deferrable=True).execute(context)
    context["ti"].max_tries += 1  # cleared
    reusing(component, tmp_path).execute(context)
    assert api.count("POST", ":terminate$") == 0


def test_unknown_way_to_reuse_is_refused(api, component, context, tmp_path):
    with pytest.raises(ConfigurationError, match="reuse must be one of never, identical, backfill"):
        reusing(component, tmp_path, reuse="always").execute(context)


# Sensor


def test_sensor_waits_in_the_same_stream_and_never_cancels(api, pipeline, context):
    with pytest.raises(TaskDeferred):
        KubeflowPipelineOperator(task_id="task", pipeline=pipeline).execute(context)
    (run_id,) = api.runs
    sensor = PipelineRunSensor(task_id="wait", run_id=run_id, poke_interval=0.1)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context)
    trigger = PipelineRunTrigger(**deferred.value.trigger.serialize()[1])
    assert trigger.shared_stream_key() == ("kubeflow", "kubeflow_default", 0.1)
    asyncio.run(trigger.on_kill())
    assert api.count("POST", ":terminate$") == 0
    api.finish(run_id)
    (event,) = asyncio.run(events_of(trigger))
    assert sensor.execute_complete(context, event.payload) is None
