"""When a step of a canary is decided: what is exceeded by little waits, and never goes on because its time is over."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from types import SimpleNamespace

import pytest

from airflow_provider_llmops.backends.serving.base import Answers
from airflow_provider_llmops.decision import Decision, Outcome
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.triggers import canary
from airflow_provider_llmops.triggers.canary import CanaryStepTrigger, CanaryStepWatch

LIMITS = {"min_requests": 50, "max_error_rate": 0.01, "max_latency_ratio": None}
READY = SimpleNamespace(is_ready=True, is_lost=False)


class Probes:
    """A comparison that has an outcome."""

    def __init__(self, outcome: Outcome) -> None:
        self.decision, self.cannot_decide = Decision(outcome, ("compared",)), outcome is Outcome.UNDECIDED

    def look(self) -> Decision:
        return self.decision

    def cancel(self) -> None:
        """Nothing runs."""


def decided(monkeypatch, seen: Answers, *, over_for: float, patience: float = 60.0, probes=None):
    """Whether one look decides the step, and how."""
    given_up = []
    service = SimpleNamespace(
        revisions={
            "2": SimpleNamespace(traffic=20, state=READY, error=None),
            "1": SimpleNamespace(traffic=80, state=READY, error=None),
        }
    )
    step = CanaryStepTrigger(
        kserve_conn_id="kserve_default",
        namespace="default",
        name="chat",
        revision="2",
        stable="1",
        share=20,
        since={},
        limits=LIMITS,
        until=time.time() - over_for,
        patience=patience,
        poll_interval=1.0,
    )
    watch = CanaryStepWatch(SimpleNamespace(lags=False), step, logging.getLogger("test"), probes)
    monkeypatch.setattr(watch, "read", lambda *, may_lag: service)
    monkeypatch.setattr(watch, "_take_back", lambda: given_up.append("2"))
    monkeypatch.setattr(
        canary,
        "answers_since",
        lambda service, name, since: seen if name == "2" else Answers(500, 0, {0.1: 500}),
    )
    ended = watch.look()
    decision = Decision.read(watch.event()["decision"])
    assert given_up == (["2"] if decision.outcome is Outcome.FAIL else [])
    return ended, decision.outcome


BY_CHANCE, TOO_MANY, NONE = (Answers(50, errors, {0.1: 50 - errors}) for errors in (1, 6, 0))


@pytest.mark.parametrize(
    ("seen", "over_for", "ended"),
    [
        (BY_CHANCE, -5, (False, "undecided")),
        (BY_CHANCE, 5, (False, "undecided")),
        (BY_CHANCE, 65, (True, "fail")),
        (TOO_MANY, -5, (True, "fail")),
        (NONE, 5, (True, "pass")),
        (Answers(), 65, (True, "undecided")),
    ],
)
def test_what_is_exceeded_by_little_waits_for_more_requests(monkeypatch, seen, over_for, ended):
    assert decided(monkeypatch, seen, over_for=over_for) == ended


def test_limit_that_is_exceeded_decides_where_the_comparison_of_answers_cannot(monkeypatch):
    """The step ends then, and whatever is to follow an undecided one must not."""
    probes = Probes(Outcome.UNDECIDED)
    assert decided(monkeypatch, BY_CHANCE, over_for=5, probes=probes) == (True, "fail")
    assert decided(monkeypatch, NONE, over_for=5, probes=probes) == (True, "undecided")
    assert decided(monkeypatch, BY_CHANCE, over_for=5, probes=Probes(Outcome.PASS)) == (False, "undecided")


def test_canary_is_given_up_where_its_comparison_cannot_be_reached(monkeypatch):
    """Somebody has changed the connection to Kubeflow Pipelines since, or deleted it."""
    wrong = json.dumps({"conn_type": "kubeflow", "host": "ftp://pipelines"})
    monkeypatch.setenv("AIRFLOW_CONN_OF_PIPELINES", wrong)
    given_up = []
    services = SimpleNamespace(withdraw=lambda *place, **_: given_up.append(place))

    async def backend(hook):
        return services

    monkeypatch.setattr(KServeHook, "aget_backend", backend)
    probes = {"dataset": "/d", "min_difference": 0}
    step = CanaryStepTrigger(
        kserve_conn_id="kserve_default",
        namespace="default",
        name="chat",
        revision="2",
        stable="1",
        share=20,
        since={},
        limits=LIMITS,
        until=1.0,
        patience=1.0,
        poll_interval=1.0,
        probe={"run_id": "r", "kubeflow_conn_id": "of_pipelines", "probes": probes},
    )
    asyncio.run(step.on_kill())
    assert given_up == [("default", "chat", "2")]
