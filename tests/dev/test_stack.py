"""The stack's own tools: ports, and an end that reaches every process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import _postgres
import _stack
import _updown
import httpx
import psutil
import pytest
from _airflow_api import AirflowApi, StackError
from _places import DATA_PYTHON, REPOSITORY
from _processes import MARK, free_ports, marked_processes, stop_processes
from _stack import Stack
from _stack_connections import make_access_file
from _stack_home import airflow_settings
from broken_files import BROKEN

DETACHED_CHILD = """
import signal, subprocess, sys, time
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""


def start_marked(directory: Path, manner: str = "") -> subprocess.Popen[str]:
    """A process of a stack with a child in a session of its own, as a pipeline run is."""
    process = subprocess.Popen(
        [sys.executable, "-c", DETACHED_CHILD, manner],
        env={**os.environ, MARK: str(directory)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_free_ports_are_different_and_can_be_bound() -> None:
    ports = free_ports(8)
    assert len(set(ports)) == 8
    for port in ports:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_preferred_port_is_used_when_free_and_passed_over_when_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy, free = taken.getsockname()[1], free_ports(1)[0]
        first, second = free_ports(2, (busy, free))
    assert first not in (busy, free)
    assert second == free


@pytest.mark.parametrize(("taken", "starts"), [(True, [False, True]), (False, [False])])
def test_start_takes_other_ports_only_if_somebody_was_quicker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool, starts: list[bool]
) -> None:
    stack, seen = Stack(tmp_path), []
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        if taken:
            other.listen()
        else:
            other.close()

        def start(fresh_ports: bool = False) -> None:
            seen.append(fresh_ports)
            if not fresh_ports:
                stack.state = {"airflow_port": port, "mlflow_port": None}
                raise StackError("The api-server ended.")

        monkeypatch.setattr(stack, "_start", start)
        with contextlib.nullcontext() if taken else pytest.raises(StackError, match="api-server ended"):
            stack.start()
    assert seen == starts


def test_a_stack_knows_its_own_listeners_from_those_of_others(tmp_path: Path) -> None:
    code = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); time.sleep(60)"
    with socket.create_server(("127.0.0.1", 0)):
        own = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, MARK: str(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert own.stdout is not None
        port = int(own.stdout.readline())
        listening = Stack(tmp_path)._listening()
        stop_processes(tmp_path)
        own.wait()
    assert listening == {port}


def test_stop_reaches_detached_and_stubborn_processes_and_spares_other_stacks(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    start_marked(mine)
    start_marked(mine, "stubborn")
    bystander = start_marked(other)
    try:
        assert len(marked_processes(mine)) == 4
        assert stop_processes(mine, grace_seconds=1) == 4
        assert marked_processes(mine) == []
        assert len(marked_processes(other)) == 2
    finally:
        stop_processes(other, grace_seconds=1)
        bystander.wait()


def test_stop_never_ends_the_process_that_calls_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(_stack.__file__).parent)!r}); import _processes; print(_processes.stop_processes({str(tmp_path)!r}))"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, MARK: str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "0\n"


def test_settings_of_another_airflow_do_not_reach_the_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.com")
    monkeypatch.setenv("NO_PROXY", "intranet")
    stack = Stack(tmp_path, with_mlflow=False)
    environment = stack.environment()
    assert "AIRFLOW__CORE__EXECUTOR" not in environment
    assert "MLFLOW_TRACKING_URI" not in environment
    assert environment["NO_PROXY"] == "intranet,127.0.0.1,localhost"
    assert environment[MARK] == str(tmp_path)
    assert not any(name.startswith("AIRFLOW_CONN_") for name in environment)


def test_secrets_are_for_the_owner_only_and_kept_for_the_next_start(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    stack.configure(fresh_ports=False)
    modes = {
        path.name: path.stat().st_mode & 0o777
        for path in tmp_path.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    assert modes == {
        "stack.json": 0o600,
        "airflow.cfg": 0o600,
        "simple_auth_manager_passwords.json.generated": 0o600,
    }
    again = Stack(tmp_path)
    again.configure(fresh_ports=False)
    assert again.state == stack.state


def test_mlflow_takes_a_password_of_its_own_that_no_command_line_and_no_other_process_has(
    tmp_path: Path,
) -> None:
    stack = Stack(tmp_path)
    stack.configure(fresh_ports=False)
    user, password = stack.mlflow_login
    assert user == "admin"
    assert len(password) >= 12 and password != stack.password
    command = stack._mlflow_command()
    assert command[-2:] == ["--app-name", "basic-auth"]
    assert not [part for part in command if password in part]
    own = stack._mlflow_secrets()
    assert own["MLFLOW_AUTH_ADMIN_PASSWORD"] == password
    settings = Path(own["MLFLOW_AUTH_CONFIG_PATH"]).read_text(encoding="utf-8")
    assert "default_permission = NO_PERMISSIONS" in settings
    assert password not in settings
    assert not [value for value in stack.environment().values() if password in value]
    assert (tmp_path / "mlflow").stat().st_mode & 0o777 == 0o700
    assert f"MLflow    {stack.mlflow_url}   user admin   password {password}" in _updown.addresses(stack)


def test_users_of_mlflow_are_made_anew_where_nobody_knows_the_password(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    stack.configure(fresh_ports=False)
    stack._mlflow_command()
    (tmp_path / "mlflow/users.db").write_bytes(b"users")
    Stack(tmp_path).configure(fresh_ports=False)
    assert (tmp_path / "mlflow/users.db").exists()
    (tmp_path / "stack.json").unlink()
    Stack(tmp_path).configure(fresh_ports=False)
    assert not (tmp_path / "mlflow/users.db").exists()


def test_stack_of_an_earlier_version_that_runs_says_where_it_is(tmp_path: Path) -> None:
    state = {"airflow_port": 8080, "mlflow_port": 5000, "password": "p", "fernet_key": "k"}
    (tmp_path / "stack.json").write_text(json.dumps(state), encoding="utf-8")
    stack = Stack.load(tmp_path)
    assert stack is not None
    again = f"no password yet; stop it with dev/down {tmp_path.name} and start it again for one"
    assert _updown.addresses(stack).splitlines()[:2] == [
        "Airflow   http://127.0.0.1:8080   user admin   password p",
        f"MLflow    http://127.0.0.1:5000   {again}",
    ]


@pytest.mark.parametrize("how", BROKEN)
def test_state_that_cannot_be_read_is_put_aside_and_connections_stay_readable(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Stack(tmp_path)
    before.configure(fresh_ports=False)
    BROKEN[how](tmp_path / "stack.json")
    after = Stack(tmp_path)
    after.configure(fresh_ports=False)
    assert after.state["fernet_key"] == before.state["fernet_key"]
    assert after.password != before.password
    assert os.path.lexists(tmp_path / "stack.json.unreadable")
    said = capsys.readouterr().err
    assert said.startswith("The stack's stack.json cannot be read: ")
    assert said.endswith("It is now stack.json.unreadable; its passwords are made anew.\n")


@pytest.mark.parametrize("how", ["NUL bytes", "gone"])
def test_no_stack_is_started_beside_one_whose_state_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    monkeypatch.setattr(_updown, "STACKS", tmp_path)
    directory = tmp_path / "default"
    directory.mkdir()
    if how != "gone":
        BROKEN[how](directory / "stack.json")
    running = start_marked(directory)
    try:
        assert _updown.up([]) == 1
        assert "the stack runs, and its stack.json is gone or cannot be read" in capsys.readouterr().err
        with pytest.raises(StackError, match="already running; stop it first"):
            Stack(directory).start()
        assert running.poll() is None
    finally:
        stop_processes(directory)


def test_failed_start_names_the_log_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho the database is locked\nexit 3\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setattr(_stack, "CONTROL_PYTHON", broken)
    stack = Stack(tmp_path / "stack", with_mlflow=False)
    with pytest.raises(StackError) as error:
        stack.start()
    log = tmp_path / "stack/logs/db-migrate.log"
    assert str(error.value) == (
        f"The db-migrate ended with exit code 3. Its last lines:\n    the database is locked\nLog: {log}"
    )
    assert marked_processes(tmp_path / "stack") == []


def test_down_stops_what_is_there_and_says_when_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_updown, "STACKS", tmp_path)
    for name in ("default", "demo-1"):
        (tmp_path / name).mkdir()
    process = start_marked(tmp_path / "demo-1")
    assert _updown.down(["--all"]) == 0
    # Other stacks may run on the machine, and are told of behind these.
    assert capsys.readouterr().out.splitlines()[:2] == [
        "default: was not running.",
        "demo-1: stopped 2 processes.",
    ]
    process.wait()
    assert _updown.down(["--all"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "default: was not running.",
        "demo-1: was not running.",
    ]
    assert _updown.down(["--delete", "demo-1"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["default"]


@pytest.mark.parametrize(("failures", "is_answered"), [(0, True), (2, True), (3, False)])
def test_request_that_the_database_took_back_is_sent_again(
    monkeypatch: pytest.MonkeyPatch, failures: int, is_answered: bool
) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": "token"})
        asked.append(request)
        if len(asked) <= failures:
            return httpx.Response(500, json={"detail": {"reason": "Database error"}})
        return httpx.Response(200, json={"state": "success"})

    client = partial(httpx.Client, transport=httpx.MockTransport(answer))
    monkeypatch.setattr(httpx, "Client", client)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    api = AirflowApi("http://127.0.0.1:1", "admin", "password")
    if is_answered:
        assert api.dag_run("dag", "run") == {"state": "success"}
        assert len(asked) == failures + 1
    else:
        with pytest.raises(StackError, match=r"with 500: .*Database error"):
            api.dag_run("dag", "run")


@pytest.mark.parametrize("name", ["..", "../elsewhere", "/etc", "", ".hidden"])
def test_down_refuses_names_that_are_paths(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        _updown.down(["--delete", name])
    assert stopped.value.code == 2
    assert "is not a name of a stack" in capsys.readouterr().err


def wait_for(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def processes_with(marker: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if marker in process.environ() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


# What the stand-in for Airflow and MLflow does: db migrate takes a moment, everything else runs on.
STAND_IN = """#!/bin/sh
case "$*" in
    *"db migrate"*) sleep 1 ;;
    *) sleep 600 & sleep 600 ;;
esac
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["migrating", "starting", "running"])
def test_interrupted_demo_leaves_no_process(tmp_path: Path, moment: str, number: int) -> None:
    marker = f"LLMOPS_TEST_{os.getpid()}_{moment}_{int(number)}"
    stand_in = tmp_path / "python"
    stand_in.write_text(STAND_IN, encoding="utf-8")
    stand_in.chmod(0o755)
    healthy = moment == "running"
    script = f"""
import sys; sys.path.insert(0, {str(Path(_stack.__file__).parent)!r})
from functools import partial
from pathlib import Path
import _stack, _demo, time
_stack.CONTROL_PYTHON = _stack.DATA_PYTHON = Path({str(stand_in)!r})
_demo.STACKS = Path({str(tmp_path / "stacks")!r})
_stack.stop_processes.__defaults__ = (0.5,)
_stack.Stack.is_running = lambda self: {healthy}
_stack.Stack._mlflow_answers = lambda self: True
_stack.Stack._connect = lambda self: None
_stack.Stack._listening = lambda self: self._ports()
def run(*_):
    print("running", flush=True)
    time.sleep(600)
_demo._run = run
sys.exit(_demo.main(["--keep"]))
"""
    demo = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, marker: "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As a shell starts what is put into the background: with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    # The demo; MLflow and two sleeps beside the migration and its sleep; later Airflow's four with two sleeps each.
    wait_for(lambda: len(processes_with(marker)) >= (4 if moment == "migrating" else 16))
    if moment == "running":
        assert demo.stdout is not None
        while demo.stdout.readline() not in ("running\n", ""):
            pass
    demo.send_signal(number)
    if moment == "starting":
        # An impatient second one must not cut the cleaning-up short.
        time.sleep(0.2)
        demo.send_signal(number)
    _, errors = demo.communicate(timeout=30)
    assert processes_with(marker) == []
    assert demo.returncode == 130, errors
    assert errors == "\nInterrupted; stopping everything, which takes a few seconds.\n"


def test_connections_are_in_the_database_and_only_that_of_mlflow_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": "token"})
        sent.append((request.method, request.url.path, json.loads(request.content)["actions"]))
        return httpx.Response(200, json={"create": {"success": [], "errors": []}})

    monkeypatch.setattr(httpx, "Client", partial(httpx.Client, transport=httpx.MockTransport(answer)))
    stack = Stack(tmp_path)
    stack.state = {"airflow_port": 1, "mlflow_port": 5001, "password": "p", "mlflow_password": "m"}
    stack._connect()
    ((action,), (mlflow,)) = [actions for _, _, actions in sent]
    assert [(method, path) for method, path, _ in sent] == [("PATCH", "/api/v2/connections")] * 2
    assert [entity["connection_id"] for entity in action["entities"]] == [
        "kubeflow_default",
        "kserve_default",
    ]
    assert json.loads(action["entities"][0]["extra"]) == {
        "python": str(DATA_PYTHON),
        "root": str(tmp_path / "llmops"),
    }
    assert json.loads(action["entities"][1]["extra"]) == {
        "python": str(DATA_PYTHON),
        "root": str(tmp_path / "llmops"),
        "access_file": str(tmp_path / "access.json"),
        "api_key_file": str(tmp_path / "api-key"),
    }
    assert action["action_on_existence"] == "skip"
    entity = mlflow["entities"][0]
    assert (mlflow["action_on_existence"], entity["port"]) == ("overwrite", 5001)
    assert (entity["login"], entity["password"]) == ("admin", "m")


def test_folders_of_dags_are_bundles_beside_ours(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    stack = Stack(tmp_path / "stack", more_dags=[mine], with_mlflow=False)
    stack.configure(fresh_ports=False)
    settings = airflow_settings(stack)
    bundles = json.loads(settings["dag_processor"]["dag_bundle_config_list"])
    assert [(bundle["name"], bundle["kwargs"]) for bundle in bundles] == [
        ("dags-folder", {}),
        ("dags-1-mine", {"path": str(mine)}),
    ]
    assert settings["core"]["dags_folder"] == str(REPOSITORY / "dags")


def test_airflow_runs_in_the_environment_of_the_stack_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$AIRFLOW_HOME $*"\nexit 3\n', encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(_updown, "CONTROL_PYTHON", python)
    monkeypatch.setattr(_updown, "STACKS", tmp_path)
    for name in ("default", "other"):
        stack = Stack(tmp_path / name)
        stack.configure(fresh_ports=False)
    assert _updown.airflow(["dags", "list", "--stack", "x"]) == 3
    assert _updown.airflow(["--stack", "other", "version"]) == 3
    assert _updown.airflow(["--stack=other"]) == 3
    assert capfd.readouterr().out.splitlines() == [
        f"{tmp_path}/default/airflow -m airflow dags list --stack x",
        f"{tmp_path}/other/airflow -m airflow version",
        f"{tmp_path}/other/airflow -m airflow",
    ]
    assert _updown.airflow(["--stack", "nowhere", "version"]) == 1
    assert "no stack 'nowhere'; start it with dev/up. There are: default, other." in capfd.readouterr().err


def test_down_says_what_else_runs_and_what_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_updown, "STACKS", tmp_path)
    home = tmp_path / "default/llmops/services/default/bot"
    home.mkdir(parents=True)
    (home / "routes.json").write_text('{"routes": [{"revision": "00001", "weight": 100}]}', encoding="utf-8")
    (tmp_path / "other").mkdir()
    other = start_marked(tmp_path / "other")
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    loose = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)", "llmops_components.serving.predictor"],
        env=environment,
        cwd=tmp_path,
    )
    try:
        assert _updown.down([]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[:2] == ["default: was not running.", "  dev/up starts again: default/bot"]
        assert "Still up: other, 2 processes (dev/down other)" in lines
        assert f"  a service's predictor, process {loose.pid}, in {tmp_path}" in lines
    finally:
        loose.kill()
        loose.wait()
        stop_processes(tmp_path / "other", grace_seconds=1)
        other.wait()


def test_services_of_a_stack_have_one_key_that_only_its_owner_can_read(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    assert stack.api_key is None
    file, key = make_access_file(stack), stack.api_key
    assert key is not None
    assert key.startswith("sk-llmops-")
    assert make_access_file(stack) == file
    assert stack.api_key == key
    assert [each["name"] for each in json.loads(file.read_text())["keys"]] == ["stack"]
    assert key not in file.read_text()
    assert {path.stat().st_mode & 0o777 for path in (file, stack.api_key_file)} == {0o600}


def test_stack_keeps_the_kind_of_database_that_it_was_made_with(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "old", with_mlflow=False)
    stack.configure(fresh_ports=False)
    assert not stack.on_postgresql
    with pytest.raises(
        StackError, match=r"^This stack keeps Airflow's state in SQLite, which does not change"
    ):
        Stack(tmp_path / "old", with_mlflow=False, database="postgresql").configure(fresh_ports=False)
    stack = Stack(tmp_path / "new", with_mlflow=False, database="postgresql")
    stack.configure(fresh_ports=False)
    again = Stack(tmp_path / "new", with_mlflow=False)
    again.configure(fresh_ports=False)
    assert again.on_postgresql
    assert again.state["database_password"] == stack.state["database_password"]
    address = airflow_settings(again)["database"]["sql_alchemy_conn"]
    assert address == (
        f"postgresql+psycopg2://airflow:{again.state['database_password']}@127.0.0.1:{again.state['database_port']}/postgres"
    )


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ("driver", "Airflow's driver for PostgreSQL is missing (psycopg2, asyncpg): run dev/setup."),
        (
            "server",
            "PostgreSQL's server is not on this machine: install it with 'apt-get install postgresql'",
        ),
        ("setpriv", "PostgreSQL does not run as root, and setpriv (util-linux), which starts it as somebody"),
        ("account", "PostgreSQL does not run as root, and there is no account postgres or nobody to run it."),
    ],
)
def test_what_postgresql_lacks_is_named_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str, said: str
) -> None:
    there = {name: lambda *_: "there" for name in ("driver", "server", "setpriv", "account")}
    there[lacking] = lambda *_: None
    monkeypatch.setattr(_postgres, "find_spec", there["driver"])
    monkeypatch.setattr(_postgres, "programs", there["server"])
    monkeypatch.setattr(_postgres.shutil, "which", there["setpriv"])
    monkeypatch.setattr(_postgres, "_account", there["account"])
    monkeypatch.setattr(_postgres.os, "geteuid", lambda: 0)
    with pytest.raises(StackError) as raised:
        _postgres.make_cluster(tmp_path / "postgres", "secret")
    assert str(raised.value).startswith(said)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    _postgres.missing() is not None and "CI" not in os.environ, reason=str(_postgres.missing())
)
def test_cluster_is_made_once_asks_for_the_password_and_ends_with_the_stack(tmp_path: Path) -> None:
    import psycopg2

    cluster, (port,) = tmp_path / "postgres", free_ports(1)
    _postgres.make_cluster(cluster, "first")
    _postgres.make_cluster(cluster, "second")  # it is there, and stays as it is
    assert [path.name for path in tmp_path.iterdir()] == ["postgres"]
    command = _postgres.server_command(cluster, port)
    environment = {**os.environ, MARK: str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as server:
        _postgres.wait_for_server(port, "first", lambda: None)
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(
                host="127.0.0.1",
                port=port,
                user=_postgres.USER,
                password="second",  # noqa: S106
                dbname="postgres",
            )
        assert stop_processes(tmp_path) == 1
        server.wait(timeout=10)
