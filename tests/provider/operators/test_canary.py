"""Canaries over the real local backend: brought in step by step, or given up, and no request is lost on the way."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections import Counter
from datetime import timedelta

import httpx
import pytest
from airflow.sdk.exceptions import TaskDeferred
from attempts import clear, retry
from planes import DATA_PYTHON, REPO
from test_component_operator import events_of

from airflow_provider_llmops.decision import Outcome
from airflow_provider_llmops.delivery.analysis import CanaryLimits
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    QualityGateFailed,
    RunFailedError,
)
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.operators.canary import CanaryOperator
from airflow_provider_llmops.operators.promote import PromoteOperator
from airflow_provider_llmops.operators.rollback import RollbackOperator
from airflow_provider_llmops.sensors.service_level import ServiceLevelSensor
from airflow_provider_llmops.triggers.canary import CanaryStepTrigger, PromotionTrigger
from airflow_provider_llmops.triggers.service import RevisionReadyTrigger
from airflow_provider_llmops.triggers.service_level import ServiceLevelTrigger

pytestmark = pytest.mark.usefixtures("connections")
TRIGGERS = {
    kind.__name__: kind
    for kind in (CanaryStepTrigger, PromotionTrigger, RevisionReadyTrigger, ServiceLevelTrigger)
}


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory):
    """One that takes many times as long to answer."""
    target = tmp_path_factory.mktemp("model") / "slow"
    code = "import sys; from pathlib import Path; from tiny_model import make_tiny_model as make; "
    code += "make(Path(sys.argv[1]), talkative=True, layers=120)"
    subprocess.run([DATA_PYTHON, "-c", code, target], check=True, cwd=REPO / "tests" / "fakes")
    return target


def shares(service):
    return {name: each.traffic for name, each in service.revisions.items() if each.traffic}


class Clients:
    """Ask a service without a pause, and count what comes."""

    def __init__(self, url):
        self.url = f"{url}/openai/v1/completions"
        self.seen = Counter()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(3)]

    def _ask(self):
        body = {"model": "tiny", "prompt": "The sky is", "max_tokens": 2, "temperature": 0}
        with httpx.Client(timeout=60) as client:
            while not self._is_over.is_set():
                try:
                    got = client.post(self.url, json=body)
                    self.seen[got.headers.get("x-llmops-revision"), got.status_code] += 1
                except httpx.HTTPError as error:
                    self.seen[None, type(error).__name__] += 1

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for thread in self._threads:
            thread.join()


def canary(model, predictor_args=None, **arguments):
    """A canary of a model that says in 32 bit what the library says, on whatever processor."""
    settings = {
        "steps": [20, 50],
        "step_duration": timedelta(seconds=1),
        "min_requests": 10,
        "max_latency_ratio": 4.0,
        "undecided_timeout": timedelta(minutes=3),
        "poll_interval": 0.5,
    }
    return CanaryOperator(
        task_id="canary",
        service_name="tiny",
        model=str(model),
        predictor_args={"dtype": "float32", **(predictor_args or {})},
        **{**settings, **arguments},
    )


def level(**arguments):
    settings = {
        "on_no_data": "fail",
        "window": timedelta(seconds=1.5),
        "min_requests": 10,
        "poke_interval": 0.3,
    }
    return ServiceLevelSensor(task_id="level", service_name="tiny", **settings, **arguments)


def carry_out(operator, context, upon_step=lambda trigger: None):
    """Run a task as Airflow does, each deferral in the triggerer."""
    call, kwargs = operator.execute, {}
    while True:
        try:
            return call(context, **kwargs)
        except TaskDeferred as deferred:
            path, arguments = deferred.trigger.serialize()
            trigger = TRIGGERS[path.rpartition(".")[2]](**arguments)
            if isinstance(trigger, CanaryStepTrigger):
                upon_step(trigger)
            (event,) = asyncio.run(events_of(trigger))
            call = getattr(operator, deferred.method_name)
            kwargs = {"event": event.payload, **(deferred.kwargs or {})}


def test_canary_is_brought_in_or_given_up_and_no_request_is_lost(tiny_model, slow_model, context, service):
    first = carry_out(canary(tiny_model), context)
    assert (first["revision"], shares(service())) == ("00001", {"00001": 100})

    with Clients(first["url"]) as clients:
        seen = []
        # Both are the same model: whatever makes one of them slow for a moment is the machine.
        good = canary(tiny_model, predictor_args={"max_model_len": 256}, max_latency_ratio=100)
        second = carry_out(good, clear(context), lambda step: seen.append(shares(service())))
        assert seen == [{"00001": 80, "00002": 20}, {"00001": 50, "00002": 50}]
        assert shares(service()) == {"00002": 100}
        decisions = context["ti"].xcom["decisions"]
        assert [each["outcome"] for each in decisions] == ["pass", "pass"]
        assert all(each["evidence"]["canary"]["requests"] >= 10 for each in decisions)
        assert (second["revision"], second["url"], service().stable) == ("00002", first["url"], "00002")

        limits = {"max_latency_ratio": 2.0, "max_latency_seconds": 0.2}
        slow = canary(slow_model, predictor_args={"engine": "torch"}, **limits)
        with pytest.raises(
            QualityGateFailed,
            match=r"^The new revision was given up: 95 percent of the canary's answers took up to .* Serving as before: 00002 \(100%\)",
        ):
            carry_out(slow, clear(context))
        assert shares(service()) == {"00002": 100}
        assert not service().revisions["00003"].state.is_ready
        (decision,) = context["ti"].xcom["decisions"]
        assert decision["outcome"] == Outcome.FAIL
        assert decision["evidence"]["canary"]["p95_seconds"] > 0.2
        # The same counts as a service level: of all revisions, then of one.
        assert carry_out(level(max_error_rate=0.0, max_latency_seconds=60), clear(context)) is None
        kept = context["ti"].xcom["decision"]
        assert (kept["outcome"], kept["evidence"]["errors"], kept["evidence"]["requests"] >= 10) == (
            "pass",
            0,
            True,
        )
        with pytest.raises(
            QualityGateFailed, match=r"^The service does not keep to its level: 95 percent of"
        ):
            carry_out(level(max_latency_seconds=0.001, revision="00002", on_breach="fail"), clear(context))
        with pytest.raises(RunFailedError, match=r"^Revision 00003 of service tiny is STOPPED"):
            carry_out(level(max_error_rate=0.0, revision="00003"), clear(context))
    assert {status for _, status in clients.seen} == {200}
    assert {revision for revision, _ in clients.seen} == {"00001", "00002", "00003"}


def test_canary_without_requests_is_no_success_and_one_that_is_cleared_leaves_nothing(
    tiny_model, context, service
):
    carry_out(canary(tiny_model), context)
    other = {"predictor_args": {"max_model_len": 256}, "undecided_timeout": timedelta(0), "steps": [10]}
    with pytest.raises(QualityGateFailed, match="given up: The canary has answered 0 of the 10 requests"):
        carry_out(canary(tiny_model, **other), clear(context))
    assert shares(service()) == {"00001": 100}

    class WorkerDied(BaseException):
        pass

    def die(step):
        raise WorkerDied

    operator = canary(tiny_model, **other, on_undecided="go_on")
    with pytest.raises(WorkerDied):
        carry_out(operator, clear(context), die)
    assert shares(service()) == {"00001": 90, "00003": 10}

    steps = []
    with pytest.raises(WorkerDied):  # a retry goes on with the same step, and makes no second revision
        carry_out(operator, retry(context), lambda step: (steps.append(step), die(step)))
    assert [(step.revision, step.share) for step in steps] == [("00003", 10)]
    assert shares(service()) == {"00001": 90, "00003": 10}

    asyncio.run(steps[0].on_kill())  # a person has cleared the task
    assert shares(service()) == {"00001": 100}
    assert not service().revisions["00003"].state.is_ready

    facts = carry_out(operator, clear(context))
    assert (facts["revision"], shares(service())) == ("00004", {"00004": 100})
    assert [each["outcome"] for each in context["ti"].xcom["decisions"]] == ["undecided"]

    def intervene(step):
        KServeHook().backend.set_traffic("default", "tiny", {"00004": 100})

    with pytest.raises(QualityGateFailed, match=r"has 0% of the requests by now, not 20%|failed: "):
        carry_out(canary(tiny_model), clear(context), intervene)
    assert shares(service()) == {"00004": 100}
    assert context["ti"].xcom["decisions"][0]["outcome"] == "undecided"

    def fail(step):
        raise ApiUnavailableError("The database is away.")

    context["ti"].max_tries = 0  # nobody would watch it after this attempt
    failing = canary(tiny_model, predictor_args={"max_model_len": 128}, deferrable=False)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ApiUnavailableError):
        patch.setattr(CanaryStepTrigger, "watch", lambda *_: fail(None))
        failing.execute(context)
    assert shares(service()) == {"00004": 100}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": None}, r"steps must be a list of percentages such as \[5, 25, 50\]"),
        ({"steps": [], "promote": False}, "promote=False leaves a canary with the share of its last step"),
        ({"steps": [], "probes": {"dataset": "/d", "min_difference": 0}}, "probes are asked in a step"),
        ({"steps": [5, 100]}, "steps must rise from above 0 to below 100"),
        ({"steps": [50, 25]}, "steps must rise"),
        ({"steps": "5"}, "steps must be a list"),
        ({"steps": "[5, 100]"}, "steps must rise"),
        ({"steps": "five"}, "steps must be a list of percentages such as .*, got 'five'"),
        ({"max_error_rate": "1%"}, "max_error_rate must be a number from 0 on, got '1%'"),
        ({"steps": [True]}, "steps must be a list"),
        (
            {"step_duration": -1},
            "step_duration must be a timedelta from 0 on, or a number of seconds, got -1",
        ),
        ({"undecided_timeout": "soon"}, "undecided_timeout must be a timedelta"),
        ({"step_duration": True}, "step_duration must be a timedelta"),
        ({"step_duration": float("nan")}, "step_duration must be a timedelta"),
        ({"steps": list(range(1, 30))}, "At most 20 steps are taken, got 29"),
        ({"steps": list(range(1, 12)), "probes": {"dataset": "/d", "min_difference": 0}}, "At most 10 steps"),
        ({"probes": {"dataset": "/d"}}, "probes lacks min_difference"),
        ({"probes": {"dataset": "/nowhere/probes.jsonl", "min_difference": 0}}, "/nowhere/probes.jsonl"),
        (
            {"probes": {"dataset": __file__, "min_difference": 0, "arguments": {"concurency": 4}}},
            "concurency",
        ),
        ({"on_undecided": "wait"}, "on_undecided must be roll_back or go_on"),
        ({"min_requests": 0}, "min_requests must be"),
    ],
)
def test_settings_that_are_none_are_refused_before_anything_starts(context, given, message):
    with pytest.raises(ConfigurationError, match=message):
        canary("/model", **given).execute(context)


def test_values_of_a_form_are_read_from_their_texts():
    given = {"steps": "[5, 25]", "min_requests": "7", "max_error_rate": "0.5", "max_latency_ratio": "None"}
    given |= {"step_duration": "0.5", "undecided_timeout": 90}
    plan = canary("/model", **given).plan()
    assert (plan.shares, plan.seconds, plan.patience) == ((5, 25), 0.5, 90.0)
    assert plan.limits == CanaryLimits(min_requests=7, max_error_rate=0.5, max_latency_ratio=None)


def test_canary_keeps_its_share_until_somebody_has_decided(tiny_model, context, service):
    def of_another_task():
        return {**context, "task_state_store": type(context["task_state_store"])()}

    carry_out(canary(tiny_model), context)
    quick = {"step_duration": 0, "undecided_timeout": 0, "on_undecided": "go_on", "promote": False}
    kept = carry_out(canary(tiny_model, predictor_args={"max_model_len": 256}, **quick), clear(context))
    assert kept["shares"] == shares(service()) == {"00001": 50, "00002": 50}
    again = carry_out(canary(tiny_model, predictor_args={"max_model_len": 256}, **quick), retry(context))
    assert again["shares"] == kept["shares"]
    taken_back = RollbackOperator(task_id="back", service_name="tiny", poll_interval=0.2)
    facts = carry_out(taken_back, of_another_task())
    assert (facts["revision"], facts["replaced"], facts["shares"]) == ("00001", "00002", {"00001": 100})

    carry_out(canary(tiny_model, predictor_args={"max_model_len": 128}, **quick), clear(context))
    dated = service()
    assert dated.revisions["00003"].as_of is not None
    promotion = of_another_task()
    for attempt in (promotion, retry(promotion)):
        task = PromoteOperator(task_id="promote", service_name="tiny", poll_interval=0.2)
        facts = carry_out(task, attempt)
        assert (facts["revision"], facts["replaced"], facts["shares"]) == ("00003", "00001", {"00003": 100})
    assert (service().stable, service().as_of) == ("00003", dated.revisions["00003"].as_of)
    assert KServeHook().ask(facts["url"], "tiny", "hello", max_tokens=2)
    with pytest.raises(
        ConfigurationError, match=r"^Revision 00002 is STOPPED, and was not given the requests"
    ):
        PromoteOperator(task_id="promote", service_name="tiny", revision="00002").execute(of_another_task())
    assert shares(service()) == {"00003": 100}
