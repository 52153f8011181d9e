"""Deploying over the real local backend: switch over, or keep what serves."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from datetime import UTC, datetime

import psutil
import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred
from attempts import clear, dag_run, retry
from planes import DATA_PYTHON
from test_component_operator import events_of

from airflow_provider_llmops.backends.serving import local as local_serving
from airflow_provider_llmops.delivery.rollout import Rollout
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, RunFailedError
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.operators.serving import AskModelOperator, DeployModelOperator
from airflow_provider_llmops.remote.origin import code_of
from airflow_provider_llmops.triggers.service import RevisionReadyTrigger

pytestmark = pytest.mark.usefixtures("connections")


def deploy(model, context, **arguments):
    operator = DeployModelOperator(
        task_id="deploy", service_name="tiny", model=str(model), **{"poll_interval": 0.2, **arguments}
    )
    try:
        return operator.execute(context)
    except TaskDeferred as deferred:
        _, trigger = deferred.trigger.serialize()
        (event,) = asyncio.run(events_of(RevisionReadyTrigger(**trigger)))
        return getattr(operator, deferred.method_name)(context, event=event.payload)


def test_revisions_replace_each_other_and_a_broken_one_changes_nothing(
    tiny_model, context, service, tmp_path, capsys
):
    pods = {"service_account": "reader", "spec_overrides": {"predictor": {"nodeSelector": {"pool": "gpu"}}}}
    first = deploy(tiny_model, context, **pods)
    ignored = "ignored: spec.predictor.serviceAccountName, spec.predictor.nodeSelector"
    assert ignored in capsys.readouterr().out
    assert (first["revision"], first["openai_url"]) == ("00001", f"{first['url']}/openai/v1")
    assert first["smoke_answer"].strip()
    models = f"{first['openai_url']}/models"
    assert context["ti"].xcom == {
        "url": first["url"],
        "openai_url": first["openai_url"],
        "models_url": models,
        "_link_ServiceLink": models,
        "code": code_of(context),
    }
    assert {name: each.traffic for name, each in service().revisions.items()} == {"00001": 100}

    again = deploy(tiny_model, retry(context), **pods)
    assert (again["revision"], again["url"]) == ("00001", first["url"])

    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(
        RunFailedError, match=r"^The new revision failed: .* Serving as before: 00001 \(100%\)"
    ):
        deploy(broken, clear(context))
    assert KServeHook().ask(first["url"], "tiny", "hello", max_tokens=4)

    second = deploy(tiny_model, clear(context), deferrable=False, predictor_args={"max_model_len": 256})
    assert (second["revision"], second["url"]) == ("00003", first["url"])
    assert service().revisions["00003"].traffic == 100
    assert not service().revisions["00001"].state.is_ready

    (asked,) = AskModelOperator(
        task_id="ask", url=first["url"], model_name="tiny", prompts=["hello"], request={"max_tokens": 4}
    ).execute(context)
    assert (asked["prompt"], bool(asked["answer"]), asked["seconds"] > 0) == ("hello", True, True)
    with pytest.raises(ConfigurationError, match="404"):
        AskModelOperator(task_id="ask", url=first["url"], model_name="other", prompts=["hello"]).execute(
            context
        )


def test_service_with_keys_is_deployed_and_asked_by_its_connection(
    tiny_model, context, service, tmp_path, root, monkeypatch, caplog
):
    file = tmp_path / "access.json"
    command = [DATA_PYTHON, "-m", "llmops_components.serving.access", "add", file, "airflow"]
    key = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    extra = {"python": str(DATA_PYTHON), "root": str(root), "access_file": str(file)}

    def connect(**fields):
        connection = {"conn_type": "kserve", "extra": extra, **fields}
        monkeypatch.setenv("AIRFLOW_CONN_KSERVE_DEFAULT", json.dumps(connection))

    def ask():
        operator = AskModelOperator(task_id="ask", url=facts["url"], model_name="tiny", prompts=["hello"])
        return operator.execute(context)

    connect(password=key)
    facts = deploy(tiny_model, context)
    assert facts["smoke_answer"].strip()
    assert ask()[0]["answer"]
    connect()
    with pytest.raises(ConfigurationError, match=r"^HTTP 401 Unauthorized: .*You sent no API key"):
        ask()
    connect(password="x" * 40)
    with pytest.raises(ConfigurationError, match="The API key is not one of this service"):
        ask()

    audit = root / "services/default/tiny/gateway/default.tiny.audit.jsonl"
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    # The smoke question is the controller's, and not counted.
    assert [(line.get("key"), line["status"], line["completion_tokens"] > 0) for line in lines] == [
        ("airflow", 200, True),
        (None, 401, False),
        (None, 401, False),
    ]
    found = [path for path in root.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert found == []
    assert key not in json.dumps(facts) + json.dumps(context["ti"].xcom) + caplog.text
    for process in psutil.process_iter(["cmdline"]):
        assert key not in " ".join(process.info["cmdline"] or [])


def test_newest_date_serves_whichever_run_finishes_last(tiny_model, context, service):
    def day(number: int, **facts):
        date = datetime(2026, 11, number, tzinfo=UTC)
        return dag_run(run_type="scheduled", data_interval_end=date, logical_date=date, **facts)

    context["dag_run"] = day(24)
    deploy(tiny_model, context)
    context["dag_run"] = day(25)
    newer = {"deferrable": False, "predictor_args": {"max_model_len": 256}}
    assert deploy(tiny_model, clear(context), **newer)["revision"] == "00002"

    older = {"deferrable": False, "predictor_args": {"max_model_len": 250}}
    context["dag_run"] = day(24)
    with pytest.raises(
        AirflowSkipException, match="Service 'tiny' has a newer model, of 2026-11-25T00:00:00Z"
    ):
        deploy(tiny_model, clear(context), **older)
    assert set(service().revisions) == {"00001", "00002"}
    # The older one may have started before the newer one had the traffic.
    late = DeployModelOperator(
        task_id="deploy",
        service_name="tiny",
        model=str(tiny_model),
        predictor_args={"max_model_len": 250},
        deferrable=False,
    )
    with pytest.MonkeyPatch.context() as patch, pytest.raises(AirflowSkipException):
        patch.setattr(Rollout, "reason_to_leave", lambda *_, **__: None)
        late.execute(clear(context))
    assert {name: each.traffic for name, each in service().revisions.items() if each.state.is_ready} == {
        "00002": 100
    }

    context["dag_run"] = day(24)
    assert deploy(tiny_model, clear(context), **older, only_if_newer=False)["revision"] not in (
        "00001",
        "00002",
    )
    # Of what serves now, which the 25th is newer than.
    assert service().as_of.startswith("2026-11-24T00:00:00Z")

    with pytest.raises(
        ConfigurationError, match=r"^only_if_newer must be true or false, got the text 'False'"
    ):
        deploy(tiny_model, clear(context), **older, only_if_newer="False")

    context["dag_run"] = day(26)
    context["dag_run"].run_type = "backfill"
    with pytest.raises(AirflowSkipException, match="A backfill leaves a service that serves as it is"):
        deploy(tiny_model, clear(context), **older)


def test_killing_the_task_stops_the_revision_that_starts_and_no_other(tiny_model, context, service):
    context["ti"].get_task_states = lambda **_: {"manual": {"task": "failed"}}
    deploy(tiny_model, context)
    operator = DeployModelOperator(
        task_id="deploy", service_name="tiny", model=str(tiny_model), predictor_args={"max_model_len": 256}
    )
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(clear(context))
    _, trigger = deferred.value.trigger.serialize()
    asyncio.run(RevisionReadyTrigger(**trigger).on_kill())
    operator.on_kill()
    states = {name: str(each.state) for name, each in service().revisions.items()}
    assert states == {"00001": "READY", "00002": "STOPPED"}

    same = DeployModelOperator(task_id="deploy", service_name="tiny", model=str(tiny_model))
    with pytest.raises(TaskDeferred):
        same.execute(clear(context))
    same.on_kill()
    assert service().revisions["00001"].state.is_ready


def test_evicted_worker_leaves_the_revision_to_the_next_attempt_and_one_of_a_marked_task_stops_it(
    tiny_model, context, service, monkeypatch
):
    def attempt(state):
        """A worker's process, while Airflow says that the task is in a state."""
        context["ti"].get_task_states = lambda **_: {"manual": {"task": state}}
        return DeployModelOperator(task_id="deploy", service_name="tiny", model=str(tiny_model))

    starting = attempt("running")
    with pytest.raises(TaskDeferred) as deferred:
        starting.execute(context)
    starting.on_kill()
    assert not service().revisions["00001"].state.is_lost
    _, trigger = deferred.value.trigger.serialize()
    (event,) = asyncio.run(events_of(RevisionReadyTrigger(**trigger)))

    for state, left in (("running", "READY"), ("up_for_retry", "READY"), ("failed", "STOPPED")):
        asking = attempt(state)

        def killed_before_the_answer(*_, asking=asking, **__):
            asking.on_kill()
            raise KeyboardInterrupt

        monkeypatch.setattr(asking.hook.backend, "ask", killed_before_the_answer)
        with pytest.raises(KeyboardInterrupt):
            asking.execute_complete(retry(context), event=event.payload)
        assert {name: str(each.state) for name, each in service().revisions.items()} == {"00001": left}


@pytest.fixture
def slow_controller(monkeypatch, tmp_path):
    """An interpreter for the connection that hangs when it is started first, and says after that that all is well."""
    revision = {"revision": "00001", "state": "READY"}
    answer = json.dumps(
        {"name": "tiny", "namespace": "default", "gateway": "RUNNING", "revisions": [revision]}
    )
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\n[ -e '{tmp_path}/called' ] || {{ touch '{tmp_path}/called'; exec sleep 60; }}\necho '{answer}'\n"
    )
    python.chmod(0o755)
    connection = {"conn_type": "kserve", "extra": {"python": str(python)}}
    monkeypatch.setenv("AIRFLOW_CONN_KSERVE_DEFAULT", json.dumps(connection))
    monkeypatch.setattr(local_serving, "COMMAND_TIMEOUT_SECONDS", 0.5)
    return python


def test_controller_that_does_not_answer_is_named_with_what_to_look_at(slow_controller):
    with pytest.raises(ApiUnavailableError) as caught:
        KServeHook().get_service("tiny")
    assert str(caught.value).startswith("The data plane did not answer within")
    assert f"Command: {slow_controller} -m llmops_components.serving.local status" in str(caught.value)
    assert "Look at the load, the memory and the disk of this machine" in str(caught.value)


def revision_trigger(*, deadline: float) -> RevisionReadyTrigger:
    return RevisionReadyTrigger(
        kserve_conn_id="kserve_default",
        namespace="default",
        name="tiny",
        revision="00001",
        poll_interval=0.1,
        deadline=deadline,
    )


def test_trigger_waits_on_when_the_controller_does_not_answer(slow_controller):
    (event,) = asyncio.run(events_of(revision_trigger(deadline=time.time() + 60)))
    assert event.payload == {"revision": "00001", "state": "READY", "error": None, "timed_out": False}


def test_trigger_keeps_its_deadline_when_the_controller_does_not_answer(slow_controller):
    (event,) = asyncio.run(events_of(revision_trigger(deadline=time.time())))
    assert event.payload == {"revision": "00001", "state": "STARTING", "error": None, "timed_out": True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "/nowhere"}, "Model directory /nowhere does not exist"),
        ({"predictor_args": {"dytpe": "float32"}}, r"'dytpe' \(did you mean 'dtype'\?\)"),
    ],
)
def test_manifest_that_cannot_be_carried_out_is_refused_and_not_retried(
    tiny_model, context, arguments, message
):
    with pytest.raises(ConfigurationError, match=message):
        deploy(**{"model": tiny_model, "context": context, **arguments})
