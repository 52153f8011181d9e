"""Triggers that wait for services of one namespace share what they look at, and are never wrong for it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
import time
from collections import Counter

import pytest
from kserve_deployments import connect, operator
from kube_canaries import FakeGatewayKServe
from kube_connection import kubernetes_connection
from kube_services import carried_out

from airflow_provider_llmops.backends.kubernetes import reflector
from airflow_provider_llmops.backends.serving.kserve import shared
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.remote import settle
from airflow_provider_llmops.triggers.canary import PromotionTrigger
from airflow_provider_llmops.triggers.service import RevisionReadyTrigger, ServiceTrigger

BAD = "hf://org/model-bad"
ALWAYS = {"inferenceservices", "deployments", "replicasets", "pods", "controllerrevisions"}


def in_a_triggerer(scenario):
    """A test that runs in one event loop, as triggers do."""

    @functools.wraps(scenario)
    def test(*args, **kwargs):
        asyncio.run(scenario(*args, **kwargs))

    return test


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setattr(reflector, "FIRST_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(settle, "MARGIN_SECONDS", 0.0)
    connect(monkeypatch, {"kubernetes_conn_id": "cluster"})
    with FakeGatewayKServe() as fake:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", fake.connection(namespace="team"))
        yield fake
        fake.lists.cuts += 1


def apply(service: str, version: str = "1") -> str:
    """Ask for a version of a service, from a worker; its revision."""
    manifest = operator(version, service_name=service).manifest()
    return KServeHook().backend.apply(manifest)[0].revision


def ready(service: str, revision: str, **more) -> RevisionReadyTrigger:
    return RevisionReadyTrigger(
        **{
            "kserve_conn_id": "kserve_default",
            "namespace": "team",
            "name": service,
            "revision": revision,
            "poll_interval": 0.02,
            "deadline": time.time() + 30,
            **more,
        }
    )


def later(service: str, **more) -> ServiceTrigger:
    """Waits for a revision that nobody has asked for yet."""
    place = {"namespace": "team", "name": service, "poll_interval": 0.02, "revision": "later"}
    return ServiceTrigger(**{"kserve_conn_id": "kserve_default", **place, **more})


def promoted(service: str, cluster) -> PromotionTrigger:
    """Waits for a canary that a worker has begun to make the stable revision; the pods that are to replace the canary's are not ready."""
    backend = KServeHook().backend
    first = apply(service, "1")
    backend.set_traffic("team", service, {first: 100})
    manifest = operator("2", service_name=service).manifest()
    second = backend.apply(manifest, beside=True)[0].revision
    backend.set_traffic("team", service, {second: 50, first: 50})
    assert not backend.set_traffic("team", service, {second: 100}).is_settled
    cluster.world[service] = carried_out("update_never_ready_t45", second, first)
    return PromotionTrigger(
        kserve_conn_id="kserve_default",
        namespace="team",
        name=service,
        revision=second,
        as_of=None,
        poll_interval=0.02,
        deadline=time.time() + 30,
    )


async def event_of(trigger) -> dict:
    (event,) = [event async for event in trigger.run()]
    return event.payload


@contextlib.asynccontextmanager
async def waiting(*triggers):
    """Triggers that wait, and are cancelled in the end as Airflow cancels them."""
    tasks = [asyncio.create_task(event_of(trigger)) for trigger in triggers]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(is_so, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it never was"
        await asyncio.sleep(0.01)


def threads() -> set[str]:
    """Kinds that are watched now."""
    return {each.name.split()[1] for each in threading.enumerate() if each.name.startswith("watch ")}


def asked(cluster) -> Counter:
    """How often each kind was listed and watched, and how often anything else was asked."""
    return Counter(
        f"{method} {path.rsplit('/', 1)[-1]}" if path.rsplit("/", 1)[-1] in ALWAYS else method
        for method, path in cluster.requests
    )


def reads(cluster) -> int:
    """Requests that are no watch."""
    return sum(method != "WATCH" for method, _ in cluster.requests)


async def settled(cluster) -> None:
    """All kinds are watched."""
    await until(lambda: cluster.lists.streams >= len(ALWAYS))
    await asyncio.sleep(0.1)


@pytest.mark.parametrize("services", [1, 3, 12])
@in_a_triggerer
async def test_requests_do_not_grow_with_the_services_that_are_waited_for(cluster, services):
    names = [f"chat-{number}" for number in range(services)]
    for name in names:
        apply(name)
    cluster.requests.clear()
    async with waiting(*(later(name) for name in names)):
        await settled(cluster)
        assert asked(cluster) == {f"{how} {kind}": 1 for kind in ALWAYS for how in ("GET", "WATCH")}
        await asyncio.sleep(0.3)  # some looks of each
        assert len(cluster.requests) == 2 * len(ALWAYS)
        assert threads() == ALWAYS
    await until(lambda: not threads())
    assert shared._shared == {}


@in_a_triggerer
async def test_watch_lasts_until_the_last_trigger_has_gone(cluster):
    apply("chat")
    async with waiting(later("chat")):
        await settled(cluster)
        async with waiting(later("other")):
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.1)
        assert threads() == ALWAYS
    await until(lambda: not threads())


@in_a_triggerer
async def test_what_has_ended_is_read_from_the_api_server_before_the_trigger_fires(cluster):
    cluster.is_idle = True
    revision = apply("chat")
    async with waiting(ready("chat", revision)) as (task,):
        await settled(cluster)
        cluster.requests.clear()
        cluster.is_idle = False
        cluster.reconcile("chat")
        assert await task == {"revision": revision, "state": "READY", "error": None, "timed_out": False}
    assert (
        "GET",
        "/apis/serving.kserve.io/v1beta1/namespaces/team/inferenceservices/chat",
    ) in cluster.requests


@in_a_triggerer
async def test_watch_that_is_behind_calls_no_former_revision_ready_or_deleted(cluster):
    """A task goes back to what ran before: the watch still shows it as it was then."""
    first = apply("chat", "1")
    async with waiting(later("chat")):
        await settled(cluster)
        cluster.lists.holds_back = True
        cluster.is_idle = True
        second = apply("chat", "2")
        new, old = ready("chat", second), ready("chat", first)
        async with waiting(new, old) as (of_new, of_old):
            await asyncio.sleep(0.3)
            assert not of_new.done()  # that nobody knows the revision is what the watch says
            # KServe has not carried out anything since, and the first has served: it does.
            assert (await of_old)["state"] == "READY"
            cluster.is_idle = False
            cluster.reconcile("chat")
            cluster.lists.holds_back = False
            assert (await of_new)["state"] == "READY"


@in_a_triggerer
async def test_former_revision_that_is_asked_for_again_is_ready_when_its_pods_are(cluster):
    first = apply("chat", "1")
    async with waiting(later("chat")):
        await settled(cluster)
        apply("chat", "2")
        await asyncio.sleep(0.1)
        cluster.lists.holds_back = True
        cluster.is_idle = True
        apply("chat", "1")
        async with waiting(ready("chat", first)) as (task,):
            await asyncio.sleep(0.3)
            assert not task.done()
            cluster.is_idle = False
            cluster.reconcile("chat")
            cluster.lists.holds_back = False
            assert (await task)["state"] == "READY"


@in_a_triggerer
async def test_last_look_before_the_deadline_is_at_the_api_server(cluster):
    cluster.is_idle = True
    revision = apply("chat")
    async with waiting(ready("chat", revision, deadline=time.time() + 1.0)) as (task,):
        await settled(cluster)
        cluster.lists.holds_back = True
        cluster.is_idle = False
        cluster.reconcile("chat")
        event = await task
    assert (event["state"], event["timed_out"]) == ("READY", False)


@pytest.mark.parametrize("how", ["event", "status"])
@in_a_triggerer
async def test_after_410_all_is_listed_again(cluster, how):
    cluster.lists.gone = how
    cluster.is_idle = True
    revision = apply("chat")
    async with waiting(ready("chat", revision)) as (task,):
        await settled(cluster)
        cluster.lists.holds_back = True
        cluster.is_idle = False
        cluster.reconcile("chat")  # seen by nobody
        await asyncio.sleep(0.1)
        cluster.requests.clear()
        cluster.lists.forget()
        cluster.lists.cuts += how == "status"
        cluster.lists.holds_back = False
        assert (await task)["state"] == "READY"
        assert asked(cluster)["GET pods"] >= 1


@in_a_triggerer
async def test_watch_that_ends_in_its_time_goes_on_where_it_was(cluster, monkeypatch):
    monkeypatch.setattr(reflector, "FIRST_WAIT_SECONDS", 0.0)
    cluster.lists.ends_after = 0.1
    revision = apply("chat")
    async with waiting(later("chat")):
        await settled(cluster)
        cluster.requests.clear()
        await asyncio.sleep(0.5)
        seen = asked(cluster)
        assert seen["WATCH pods"] >= 2
        assert seen["GET pods"] == 0
        second = apply("chat", "2")
        assert second != revision
        assert (await event_of(ready("chat", second)))["state"] == "READY"


@in_a_triggerer
async def test_connection_that_is_cut_is_made_again_with_a_list(cluster):
    cluster.is_idle = True
    revision = apply("chat")
    async with waiting(ready("chat", revision)) as (task,):
        await settled(cluster)
        cluster.requests.clear()
        cluster.lists.cuts += 1
        await until(lambda: asked(cluster)["GET pods"] >= 1)
        cluster.is_idle = False
        cluster.reconcile("chat")
        assert (await task)["state"] == "READY"


@in_a_triggerer
async def test_watch_that_says_nothing_is_no_answer(cluster, monkeypatch):
    """A network that loses what is sent: nothing comes, and nothing ends."""
    monkeypatch.setattr(reflector, "WATCH_SECONDS", 0)
    monkeypatch.setattr(reflector, "SILENT_SECONDS", 0.4)
    cluster.is_idle = True
    revision = apply("chat")
    async with waiting(ready("chat", revision)) as (task,):
        cluster.lists.holds_back = True
        cluster.is_idle = False
        cluster.reconcile("chat")
        assert (await task)["state"] == "READY"


@in_a_triggerer
async def test_api_server_that_is_restarted_is_watched_again(cluster, monkeypatch):
    cluster.is_idle = True
    revision = apply("chat")
    async with waiting(ready("chat", revision)) as (task,):
        await settled(cluster)
        cluster.refusals["/"] = "api: webhook of KServe is down"
        cluster.lists.cuts += 1
        await asyncio.sleep(0.3)
        assert not task.done()
        del cluster.refusals["/"]
        cluster.is_idle = False
        cluster.reconcile("chat")
        assert (await task)["state"] == "READY"


@in_a_triggerer
async def test_without_the_right_to_watch_each_reads_for_itself_and_that_is_said_once(cluster, caplog):
    cluster.refusals["WATCH"] = "api: limited: list"
    cluster.is_idle = True
    revision = apply("chat")
    caplog.set_level(logging.WARNING, logger=reflector.__name__)
    async with waiting(ready("chat", revision), later("chat")) as (task, _):
        await asyncio.sleep(0.3)
        cluster.requests.clear()
        await until(lambda: reads(cluster) > 10)
        cluster.is_idle = False
        cluster.reconcile("chat")
        assert (await task)["state"] == "READY"
    said = [record.getMessage() for record in caplog.records if record.name == reflector.__name__]
    assert len(said) == len(ALWAYS) + 1  # events are asked for, too, while nothing is carried out
    assert all(
        each.startswith("Tasks that wait in namespace team each read ") and "list and watch it" in each
        for each in said
    )


@in_a_triggerer
async def test_watch_goes_on_with_the_credentials_that_a_connection_has_by_now(cluster, monkeypatch):
    """A token is renewed in the connection; triggers that began with the former one go on."""

    def token(value: str) -> None:
        connection = kubernetes_connection(cluster.url, user={"token": value}, namespace="team")
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", connection)

    token("first")
    cluster.tokens = {"first"}
    apply("chat")
    async with waiting(later("chat")):
        await settled(cluster)
        cluster.tokens = {"second"}
        token("second")
        async with waiting(later("other")):
            cluster.lists.cuts += 1
            await until(lambda: cluster.lists.streams == 0)
            await settled(cluster)
            cluster.requests.clear()
            await asyncio.sleep(0.2)
            assert reads(cluster) == 0


@in_a_triggerer
async def test_service_that_is_deleted_ends_the_waiting(cluster):
    cluster.is_idle = True
    revision = apply("chat")
    async with waiting(ready("chat", revision)) as (task,):
        await settled(cluster)
        cluster.forget("chat")
        event = await task
    assert event["error"].startswith(
        "The revision cannot be watched any more: There is no service of this name."
    )


@pytest.mark.parametrize("services", [1, 3])
@in_a_triggerer
async def test_promotions_look_together_and_take_their_steps_at_the_api_server(cluster, services):
    triggers = [promoted(f"chat-{number}", cluster) for number in range(services)]
    async with waiting(*triggers) as tasks:
        await until(lambda: len(threads()) == len(ALWAYS) + 1)  # and the routes
        await asyncio.sleep(0.2)
        cluster.requests.clear()
        sent = len(cluster.applied)
        await asyncio.sleep(0.3)  # some looks of each
        assert cluster.requests == []
        assert not any(task.done() for task in tasks)
        for trigger in triggers:
            cluster.reconcile(trigger.name)
        events = await asyncio.gather(*tasks)
    assert [(each["error"], each["timed_out"]) for each in events] == [(None, False)] * services
    assert len(cluster.applied) == sent + 2 * services  # no requests for the canary, then no canary
    for trigger in triggers:
        service = KServeHook().get_service(trigger.name, "team")
        assert (service.stable, service.is_settled) == (trigger.revision, True)
    assert cluster.lost == []


@in_a_triggerer
async def test_promotion_whose_pods_fail_is_told_by_the_api_server(cluster):
    trigger = promoted("chat", cluster)
    async with waiting(trigger) as (task,):
        await until(lambda: len(threads()) == len(ALWAYS) + 1)
        await asyncio.sleep(0.1)
        assert not task.done()
        cluster.world["chat"] = carried_out("update_crash_t45", trigger.revision, "former")
        cluster.requests.clear()
        event = await task
    assert event["error"].startswith(f"The stable pods of revision {trigger.revision} fail:")
    assert any(
        path.endswith("/inferenceservices/chat") for method, path in cluster.requests if method == "GET"
    )


@in_a_triggerer
async def test_watch_that_is_behind_ends_no_promotion(cluster):
    trigger = promoted("chat", cluster)
    async with waiting(later("chat")):
        await settled(cluster)
        cluster.lists.holds_back = True
        cluster.reconcile("chat")
        second = KServeHook().get_service("chat", "team")
        assert not second.has_pods_to_come
        async with waiting(trigger) as (task,):
            await asyncio.sleep(0.3)
            assert not task.done()  # it is late
            cluster.lists.holds_back = False
            assert (await task)["error"] is None
