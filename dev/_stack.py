"""A real Airflow and an MLflow server on this machine, in a directory of their own.

A stack is a directory: Airflow's home, the processes' logs, MLflow's database, and everything that pipeline runs and
services write. Its processes are ordinary ``airflow`` and ``mlflow`` commands bound to loopback. Each of them, and all
that they start, carries ``LLMOPS_STACK=<directory>`` in its environment. That is how :func:`stop_processes` finds every
one of them: pipeline runs and services live in sessions of their own and outlive the task that started them, so
neither a process group nor the tree of parents would do.
"""

from __future__ import annotations

import base64
import configparser
import contextlib
import errno
import fcntl
import io
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from airflow_provider_llmops.state_files import (
    PRIVATE_UMASK,
    Record,
    StateFileError,
    private_directory,
    read_record,
    unreadable,
    write_json,
    write_private,
)

REPOSITORY = Path(__file__).resolve().parent.parent
STACKS = REPOSITORY / ".stacks"
CONTROL_PYTHON = REPOSITORY / ".venv/control/bin/python"
DATA_PYTHON = REPOSITORY / ".venv/data/bin/python"
MARK = "LLMOPS_STACK"
USERNAME = "admin"
START_TIMEOUT_SECONDS = 120.0
STOP_GRACE_SECONDS = 3.0
# SQLite's own patience of 5 s is short where two cores train a model: what waits longer is refused as an error.
DATABASE_PATIENCE_SECONDS = 60
DATABASE_ATTEMPTS = 3
AIRFLOW_ROLES = ("api-server", "scheduler", "dag-processor", "triggerer")
# Names whose values would redirect a process of the stack to some other installation.
_FOREIGN_SETTINGS = ("AIRFLOW_", "_AIRFLOW", "MLFLOW_", "_MLFLOW")


class StackError(Exception):
    """The stack cannot be started or did not stay up; the message names the log to read."""


def free_ports(count: int, preferred: tuple[int, ...] = ()) -> list[int]:
    """Ports on loopback that nobody listens on, all different.

    :param count: How many.
    :param preferred: Port to use at each position if it is free, for an address that is easy to remember.
    """
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        for position in range(count):
            wishes = [preferred[position]] if position < len(preferred) else []
            for wish in [*wishes, 0]:
                listener = held.enter_context(socket.socket())
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    listener.bind(("127.0.0.1", wish))
                except OSError as error:
                    if wish and error.errno in (errno.EADDRINUSE, errno.EACCES):
                        continue
                    raise
                ports.append(listener.getsockname()[1])
                break
        return ports


def marked_processes(directory: str | os.PathLike[str]) -> list[psutil.Process]:
    """Every live process that belongs to the stack in ``directory``, detached ones included."""
    wanted, found = os.path.realpath(directory), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(MARK) == wanted:
                found.append(process)
    return found


def stop_processes(directory: str | os.PathLike[str], grace_seconds: float = STOP_GRACE_SECONDS) -> int:
    """End every process of a stack: ask first, then kill what is left.

    :param directory: The stack's directory.
    :param grace_seconds: How long processes have to end by themselves.
    :return: How many processes there were.
    """
    processes = marked_processes(directory)
    total = len(processes)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(processes, timeout=grace_seconds)
    quiet_rounds = 0
    # A process seen in the middle of a fork may have had a child that the list did not: look until nothing shows twice.
    while quiet_rounds < 2:
        remaining = marked_processes(directory)
        for process in remaining:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(remaining, timeout=2)
        quiet_rounds = 0 if remaining else quiet_rounds + 1
        time.sleep(0.05)
    return total


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGTERM and SIGHUP what Ctrl-C is, a :class:`KeyboardInterrupt`, so that ``finally`` blocks run.

    SIGINT too: a shell has it ignored in what it starts in the background.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with _handling(interrupt):
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore further signals while cleaning up, which takes seconds and must be complete."""
    with _handling(signal.SIG_IGN) if _in_main_thread() else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _handling(handler: Any) -> Iterator[None]:
    before = {
        number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


class Stack:
    """One Airflow (and MLflow) with its own directory, ports, database and login.

    :param directory: Where everything lies; made if missing, taken up again if it was used before.
    :param dags_folder: DAG files to serve; the repository's own if not given.
    :param more_dags: Further folders of DAG files, beside that one.
    :param with_mlflow: Whether to start an MLflow server and its connection.
    :param environment: Further variables for every process, winning over those of the stack.
    :param settings: Airflow settings, ``{"section": {"option": "value"}}``, winning over those of the stack.
    :param preferred_ports: Ports for Airflow and MLflow to use if they are free.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        dags_folder: str | os.PathLike[str] | None = None,
        more_dags: Sequence[str | os.PathLike[str]] = (),
        with_mlflow: bool = True,
        environment: Mapping[str, str] | None = None,
        settings: Mapping[str, Mapping[str, str]] | None = None,
        preferred_ports: tuple[int, ...] = (),
    ) -> None:
        self.directory = Path(os.path.realpath(directory))
        self.dags_folder = Path(dags_folder or REPOSITORY / "dags").resolve()
        self.more_dags = [Path(folder).resolve() for folder in more_dags]
        self.with_mlflow = with_mlflow
        self.extra_environment = dict(environment or {})
        self.extra_settings = {section: dict(options) for section, options in (settings or {}).items()}
        self.preferred_ports = preferred_ports
        self.airflow_home = self.directory / "airflow"
        self.logs = self.directory / "logs"
        self.root = self.directory / "llmops"
        self.database = self.airflow_home / "airflow.db"
        self.state_file = self.directory / "stack.json"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.timings: dict[str, float] = {}
        self.state: dict[str, Any] = {}

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Stack | None:
        """The stack that was started in ``directory``, or ``None`` if there was none."""
        stack = cls(directory)
        try:
            stack.state = _read_state(stack.state_file)
        except StateFileError:  # put aside when the stack starts, which says so
            return None
        if not stack.state:
            return None
        stack.with_mlflow = stack.state["mlflow_port"] is not None
        return stack

    @property
    def airflow_url(self) -> str:
        """Address of Airflow's UI and REST API."""
        return f"http://127.0.0.1:{self.state['airflow_port']}"

    @property
    def mlflow_url(self) -> str | None:
        """Address of MLflow, if there is one."""
        return f"http://127.0.0.1:{self.state['mlflow_port']}" if self.with_mlflow else None

    @property
    def password(self) -> str:
        """Password of the user ``admin``."""
        return str(self.state["password"])

    @property
    def mlflow_login(self) -> tuple[str, str]:
        """User and password of MLflow. Steps have them too, so the password is not Airflow's."""
        return USERNAME, str(self.state["mlflow_password"])

    @property
    def mlflow_asks(self) -> bool:
        """Whether MLflow asks for it; one that an earlier version started does not."""
        return bool(self.state.get("mlflow_password"))

    @property
    def api_key_file(self) -> Path:
        """The key that services are asked with; nobody but its owner may read it."""
        return self.directory / "api-key"

    @property
    def api_key(self) -> str | None:
        """What is in it; ``None`` where services take no key, as in a stack that an older version made."""
        try:
            return self.api_key_file.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None

    def is_running(self) -> bool:
        """Whether Airflow answers and all of its processes have reported lately."""
        try:
            health = httpx.get(f"{self.airflow_url}/api/v2/monitor/health", timeout=5, trust_env=False).json()
        except (httpx.HTTPError, ValueError):
            return False
        return all(part.get("status") == "healthy" for part in health.values() if part)

    def start(self) -> None:
        """Start everything and return when it is healthy; on failure nothing stays behind.

        :raises StackError: naming the process that failed and its log.
        """
        private_directory(self.directory)
        with (self.directory / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackError(
                    f"The stack in {self.directory} is being started by another process."
                ) from None
            if marked_processes(self.directory):  # whether or not its state can be read
                raise StackError(f"The stack in {self.directory} is already running; stop it first.")
            try:
                try:
                    self._start()
                except StackError:
                    self.stop()
                    if not self._ports_are_taken():
                        raise
                    # Somebody took a port after it was found free: once more with others.
                    self._start(fresh_ports=True)
            except BaseException:
                self.stop()
                raise

    def _start(self, fresh_ports: bool = False) -> None:
        started = time.monotonic()
        self._configure(fresh_ports)
        if self.with_mlflow:
            # MLflow needs none of what follows and imports for several seconds: it starts beside the migration.
            self._spawn("mlflow", *self._mlflow_command(), more=self._mlflow_secrets())
        self._migrate()
        self.timings["database"] = time.monotonic() - started
        airflow = [str(CONTROL_PYTHON), "-m", "airflow"]
        options = {
            "api-server": [
                "--host",
                "127.0.0.1",
                "--port",
                str(self.state["airflow_port"]),
                "--workers",
                "1",
            ],
            # The log servers bind every interface; the api-server reads the files from disk (airflow_config/).
            "scheduler": ["--skip-serve-logs"],
            "triggerer": ["--skip-serve-logs"],
        }
        for role in AIRFLOW_ROLES:
            self._spawn(role, *airflow, role, *options.get(role, []))
        self._wait_until_healthy()
        self._connect()
        self.timings["healthy"] = time.monotonic() - started

    def _connect(self) -> None:
        """Make the connections of this machine in Airflow's database, where the UI shows them and a user may change them."""
        local = {"python": str(DATA_PYTHON), "root": str(self.root)}
        access = {"access_file": str(self._access_file()), "api_key_file": str(self.api_key_file)}
        known = "made by dev/up; kept as you change it"
        connections = [
            {
                "connection_id": f"{kind}_default",
                "conn_type": kind,
                "extra": json.dumps(extra),
                "description": known,
            }
            for kind, extra in (("kubeflow", local), ("kserve", local | access))
        ]
        mlflow: dict[str, Any] = {}
        if self.with_mlflow:
            mlflow = {"connection_id": "mlflow_default", "conn_type": "mlflow", "host": "http://127.0.0.1"}
            mlflow |= {"port": self.state["mlflow_port"], "description": "made by dev/up at each start"}
            mlflow |= {"login": self.mlflow_login[0], "password": self.mlflow_login[1]}
        try:
            api = self.api()
            api.add_connections(connections, overwrite=False)
            if mlflow:
                api.add_connections([mlflow], overwrite=True)
        except httpx.HTTPError as error:
            raise StackError(f"Airflow did not take the connections of this machine: {error}") from error

    def _access_file(self) -> Path:
        """The file that says who may ask the stack's services; made at the first start, with one key."""
        file = self.directory / "access.json"
        if not self.api_key_file.exists():
            command = [str(DATA_PYTHON), "-m", "llmops_components.serving.access"]
            # One that nobody has any more is of no use; where there is none, this does nothing.
            subprocess.run([*command, "remove", str(file), "stack"], capture_output=True, check=False)
            answer = subprocess.run(
                [*command, "add", str(file), "stack"], capture_output=True, text=True, check=False
            )
            if answer.returncode:
                raise StackError(f"No API key could be made: {answer.stderr.strip()[-500:]}")
            write_private(self.api_key_file, answer.stdout.encode())
        return file

    def resume_services(self) -> list[dict[str, Any]]:
        """Start the services again that the stack's end has stopped; they load their models by themselves."""
        environment = {
            name: value for name, value in self.environment().items() if not name.startswith("AIRFLOW")
        }
        answer = subprocess.run(
            [str(DATA_PYTHON), "-m", "llmops_components.serving.local", "resume", "--root", str(self.root)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            umask=PRIVATE_UMASK,
        )
        try:
            services: list[dict[str, Any]] = json.loads(answer.stdout)["services"]
        except (ValueError, KeyError):
            said = (answer.stdout + answer.stderr).strip()[-500:]
            raise StackError(f"Services cannot be started again: {said}") from None
        return services

    def stop(self) -> int:
        """End all processes of the stack, runs and services included; files stay.

        :return: How many processes there were.
        """
        with uninterrupted():
            count = stop_processes(self.directory)
            for process in self.processes.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=1)
            self.processes.clear()
        return count

    def restart(self, role: str) -> None:
        """Start a process again that has ended, for example a triggerer that a test has killed."""
        process = self.processes[role]
        if process.poll() is None:
            raise StackError(f"The {role} is still running.")
        self._spawn(role, *process.args)  # type: ignore[misc]

    def api(self) -> AirflowApi:
        """A client of Airflow's public REST API, logged in."""
        return AirflowApi(self.airflow_url, USERNAME, self.password)

    def environment(self) -> dict[str, str]:
        """What every process of the stack has in its environment."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_FOREIGN_SETTINGS) and name not in ("VIRTUAL_ENV", "PYTHONHOME")
        }
        own = {
            MARK: str(self.directory),
            "AIRFLOW_HOME": str(self.airflow_home),
            # setproctitle, which Airflow uses, writes over the environment that /proc shows, and the mark with it.
            "SPT_NOENV": "1",
            "PYTHONUNBUFFERED": "1",
            # MLflow's job runner is eight more processes and 1.5 GB, for features that nothing here uses.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PATH": os.pathsep.join([str(CONTROL_PYTHON.parent), inherited.get("PATH", os.defpath)]),
        }
        for name in ("no_proxy", "NO_PROXY"):
            own[name] = ",".join(filter(None, [inherited.get(name), "127.0.0.1", "localhost"]))
        return inherited | own | self.extra_environment

    def _configure(self, fresh_ports: bool) -> None:
        for path in (self.airflow_home, self.logs, self.root):
            private_directory(path)
        try:
            before = _read_state(self.state_file)
        except StateFileError as error:
            before = self._put_state_aside(error)
        # A stack that is started again keeps its addresses if it can.
        former = tuple(port for port in (before.get("airflow_port"), before.get("mlflow_port")) if port)
        preferred = () if fresh_ports else former or self.preferred_ports
        airflow_port, mlflow_port = free_ports(2, preferred)
        self.state = {
            "airflow_port": airflow_port,
            "mlflow_port": mlflow_port if self.with_mlflow else None,
            "password": before.get("password") or secrets.token_hex(6),
            "mlflow_password": before.get("mlflow_password") or secrets.token_urlsafe(12),
            "mlflow_secret_key": before.get("mlflow_secret_key") or secrets.token_hex(24),
            "fernet_key": before.get("fernet_key") or base64.urlsafe_b64encode(os.urandom(32)).decode(),
            "secret_key": before.get("secret_key") or secrets.token_hex(24),
            "jwt_secret": before.get("jwt_secret") or secrets.token_hex(24),
        }
        if not before.get("mlflow_password"):
            # Made with a password that nobody knows any more.
            self._mlflow_users.unlink(missing_ok=True)
        write_json(self.state_file, self.state)
        passwords = self.airflow_home / "simple_auth_manager_passwords.json.generated"
        write_private(passwords, (json.dumps({USERNAME: self.password}) + "\n").encode())
        config_folder = self.airflow_home / "config"  # Airflow puts it on the import path.
        config_folder.unlink(missing_ok=True)
        config_folder.symlink_to(REPOSITORY / "dev/airflow_config")
        config = configparser.ConfigParser(interpolation=None)
        config.read_dict(self._settings())
        config.read_dict(self.extra_settings)
        text = io.StringIO()
        config.write(text)
        write_private(self.airflow_home / "airflow.cfg", text.getvalue().encode())

    def _put_state_aside(self, error: StateFileError) -> dict[str, Any]:
        """Keep a state that cannot be read for whoever looks into it, and what else knows of it.

        Without the key of Airflow's database the passwords of connections, which a person has entered, could not be read any more.
        """
        aside = self.state_file.with_name(f"{self.state_file.name}.unreadable")
        self.state_file.replace(aside)
        config = configparser.ConfigParser(interpolation=None, strict=False)
        with contextlib.suppress(OSError, ValueError, configparser.Error):
            config.read(self.airflow_home / "airflow.cfg", encoding="utf-8")
        key = config.get("core", "fernet_key", fallback=None)
        lost = (
            "" if key else " Passwords of connections in Airflow cannot be read any more: enter them again."
        )
        print(
            f"The stack's {error}. It is now {aside.name}; its passwords are made anew.{lost}",
            file=sys.stderr,
        )
        return {"fernet_key": key}

    def _settings(self) -> dict[str, dict[str, str]]:
        port = str(self.state["airflow_port"])
        return {
            "core": {
                "dags_folder": str(self.dags_folder),
                "executor": "LocalExecutor",
                # LocalExecutor forks this many workers at once; a deferred task needs none.
                "parallelism": "4",
                "load_examples": "False",
                "dags_are_paused_at_creation": "False",
                "execution_api_server_url": f"http://127.0.0.1:{port}/execution/",
                "fernet_key": self.state["fernet_key"],
                # The default looks the name up in DNS, which can stall where there is no network.
                "hostname_callable": "socket.gethostname",
                "min_serialized_dag_update_interval": "2",
                "simple_auth_manager_users": f"{USERNAME}:admin",
                "test_connection": "Enabled",
            },
            "database": {
                "sql_alchemy_conn": f"sqlite:///{self.database}?timeout={DATABASE_PATIENCE_SECONDS}"
            },
            "api": {
                "host": "127.0.0.1",
                "port": port,
                "base_url": self.airflow_url,
                "secret_key": self.state["secret_key"],
                "workers": "1",
                "expose_stacktrace": "True",  # to the only user there is
                "instance_name": f"LLMOps ({self.directory.name})",
            },
            "api_auth": {"jwt_secret": self.state["jwt_secret"]},
            "dag_processor": {
                **self._bundles(),
                "refresh_interval": "5",
                "bundle_refresh_check_interval": "2",
                "min_file_process_interval": "30",
                "parsing_processes": "1",
            },
            "scheduler": {"scheduler_idle_sleep_time": "0.5", "catchup_by_default": "False"},
            # A supervisor can take this long to see that its task has ended, and a trigger waits for that.
            "workers": {"min_heartbeat_interval": "1"},
            "logging": {
                "colored_console_log": "False",
                "logging_config_class": "local_logging.LOGGING_CONFIG",
            },
            "usage_data_collection": {"enabled": "False"},
        }

    def _bundles(self) -> dict[str, str]:
        """Where DAG files lie, if not only in one folder. Airflow's own bundle reads ``dags_folder``."""
        if not self.more_dags:
            return {}
        bundle = {"classpath": "airflow.dag_processing.bundles.local.LocalDagBundle"}
        bundles = [{"name": "dags-folder", **bundle, "kwargs": {}}]
        bundles += [
            {"name": f"dags-{number}-{folder.name}", **bundle, "kwargs": {"path": str(folder)}}
            for number, folder in enumerate(self.more_dags, start=1)
        ]
        return {"dag_bundle_config_list": json.dumps(bundles)}

    def _mlflow_command(self) -> list[str]:
        home = self.directory / "mlflow"
        private_directory(home)
        return [
            *(str(DATA_PYTHON), "-m", "mlflow", "server"),
            *("--host", "127.0.0.1", "--port", str(self.state["mlflow_port"]), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"),
            *("--artifacts-destination", str(home / "artifacts"), "--serve-artifacts"),
            *("--app-name", "basic-auth"),
        ]

    @property
    def _mlflow_users(self) -> Path:
        return self.directory / "mlflow/users.db"

    def _mlflow_secrets(self) -> dict[str, str]:
        """Variables of MLflow's own process: a command line and a configuration file would show them."""
        users = self.directory / "mlflow/users.ini"
        users.write_text(
            f"[mlflow]\ndatabase_uri = sqlite:///{self._mlflow_users}\ndefault_permission = NO_PERMISSIONS\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            # A check of a password takes tens of milliseconds, and a training asks many times a second.
            f"admin_username = {USERNAME}\nauth_cache_ttl_seconds = 60\n",
            encoding="utf-8",
        )
        return {
            "MLFLOW_AUTH_CONFIG_PATH": str(users),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.mlflow_login[1],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self.state["mlflow_secret_key"],
        }

    def _migrate(self) -> None:
        migration = self._spawn("db-migrate", str(CONTROL_PYTHON), "-m", "airflow", "db", "migrate")
        code = migration.wait(timeout=START_TIMEOUT_SECONDS)
        del self.processes["db-migrate"]
        if code:
            raise StackError(self._failure("db-migrate", code))

    def _spawn(
        self, role: str, *command: str, more: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with (self.logs / f"{role}.log").open("ab") as log:
            self.processes[role] = subprocess.Popen(
                command,
                env=self.environment() | dict(more or {}),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                umask=PRIVATE_UMASK,
                # Ctrl-C at the terminal is for the one who started the stack, who then stops it in order.
                start_new_session=True,
            )
        return self.processes[role]

    def check(self) -> None:
        """Raise :class:`StackError` if a process that was started here has ended."""
        for role, process in self.processes.items():
            if (code := process.poll()) is not None:
                raise StackError(self._failure(role, code))

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            self.check()
            # What answers may be another stack that was started at the same moment and got the port.
            if self.is_running() and self._mlflow_answers() and self._ports() <= self._listening():
                return
            time.sleep(0.25)
        raise StackError(f"Airflow was not healthy after {START_TIMEOUT_SECONDS:.0f} s. Logs: {self.logs}")

    def _ports(self) -> set[int]:
        return {port for port in (self.state.get("airflow_port"), self.state.get("mlflow_port")) if port}

    def _listening(self) -> set[int]:
        """Ports that processes of this stack listen on."""
        found = set()
        for process in marked_processes(self.directory):
            with contextlib.suppress(psutil.Error):
                connections = process.net_connections("inet")
                found |= {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}
        return found

    def _ports_are_taken(self) -> bool:
        """Whether somebody else listens where this stack, which is stopped, was going to."""
        ports = sorted(self._ports())
        return free_ports(len(ports), tuple(ports)) != ports

    def _mlflow_answers(self) -> bool:
        try:
            return not self.with_mlflow or httpx.get(f"{self.mlflow_url}/health", trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def _failure(self, role: str, code: int) -> str:
        log = self.logs / f"{role}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        tail = "\n".join(f"    {line}" for line in lines[-8:])
        return f"The {role} ended with exit code {code}. Its last lines:\n{tail}\nLog: {log}"


class AirflowApi:
    """The few calls of Airflow's public REST API that the tools and tests need.

    :param url: Address of the api-server.
    :param username: User of the simple auth manager.
    :param password: That user's password.
    """

    def __init__(self, url: str, username: str, password: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=DATABASE_PATIENCE_SECONDS + 30, trust_env=False)
        answer = self._http.post("/auth/token", json={"username": username, "password": password})
        answer.raise_for_status()
        self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Send a request below ``/api/v2`` and return the decoded answer.

        :raises StackError: with the server's own words when it refuses.
        """
        answer = self._http.request(method, f"/api/v2{path}", **options)
        for _ in range(DATABASE_ATTEMPTS - 1):
            if not (answer.status_code == 500 and "Database error" in answer.text):
                break
            # Whatever the reason, all that this request did has been taken back.
            time.sleep(1)
            answer = self._http.request(method, f"/api/v2{path}", **options)
        if answer.is_error:
            raise StackError(
                f"Airflow refused {method} {path} with {answer.status_code}: {answer.text[:2000]}"
            )
        return answer.json() if answer.content else None

    def page(self, address: str) -> httpx.Response:
        """A page of the web server as somebody gets it who is logged in, whatever its status."""
        return self._http.get(address)

    def wait_for_dag(self, dag_id: str, timeout_seconds: float = 60) -> None:
        """Return once the DAG has been parsed.

        :raises StackError: with the import error, if the file cannot be imported.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            if self._http.get(f"/api/v2/dags/{dag_id}").status_code == 200:
                return
            errors = self.call("GET", "/importErrors")["import_errors"]
            if errors:
                texts = "\n".join(f"{error['filename']}:\n{error['stack_trace']}" for error in errors)
                raise StackError(f"Airflow cannot import a DAG file: {texts}")
            if time.monotonic() > deadline:
                raise StackError(f"The DAG {dag_id} did not appear within {timeout_seconds:.0f} s.")
            time.sleep(0.3)

    def add_connections(self, connections: list[dict[str, Any]], *, overwrite: bool) -> None:
        """Make connections; those that exist are replaced or left as they are."""
        action = {
            "action": "create",
            "entities": connections,
            "action_on_existence": "overwrite" if overwrite else "skip",
        }
        answer = self.call("PATCH", "/connections", json={"actions": [action]})
        if errors := answer["create"]["errors"]:
            raise StackError(f"Airflow refused connections: {errors}")

    def tasks(self, dag_id: str) -> dict[str, list[str]]:
        """Task ids of a DAG, each with the ids of the tasks that follow it."""
        answer = self.call("GET", f"/dags/{dag_id}/tasks")
        return {task["task_id"]: task["downstream_task_ids"] for task in answer["tasks"]}

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run of the DAG and return its id."""
        run = self.call(
            "POST", f"/dags/{dag_id}/dagRuns", json={"conf": dict(conf or {}), "logical_date": None}
        )
        return str(run["dag_run_id"])

    def dag_run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """A DAG run as Airflow shows it."""
        return dict(self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}"))

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """All task instances of a run."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        return list(self.call("GET", path, params={"limit": 100})["task_instances"])

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """What a task has pushed, or ``None`` if it has pushed nothing."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        answer = self._http.get(path, params={"deserialize": "false", "stringify": "false"})
        return answer.raise_for_status().json()["value"] if answer.status_code != 404 else None

    def log_entries(
        self, dag_id: str, run_id: str, task_id: str, try_number: int = 1
    ) -> list[dict[str, Any]]:
        """The task's log as Airflow keeps it: entries with ``event``, ``logger``, ``level`` and so on."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{max(try_number, 1)}"
        answer = self.call(
            "GET", path, params={"full_content": "true"}, headers={"Accept": "application/json"}
        )
        return [entry if isinstance(entry, dict) else {"event": str(entry)} for entry in answer["content"]]

    def log_lines(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> list[str]:
        """The task's log as plain lines, without time stamps, and with one line for each exception."""
        lines = []
        for entry in self.log_entries(dag_id, run_id, task_id, try_number):
            lines.append(str(entry.get("event") or ""))
            for error in entry.get("error_detail") or []:
                lines.append(f"{error.get('exc_type')}: {error.get('exc_value')}")
        return lines

    def error_of(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        """The line of a failed task's log that says why it failed."""
        lines = self.log_lines(dag_id, run_id, task_id, try_number)
        telling = [
            line for line in lines if re.match(r"[\w.]*(Error|Exception|Failed|Canceled|Exit)\w*: ", line)
        ]
        return next(reversed(telling or lines), "The task left no log.")

    def set_task_state(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Mark a task instance, as a person does in the UI."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        self.call("PATCH", path, json={"new_state": state})


class _State(Record):
    """``stack.json``: addresses and secrets of a stack, the same at each start."""

    airflow_port: int | None = None
    mlflow_port: int | None = None
    password: str | None = None
    fernet_key: str | None = None
    secret_key: str | None = None
    jwt_secret: str | None = None


def _read_state(path: Path) -> dict[str, Any]:
    if not os.path.lexists(path):
        return {}
    state = read_record(path, _State)
    if state.airflow_port is None or state.password is None:
        raise unreadable(path, "it lacks the stack's address or password")
    return state.model_dump()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
