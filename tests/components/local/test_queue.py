"""What the process of a run does for those that wait, whatever the files are; the provider's tests hold the same of its side."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
from broken_files import BROKEN
from llmops_components.local import queue
from llmops_components.state_files import read_json, write_json


@pytest.fixture
def root(tmp_path):
    (tmp_path / "slots").mkdir()
    return tmp_path


def queued(root: Path, number: int, *command: str, **environment: str) -> Path:
    run = root / "runs" / str(uuid.UUID(int=number, version=5))
    run.mkdir(parents=True)
    (run / "lock").touch()
    known = {"command": command or ("/bin/sh", "-c", "touch started"), "environment": environment}
    write_json(root / "queue" / f"{number:020d}.{run.name}", known)
    return run


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def was_started(run: Path) -> bool:
    return (run / "started").exists()


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("what", ["slot", "ticket", "lock", "log.txt"])
def test_whatever_a_file_of_the_queue_is_the_others_start(root, what, how):
    bad, good = queued(root, 1), queued(root, 2)
    (ticket,) = (root / "queue").glob(f"*.{bad.name}")
    BROKEN[how]({"slot": root / "slots/0", "ticket": ticket}.get(what, bad / what))
    wait_until(lambda: queue.start_next(root, 1) or was_started(good))
    wait_until(lambda: queue.start_next(root, 1) or not queue.tickets(root))
    if what == "ticket":
        assert "cannot be read: " in read_json(bad / "state.json")["error"]["message"]


def test_who_comes_in_while_a_run_ends_is_started(root):
    (root / "queue").mkdir()
    with (root / "queue/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        starting = threading.Thread(target=queue.start_next, args=(root, 1))
        starting.start()
        starting.join(0.2)
        run = queued(root, 1)
    starting.join()
    wait_until(lambda: was_started(run))
    assert queue.tickets(root) == []


def test_run_whose_lock_is_held_keeps_its_ticket(root):
    run = queued(root, 1)
    with (run / "lock").open() as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_SH)
        queue.start_next(root, 1)
        assert queue.is_waiting(run)
    queue.start_next(root, 1)
    wait_until(lambda: was_started(run))


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_fork_that_the_machine_refuses_costs_nobody_a_start(root, number, monkeypatch):
    runs = [queued(root, each) for each in range(3)]

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as refusing:
        refusing.setattr(subprocess, "Popen", refuse)
        queue.start_next(root, 1)
        queue.start_next(root, 1)
    assert [queue.is_waiting(run) for run in runs] == [True] * 3
    reason = f"waiting: its process cannot be started: [Errno {number}] {os.strerror(number)}\n"
    assert (runs[0] / "log.txt").read_text() == reason
    queue.start_next(root, 3)
    wait_until(lambda: all(map(was_started, runs)))


def test_runs_wait_for_an_interpreter_that_is_being_made_anew(root):
    runs = [queued(root, number, "/no/such/python") for number in range(3)]
    queue.start_next(root, 1)
    queue.start_next(root, 1)
    assert [queue.is_waiting(run) for run in runs] == [True] * 3
    assert (
        runs[0] / "log.txt"
    ).read_text() == "waiting: /no/such/python is not there, or cannot be started\n"


@pytest.mark.parametrize("environment", [{"A=B": "1"}, {"A": "x\0y"}, {"A": "\u4e2d"}])
def test_what_no_process_can_be_given_fails_that_run_alone(root, environment):
    bad, good = queued(root, 1, **environment), queued(root, 2)
    queue.start_next(root, 1)
    wait_until(lambda: was_started(good))
    state = read_json(bad / "state.json")
    assert (state["state"], state["error"]["type"]) == ("FAILED", "NotStarted")


def test_environment_of_a_run_that_waits_need_not_be_unicode(root):
    run = queued(root, 1, "/bin/sh", "-c", 'printf %s "$TEXT" > text; touch started', TEXT="caf\xe9")
    queue.start_next(root, 1)
    wait_until(lambda: was_started(run))
    assert (run / "text").read_bytes() == b"caf\xe9"


@pytest.mark.parametrize("content", [b"", b"\0" * 36, b"../../..", bytes(range(256))])
def test_slot_that_names_no_run_is_taken_all_the_same(root, content):
    run = root / "runs" / str(uuid.uuid4())
    (root / "slots/0").write_bytes(content)
    with (root / "slots/0").open("r+b") as slot:
        queue.take_slot(slot.fileno(), run)
    assert (root / "slots/0").read_text() == run.name


def test_what_a_killed_run_has_left_is_stopped_whichever_links_lead_to_it(root):
    link = root / "link"
    link.symlink_to(root)
    last, run = (queued(root, number) for number in range(2))
    (root / "slots/0").write_text(last.name)
    environment = {"LLMOPS_RUN_DIR": str(link / "runs" / last.name)}
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=environment)
    try:
        wait_until(lambda: Path(f"/proc/{left.pid}/environ").read_text().startswith("LLMOPS_RUN_DIR"))
        with (last / "lock").open() as lock, (root / "slots/0").open("r+b") as slot:
            fcntl.flock(lock, fcntl.LOCK_EX)  # it lives, and gives disk space back
            queue.take_slot(slot.fileno(), run)
            assert left.poll() is None
            (root / "slots/0").write_text(last.name)
            fcntl.flock(lock, fcntl.LOCK_UN)
            queue.take_slot(slot.fileno(), run)
        assert left.wait(5) != 0
    finally:
        left.kill()
        left.wait()
