"""The controller with real predictor and gateway processes."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from llmops_components.errors import InputError, ModelError, SettingError
from llmops_components.serving.detached import processes
from llmops_components.serving.local.command import main
from llmops_components.serving.local.controller import (
    LocalServing,
)
from llmops_components.serving.local.gateway_process import PortTakenError
from llmops_components.serving.local.home import ServiceHome, ServiceNotFoundError
from llmops_components.serving.local.manifest import read_manifest
from llmops_components.serving.local.revisions import Revision, rules_of
from llmops_components.serving.local.traffic import serves_newer
from llmops_components.state_files import write_json
from running_services import another, ask, manifest_for, processes_below, wait


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[LocalServing]:
    made = LocalServing(tmp_path / "root")
    yield made
    for home in (made.root / "services").glob("*/*"):
        made.delete(home.name, namespace=home.parent.name)
    assert processes_below(made.root) == []


def test_services_with_traffic_come_back_at_their_address(serving: LocalServing, tiny_model: Path) -> None:
    revision = serving.apply(manifest_for(tiny_model))["revision"]
    wait(serving, "helper", revision, "READY")
    assert serving.resume() == []  # nothing has traffic yet
    url = serving.traffic("helper", {revision: 100})["url"]
    assert serving.resume() == []
    home = serving.root / "services/default/helper"
    for directory in (home / "gateway", home / "revisions" / revision):
        processes.stop(directory)
    assert serving.resume() == [{"name": "helper", "namespace": "default", "url": url}]
    wait(serving, "helper", revision, "READY")
    assert ask(url).status_code == 200
    assert [item["traffic"] for item in serving.status("helper")["revisions"]] == [100]


def test_service_whose_model_is_gone_does_not_keep_the_others_from_coming_back(
    serving: LocalServing, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    for name, model in (("a-lost", tmp_path / "model"), ("helper", tiny_model)):
        serving.apply(manifest_for(model, name))
        wait(serving, name, "00001", "READY")
        serving.traffic(name, {"00001": 100})
        for directory in ("gateway", "revisions/00001"):
            processes.stop(serving.root / "services/default" / name / directory)
    shutil.rmtree(tmp_path / "model")
    broken = serving.root / "services/default/a-broken"
    broken.mkdir()
    (broken / "service.json").write_text("{}")
    (broken / "routes.json").write_text('{"routes": [')
    found, lost, back = serving.resume()
    assert found["error"].startswith("routes.json cannot be read: ")
    shutil.rmtree(broken)
    assert f"Model directory {tmp_path / 'model'} does not exist" in lost["error"]
    assert back.keys() == {"name", "namespace", "url"}
    wait(serving, "helper", "00001", "READY")


def test_revision_with_traffic_stays_when_it_is_down(tmp_path: Path) -> None:
    for number in range(1, 14):
        directory = tmp_path / f"revisions/{number:05d}"
        directory.mkdir(parents=True)
        (directory / "facts.json").write_text("{}")
    (tmp_path / "routes.json").write_text(
        json.dumps({"routes": [{"revision": "00001", "url": "http://x", "weight": 100}]})
    )
    ServiceHome(tmp_path).remove_old_revisions()
    left = sorted(path.name for path in (tmp_path / "revisions").iterdir())
    assert left == ["00001", *(f"{number:05d}" for number in range(4, 14))]


def test_status_tells_of_a_gateway_and_a_predictor_that_were_killed(tmp_path: Path) -> None:
    serving = LocalServing(tmp_path)
    home = tmp_path / "services/default/helper"
    revision = home / "revisions/00001"
    for directory in (home / "gateway", revision):
        processes.start(directory, ["sleep", "100"], environment=dict(os.environ))
    facts = {"digest": "sha256:00", "url": "http://127.0.0.1:9", "model_name": "helper", "ignored": []}
    write_json(revision / "facts.json", facts)
    write_json(revision / "state.json", {"state": "READY"})
    write_json(home / "service.json", {"url": "http://127.0.0.1:9", "port": 9, "as_of": "2030-01-01"})
    write_json(home / "routes.json", {"routes": [{"revision": "00001", "url": facts["url"], "weight": 100}]})

    def seen() -> tuple[str, str, bool]:
        found = serving.status("helper")
        is_newer = serves_newer(ServiceHome(home), {"00001": 100}, "2020-01-01")
        return found["gateway"], found["revisions"][0]["state"], is_newer

    assert seen() == ("RUNNING", "READY", True)
    processes.stop(home / "gateway", grace_seconds=0)
    assert seen() == ("STOPPED", "READY", False)
    processes.stop(revision, grace_seconds=0)
    assert seen() == ("STOPPED", "FAILED", False)


def test_the_gateway_is_told_what_a_revision_allows(tiny_model: Path, tmp_path: Path) -> None:
    args = ["--request_timeout_seconds=7", '--allowed_origins=["https://a.example"]', "--allowed_hosts=a, b"]
    spec = read_manifest(manifest_for(tiny_model, args=args))
    rules = rules_of(spec)
    assert rules == {
        "timeout_seconds": 7.0,
        "allowed_origins": ["https://a.example"],
        "allowed_hosts": ["a", "b"],
    }
    write_json(tmp_path / "facts.json", {"digest": "d", "url": "u"} | rules)
    write_json(tmp_path / "routes.json", {"routes": [Revision(tmp_path).route(100)]})
    (route,) = ServiceHome(tmp_path).routes()
    assert {key: route[key] for key in rules} == rules


def test_a_service_from_apply_to_delete(serving: LocalServing, tiny_model: Path) -> None:
    manifest = manifest_for(tiny_model)
    started = time.monotonic()
    applied = serving.apply(manifest)
    assert time.monotonic() - started < 2
    assert applied["ignored"] == []  # one replica is what runs here
    assert {
        key: applied[key] for key in ("name", "namespace", "revision", "state", "traffic", "created")
    } == {
        "name": "helper",
        "namespace": "default",
        "revision": "00001",
        "state": "STARTING",
        "traffic": 0,
        "created": True,
    }
    assert serving.apply(manifest)["created"] is False
    with pytest.raises(InputError, match=r"00001 of helper: it is STARTING, not READY"):
        serving.traffic("helper", {"00001": 100})

    # A second revision starts at the same time; only the traffic command decides who serves.
    second = serving.apply(another(manifest, "sha256:11"))
    assert second["revision"] == "00002"
    wait(serving, "helper", "00001", "READY")
    wait(serving, "helper", "00002", "READY")
    # Nothing has been answered, nor counted, before there is a gateway.
    found = serving.status("helper")
    assert serving.apply(manifest) | {"answered": None} == found["revisions"][0] | {"created": False}
    assert found["stable"] is None
    with pytest.raises(SettingError, match="add up to 100"):
        serving.traffic("helper", {"00001": 90})

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"port {port}: Address already in use"):
            serving.traffic("helper", {"00001": 100}, port=port)
    service = serving.traffic("helper", {"00001": 100}, port=port)
    assert service["url"] == f"http://127.0.0.1:{port}"
    assert [(item["state"], item["traffic"]) for item in service["revisions"]] == [
        ("READY", 100),
        ("READY", 0),
    ]
    assert ask(service["url"]).headers["x-llmops-revision"] == "00001"

    # Clients hammer the stable address while the traffic moves and the old revision is stopped.
    answers: Counter[tuple[int, str | None]] = Counter()
    switched = threading.Event()

    def hammer() -> None:
        connection = http.client.HTTPConnection(urlsplit(service["url"]).netloc, timeout=60)
        body = json.dumps({"model": "helper", "prompt": "Hi", "max_tokens": 3, "temperature": 0})
        after = 0
        while after < 5:
            after += switched.is_set()
            connection.request("POST", "/openai/v1/completions", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            answers[answer.status, answer.headers["x-llmops-revision"]] += 1

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(hammer) for _ in range(4)]
        try:
            time.sleep(0.5)
            service = serving.traffic("helper", {"00002": 100})
        finally:
            switched.set()
        for client in clients:
            client.result()
    assert set(answers) == {(200, "00001"), (200, "00002")}
    assert [(item["state"], item["traffic"]) for item in service["revisions"]] == [
        ("STOPPED", 0),
        ("READY", 100),
    ]
    assert service["url"] == f"http://127.0.0.1:{port}"
    home = serving.root / "services/default/helper"
    assert json.loads((home / "manifest.json").read_text()) == another(manifest, "sha256:11")

    # Killed without a chance to say anything.
    pid = json.loads((home / "revisions/00002/process.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while (failed := serving.status("helper")["revisions"][1])["state"] != "FAILED":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert failed["error"].startswith("the process is gone without a last word (killed")
    assert "Serving helper at http://127.0.0.1:" in failed["error"]
    assert ask(service["url"]).status_code == 503
    for path in ("/v2/health/ready", "/v2/health/live", "/v1/models/helper"):
        assert httpx.get(service["url"] + path).status_code == 503

    assert len(processes_below(serving.root)) == 1  # the gateway
    assert serving.delete("helper") == {"name": "helper", "namespace": "default", "deleted": True}
    assert processes_below(serving.root) == []
    assert list((serving.root / "services").rglob("*")) == []


def test_a_failing_new_revision_says_why_and_leaves_the_old_one_serving(
    serving: LocalServing, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMOPS_RUN_DIR", "/some/run")
    serving.apply(manifest_for(tiny_model))
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    (broken / "model.safetensors").write_bytes(b"not safetensors at all")
    serving.apply(manifest_for(broken))
    failed = wait(serving, "helper", "00002", "FAILED", "READY")
    assert failed["state"] == "FAILED"
    assert "cannot be loaded" in failed["error"]

    wait(serving, "helper", "00001", "READY")
    process = psutil.Process(
        json.loads((serving.root / "services/default/helper/revisions/00001/process.json").read_text())["pid"]
    )
    assert "LLMOPS_RUN_DIR" not in process.environ()
    assert process.environ()["OMP_NUM_THREADS"] == "1"
    url = serving.traffic("helper", {"00001": 100})["url"]
    with pytest.raises(InputError, match="it is FAILED, not READY"):
        serving.traffic("helper", {"00002": 100})
    with pytest.raises(InputError, match="has traffic"):
        serving.delete("helper", revision="00001")
    serving.delete("helper", revision="00002")
    assert [item["revision"] for item in serving.status("helper")["revisions"]] == ["00001"]
    assert ask(url).status_code == 200

    # The gateway comes back on its own port after it was killed.
    home = serving.root / "services/default/helper"
    os.kill(json.loads((home / "gateway/process.json").read_text())["pid"], signal.SIGKILL)
    while serving.status("helper")["gateway"] == "RUNNING":
        time.sleep(0.02)
    assert serving.traffic("helper", {"00001": 100})["url"] == url
    assert ask(url).status_code == 200


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"storageUri": "s3://bucket/model"}, SettingError, "Cannot read storageUri 's3://bucket/model'"),
        ({"storageUri": "relative/dir"}, SettingError, "relative path"),
        (
            {"storageUri": "/no/such/dir"},
            ModelError,
            "Model directory /no/such/dir does not exist",
        ),
        ({"modelFormat": {"name": "sklearn"}}, SettingError, "Cannot serve modelFormat 'sklearn'"),
        ({"args": ["--max_lenght=5"]}, SettingError, "'max_lenght' (did you mean 'max_length'?)"),
        ({"args": ["--dtype"]}, SettingError, "--dtype needs a value"),
        (
            {"args": ["--allowed_origins=[1]"]},
            SettingError,
            "'[1]' is no origin of a page: write it as in",
        ),
        ({"args": ["--allowed_hosts=[a"]}, SettingError, "'[a' is no name of a host: write it as in"),
        ({"args": ["--request_timeout_seconds=nan"]}, SettingError, "takes a number of seconds above 0"),
        ({"args": ["stray"]}, SettingError, "'stray' belongs to no argument"),
        ({"env": [{"name": "A", "valueFrom": {}}]}, SettingError, "'A' needs a plain string value"),
        ({"image": "x"}, SettingError, "Unknown field in spec.predictor.model: 'image'"),
    ],
)
def test_a_manifest_that_cannot_be_carried_out_is_refused_before_anything_starts(
    tmp_path: Path, tiny_model: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as refused:
        LocalServing(tmp_path / "root").apply(manifest_for(tiny_model, **change))
    assert message in str(refused.value)
    assert not (tmp_path / "root").exists()


def test_other_kinds_and_unsafe_names_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    serving = LocalServing(tmp_path / "root")
    with pytest.raises(SettingError, match="v1alpha2 LLMInferenceService"):
        serving.apply({"apiVersion": "serving.kserve.io/v1alpha2", "kind": "LLMInferenceService"})
    with pytest.raises(SettingError, match="'transformer'"):
        made = manifest_for(tiny_model)
        made["spec"]["transformer"] = {}
        serving.apply(made)
    for name in ("../up", "Upper", "-a", "a/b", "", "a" * 64):
        with pytest.raises(SettingError, match="Invalid service name"):
            serving.apply(manifest_for(tiny_model, name=name))
        with pytest.raises(SettingError, match="Invalid service name"):
            serving.delete(name)
    with pytest.raises(ServiceNotFoundError, match="There is no service 'nobody' in namespace 'default'"):
        serving.status("nobody")
    assert not (tmp_path / "root").exists()


def test_a_model_without_weights_or_with_pickled_ones_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no \*\.safetensors weights"):
        read_manifest(manifest_for(model))
    (model / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"pytorch_model.bin is a pickle, which is never loaded"):
        read_manifest(manifest_for(model))


def test_arguments_of_gpu_servers_are_ignored_by_name(tiny_model: Path) -> None:
    args = ["--model_name=m", "--max-model-len", "64", "--tensor-parallel-size=2", "--enforce_eager"]
    spec = read_manifest(manifest_for(tiny_model, args=args, resources={"limits": {"nvidia.com/gpu": 1}}))
    assert spec.arguments == {"model_name": "m", "max_model_len": "64"}
    assert spec.ignored == (
        "spec.predictor.model.resources",
        "--tensor_parallel_size",
        "--enforce_eager",
    )


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("logger", {"url": "http://events"}, "requests and answers are sent to no address"),
        ("storageUris", [{"uri": "hf://a"}], "the local predictor serves one model without lora_adapters"),
    ],
)
def test_what_would_make_another_service_of_it_is_refused(tiny_model: Path, field, value, text) -> None:
    manifest = manifest_for(tiny_model)
    manifest["spec"]["predictor"][field] = value
    with pytest.raises(SettingError, match=rf"spec\.predictor\.{field} .*: {text}"):
        read_manifest(manifest)


def test_more_replicas_than_run_here_are_ignored_by_name(tiny_model: Path) -> None:
    manifest = manifest_for(tiny_model)
    assert manifest["spec"]["predictor"]["minReplicas"] == 1
    manifest["spec"]["predictor"] |= {"minReplicas": 2, "maxReplicas": 3}
    assert read_manifest(manifest).ignored == ("spec.predictor.minReplicas", "spec.predictor.maxReplicas")


def test_command_prints_one_json_object_also_for_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "nobody", "--root", str(tmp_path)]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "error": {
            "type": "ServiceNotFoundError",
            "message": f"There is no service 'nobody' in namespace 'default' under {tmp_path}.",
            "retryable": False,
        }
    }


def test_concurrent_applies_of_one_manifest_make_one_revision(
    serving: LocalServing, tiny_model: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "llmops_components.serving.local",
        "apply",
        "-",
        "--root",
        str(serving.root),
    ]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    with ThreadPoolExecutor(4) as pool:
        text = json.dumps(manifest_for(tiny_model))
        answers = [json.loads(out) for out, _ in pool.map(lambda process: process.communicate(text), running)]

    assert sorted(answer["created"] for answer in answers) == [False, False, False, True]
    assert {answer["revision"] for answer in answers} == {"00001"}


def test_controller_imports_the_standard_library_and_psutil_alone() -> None:
    code = (
        "import sys, time; before = set(sys.modules); import llmops_components.serving.local.command as l;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new - set(sys.stdlib_module_names) - {'llmops_components', 'psutil'}))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_a_lock_is_held_for_as_long_as_the_process_lives(tmp_path: Path) -> None:
    assert not processes.is_running(tmp_path)
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    processes.start(tmp_path, [sys.executable, "-c", stubborn], environment=dict(os.environ))
    while processes.log_tail(tmp_path) != "up":
        time.sleep(0.01)
    assert processes.is_running(tmp_path)

    started = time.monotonic()
    processes.stop(tmp_path, grace_seconds=0.2)

    assert not processes.is_running(tmp_path)
    assert 0.2 <= time.monotonic() - started < 3
