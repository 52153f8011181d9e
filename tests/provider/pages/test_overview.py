"""The page of all models: who sees it, what it says when something cannot be read, and which revision is a canary."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
from airflow.api_fastapi.core_api.datamodels.plugins import ExternalViewResponse
from airflow.api_fastapi.core_api.security import get_user
from airflow.plugins_manager import get_fastapi_plugins
from airflow.sdk.exceptions import TaskDeferred
from attempts import clear
from fastapi.testclient import TestClient
from kserve_deployments import connect, deploy, serving
from kube_canaries import FakeGatewayKServe
from test_canary_on_kserve import canary, go_on

from airflow_provider_llmops.backends.serving.base import Revision, Service
from airflow_provider_llmops.backends.serving.kserve import shifting
from airflow_provider_llmops.pages.overview import app as overview
from airflow_provider_llmops.pages.overview import registry, services
from airflow_provider_llmops.pages.overview.services import canary_of
from airflow_provider_llmops.pages.plugin import PagesPlugin
from airflow_provider_llmops.states import ServiceState

SECRET = "very-secret-password"  # noqa: S105


class FakeMlflow:
    """A registry whose answers a test sets: models by name, with the number of their champion and how many versions there are."""

    def __init__(self, models=()) -> None:
        self.models = dict(models)
        self.asked = []
        self.refuses = {}
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                url = urlsplit(self.path)
                fake._answer(self, url.path, {name: each[0] for name, each in parse_qs(url.query).items()})

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fake._answer(self, self.path, json.loads(body))

            def log_message(self, *args):
                """Be quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler, path, query) -> None:
        what = path.removeprefix("/api/2.0/mlflow/")
        self.asked.append((what, query))
        status, content = self.refuses.get(what, (200, None))
        content = content if content is not None else json.dumps(self._found(what, query))
        handler.send_response(status)
        handler.end_headers()
        handler.wfile.write(content.encode())

    def _found(self, what, query):
        if what == "registered-models/search":
            return {
                "registered_models": [
                    {
                        "name": name,
                        "aliases": [{"alias": "production", "version": str(champion)}],
                        "latest_versions": [self._version(name, newest)],
                    }
                    for name, (champion, newest) in self.models.items()
                ]
            }
        if what == "model-versions/search":
            number = int(query["filter"].rpartition("= ")[2])
            return {
                "model_versions": [
                    self._version(name, number) for name in self.models if f"'{name}'" in query["filter"]
                ]
            }
        if what == "experiments/search":
            return {"experiments": [{"experiment_id": "1"}]}
        return {
            "runs": [
                {"info": {"run_id": f"{name}-1", "experiment_id": "1"}, "data": {}} for name in self.models
            ]
        }

    @staticmethod
    def _version(name, number):
        return {
            "name": name,
            "version": str(number),
            "run_id": f"{name}-{number}",
            "creation_timestamp": 1795899609667,
        }


@pytest.fixture
def mlflow(monkeypatch):
    fake = FakeMlflow({"chat": (1, 1)})
    connection = {"conn_type": "mlflow", "host": fake.url, "login": "team", "password": SECRET}
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps(connection))
    yield fake
    fake.close()


@pytest.fixture
def readable():
    """Connections that whoever asks may read."""
    return {"mlflow_default", "kserve_default", "nowhere", "other"}


@pytest.fixture
def browser(monkeypatch, readable):
    def may_read(*, method, details, user):
        assert (method, user) == ("GET", "somebody")
        return details.conn_id in readable

    monkeypatch.setattr(
        overview, "get_auth_manager", lambda: SimpleNamespace(is_authorized_connection=may_read)
    )
    app = overview.application.__wrapped__()
    app.dependency_overrides[get_user] = lambda: "somebody"
    return TestClient(app)


def test_airflow_finds_the_page_and_its_place_in_the_navigation():
    (view,) = PagesPlugin.external_views
    described = ExternalViewResponse.model_validate(view)
    assert described.model_dump(exclude_none=True) == {
        "name": "LLMOps", "href": "llmops/overview/", "destination": "nav", "url_route": "llmops", "nav_top_level": False,
    }  # fmt: skip
    (mounted,) = [each for each in PagesPlugin.fastapi_apps if each["name"] == "LLMOps overview"]
    assert mounted in get_fastapi_plugins()[0]
    assert f"/{view['href']}" == f"{mounted['url_prefix']}/"


def test_page_is_for_those_who_have_logged_in(mlflow):
    answer = TestClient(overview.application.__wrapped__()).get("/")
    assert answer.status_code == 401
    assert mlflow.asked == []


def test_page_is_for_those_who_may_read_the_connection(browser, mlflow, readable):
    readable.remove("mlflow_default")
    answer = browser.get("/")
    assert answer.status_code == 403
    assert "Your account may not read the connection &#x27;mlflow_default&#x27;" in answer.text
    assert mlflow.asked == []


def test_services_are_for_those_who_may_read_their_connection(browser, mlflow, readable, connections):
    readable.remove("kserve_default")
    page = browser.get("/").text
    assert ">chat</a>" in page
    assert "Services are not shown: your account may not read the connection" in page
    assert "not served" not in page


def test_airflow_may_frame_the_page_and_nothing_from_elsewhere_is_in_it(browser, mlflow):
    answer = browser.get("/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "frame-ancestors 'self'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "private, no-store"
    assert "x-frame-options" not in answer.headers
    assert " src=" not in answer.text


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        (
            "names=chat",
            "Unknown setting &#x27;names&#x27; (did you mean &#x27;name&#x27;?). Known: mlflow_conn_id",
        ),
        ("name=a'b", "name must be up to 128 letters, digits, spaces"),
        ("name=%25", "name must be up to 128"),
        ("champion=a/b", "champion must be up to 128 letters"),
        ("mlflow_conn_id=../x", "mlflow_conn_id must be the id of a connection"),
        ("kserve_conn_id=%00", "kserve_conn_id must be the id of a connection"),
        ("namespace=A", "namespace must be the name of a Kubernetes namespace"),
        ("page=%3Cb%3E", "page must be what the link to the next page carries"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_its_name(browser, mlflow, query, sentence):
    answer = browser.get(f"/?{query}")
    assert answer.status_code == 400
    assert sentence in answer.text
    assert mlflow.asked == []


def test_a_connection_that_is_missing_or_of_another_kind_is_named_and_nobody_is_asked(
    browser, mlflow, monkeypatch
):
    monkeypatch.setenv(
        "AIRFLOW_CONN_OTHER", json.dumps({"conn_type": "http", "host": mlflow.url, "password": SECRET})
    )
    for conn_id, sentence in (
        ("nowhere", "There is no connection &#x27;nowhere&#x27;. Make one of type mlflow"),
        ("other", "Connection &#x27;other&#x27; is of type http, not mlflow."),
    ):
        answer = browser.get(f"/?mlflow_conn_id={conn_id}")
        assert answer.status_code == 200
        assert sentence in answer.text
        page = browser.get(f"/?kserve_conn_id={conn_id}").text
        assert f"Services are not shown: {sentence.replace('mlflow', 'kserve')}" in page
    assert {what for what, _ in mlflow.asked} == {
        "registered-models/search",
        "experiments/search",
        "runs/search",
    }


@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        ((500, f"{SECRET} in a trace"), "HTTP 500"),
        ((401, "no"), "HTTP 401"),
        ((200, "<html>"), "The answer is no JSON"),
    ],
)
def test_a_server_that_cannot_be_read_gives_a_page_that_says_so(browser, mlflow, refusal, sentence):
    mlflow.refuses["registered-models/search"] = refusal
    answer = browser.get("/")
    assert answer.status_code == 200
    assert "The models cannot be read from MLflow." in answer.text
    assert sentence in answer.text
    assert "Traceback" not in answer.text


def test_a_server_that_is_down_gives_a_page_that_says_so_without_credentials(browser, mlflow):
    mlflow.close()
    answer = browser.get("/")
    assert answer.status_code == 200
    assert "No connection: " in answer.text
    assert SECRET not in answer.text


def test_what_cannot_be_read_beside_the_models_is_said_and_they_are_shown(browser, mlflow):
    mlflow.models["old"] = (3, 7)
    mlflow.refuses |= dict.fromkeys(("model-versions/search", "runs/search"), (400, "unknown comparator"))
    page = browser.get("/").text
    assert "Older versions are not shown: HTTP 400 Bad Request: unknown comparator" in page
    assert "Metrics and cost are not shown: HTTP 400" in page
    assert "What is known of 1 older version is not shown" in page
    assert "old 3" in page
    assert ">Version 3</a>" in page


def test_requests_are_few_however_many_models_there_are(browser, mlflow):
    mlflow.models = {f"model-{number}": (1 + number % 30, 50) for number in range(100)}
    page = browser.get("/").text
    searched = [query["filter"] for what, query in mlflow.asked if what == "model-versions/search"]
    assert len(searched) == registry.MAX_NUMBERS == 20
    assert searched[0].count("'model-") == 4
    assert len(mlflow.asked) == 23
    assert "What is known of 30 older versions is not shown, to keep the requests few" in page


def test_a_slow_server_is_not_asked_for_ever(browser, mlflow, monkeypatch):
    mlflow.models["old"] = (3, 7)
    monkeypatch.setattr(registry, "BUDGET_SECONDS", 0.0)
    page = browser.get("/").text
    assert [what for what, _ in mlflow.asked] == ["registered-models/search"]
    assert "MLflow is slow: after 0 s nothing further was asked." in page


def service(stable=None, wanted=None, **shares):
    revisions = {
        name: Revision(name, ServiceState.READY, traffic=share) for name, share in sorted(shares.items())
    }
    return Service("chat", "default", "http://chat", revisions, stable=stable, wanted=wanted)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (service("a", "a", a=100), None),
        (service("a", "b", a=80, b=20), "b"),
        (service("a", "b", a=20, b=80), "b"),
        (service("b", "b", a=20, b=80), "a"),
        (service(None, None, a=60, b=40), "b"),
        (service("a", "b", a=100, b=0), "b"),
        (service("a", None, a=100, b=0), None),
        (service(), None),
    ],
)
def test_canary_is_the_revision_beside_the_stable_one(found, expected):
    canary = canary_of(found)
    assert (canary and canary.revision) == expected


def test_models_of_this_machine_that_are_not_served_are_told_from_those_that_are(
    browser, mlflow, connections, root
):
    mlflow.models["broken"] = (1, 1)
    (root / "services" / "default" / "broken").mkdir(parents=True)
    (root / "services" / "default" / "broken" / "service.json").write_text("{}")
    page = browser.get("/").text
    assert page.count("not served") == 1
    assert page.count("does not answer") == 1


@pytest.fixture
def cluster(monkeypatch):
    """A fake cluster with KServe, as the default connection."""
    connect(monkeypatch, {"kubernetes_conn_id": "cluster"})
    monkeypatch.setattr(shifting, "_LOOK_SECONDS", 0.02)
    with FakeGatewayKServe() as fake:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", fake.connection(namespace="team"))
        yield fake


def test_canary_on_a_cluster_is_shown_with_its_share(browser, mlflow, cluster, context):
    assert "not served" in browser.get("/?namespace=team").text
    deploy("1", context)
    assert "100&nbsp;% of requests" in browser.get("/?namespace=team").text
    task = canary(deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(clear(context))
    with pytest.raises(TaskDeferred):
        go_on(task, deferred.value, context)
    (first, second) = sorted(serving().items(), key=lambda each: -each[1])
    page = browser.get("/?namespace=team").text
    assert (
        f"<li>Revision {first[0]}: 80&nbsp;% of requests</li><li>Canary {second[0]}: 20&nbsp;% of requests</li>"
        in page
    )


def test_a_cluster_that_refuses_or_is_gone_gives_its_reason(browser, mlflow, cluster, monkeypatch):
    monkeypatch.setattr(services, "PATIENCE_SECONDS", 0.5)
    cluster.tokens = {"another"}
    assert "Services are not shown: Unauthorized" in browser.get("/?namespace=team").text
    cluster.__exit__()
    assert "Services are not shown: The API server did not answer" in browser.get("/?namespace=team").text
