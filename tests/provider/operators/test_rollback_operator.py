"""Going back, waiting for, and deleting a service over the real local backend."""

from __future__ import annotations

import shutil

import pytest
from airflow.sdk.exceptions import TaskDeferred
from attempts import clear, retry
from kserve_deployments import finished

from airflow_provider_llmops.exceptions import ConfigurationError, RunFailedError
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.operators.rollback import RollbackOperator
from airflow_provider_llmops.operators.serving import DeployModelOperator
from airflow_provider_llmops.sensors.service import ServiceReadySensor, ServiceTrafficSensor

pytestmark = pytest.mark.usefixtures("connections")


def deploy(model, context, **arguments):
    task = DeployModelOperator(
        task_id="deploy", service_name="tiny", model=str(model), poll_interval=0.2, **arguments
    )
    return finished(task, context)


def rollback(**arguments) -> RollbackOperator:
    return RollbackOperator(task_id="back", service_name="tiny", poll_interval=0.2, **arguments)


def seen(service) -> dict[str, tuple[str, int, bool]]:
    return {name: (str(r.state), r.traffic, r.is_given_up) for name, r in service().revisions.items()}


def test_former_revision_is_started_again_and_gets_the_traffic_and_the_bad_one_is_given_up(
    tiny_model, context, service, tmp_path
):
    first = deploy(tiny_model, context, deferrable=False)
    with pytest.raises(ConfigurationError, match=r"^There is no good revision of service 'tiny' to go back"):
        finished(rollback(deferrable=False), clear(context))
    deploy(tiny_model, clear(context), deferrable=False, predictor_args={"max_model_len": 256})
    assert seen(service) == {"00001": ("STOPPED", 0, False), "00002": ("READY", 100, False)}

    facts = finished(rollback(), clear(context))
    assert (facts["revision"], facts["replaced"], facts["url"]) == ("00001", "00002", first["url"])
    assert facts["smoke_answer"].strip()
    rolled_back = {"00001": ("READY", 100, False), "00002": ("STOPPED", 0, True)}
    assert seen(service) == rolled_back
    assert KServeHook().ask(first["url"], "tiny", "hello", max_tokens=4)
    for sensor in (ServiceReadySensor, ServiceTrafficSensor):
        waiting = sensor(task_id="wait", service_name="tiny", revision="00001", deferrable=False)
        assert waiting.execute(context) is None
    with pytest.raises(RunFailedError, match=r"^Revision 00002 of service tiny is STOPPED"):
        ServiceTrafficSensor(task_id="wait", service_name="tiny", revision="00002").execute(context)

    # Airflow did not learn of it: the same again, and nothing changes.
    again = finished(rollback(), retry(context))
    assert (again["revision"], again["replaced"]) == ("00001", "00002")
    with pytest.raises(ConfigurationError, match=r"It has 00001 \(has 100% of the requests\), 00002 \(given"):
        finished(rollback(), clear(context))
    assert seen(service) == rolled_back


def test_former_revision_whose_model_is_gone_leaves_what_serves(tiny_model, context, service, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    deploy(model, context, deferrable=False)
    deploy(tiny_model, clear(context), deferrable=False)
    shutil.rmtree(model)
    with pytest.raises(ConfigurationError, match="does not exist"):
        finished(rollback(deferrable=False), clear(context))
    shutil.copytree(tiny_model, model)
    (model / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(
        RunFailedError, match=r"^The former revision failed: .* Serving as before: 00002 \(100%\)"
    ):
        finished(rollback(deferrable=False), clear(context))
    assert seen(service) == {"00001": ("FAILED", 0, True), "00002": ("READY", 100, False)}


def test_rollback_that_is_ended_stops_what_was_coming_back_and_may_be_asked_for_again(
    tiny_model, context, service
):
    context["ti"].get_task_states = lambda **_: {"manual": {"task": "failed"}}
    deploy(tiny_model, context, deferrable=False)
    deploy(tiny_model, clear(context), deferrable=False, predictor_args={"max_model_len": 256})
    task = rollback()
    with pytest.raises(TaskDeferred):
        task.execute(clear(context))
    task.on_kill()
    assert seen(service) == {"00001": ("STOPPED", 0, False), "00002": ("READY", 100, False)}
    assert finished(rollback(deferrable=False), clear(context))["revision"] == "00001"
