"""Hooks: what a connection means, and what test_connection says."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from airflow.sdk.exceptions import AirflowNotFoundException
from kube_connection import kubernetes_connection
from planes import DATA_PYTHON
from tls_front import TlsFront

from airflow_provider_llmops.backends.kubernetes import cluster
from airflow_provider_llmops.backends.trainjobs.api import TrainJobs
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.hooks.mlflow import MlflowHook
from airflow_provider_llmops.hooks.openai_endpoint import OpenAIEndpointHook
from airflow_provider_llmops.hooks.trainer import KubeflowTrainerHook


@pytest.fixture
def server():
    """A real HTTP server that answers with what a test puts into ``server.answer``: status and text, or what makes them."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            length = int(self.headers.get("Content-Length", 0))
            self.server.keys.append(self.headers.get("Authorization"))
            self.server.seen.append((self.path, json.loads(self.rfile.read(length)) if length else None))
            answer = self.server.answer
            status, body = answer(*self.server.seen[-1]) if callable(answer) else answer
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", body)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.keys, server.answer = [], [], (200, "OK")
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def connect(monkeypatch, conn_type, **fields):
    monkeypatch.setenv(
        f"AIRFLOW_CONN_{conn_type.upper()}_DEFAULT", json.dumps({"conn_type": conn_type, **fields})
    )


@pytest.mark.parametrize(("hook", "what"), [(KubeflowPipelinesHook, "runs"), (KServeHook, "services")])
def test_connection_without_a_host_is_local(connections, root, hook, what):
    ok, message = hook().test_connection()
    assert ok
    assert message.startswith("local backend ready: Python 3.")
    assert message.endswith(f"{what} in {root / what}")


def test_local_connection_made_in_the_form_works_although_the_form_stores_its_switches(monkeypatch):
    switches = {"verify_ssl": True, "upload_versions": True, "namespace": "", "pipeline_root": None}
    connect(monkeypatch, "kubeflow", extra={"python": str(DATA_PYTHON), **switches})
    assert KubeflowPipelinesHook().test_connection()[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "needs 'python' in extra"),
        ({"extra": {"pyton": "x"}}, r"unknown field 'pyton' \(did you mean 'python'\?\) in extra"),
        ({"extra": {"python": "/nowhere/python"}}, "interpreter does not exist"),
        (
            {"extra": {"python": str(DATA_PYTHON), "slots": "many"}},
            "'slots' in extra must be a number from 1 on",
        ),
        (
            {"extra": {"python": str(DATA_PYTHON), "retention": "0"}},
            "'retention' in extra must be a number of days above 0, got '0'",
        ),
        ({"extra": {"python": str(DATA_PYTHON), "retention": "a week"}}, "got 'a week'"),
        (
            {"extra": {"python": str(DATA_PYTHON), "root": "s3://bucket/runs"}},
            "'root' in extra must be an absolute path of this machine, got 's3://bucket/runs'",
        ),
        ({"extra": {"python": str(DATA_PYTHON), "root": "runs"}}, "must be an absolute path of this machine"),
        (
            {"host": "https://kubeflow.example.com", "extra": {"python": str(DATA_PYTHON)}},
            "python belong to the local backend",
        ),
    ],
)
def test_connection_that_cannot_work_is_explained(monkeypatch, fields, message):
    connect(monkeypatch, "kubeflow", **fields)
    ok, said = KubeflowPipelinesHook().test_connection()
    assert not ok
    with pytest.raises(ConfigurationError, match=message):
        raise ConfigurationError(said)


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"host": "tracking", "port": 5000}, "http://tracking:5000"),
        ({"host": "https://mlflow.example.com/base/"}, "https://mlflow.example.com/base"),
        ({"host": "http://127.0.0.1:5000"}, "http://127.0.0.1:5000"),
    ],
)
def test_mlflow_address(monkeypatch, fields, address):
    connect(monkeypatch, "mlflow", **fields)
    assert MlflowHook().tracking_uri() == address


@pytest.mark.parametrize(
    "host",
    [
        "",
        "sqlite:///mlflow.db",
        "https://user:secret@mlflow.example.com",
        "http://[::1",
        "http://mlflow:port",
    ],
)
def test_mlflow_address_that_is_not_one_is_refused_without_its_credentials(monkeypatch, host):
    connect(monkeypatch, "mlflow", host=host)
    with pytest.raises(ConfigurationError, match="must be an http or https address") as caught:
        MlflowHook().tracking_uri()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "environment"),
    [
        ({}, {}),
        ({"password": "t"}, {"MLFLOW_TRACKING_TOKEN": "t"}),
        ({"login": "u", "password": "p"}, {"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p"}),
    ],
)
def test_mlflow_credentials_become_its_own_variables(monkeypatch, fields, environment):
    connect(monkeypatch, "mlflow", host="tracking", **fields)
    assert MlflowHook().environment() == environment


def test_mlflow_token_that_no_header_takes_is_refused_and_not_told(monkeypatch):
    connect(monkeypatch, "mlflow", host="tracking", password="secret-1\nsecret-2")  # noqa: S106
    with pytest.raises(ConfigurationError, match="which cannot hold it: it has 2 lines") as caught:
        MlflowHook().environment()
    assert "secret" not in str(caught.value)
    connect(monkeypatch, "mlflow", host="tracking", login="u", password="two words")  # noqa: S106
    assert MlflowHook().environment() == {
        "MLFLOW_TRACKING_USERNAME": "u",
        "MLFLOW_TRACKING_PASSWORD": "two words",
    }


def test_mlflow_address_with_a_space_is_no_outage(monkeypatch):
    connect(monkeypatch, "mlflow", host="http://my mlflow")
    ok, message = MlflowHook().test_connection()
    assert (ok, "the host must be an http or https address" in message) == (False, True)


def test_mlflow_health(monkeypatch, server):
    connect(monkeypatch, "mlflow", host=server.url)
    assert MlflowHook().test_connection() == (True, f"MLflow at {server.url} is healthy")
    server.answer = (503, "starting")
    assert MlflowHook().test_connection() == (
        False,
        f"HTTP 503 Service Unavailable: starting\nAddress: {server.url}/health",
    )
    connect(monkeypatch, "mlflow", host="http://127.0.0.1:9")
    ok, message = MlflowHook().test_connection()
    assert (ok, message.startswith("No connection: ")) == (False, True)


def test_ask_speaks_the_openai_protocol(server):
    server.answer = (200, json.dumps({"choices": [{"message": {"role": "assistant", "content": "42"}}]}))
    assert KServeHook().ask(server.url, "m", "what?", max_tokens=3) == "42"
    assert server.seen == [
        (
            "/openai/v1/chat/completions",
            {"model": "m", "messages": [{"role": "user", "content": "what?"}], "max_tokens": 3},
        )
    ]


@pytest.mark.parametrize(
    "refusal",
    [
        '{"error": {"message": "This model has no chat template", "param": "messages", "code": "no_chat_template"}}',
        "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template",
    ],
    ids=["ours", "vLLM's"],
)
def test_a_model_without_a_chat_template_completes_the_question(server, refusal):
    def answer(path, body):
        if path.endswith("/chat/completions"):
            return 400, refusal
        return 200, json.dumps({"choices": [{"text": " 42"}]})

    server.answer = answer
    assert KServeHook().ask(server.url, "m", "what?", max_completion_tokens=3) == " 42"
    assert server.seen[1:] == [("/openai/v1/completions", {"model": "m", "prompt": "what?", "max_tokens": 3})]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((200, "<html>login</html>"), ApiUnavailableError),
        ((200, '{"choices": []}'), ApiUnavailableError),
        ((400, "bad"), ConfigurationError),
        ((429, "busy"), ApiUnavailableError),
        ((500, "broken"), ApiUnavailableError),
    ],
)
def test_answer_that_is_none_is_an_error_of_the_right_kind(server, answer, error):
    server.answer = answer
    with pytest.raises(error, match="/openai/v1/chat/completions"):
        KServeHook().ask(server.url, "m", "what?")


ANSWER = json.dumps({"choices": [{"message": {"content": "42"}}]})
API_KEY = "sk-llmops-0123456789"


def test_services_are_asked_with_the_connections_key_and_it_is_masked(monkeypatch, server, tmp_path):
    from airflow.sdk.log import redact

    server.answer = (200, ANSWER)
    (tmp_path / "key").write_text("of-a-file-9876543210\n")
    for fields, sent in (
        ({"password": API_KEY}, f"Bearer {API_KEY}"),
        ({"extra": {"api_key_file": str(tmp_path / "key")}}, "Bearer of-a-file-9876543210"),
        ({}, None),
    ):
        connect(monkeypatch, "kserve", **fields)
        assert KServeHook().ask(server.url, "m", "what?") == "42"
        assert server.keys[-1] == sent
        if sent:
            assert sent.split()[1] not in redact(f"the key {sent.split()[1]}")
        assert API_KEY not in repr(KServeHook().access)
    monkeypatch.delenv("AIRFLOW_CONN_KSERVE_DEFAULT")
    assert KServeHook().ask(server.url, "m", "what?") == "42"  # who only asks needs no connection
    with pytest.raises(AirflowNotFoundException):
        KServeHook("another").ask(server.url, "m", "what?")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"password": "top-secret\nkey"},
            "the password is sent as an API key in a header, which cannot hold it",
        ),
        (
            {"password": "top-secret", "extra": {"api_key_file": "/k"}},
            "has a password and 'api_key_file' in extra",
        ),
        (
            {"extra": {"api_key_file": "/no/such/file"}},
            "the API key cannot be read: No such file or directory",
        ),
        ({"extra": {"ca_file": "/no/such/file"}}, "'ca_file' '/no/such/file' does not exist"),
        ({"extra": {"verify_ssl": "maybe"}}, "'verify_ssl' in extra must be true or false"),
    ],
)
def test_connection_whose_key_cannot_be_sent_is_refused_without_telling_it(monkeypatch, fields, message):
    connect(monkeypatch, "kserve", **fields)
    with pytest.raises(ConfigurationError, match=message) as caught:
        KServeHook().ask("http://127.0.0.1:9", "m", "what?")
    assert "top-secret" not in str(caught.value)


def test_key_that_is_refused_is_final_and_not_told_and_a_quota_is_worth_a_retry(monkeypatch, server):
    connect(monkeypatch, "kserve", password=API_KEY)
    for status, error in ((401, ConfigurationError), (403, ConfigurationError), (429, ApiUnavailableError)):
        server.answer = (status, "no")
        with pytest.raises(error, match=f"^HTTP {status}") as caught:
            KServeHook().ask(server.url, "m", "what?")
        assert API_KEY not in str(caught.value)


def test_key_is_not_taken_along_to_where_a_server_redirects(monkeypatch, server):
    connect(monkeypatch, "kserve", password=API_KEY)
    server.answer = lambda path, body: (
        (200, ANSWER) if path == "/elsewhere" else (307, f"{server.url}/elsewhere")
    )
    with pytest.raises(ConfigurationError, match=r"^HTTP 307"):
        KServeHook().ask(server.url, "m", "what?")
    assert len(server.seen) == 1


def test_certificate_of_a_service_is_verified_as_the_connection_says(monkeypatch, server, tmp_path):
    server.answer = (200, ANSWER)
    with TlsFront(server.url, tmp_path) as front:
        for extra in ({"ca_file": str(front.certificate)}, {"verify_ssl": False}):
            connect(monkeypatch, "kserve", extra=extra)
            assert KServeHook().ask(front.url, "m", "what?") == "42"
        connect(monkeypatch, "kserve")
        with pytest.raises(ApiUnavailableError, match="certificate verify failed"):
            KServeHook().ask(front.url, "m", "what?")


@pytest.mark.parametrize("path", ["keys.json", 3])
def test_access_file_of_a_connection_is_an_absolute_path(monkeypatch, path):
    connect(monkeypatch, "kserve", extra={"python": str(DATA_PYTHON), "access_file": path})
    with pytest.raises(ConfigurationError, match="'access_file' in extra must be an absolute path"):
        KServeHook().access_file  # noqa: B018


PLUGIN_PATIENCE_SECONDS = 10


@pytest.fixture
def plugin(monkeypatch, tmp_path):
    """A credentials plugin of kubeconfigs, which answers when it is let, and notes when it is called.

    ``plugin.connect(name, server)`` makes a connection whose kubeconfig calls it; ``plugin.calls()`` says how often it was;
    ``plugin.let()`` lets it answer, from then on.
    """
    script, notes, let = tmp_path / "plugin.py", tmp_path / "notes", tmp_path / "let"
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "t"},
    }
    script.write_text(
        "import json, os, time\n"
        f"open({str(notes)!r}, 'a').write('x')\n"
        f"until = time.monotonic() + {PLUGIN_PATIENCE_SECONDS}\n"
        f"while not os.path.exists({str(let)!r}):\n"
        "    assert time.monotonic() < until\n"
        "    time.sleep(0.01)\n"
        f"print(json.dumps({credential}))\n"
    )
    command = {"apiVersion": credential["apiVersion"], "command": sys.executable, "args": [str(script)]}
    monkeypatch.setattr(cluster, "_made", {})

    class Plugin:
        @staticmethod
        def connect(name, server):
            user = {"exec": {**command, "interactiveMode": "Never"}}
            monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", kubernetes_connection(server, user=user))

        @staticmethod
        def calls():
            return notes.stat().st_size if notes.exists() else 0

        @staticmethod
        def let():
            let.touch()

    return Plugin


def in_triggerer(plugin, *conn_ids):
    """What several triggers get at the same time, while another one lets the plugin answer once it has been called."""

    async def let():
        while not plugin.calls():  # noqa: ASYNC110 - another process says so
            await asyncio.sleep(0.01)
        plugin.let()

    async def run():
        other = asyncio.create_task(let())
        hooks = [KubeflowTrainerHook(conn_id) for conn_id in conn_ids]
        backends = await asyncio.gather(*(hook.aget_backend() for hook in hooks))
        await other
        return backends

    return asyncio.run(run())


def client_of(backend: TrainJobs):
    return backend._objects.api_client


def server_of(backend: TrainJobs) -> str:
    return client_of(backend).configuration.host


def test_slow_credentials_plugin_of_a_cluster_does_not_hold_up_the_triggerer(plugin):
    plugin.connect("a", "http://a")
    plugin.connect("b", "http://b")
    backends = in_triggerer(plugin, "a", "b", "a", "b", "a", "b")
    assert [server_of(backend) for backend in backends] == ["http://a", "http://b"] * 3
    assert plugin.calls() == 2


def test_triggers_share_a_client_until_the_connection_changes_or_it_is_old(plugin, monkeypatch):
    plugin.connect("a", "http://a")
    (first,) = in_triggerer(plugin, "a")
    (second,) = in_triggerer(plugin, "a")
    assert client_of(second) is client_of(first)
    plugin.connect("a", "http://other")
    (changed,) = in_triggerer(plugin, "a")
    assert server_of(changed) == "http://other"
    monkeypatch.setattr(cluster, "KEEP_CLIENT_SECONDS", 0.0)
    (renewed,) = in_triggerer(plugin, "a")
    assert (client_of(renewed) is client_of(changed), server_of(renewed), plugin.calls()) == (
        False,
        "http://other",
        3,
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((200, '{"data": [{"id": "a"}, {"id": "b"}]}'), (True, "/v1 serves a, b.")),
        ((200, '{"data": []}'), (True, "/v1 serves no model.")),
        (
            (200, "hello"),
            (False, "/v1/models does not list models as OpenAI's API does. Is this the base URL?"),
        ),
        ((401, "who are you?"), (False, "401")),
        ((503, "busy"), (False, "503")),
    ],
)
def test_openai_endpoint_lists_its_models_with_the_key(server, monkeypatch, answer, expected):
    connect(monkeypatch, "openai_endpoint", host=f"{server.url}/v1", password="sk-1")  # noqa: S106  no secret
    server.answer = answer
    works, said = OpenAIEndpointHook().test_connection()
    assert works is expected[0] and expected[1] in said and "sk-1" not in said
    assert server.seen[0] == ("/v1/models", None) and server.keys[0] == "Bearer sk-1"
