"""deploy_model on this machine with real processes, and on a cluster with its API faked over HTTP."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from llmops_components.errors import SettingError, UnavailableError
from llmops_components.serving.deploy import deploy_model
from llmops_components.serving.local.controller import LocalServing


def manifest_for(model: str | Path) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "helper", "namespace": "team"},
        "spec": {
            "predictor": {
                "model": {
                    "modelFormat": {"name": "huggingface"},
                    "storageUri": str(model),
                    "args": ["--model_name=helper", "--dtype=float32"],
                    "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
                }
            }
        },
    }


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "root"
    if (tmp_path / "root/services/team/helper").exists():
        LocalServing(tmp_path / "root").delete("helper", namespace="team")


def test_deploys_and_switches_and_a_failed_successor_changes_nothing(
    root: Path,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("LLMOPS_ROOT", str(root))
    report = deploy_model(tmp_path / "service", manifest=manifest_for(tiny_model), timeout_seconds=90)

    facts = json.loads((tmp_path / "service").read_text())
    assert report.details == facts
    assert (facts["name"], facts["namespace"], facts["revision"], facts["target"]) == (
        "helper",
        "team",
        "00001",
        "local",
    )
    assert facts["openai_url"] == f"{facts['url']}/openai/v1"
    assert httpx.get(f"{facts['openai_url']}/models").json()["data"][0]["id"] == "helper"
    assert "Ready after" in capsys.readouterr().out

    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(UnavailableError) as failed:
        deploy_model(tmp_path / "second", manifest=manifest_for(broken), root=root, timeout_seconds=90)

    assert str(failed.value).startswith(
        "Deploying helper failed; still serving: 00001 (100%). Revision 00002 is FAILED: "
    )
    assert not (tmp_path / "second").exists()
    assert httpx.get(f"{facts['openai_url']}/models").headers["x-llmops-revision"] == "00001"

    with pytest.raises(UnavailableError, match="Revision 00003 was not ready after 0 s"):
        changed = manifest_for(tiny_model)
        changed["metadata"]["annotations"] = {"a": "b"}
        deploy_model(tmp_path / "third", manifest=changed, root=root, timeout_seconds=0)
    states = [item["state"] for item in LocalServing(root).status("helper", "team")["revisions"]]
    assert states == ["READY", "FAILED", "STOPPED"]


def test_revision_that_somebody_else_has_started_is_waited_for_and_never_stopped(
    root: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMOPS_ROOT", str(root))
    serving = LocalServing(root)
    serving.apply(manifest_for(tiny_model))
    started_before = (
        r"^Deploying helper failed; nothing else was serving; revision 00001 was started before, "
        r"and is left as it is\. Revision 00001 was not ready after 0 s\."
    )
    with pytest.raises(UnavailableError, match=started_before):
        deploy_model(
            tmp_path / "service", manifest=manifest_for(tiny_model), target="local", timeout_seconds=0
        )
    (revision,) = serving.status("helper", "team")["revisions"]
    assert revision["state"] in ("STARTING", "READY")


def test_an_unknown_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="Unknown target 'cloud'"):
        deploy_model(tmp_path / "service", manifest={}, target="cloud")  # type: ignore[arg-type]


class FakeCluster(BaseHTTPRequestHandler):
    """Kubernetes' API as far as one InferenceService needs it, and the service's list of models."""

    stored: dict[str, Any] | None = None
    calls: list[tuple[str, str]] = []
    ready = True
    key: str | None = None

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> dict[str, Any]:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def _object(self) -> dict[str, Any]:
        cls = type(self)
        assert cls.stored is not None
        url = "http://{}:{}".format(*self.server.server_address)
        status = {
            "observedGeneration": cls.stored["metadata"]["generation"],
            "conditions": [{"type": "Ready", "status": str(cls.ready)}],
            "url": "http://helper.team.example.com",
            "address": {"url": url},
            "components": {"predictor": {"latestReadyRevision": "helper-predictor-00001"}},
        }
        return cls.stored | {"status": status}

    def do_GET(self) -> None:
        if self.path == "/openai/v1/models":
            self._send(401 if self.key else 200, {})
        else:
            self._send(200, self._object())

    def do_POST(self) -> None:
        cls = type(self)
        cls.calls.append(("POST", self.path))
        body = self._body()
        if cls.stored is not None:
            self._send(409, {"message": "exists"})
        else:
            cls.stored = body
            cls.stored["metadata"]["generation"] = 1
            self._send(201, self._object())

    def do_PATCH(self) -> None:
        cls = type(self)
        cls.calls.append(("PATCH", self.path))
        assert cls.stored is not None
        generation = cls.stored["metadata"]["generation"] + 1
        cls.stored = self._body()
        cls.stored["metadata"]["generation"] = generation
        self._send(200, self._object())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeCluster]]:
    handler = type("Handler", (FakeCluster,), {"calls": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://{}:{}".format(*server.server_address)}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig")
    )
    monkeypatch.setattr("llmops_components.serving.deploy._CLUSTER_POLL_SECONDS", 0.05)
    yield handler
    server.shutdown()


def test_on_a_cluster_creates_then_patches(cluster: type[FakeCluster], tmp_path: Path) -> None:
    manifest = manifest_for("s3://models/helper")
    path = "/apis/serving.kserve.io/v1beta1/namespaces/team/inferenceservices"

    report = deploy_model(tmp_path / "service", manifest=manifest, target="kserve", timeout_seconds=5)
    assert report.details["revision"] == "helper-predictor-00001"
    assert cluster.stored is not None
    assert cluster.stored["spec"] == manifest["spec"]
    deploy_model(tmp_path / "service", manifest=manifest, target="kserve", timeout_seconds=5)

    assert cluster.calls == [("POST", path), ("POST", path), ("PATCH", f"{path}/helper")]


def test_on_a_cluster_a_service_that_is_to_have_a_key_must_ask_for_it(
    cluster: type[FakeCluster], tmp_path: Path
) -> None:
    manifest = manifest_for("s3://models/helper")
    reference = {"secretKeyRef": {"name": "team-keys", "key": "api-key"}}
    manifest["spec"]["predictor"]["model"]["env"] = [{"name": "VLLM_API_KEY", "valueFrom": reference}]
    cluster.key = "the-key-0123456789"
    deploy_model(tmp_path / "service", manifest=manifest, target="kserve", timeout_seconds=5)

    cluster.key = None
    with pytest.raises(
        SettingError, match="answers without an API key although its manifest has VLLM_API_KEY"
    ):
        deploy_model(tmp_path / "service", manifest=manifest, target="kserve", timeout_seconds=5)


def test_on_a_cluster_a_service_that_does_not_get_ready_is_an_error(
    cluster: type[FakeCluster], tmp_path: Path
) -> None:
    cluster.ready = False
    with pytest.raises(
        UnavailableError, match="Deploying InferenceService team/helper failed: Timeout to start"
    ):
        deploy_model(
            tmp_path / "service",
            manifest=manifest_for("s3://models/helper"),
            target="kserve",
            timeout_seconds=0.2,
        )
