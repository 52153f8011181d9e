"""A real Airflow and an MLflow server on this machine, in a directory of their own.

A stack is a directory: Airflow's home, the processes' logs, MLflow's database, and everything that pipeline runs and
services write. Its processes are ordinary ``airflow`` and ``mlflow`` commands bound to loopback. Each of them, and all
that they start, carries ``LLMOPS_STACK=<directory>`` in its environment. That is how :func:`stop_processes` finds every
one of them: pipeline runs and services live in sessions of their own and outlive the task that started them, so
neither a process group nor the tree of parents would do.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time
from collections.abc import Mapping
from typing import Any

import httpx
import psutil
from _airflow_api import AirflowApi, StackError
from _mlflow import mlflow_command, mlflow_secrets
from _places import CONTROL_PYTHON, DATA_PYTHON
from _postgres import make_cluster, server_command, wait_for_server
from _processes import free_ports, marked_processes, stop_processes
from _signals import uninterrupted
from _stack_connections import make_connections, resume_services
from _stack_home import USERNAME, StackHome
from _stack_state import read_state

from airflow_provider_llmops.state_files import (
    PRIVATE_UMASK,
    StateFileError,
    private_directory,
)

START_TIMEOUT_SECONDS = 120.0
AIRFLOW_ROLES = ("api-server", "scheduler", "dag-processor", "triggerer")


class Stack(StackHome):
    """One Airflow (and MLflow) with its own directory, ports, database and login, and its processes.

    It takes the arguments of :class:`StackHome`.
    """

    def __init__(self, directory: str | os.PathLike[str], **options: Any) -> None:
        super().__init__(directory, **options)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.timings: dict[str, float] = {}

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Stack | None:
        """The stack that was started in ``directory``, or ``None`` if there was none."""
        stack = cls(directory)
        try:
            stack.state = read_state(stack.state_file)
        except StateFileError:  # put aside when the stack starts, which says so
            return None
        if not stack.state:
            return None
        stack.with_mlflow = stack.state["mlflow_port"] is not None
        return stack

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
        self.configure(fresh_ports)
        if self.with_mlflow:
            # MLflow needs none of what follows and imports for several seconds: it starts beside the migration.
            self._spawn("mlflow", *self._mlflow_command(), more=self._mlflow_secrets())
        if self.on_postgresql:
            self._start_postgres()
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
        try:
            make_connections(self.api(), self)
        except httpx.HTTPError as error:
            raise StackError(f"Airflow did not take the connections of this machine: {error}") from error

    def resume_services(self) -> list[dict[str, Any]]:
        """Start the services again that the stack's end has stopped; they load their models by themselves."""
        return resume_services(self)

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

    def _mlflow_command(self) -> list[str]:
        return mlflow_command(DATA_PYTHON, self.mlflow_home, self.state["mlflow_port"])

    def _mlflow_secrets(self) -> dict[str, str]:
        return mlflow_secrets(self.mlflow_home, *self.mlflow_login, self.state["mlflow_secret_key"])

    def _start_postgres(self) -> None:
        port, password = self.state["database_port"], self.state["database_password"]
        make_cluster(self.cluster, password)
        self._spawn("postgres", *server_command(self.cluster, port))
        wait_for_server(port, password, self.check)

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
        return {
            port for port in map(self.state.get, ("airflow_port", "mlflow_port", "database_port")) if port
        }

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
