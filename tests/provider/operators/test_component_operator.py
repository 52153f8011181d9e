"""The base operator over the real local backend: submit once, reconnect, finish."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout, TaskDeferred
from airflow.sdk.execution_time.context import OutletEventAccessors
from attempts import clear, clear_other, clear_running, retry

from airflow_provider_llmops.backends.pipelines.local.backend import LocalPipelineBackend
from airflow_provider_llmops.exceptions import (
    ConfigurationError,
    InvalidInputError,
    QualityGateFailed,
    ResultError,
    RunCanceledError,
    RunFailedError,
)
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.remote.intent import INTENT_KEY
from airflow_provider_llmops.remote.origin import code_of
from airflow_provider_llmops.triggers.pipeline_run import PipelineRunTrigger

pytestmark = pytest.mark.usefixtures("connections")


class ToyOperator(ComponentOperator):
    component = "toy"
    compiled = None

    def __init__(self, *, text="hello", seconds=0.0, ending="well", **kwargs):
        super().__init__(**kwargs)
        self.text, self.seconds, self.ending = text, seconds, ending

    def spec(self):
        return self.compiled


@pytest.fixture
def toy(toy_spec, backend):
    ToyOperator.compiled = toy_spec
    return lambda **arguments: ToyOperator(task_id="task", **{"poll_interval": 0.05, **arguments})


def runs_of(backend):
    return sorted(path.name for path in backend._runs.glob("[!.]*"))


async def events_of(trigger):
    return [event async for event in trigger.run()]


def resume(operator, context, deferred):
    """Run the trigger as the triggerer does, rebuilt from what Airflow stores, then the method it names."""
    path, arguments = deferred.trigger.serialize()
    assert path == "airflow_provider_llmops.triggers.pipeline_run.PipelineRunTrigger"
    (event,) = asyncio.run(events_of(PipelineRunTrigger(**arguments)))
    return getattr(operator, deferred.method_name)(context, event=event.payload)


def test_synchronous_run_returns_result_and_pushes_artifacts_and_metrics(toy, context, backend, toy_spec):
    value = toy(text="abc", deferrable=False).execute(context)
    (run_id,) = runs_of(backend)
    assert value["component"] == "toy"
    assert value["run_id"] == run_id
    assert value["component_digest"] == toy_spec.digest
    assert value["metrics"] == {"length": 3}
    uri = value["artifacts"]["echo"]["uri"]
    assert value["image"] is None  # there are no containers here
    assert context["ti"].xcom == {"echo": uri, "metrics": {"length": 3}, "code": code_of(context)}
    assert context["task_state_store"].get(INTENT_KEY)["run_id"] == run_id


def test_deferred_run_gives_the_same_result_and_streams_the_log(toy, context, backend, capsys):
    operator = toy(text="abc")
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    value = resume(operator, context, deferred.value)
    assert value["metrics"] == {"length": 3}
    assert runs_of(backend) == [value["run_id"]]
    assert capsys.readouterr().out.count("working on abc") == 1


def test_run_carries_where_it_comes_from(toy, context, backend, toy_spec):
    import json

    value = toy(deferrable=False).execute(context)
    stored = json.loads((backend._runs / value["run_id"] / "request.json").read_text())
    assert stored["display_name"].startswith("dag.task ")
    assert stored["labels"] == {
        "dag_id": "dag",
        "dag_run_id": "manual",
        "task_id": "task",
        "map_index": "-1",
        "try_number": "1",
        "dag_version": "",
        **code_of(context),
        "fingerprint": "",
        "component": "toy",
        "component_digest": toy_spec.digest,
    }


def test_retry_reconnects_to_the_running_run(toy, context, backend):
    with pytest.raises(TaskDeferred):
        toy(seconds=1.0).execute(context)
    (run_id,) = runs_of(backend)
    value = toy(seconds=1.0, deferrable=False).execute(retry(context))
    assert value["run_id"] == run_id
    assert runs_of(backend) == [run_id]


def test_retry_takes_the_result_of_a_run_that_succeeded_meanwhile(toy, context, backend):
    first = toy(deferrable=False).execute(context)
    second = toy(deferrable=False).execute(retry(context))
    assert second == first
    assert runs_of(backend) == [first["run_id"]]


def test_retry_finds_the_run_by_name_when_the_worker_died_before_it_knew_the_id(toy, context, backend):
    first = toy(deferrable=False).execute(context)
    store = context["task_state_store"]
    intent = store.get(INTENT_KEY)
    store.set(INTENT_KEY, {key: value for key, value in intent.items() if key != "run_id"})
    assert toy(deferrable=False).execute(retry(context)) == first
    assert runs_of(backend) == [first["run_id"]]


def test_retry_submits_when_the_worker_died_before_it_submitted(toy, context, backend):
    context["task_state_store"].set(INTENT_KEY, {"name": "dag.task never sent", "cycle": 1, "at": 0.0})
    value = toy(deferrable=False).execute(retry(context))
    assert runs_of(backend) == [value["run_id"]]
    # The name is kept: a request that was on its way all the same would not make a second run.
    assert backend.find("dag.task never sent").run_id == value["run_id"]


def test_retry_after_a_failed_run_makes_a_new_one(toy, context, backend):
    with pytest.raises(RunFailedError):
        toy(ending="crash", deferrable=False).execute(context)
    value = toy(deferrable=False).execute(retry(context))
    assert value["run_id"] in runs_of(backend)
    assert len(runs_of(backend)) == 2


def test_attempts_share_checkpoints_until_the_task_is_cleared(toy, context, backend, monkeypatch):
    keys = []
    submit = LocalPipelineBackend.submit

    def note(self, request):
        keys.append(request.attempts_key)
        return submit(self, request)

    monkeypatch.setattr(LocalPipelineBackend, "submit", note)
    for ending in ("crash", "crash"):
        with pytest.raises(RunFailedError):
            toy(ending=ending, deferrable=False).execute(context)
        context = retry(context)
    toy(deferrable=False).execute(context)
    toy(deferrable=False).execute(clear(context))
    assert keys[0] == keys[1] == keys[2] != keys[3]


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_clearing_a_finished_task_makes_a_new_run_whatever_airflow_makes_of_max_tries(
    toy, context, backend, retries
):
    first = toy(deferrable=False).execute(context)
    second = toy(deferrable=False).execute(clear(context, retries))
    assert runs_of(backend) == sorted([first["run_id"], second["run_id"]])
    assert first["run_id"] != second["run_id"]


def test_clearing_a_task_that_did_not_pass_its_gate_makes_a_new_run_although_max_tries_stays(
    toy, context, backend
):
    with pytest.raises(QualityGateFailed):
        toy(ending="gate", deferrable=False).execute(context)
    with pytest.raises(QualityGateFailed):
        toy(ending="gate", deferrable=False).execute(clear(context, retries=0))
    assert len(runs_of(backend)) == 2


def test_clearing_a_task_at_work_makes_a_new_run_although_max_tries_stays(toy, context, backend):
    context["ti"].get_task_states = lambda **_: {"manual": {"task": "restarting"}}
    operator = toy(seconds=60.0)
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    operator.on_kill()
    (first,) = runs_of(backend)
    second = toy(deferrable=False).execute(clear_running(context))
    assert second["run_id"] != first
    assert backend.get(first).state.is_canceled


def test_clearing_another_task_costs_no_run(toy, context, backend):
    with pytest.raises(TaskDeferred):
        toy(seconds=1.0).execute(context)
    (run_id,) = runs_of(backend)
    value = toy(seconds=1.0, deferrable=False).execute(retry(clear_other(context)))
    assert value["run_id"] == run_id
    # Its result did not get to Airflow.
    assert toy(deferrable=False).execute(retry(context)) == value
    assert runs_of(backend) == [run_id]


def test_result_is_kept_although_the_store_cannot_be_written_any_more(toy, context, backend, caplog):
    operator = toy(deferrable=False)
    outcome = operator.outcome

    def fail_afterwards(*args):
        value = outcome(*args)
        context["task_state_store"].set = None
        return value

    operator.outcome = fail_afterwards
    assert [operator.execute(context)["run_id"]] == runs_of(backend)
    assert "That the run is finished could not be noted" in caplog.text


def test_clearing_a_task_whose_run_was_orphaned_cancels_that_run(toy, context, backend):
    with pytest.raises(TaskDeferred):
        toy(seconds=60.0).execute(context)
    (orphan,) = runs_of(backend)
    value = toy(deferrable=False).execute(clear(context))
    assert backend.get(orphan).state.is_canceled
    assert backend.get(value["run_id"]).state.is_successful


def test_failed_run_may_be_retried_and_names_step_error_and_log(toy, context, backend):
    with pytest.raises(RunFailedError) as caught:
        toy(ending="crash", deferrable=False).execute(context)
    (run_id,) = runs_of(backend)
    assert str(caught.value) == (
        "RuntimeError: something broke\n"
        f"Step 'toy' of run {run_id} (toy)\n"
        f"Log: {backend._runs / run_id / 'log.txt'}"
    )
    assert not isinstance(caught.value, AirflowFailException)


def test_input_that_the_component_refuses_is_not_retried(toy, context):
    with pytest.raises(InvalidInputError, match=r"^row 3: completion is empty\n") as caught:
        toy(ending="refuse", deferrable=False).execute(context)
    assert isinstance(caught.value, AirflowFailException)


def test_gate_that_is_not_passed_pushes_the_result_before_it_fails(toy, context):
    with pytest.raises(QualityGateFailed, match=r"(?s)^line 3: completion is empty\.\nRun .*\necho: /"):
        toy(ending="gate", deferrable=False).execute(context)
    pushed = context["ti"].xcom["return_value"]
    assert (pushed["passed"], pushed["findings"]) == (False, ["line 3: completion is empty"])


def test_run_cancelled_by_somebody_else_is_named(toy, context, backend):
    with pytest.raises(TaskDeferred):
        toy(seconds=60.0).execute(context)
    (run_id,) = runs_of(backend)
    backend.cancel(run_id)
    event = {"run_id": run_id, "timed_out": False, "error": None, "log_offset": 0}
    with pytest.raises(RunCanceledError, match=f"^The run was cancelled by somebody else.*\n.*{run_id}"):
        toy().execute_complete(context, event)


@pytest.mark.parametrize("limit", ["run_timeout", "execution_timeout"])
def test_deadline_holds_while_deferred_and_cancels_the_run(toy, context, backend, limit):
    operator = toy(seconds=60.0, **{limit: timedelta(seconds=1)})
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    with pytest.raises(RunFailedError, match=f"took longer than its {limit} of 0:00:01 and was cancelled"):
        resume(operator, context, deferred.value)
    (run_id,) = runs_of(backend)
    assert backend.get(run_id).state.is_canceled


@pytest.mark.parametrize("deferrable", [True, False])
def test_attempt_that_takes_a_run_over_gives_it_no_more_time(toy, context, backend, deferrable):
    limits = {"seconds": 60.0, "run_timeout": timedelta(hours=1), "execution_timeout": timedelta(hours=2)}
    with pytest.raises(TaskDeferred) as deferred:
        toy(**limits).execute(context)
    assert 3500 < deferred.value.trigger.deadline - time.time() <= 3600
    store = context["task_state_store"]
    intent = store.get(INTENT_KEY)
    store.set(INTENT_KEY, {**intent, "at": intent["at"] - 3601})
    operator = toy(**limits, deferrable=deferrable)
    with pytest.raises(
        RunFailedError, match="longer than its run_timeout of 1:00:00 or its execution_timeout"
    ):
        if deferrable:
            with pytest.raises(TaskDeferred) as deferred:
                operator.execute(retry(context))
            resume(operator, context, deferred.value)
        else:
            operator.execute(retry(context))
    (run_id,) = runs_of(backend)
    assert backend.get(run_id).state.is_canceled


def test_deadline_holds_although_the_dag_has_none_any_more(toy, context):
    with pytest.raises(TaskDeferred) as deferred:
        toy(seconds=60.0, run_timeout=timedelta(seconds=1)).execute(context)
    with pytest.raises(RunFailedError, match="took longer than its time and was cancelled"):
        resume(toy(), context, deferred.value)


@pytest.mark.parametrize("deferrable", [True, False])
def test_deadline_holds_between_two_looks_that_are_far_apart(toy, context, backend, deferrable):
    operator = toy(seconds=60.0, deferrable=deferrable, run_timeout=timedelta(seconds=1), poll_interval=60)
    before = time.monotonic()
    with pytest.raises(RunFailedError, match="took longer than"):
        if deferrable:
            with pytest.raises(TaskDeferred) as deferred:
                operator.execute(context)
            resume(operator, context, deferred.value)
        else:
            operator.execute(context)
    assert time.monotonic() - before < 30
    (run_id,) = runs_of(backend)
    assert backend.get(run_id).state.is_canceled


@pytest.mark.parametrize(
    ("state", "arguments", "canceled"),
    [
        ("failed", {}, True),  # marked by a person, or ended with its DAG run
        ("restarting", {}, True),  # cleared by a person
        ("failed", {"cancel_on_kill": False}, False),
        ("running", {}, False),  # the worker is evicted, the task goes on
        ("running", {"cancel_on_eviction": True}, True),
        ("up_for_retry", {}, False),  # another attempt will take the run over
    ],
)
def test_on_kill_cancels_the_run_when_nobody_wants_it_any_more(
    toy, context, backend, state, arguments, canceled
):
    context["ti"].get_task_states = lambda **_: {"manual": {"task": state}}
    operator = toy(seconds=60.0, **arguments)
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    operator.on_kill()
    assert backend.get(operator._attempt.key).state.is_canceled is canceled


def test_on_kill_while_the_run_is_being_submitted_cancels_what_came_of_it(toy, context, backend, monkeypatch):
    context["ti"].get_task_states = lambda **_: {"manual": {"task": "failed"}}
    operator = toy(seconds=60.0)
    submit = operator.hook.submit

    def killed_before_the_answer(request):
        submit(request)
        operator.on_kill()
        raise KeyboardInterrupt

    monkeypatch.setattr(operator.hook, "submit", killed_before_the_answer)
    with pytest.raises(KeyboardInterrupt):
        operator.execute(context)
    (run_id,) = runs_of(backend)
    assert backend.get(run_id).state.is_canceled


@pytest.mark.parametrize("cancel_on_kill", [True, False])
def test_task_that_is_given_up_before_its_request_makes_no_run(toy, context, backend, cancel_on_kill):
    context["ti"].get_task_states = lambda **_: {"manual": {"task": "failed"}}
    operator = toy(cancel_on_kill=cancel_on_kill)
    bind = operator.bind

    def marked_meanwhile():
        operator.on_kill()  # Airflow's signal handler does no more
        return bind()

    operator.bind = marked_meanwhile
    with pytest.raises(RunCanceledError, match="was ended while it submitted its run, which was not made"):
        operator.execute(context)
    assert runs_of(backend) == []


@pytest.mark.parametrize(
    ("state", "arguments", "canceled"),
    [
        ("failed", {}, True),
        ("restarting", {}, True),
        ("failed", {"cancel_on_kill": False}, False),
        ("running", {}, False),
        ("running", {"cancel_on_eviction": True}, True),
    ],
)
def test_run_of_a_task_that_is_given_up_as_it_is_requested_is_cancelled(
    toy, context, backend, monkeypatch, state, arguments, canceled
):
    context["ti"].get_task_states = lambda **_: {"manual": {"task": state}}
    operator = toy(seconds=60.0, **arguments)
    submit = operator.hook.submit

    def marked_meanwhile(request):
        operator.on_kill()
        if state == "restarting":  # the task instance has another id now
            monkeypatch.setattr(context["task_state_store"], "set", None)
        return submit(request)

    monkeypatch.setattr(operator.hook, "submit", marked_meanwhile)
    with pytest.raises(RunCanceledError if canceled else TaskDeferred):
        operator.execute(context)
    (run_id,) = runs_of(backend)
    assert backend.get(run_id).state.is_canceled is canceled


def test_run_that_failed_before_its_id_was_known_is_followed_by_one_with_another_name(toy, context, backend):
    with pytest.raises(RunFailedError):
        toy(ending="crash", deferrable=False).execute(context)
    store = context["task_state_store"]
    store.set(INTENT_KEY, {**store.get(INTENT_KEY), "run_id": None})
    value = toy(deferrable=False).execute(retry(context))
    names = {backend.get(run_id).display_name for run_id in runs_of(backend)}
    assert len(names) == len(runs_of(backend)) == 2
    assert backend.get(value["run_id"]).state.is_successful


def test_on_kill_cancels_the_run_when_airflow_timed_the_task_out(toy, context, backend):
    operator = toy(seconds=60.0)
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    try:
        raise AirflowTaskTimeout
    except AirflowTaskTimeout:
        operator.on_kill()
    assert backend.get(operator._attempt.key).state.is_canceled


def test_on_kill_of_the_trigger_cancels_the_run_unless_told_otherwise(toy, context, backend):
    with pytest.raises(TaskDeferred) as deferred:
        toy(seconds=60.0).execute(context)
    _, arguments = deferred.value.trigger.serialize()
    asyncio.run(PipelineRunTrigger(**{**arguments, "cancel_on_kill": False}).on_kill())
    assert not backend.get(arguments["run_id"]).state.is_terminal
    asyncio.run(PipelineRunTrigger(**arguments).on_kill())
    assert backend.get(arguments["run_id"]).state.is_canceled


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema_version": 1, "comp', "it is cut off"),
        ('{"schema_version": 2}', "has schema version 2; this provider reads version 1"),
        ("[]", "has schema version None"),
        ('{"schema_version": 1, "component": "toy"}', "lacks or garbles a field"),
    ],
)
def test_result_that_cannot_be_read_is_named(toy, context, backend, content, message):
    value = toy(deferrable=False).execute(context)
    (path,) = (backend._runs / value["run_id"] / "artifacts").glob("*/toy/result")
    path.write_text(content)
    with pytest.raises(ResultError, match=message):
        toy(deferrable=False).execute(retry(context))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds": "soon"}, "input 'seconds' must be int or float, got str 'soon'"),
        ({"text": 3}, "input 'text' must be str, got int 3"),
    ],
)
def test_argument_of_the_wrong_type_is_refused_before_anything_starts(
    toy, context, backend, arguments, message
):
    with pytest.raises(ConfigurationError, match=message):
        toy(**arguments).execute(context)
    assert runs_of(backend) == []
    assert context["task_state_store"].values == {}


def test_mapped_tasks_get_names_of_their_own(toy, context):
    context["ti"].map_index = 3
    toy(deferrable=False).execute(context)
    assert context["task_state_store"].get(INTENT_KEY)["name"].startswith("dag.task[3] ")


def test_xcom_and_the_events_of_assets_say_of_which_code_they_are(toy, context):
    asset, events = Asset("toy"), OutletEventAccessors()
    events[asset].extra["mine"] = 1
    context["ti"].dag_version_id = "0192-7f"
    toy(deferrable=False, outlets=[asset]).execute(context | {"outlet_events": events})
    code = context["ti"].xcom["code"]
    assert code["dag_version"] == "0192-7f"
    assert events[asset].extra == {"mine": 1, "code": code}
