"""A service level, and the window that it is judged in."""

from __future__ import annotations

import json
import math

import pytest

from airflow_provider_llmops.backends.serving.base import Answers, Revision, Service
from airflow_provider_llmops.decision import Outcome
from airflow_provider_llmops.delivery.level import ServiceLevel
from airflow_provider_llmops.delivery.window import CountedByService, NotKnownError, NotYetError
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    RunFailedError,
    RunNotFoundError,
)
from airflow_provider_llmops.states import ServiceState

LEVEL = ServiceLevel(max_error_rate=0.05, max_latency_seconds=2.0, min_requests=20)


@pytest.mark.parametrize(
    ("answers", "outcome", "finding"),
    [
        (Answers(20, 1, {0.5: 19}), Outcome.PASS, "Every limit was kept with 20 requests."),
        (
            Answers(19, 0, {0.5: 19}),
            Outcome.UNDECIDED,
            "19 requests in the window, of 20 that a decision takes.",
        ),
        (Answers(19, 19), Outcome.UNDECIDED, "19 requests in the window"),
        (Answers(), Outcome.UNDECIDED, "0 requests in the window"),
        (Answers(20, 2, {0.5: 18}), Outcome.FAIL, "2 of 20 requests failed (10%), at most 5% may."),
        (Answers(100, 0, {2.0: 95, 9.0: 5}), Outcome.PASS, "Every limit was kept"),
        (
            Answers(100, 0, {2.0: 94, 9.0: 6}),
            Outcome.FAIL,
            "95 percent of the answers took up to 9 s, at most 2 s",
        ),
        (
            Answers(100, 0, {2.0: 90, math.inf: 10}),
            Outcome.FAIL,
            "95 percent of the answers took up to inf s",
        ),
        (Answers(20, 20), Outcome.FAIL, "20 of 20 requests failed (100%)"),
    ],
)
def test_a_level_is_kept_broken_or_not_decided(answers: Answers, outcome: Outcome, finding: str) -> None:
    decision = LEVEL.judge(answers)
    assert (decision.outcome, decision.findings[0][: len(finding)]) == (outcome, finding)
    said = json.loads(json.dumps(decision.to_json(), allow_nan=False))
    assert said["rules"] == {"max_error_rate": 0.05, "max_latency_seconds": 2.0, "min_requests": 20}
    assert said["evidence"]["requests"] == answers.requests
    assert ServiceLevel.read(LEVEL.to_json()) == LEVEL


def test_a_limit_that_is_not_given_is_not_looked_at() -> None:
    assert ServiceLevel(max_error_rate=0.0).judge(Answers(50, 0, {900.0: 50})).outcome is Outcome.PASS
    only_latency = ServiceLevel(max_latency_seconds=1.0, min_requests=1)
    assert only_latency.judge(Answers(50, 49, {0.1: 1})).outcome is Outcome.PASS
    decision = only_latency.judge(Answers(50, 50))
    assert (decision.outcome, decision.findings) == (
        Outcome.FAIL,
        ("Not one of 50 requests was answered without an error.",),
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "A service level has a limit"),
        ({"max_error_rate": 1.0}, "a share from 0 to below 1"),
        ({"max_error_rate": -0.1}, "a share from 0 to below 1"),
        ({"max_error_rate": math.nan}, "a share from 0 to below 1"),
        ({"max_latency_seconds": 0.0}, "must be above 0"),
        ({"max_latency_seconds": math.inf}, "must be above 0"),
        ({"max_error_rate": 0.1, "min_requests": 0}, "no data is no level"),
    ],
)
def test_limits_that_are_none_are_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ServiceLevel(**given)  # type: ignore[arg-type]


class Scripted:
    """A backend whose service is as a test says, look by look."""

    lags = False

    def __init__(self) -> None:
        self.revisions: dict[str, Revision] | Exception = {}

    def get(
        self, namespace: str, name: str, *, patience: float | None = None, may_lag: bool = False
    ) -> Service:
        if isinstance(self.revisions, Exception):
            raise self.revisions
        return Service(name=name, namespace=namespace, url=None, revisions=self.revisions)

    def answer(self, **counts: Answers | None) -> None:
        self.revisions = {
            name: Revision(name, ServiceState.READY, traffic=50, answered=answered)
            for name, answered in counts.items()
        }


def counted(
    backend: Scripted, revision: str | None = None, window: float = 60.0, **more: object
) -> CountedByService:
    return CountedByService(backend, "team", "chat", revision, window, **more)  # type: ignore[arg-type]


def test_a_window_is_what_came_since_the_look_a_window_ago() -> None:
    backend = Scripted()
    source = counted(backend, "a")
    for seconds in range(0, 121, 20):
        backend.answer(a=Answers(seconds * 10, seconds, {0.5: seconds * 9}, began=1.0), b=None)
        if seconds < 60:
            with pytest.raises(NotYetError, match=f"^It was watched for {seconds} of 60 s"):
                source.look(1000.0 + seconds)
            continue
        found = source.look(1000.0 + seconds)
        assert (found.requests, found.errors, found.percentile(0.95)) == (600, 60, 0.5)
    assert source.first is not None
    assert source.first["at"] == 1060.0
    # Whoever goes on from there needs no new window.
    backend.answer(a=Answers(1300, 120, {0.5: 1180}, began=1.0))
    later = counted(backend, "a", first=json.loads(json.dumps(source.first)))
    assert later.look(1121.0).requests == 700
    # Nobody looked for long: it begins anew.
    with pytest.raises(NotYetError, match="watched for 0 of 60 s"):
        counted(backend, "a", first=source.first).look(1200.0)


def test_looks_that_take_longer_than_a_short_window_are_compared_nevertheless() -> None:
    backend = Scripted()
    source = counted(backend, "a", window=1.0)
    backend.answer(a=Answers(10, 0, {0.5: 10}, began=1.0))
    with pytest.raises(NotYetError):
        source.look(1000.0)
    backend.answer(a=Answers(30, 0, {0.5: 30}, began=1.0))
    assert source.look(1020.0).requests == 20


def test_revisions_count_together_and_each_against_itself() -> None:
    backend = Scripted()
    source = counted(backend)
    backend.answer(a=Answers(100, 5, {0.5: 95}, began=1.0), b=Answers(10, 0, {0.1: 10}, began=1.0))
    with pytest.raises(NotYetError):
        source.look(0.0)
    backend.answer(b=Answers(30, 1, {0.1: 29}, began=1.0), c=Answers(7, 0, {0.2: 7}, began=30.0))
    found = source.look(60.0)
    assert (found.requests, found.errors) == (20 + 7, 1)


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (RunNotFoundError("There is none."), "There is no service team/chat"),
        (ApiUnavailableError("No answer."), "The service could not be read: No answer"),
        ({}, "has no revision a"),
        ({"a": Revision("a", ServiceState.READY)}, "could not be read, or is not counted where it runs"),
    ],
)
def test_what_cannot_be_read_is_not_known(seen: dict[str, Revision] | Exception, message: str) -> None:
    backend = Scripted()
    backend.revisions = seen
    with pytest.raises(NotKnownError, match=message) as caught:
        counted(backend, "a").look(0.0)
    assert not isinstance(caught.value, NotYetError)


def test_a_service_of_which_one_revision_is_not_counted_is_not_known() -> None:
    backend = Scripted()
    for revisions in ({}, {"a": Answers(1), "b": None}):
        backend.answer(**revisions)
        with pytest.raises(NotKnownError, match="is not counted where it runs"):
            counted(backend).look(0.0)


@pytest.mark.parametrize("state", [ServiceState.FAILED, ServiceState.STOPPED])
def test_a_revision_that_is_lost_fails(state: ServiceState) -> None:
    backend = Scripted()
    backend.revisions = {"a": Revision("a", state, error="out of memory")}
    with pytest.raises(RunFailedError, match=f"^Revision a of service chat is {state}: out of memory"):
        counted(backend, "a").look(0.0)
