"""The files of services on this machine: whatever is in them, status tells of it, and apply and delete proceed."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import psutil
import pytest
from broken_files import BROKEN
from llmops_components.errors import InputError, UnavailableError
from llmops_components.serving.detached import processes
from llmops_components.serving.local import controller
from llmops_components.serving.local.command import main
from llmops_components.serving.local.controller import LocalServing
from llmops_components.serving.local.home import ServiceHome, ServiceNotFoundError
from llmops_components.state_files import StateFileError, write_json


@pytest.fixture
def serving(tmp_path: Path) -> LocalServing:
    """Two services whose predictors have stopped; no process was needed for them."""
    for name in ("broken", "whole"):
        home = tmp_path / "services" / "default" / name
        facts = {"digest": "sha256:0", "url": "http://127.0.0.1:1", "model_name": name, "ignored": []}
        for number in (1, 2):
            revision = home / "revisions" / f"{number:05d}"
            write_json(revision / "facts.json", facts)
            write_json(revision / "state.json", {"state": "STOPPED"})
            write_json(revision / "manifest.json", {})
        write_json(
            home / "service.json", {"name": name, "url": "http://127.0.0.1:2", "port": 2, "next_revision": 3}
        )
        write_json(
            home / "routes.json", {"routes": [{"revision": "00002", "url": facts["url"], "weight": 100}]}
        )
    return LocalServing(tmp_path)


def states(serving: LocalServing, name: str) -> list[str]:
    return [revision["state"] for revision in serving.status(name)["revisions"]]


def test_names_are_of_the_services_of_one_namespace(
    serving: LocalServing, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ("other/theirs/revisions/00001", "default/no-service", "default/begun/revisions/00001"):
        (serving.root / "services" / path).mkdir(parents=True)
    assert serving.names() == ["begun", "broken", "whole"]
    assert serving.names("nowhere") == []
    assert main(["names", "--root", str(serving.root), "--namespace", "other"]) == 0
    assert json.loads(capsys.readouterr().out) == {"names": ["theirs"]}
    with pytest.raises(InputError, match="namespace"):
        serving.names("../default")


@pytest.mark.parametrize("name", ["state.json", "facts.json"])
@pytest.mark.parametrize("how", BROKEN)
def test_revision_that_cannot_be_read_has_failed_and_says_which_file(
    serving: LocalServing, how: str, name: str
) -> None:
    file = serving.root / "services/default/broken/revisions/00001" / name
    BROKEN[how](file)
    first, second = serving.status("broken")["revisions"]
    assert (first["state"], second["state"]) == ("FAILED", "STOPPED")
    assert first["error"].startswith(f"{name} cannot be read: ")
    assert first["error"].endswith(f"File: {file}")
    assert states(serving, "whole") == ["STOPPED", "STOPPED"]
    assert serving.delete("broken")["deleted"]
    assert not (serving.root / "services/default/broken").exists()


@pytest.mark.parametrize("name", ["service.json", "routes.json"])
@pytest.mark.parametrize("how", BROKEN)
def test_service_that_cannot_be_read_says_so_and_can_be_deleted(
    serving: LocalServing, how: str, name: str
) -> None:
    BROKEN[how](serving.root / "services/default/broken" / name)
    found = serving.status("broken")
    assert [problem.partition(":")[0] for problem in found["problems"]] == [f"{name} cannot be read"]
    assert (found["name"], states(serving, "broken")) == ("broken", ["STOPPED", "STOPPED"])
    assert serving.delete("broken")["deleted"]
    assert "problems" not in serving.status("whole")


def test_revision_is_not_taken_for_one_without_traffic_where_nobody_can_tell(serving: LocalServing) -> None:
    BROKEN["NUL bytes"](serving.root / "services/default/broken/routes.json")
    with pytest.raises(StateFileError, match=r"^routes\.json cannot be read: "):
        serving.stop_revision("broken", "00001")
    with pytest.raises(InputError, match="has traffic"):
        serving.stop_revision("whole", "00002")


def test_resume_tells_of_the_broken_and_goes_on_with_the_others(
    serving: LocalServing, monkeypatch: pytest.MonkeyPatch
) -> None:
    BROKEN["cut off"](serving.root / "services/default/broken/routes.json")
    monkeypatch.setattr(controller, "resume_service", _resumed_without_processes)
    first, second = serving.resume()
    assert (first["name"], second) == ("broken", {"name": "whole", "namespace": "default"})
    assert first["error"].startswith("routes.json cannot be read: ")


def _resumed_without_processes(home: ServiceHome, service: dict) -> bool:
    return bool(home.routes())


def with_keys(serving: LocalServing) -> tuple[Path, Path]:
    """The service called broken had an access file when its machine was stopped."""
    home, file = serving.root / "services/default/broken", serving.root / "access.json"
    write_json(file, {"keys": [{"name": "alice", "sha256": "0" * 64}]}, private=True)
    for name in ("service.json", "revisions/00002/facts.json"):
        write_json(home / name, json.loads((home / name).read_text()) | {"access_file": str(file)})
    return home, file


def test_resume_starts_no_service_as_an_open_one_that_had_keys(
    serving: LocalServing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "another-services-0123456789")
    home, file = with_keys(serving)
    BROKEN["cut off"](home / "service.json")
    serving.resume()  # the predictors cannot be started, as their manifests are empty; the gateways are
    try:
        service = json.loads((home / "service.json").read_text())
        assert service["access_file"] == str(file)
        refused = httpx.get(f"{service['url']}/openai/v1/models")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        # A service without keys asks for none, whatever the environment of its starter has.
        opened = httpx.get(f"{serving.status('whole')['url']}/openai/v1/models")
        assert opened.status_code == 503
    finally:
        serving.delete("broken")
        serving.delete("whole")


def test_resume_starts_nothing_where_nobody_can_tell_who_may_ask(serving: LocalServing) -> None:
    home, _ = with_keys(serving)
    for name in ("service.json", "revisions/00002/facts.json"):
        BROKEN["cut off"](home / name)
    try:
        resumed = serving.resume()[0]
        assert resumed["name"] == "broken"
        assert resumed["error"].startswith("facts.json cannot be read: ")
        assert not processes.is_running(home / "gateway")
    finally:
        serving.delete("broken")
        serving.delete("whole")


@pytest.mark.parametrize("how", ["missing", "a link to nothing"])
def test_resume_names_a_service_without_its_file_starts_nothing_of_it_and_goes_on(
    serving: LocalServing, how: str
) -> None:
    home = serving.root / "services/default/broken"
    (home / "service.json").unlink()
    if how != "missing":
        (home / "service.json").symlink_to(serving.root / "nothing")
    (serving.root / "services/default/no-service").mkdir()
    try:
        first, second = serving.resume()
        assert (first["name"], second["name"], second["url"]) == (
            "broken",
            "whole",
            serving.status("whole")["url"],
        )
        assert first["error"].startswith("service.json cannot be read: it is missing, or a link to nothing.")
        assert first["error"].endswith(f"File: {home / 'service.json'}")
        assert not processes.is_running(home / "gateway")
        assert not (home / "service.json").exists()
        assert processes.is_running(serving.root / "services/default/whole/gateway")
    finally:
        serving.delete("broken")
        serving.delete("whole")


def test_service_without_traffic_is_none_to_resume_whatever_it_lacks(serving: LocalServing) -> None:
    for name in ("broken", "whole"):
        (serving.root / "services/default" / name / "routes.json").unlink()
    (serving.root / "services/default/broken/service.json").unlink()
    assert serving.resume() == []


def test_service_that_was_deleted_is_not_found(serving: LocalServing) -> None:
    serving.delete("broken")
    with pytest.raises(ServiceNotFoundError):
        serving.status("broken")


def test_stop_signals_only_the_process_that_was_started(tmp_path: Path) -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    stranger = subprocess.Popen(sleeping)
    try:
        pid = processes.start(tmp_path / "ours", sleeping, environment=dict(os.environ))
        started = psutil.Process(pid)
        # Its number was given to another process since, as far as the file says.
        write_json(tmp_path / "ours" / "process.json", {"pid": stranger.pid, "started": 1.0})
        assert processes.is_running(tmp_path / "ours")
        processes.stop(tmp_path / "ours", grace_seconds=5)
        assert not processes.is_running(tmp_path / "ours")
        assert not started.is_running() or started.status() == psutil.STATUS_ZOMBIE
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("how", ["NUL bytes", "a directory", "a list"])
def test_stop_finds_what_it_started_whatever_the_file_says(how: str, tmp_path: Path) -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    processes.start(tmp_path / "ours", sleeping, environment=dict(os.environ))
    BROKEN[how](tmp_path / "ours" / "process.json")
    processes.stop(tmp_path / "ours", grace_seconds=5)
    assert not processes.is_running(tmp_path / "ours")


@pytest.mark.parametrize("known", ["the number alone", "both"])
def test_stop_finds_below_a_link_what_carries_no_mark(known: str, tmp_path: Path) -> None:
    """As an earlier release started it; its time of birth is reckoned anew since the clock was set."""
    (tmp_path / "real/ours").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    directory = tmp_path / "link/ours"
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(sleeping, cwd=directory, pass_fds=[lock.fileno()])
    threading.Thread(target=process.wait, daemon=True).start()
    born = {} if known == "the number alone" else {"started": psutil.Process(process.pid).create_time() + 1.5}
    write_json(directory / "process.json", {"pid": process.pid} | born)
    processes.stop(directory, grace_seconds=5)
    assert not processes.is_running(directory)


def test_stop_says_so_when_it_cannot_know_what_to_stop(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    with (tmp_path / "ours/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(
            UnavailableError, match=r"^The process of ours did not end, or is none that can be known"
        ):
            processes.stop(tmp_path / "ours", grace_seconds=0.1, kill_seconds=0.1)
