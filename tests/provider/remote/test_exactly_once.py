"""One thing is made elsewhere for each scheduled run of a task, wherever its worker dies: a run, a TrainJob, a revision."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowTaskTimeout, TaskDeferred
from attempts import clear, retry
from kube_trainjobs import FakeTrainJobs
from planes import DATA_PYTHON, REPO

from airflow_provider_llmops.exceptions import RunFailedError
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.operators.kubeflow import KubeflowComponentOperator
from airflow_provider_llmops.operators.serving import DeployModelOperator
from airflow_provider_llmops.operators.train_job import TrainJobOperator
from airflow_provider_llmops.remote import intent, settle
from airflow_provider_llmops.remote.operator import RemoteRunOperator


class WorkerDeath(BaseException):
    """What becomes of a worker that is killed."""


@dataclass(frozen=True)
class Kind:
    """Something that runs elsewhere.

    :param task: makes the operator
    :param made: names of what was made, in order
    :param at_work: those of them that were not stopped
    :param dies_in: name of the backend's method that makes it
    """

    task: Callable[..., RemoteRunOperator[Any]]
    made: Callable[[], list[str]]
    at_work: Callable[[], list[str]]
    dies_in: str


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    target = tmp_path_factory.mktemp("model") / "tiny"
    subprocess.run([DATA_PYTHON, REPO / "tests" / "fakes" / "tiny_model.py", target], check=True)
    return target


@contextmanager
def pipeline_runs(request: pytest.FixtureRequest) -> Iterator[Kind]:
    toy_spec, backend, tmp_path = map(request.getfixturevalue, ("toy_spec", "backend", "tmp_path"))
    import yaml

    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(toy_spec.ir))

    def task(**changed: Any) -> RemoteRunOperator[Any]:
        given = {"component": str(tmp_path / "toy.yaml"), "arguments": {"seconds": 60.0}}
        return KubeflowComponentOperator(task_id="task", poll_interval=0.05, **given, **changed)

    def made() -> list[str]:
        paths = backend._runs.glob("[!.]*/request.json")
        return [path.parent.name for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns)]

    def at_work() -> list[str]:
        return [name for name in made() if not backend.get(name).state.is_lost]

    yield Kind(task, made, at_work, "submit")


@contextmanager
def train_jobs(request: pytest.FixtureRequest) -> Iterator[Kind]:
    with FakeTrainJobs() as cluster:
        monkeypatch = request.getfixturevalue("monkeypatch")
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", cluster.connection(namespace="team"))

        def task(**changed: Any) -> RemoteRunOperator[Any]:
            return TrainJobOperator(
                task_id="task",
                component="train_sft",
                arguments={"dataset": "/mnt/shared/rows.jsonl", "base_model": "/mnt/shared/base"},
                output_path="/mnt/shared/out",
                step_settings={"persistent_volume_claims": {"shared": "/mnt/shared"}},
                poll_interval=0.01,
                **changed,
            )

        yield Kind(
            task,
            lambda: [f"team/{job['metadata']['name']}" for job in cluster.created],
            lambda: [f"{namespace}/{name}" for namespace, name in cluster.jobs],
            "create",
        )


@contextmanager
def revisions(request: pytest.FixtureRequest) -> Iterator[Kind]:
    model = request.getfixturevalue("tiny_model")
    request.getfixturevalue("connections")

    def task(**changed: Any) -> RemoteRunOperator[Any]:
        limit = {"ready_timeout": changed.pop("run_timeout", timedelta(minutes=5))}
        return DeployModelOperator(
            task_id="task", service_name="tiny", model=str(model), poll_interval=0.2, **limit, **changed
        )

    def made() -> list[str]:
        return sorted(KServeHook().get_service("tiny").revisions)

    def at_work() -> list[str]:
        service = KServeHook().get_service("tiny")
        return sorted(name for name, each in service.revisions.items() if not each.state.is_lost)

    try:
        yield Kind(task, made, at_work, "apply")
    finally:
        KServeHook().backend.delete("default", "tiny")


KINDS = {"pipeline run": pipeline_runs, "TrainJob": train_jobs, "revision": revisions}


@pytest.fixture(params=KINDS)
def kind(request, monkeypatch, connections) -> Iterator[Kind]:
    monkeypatch.setattr(intent, "IN_FLIGHT_SECONDS", 0.0)
    monkeypatch.setattr(settle, "MARGIN_SECONDS", 0.0)
    with KINDS[request.param](request) as kind:
        yield kind


def start(operator: RemoteRunOperator[Any], context: dict[str, Any]) -> Any:
    """Let the operator make or find its thing; the trigger that it waits with."""
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    return deferred.value.trigger


def die(*_: Any, **__: Any) -> None:
    raise WorkerDeath


@pytest.mark.parametrize("dies", ["before it asks", "before the answer is noted", "while it waits"])
def test_retry_takes_over_the_one_thing_that_was_made_wherever_the_worker_died(
    kind, context, monkeypatch, dies
):
    operator = kind.task()
    with monkeypatch.context() as patch:
        if dies == "before it asks":
            patch.setattr(type(operator.backend), kind.dies_in, die)
        elif dies == "before the answer is noted":
            patch.setattr(intent.Intent, "note", die)
        else:
            patch.setattr(type(operator), "defer", die)
        with pytest.raises(WorkerDeath):
            operator.execute(context)
    trigger = start(kind.task(), retry(context))
    (made,) = kind.made()
    assert trigger.named.endswith(made)
    assert kind.at_work() == [made]


def test_clearing_the_task_makes_a_new_one_and_stops_the_old(kind, context):
    start(kind.task(), context)
    (first,) = kind.made()
    start(kind.task(), clear(context))
    _, second = kind.made()
    assert kind.at_work() == [second] != [first]


def test_attempts_share_the_time_that_it_may_take(kind, context):
    limit = timedelta(seconds=90)
    first = start(kind.task(run_timeout=limit), context)
    again = start(kind.task(run_timeout=limit), retry(context))
    ends = [getattr(each, "run_timeout", None) or each.deadline for each in (first, again)]
    assert ends[0] == ends[1] is not None


def test_marked_task_stops_it_in_worker_and_triggerer_and_an_evicted_worker_does_not(kind, context):
    states = {"state": "running"}
    context["ti"].get_task_states = lambda **_: {"manual": {"task": states["state"]}}
    waiting = kind.task()
    trigger = start(waiting, context)
    (made,) = kind.made()
    waiting.on_kill()
    assert kind.at_work() == [made]
    states["state"] = "failed"
    waiting.on_kill()
    assert kind.at_work() == []

    trigger = start(kind.task(), clear(context))
    assert len(kind.at_work()) == 1
    asyncio.run(trigger.on_kill())
    assert kind.at_work() == []


def test_task_that_is_marked_while_it_asks_leaves_nothing_at_work(kind, context, monkeypatch):
    context["ti"].get_task_states = lambda **_: {"manual": {"task": "failed"}}
    operator = kind.task()
    ask = getattr(type(operator.backend), kind.dies_in)

    def marked_meanwhile(*args: Any, **kwargs: Any) -> Any:
        answer = ask(*args, **kwargs)
        operator.on_kill()
        return answer

    monkeypatch.setattr(type(operator.backend), kind.dies_in, marked_meanwhile)
    with pytest.raises(Exception, match="was ended while it submitted its run, which was cancelled"):
        operator.execute(context)
    assert len(kind.made()) == 1
    assert kind.at_work() == []


def time_out_behind_the_request(
    operator: RemoteRunOperator[Any], method: str, context: dict[str, Any]
) -> None:
    """Airflow interrupts the request when what it asks for has been made, and tells the operator, as its task runner does."""
    ask = getattr(operator.backend, method)

    def late(*args: Any, **kwargs: Any) -> None:
        ask(*args, **kwargs)
        raise AirflowTaskTimeout

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(operator.backend), method, lambda _, *args, **kwargs: late(*args, **kwargs))
        try:
            operator.execute(context)
        except AirflowTaskTimeout:
            operator.on_kill()
        else:
            raise AssertionError("nothing was asked for")


def test_execution_timeout_while_it_asks_leaves_nothing_at_work(kind, context):
    time_out_behind_the_request(kind.task(execution_timeout=timedelta(minutes=5)), kind.dies_in, context)
    assert len(kind.made()) == 1
    assert kind.at_work() == []


@pytest.fixture
def deploy(connections, tiny_model, context) -> Iterator[Callable[..., Any]]:
    """Starts deployments of the tiny model on the local backend; what they leave is removed."""

    def start_one(context: dict[str, Any], **changed: Any) -> Any:
        given = {"service_name": "tiny", "model": str(tiny_model), "poll_interval": 0.2, **changed}
        return start(DeployModelOperator(task_id="task", **given), context)

    try:
        yield start_one
    finally:
        KServeHook().backend.delete("default", "tiny")


def test_retry_never_takes_the_revision_of_another_manifest_for_its_own(deploy, context, tiny_model):
    assert deploy(context).revision == "00001"
    KServeHook().backend.delete("default", "tiny")
    elsewhere = {**context, "ti": type(context["ti"])(**{**vars(context["ti"]), "task_id": "other"})}
    elsewhere["task_state_store"] = type(context["task_state_store"])()
    assert deploy(elsewhere, predictor_args={"max_model_len": 256}).revision == "00001"
    assert deploy(retry(context)).revision == "00002"
    deploy(clear(elsewhere), predictor_args={"max_model_len": 256})
    states = {name: str(each.state) for name, each in KServeHook().get_service("tiny").revisions.items()}
    assert states["00001"] == "STOPPED"
    assert states["00002"] != "STOPPED"


def test_execution_timeout_while_it_asks_leaves_the_revision_that_another_task_has_started(
    deploy, context, tiny_model
):
    assert deploy(context).revision == "00001"
    other = {**context, "task_state_store": type(context["task_state_store"])()}
    late = DeployModelOperator(
        task_id="task",
        service_name="tiny",
        model=str(tiny_model),
        execution_timeout=timedelta(minutes=5),
    )
    time_out_behind_the_request(late, "apply", other)
    (revision,) = KServeHook().get_service("tiny").revisions.values()
    assert not revision.state.is_lost


def test_revision_that_another_task_has_started_is_waited_for_and_never_stopped(deploy, context):
    context["ti"].get_task_states = lambda **_: {"manual": {"task": "failed"}}
    deploy(context)
    other = {**context, "task_state_store": type(context["task_state_store"])()}
    trigger = deploy(other)
    assert trigger.revision == "00001"
    asyncio.run(trigger.on_kill())
    late = DeployModelOperator(task_id="task", service_name="tiny", model="/nowhere")
    with pytest.raises(RunFailedError, match=r"^The new revision was not ready within its ready_timeout"):
        late.execute_complete(
            other, {"revision": "00001", "state": "STARTING", "error": None, "timed_out": True}
        )
    (revision,) = KServeHook().get_service("tiny").revisions.values()
    assert not revision.state.is_lost
