"""A real Airflow for tests: scheduler, triggerer, DAG processor and api-server, on loopback, in a temporary directory.

``dag.test()`` runs triggers inline, so restarts, kills and shared streams need this. A session starts one Airflow;
tests bring their own DAG files with :meth:`RealAirflow.add_dag`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
from planes import DATA_PYTHON, REPO

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "dev"))

from _airflow_api import AirflowApi, StackError
from _processes import marked_processes
from _stack import Stack

__all__ = ["RealAirflow", "Stack", "StackError"]

DATABASE_VARIABLE = "LLMOPS_TEST_DATABASE"
TERMINAL_STATES = ("success", "failed", "upstream_failed", "skipped", "removed")


class RealAirflow:
    """What tests do with a running stack.

    :param directory: where it lives
    :param dags_folder: folder for the tests' DAG files
    :param with_mlflow: whether an MLflow server runs too
    :param environment: further environment variables for every process, for example connections
    :param settings: Airflow settings, ``{"section": {"option": "value"}}``
    :param database: ``sqlite`` or ``postgresql``; what the variable ``LLMOPS_TEST_DATABASE`` says, or SQLite, if not given
    """

    def __init__(
        self,
        directory: Path,
        *,
        dags_folder: Path,
        with_mlflow: bool = False,
        environment: Mapping[str, str] | None = None,
        settings: Mapping[str, Mapping[str, str]] | None = None,
        database: str | None = None,
    ) -> None:
        quick = {
            # Many tasks of tests do nothing but wait to be killed.
            "core": {"parallelism": "32", "max_active_tasks_per_dag": "32"},
            "database": {"sql_alchemy_pool_size": "50"},
            # A new DAG file shows within a second or two, and a killed task is noticed within seconds. A file that has not changed
            # is not read again: a dozen of them, every half a minute, would take a quarter of a core.
            "dag_processor": {
                "refresh_interval": "1",
                "bundle_refresh_check_interval": "1",
                "min_file_process_interval": "300",
            },
            "scheduler": {
                "scheduler_idle_sleep_time": "0.3",
                "task_instance_heartbeat_timeout": "10",
                "task_instance_heartbeat_timeout_detection_interval": "2",
            },
            "triggerer": {"job_heartbeat_sec": "2", "triggerer_health_check_threshold": "6"},
            # Where a task may be silent for 10 s only, it must speak more often than every 5 s: on a busy machine an
            # answer takes long, and one that is lost must not end a healthy task.
            "workers": {"min_heartbeat_interval": "2"},
        }
        merged = {
            section: {**quick.get(section, {}), **(settings or {}).get(section, {})}
            for section in {*quick, *(settings or {})}
        }
        self.stack = Stack(
            directory,
            dags_folder=dags_folder,
            with_mlflow=with_mlflow,
            environment=environment,
            settings=merged,
            database=database or os.environ.get(DATABASE_VARIABLE),
        )
        self.api: AirflowApi

    @property
    def root(self) -> Path:
        """Root of the local backend: ``runs/`` and ``services/`` lie below."""
        return self.stack.root

    def start(self) -> None:
        """Start the stack and log in."""
        self.stack.dags_folder.mkdir(parents=True, exist_ok=True)
        self.stack.start()
        self.api = self.stack.api()

    def stop(self) -> None:
        """Stop the stack with everything that it has started."""
        self.stack.stop()

    def add_dag(self, dag_id: str, source: str) -> None:
        """Write a DAG file and return when Airflow has taken it up."""
        (self.stack.dags_folder / f"{dag_id}.py").write_text(source, encoding="utf-8")
        self.api.wait_for_dag(dag_id)

    def add_example(self, dag_id: str) -> RealAirflow:
        """Take up a DAG of the repository's own, and return when Airflow has it."""
        shutil.copy(REPO / "dags" / f"{dag_id}.py", self.stack.dags_folder)
        self.api.wait_for_dag(dag_id)
        return self

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run and return its id, once it has tasks."""
        self.api.wait_for_dag(dag_id)
        run_id = self.api.trigger(dag_id, conf)
        self.wait_until(lambda: bool(self.api.task_instances(dag_id, run_id)), f"the tasks of {dag_id}")
        return run_id

    def wait(self, dag_id: str, run_id: str, timeout: float = 300) -> str:
        """Wait for the end of a run and return its state; what failed in it is printed with the end of its log."""
        self.wait_until(
            lambda: self.api.dag_run(dag_id, run_id)["state"] in ("success", "failed"),
            f"the end of {dag_id} {run_id}",
            timeout,
            lambda: {ti["task_id"]: ti["state"] for ti in self.api.task_instances(dag_id, run_id)},
        )
        state = str(self.api.dag_run(dag_id, run_id)["state"])
        if state == "failed":
            self._print_failures(dag_id, run_id)
        return state

    def _print_failures(self, dag_id: str, run_id: str) -> None:
        for ti in self.api.task_instances(dag_id, run_id):
            if ti["state"] == "failed" and ti["try_number"] and ti["map_index"] == -1:
                lines = self.api.log_lines(dag_id, run_id, ti["task_id"], ti["try_number"])
                print(
                    f"-- {dag_id}.{ti['task_id']} failed in try {ti['try_number']}:", *lines[-40:], sep="\n"
                )

    def wait_for_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        states: str | tuple[str, ...] = TERMINAL_STATES,
        timeout: float = 180,
    ) -> str:
        """Wait until a task is in one of the states and return which."""
        wanted = (states,) if isinstance(states, str) else states
        seen = ""

        def reached() -> bool:
            nonlocal seen
            seen = self.task(dag_id, run_id, task_id)["state"]
            return seen in wanted

        self.wait_until(reached, f"{task_id} to be {' or '.join(wanted)}", timeout, lambda: seen)
        return seen

    def wait_until(
        self,
        condition: Callable[[], bool],
        what: str,
        timeout: float = 180,
        describe: Callable[[], object] = lambda: "",
    ) -> None:
        """Wait for a condition; fail with what was seen last, or at once if a process of the stack is gone."""
        started = time.monotonic()
        while not condition():
            self.stack.check()
            waited = time.monotonic() - started
            if waited > timeout:
                raise TimeoutError(
                    f"Waited {timeout:.0f} s for {what}; last seen: {describe()}. Logs: {self.stack.logs}"
                )
            # Each look costs the web server a fiftieth of a second of a processor: of what takes minutes there are fewer.
            time.sleep(min(1.0, max(0.25, waited / 60)))

    def tasks(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """State of each task of a run."""
        return {ti["task_id"]: ti["state"] for ti in self.api.task_instances(dag_id, run_id)}

    def task(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """One task instance."""
        return next(
            ti
            for ti in self.api.task_instances(dag_id, run_id)
            if (ti["task_id"], ti["map_index"]) == (task_id, map_index)
        )

    def xcoms(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """Everything that a task has pushed, by key."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries"
        keys = self.api.call("GET", path, params={"map_index": map_index, "limit": 100})["xcom_entries"]
        options = {"map_index": map_index, "deserialize": False, "stringify": False}
        return {
            entry["key"]: self.api.call("GET", f"{path}/{entry['key']}", params=options)["value"]
            for entry in keys
            if entry["map_index"] == map_index
        }

    def links(self, dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]:
        """Address of each button on a task's page."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/links"
        return dict(self.api.call("GET", path)["extra_links"])

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """What a task has pushed."""
        return self.api.xcom(dag_id, run_id, task_id, key)

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        """A task's log as text; empty before that attempt has begun."""
        if self.task(dag_id, run_id, task_id)["try_number"] < try_number:
            return ""
        return "\n".join(self.api.log_lines(dag_id, run_id, task_id, try_number))

    def set_state(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Mark a task, as a person does."""
        self.api.set_task_state(dag_id, run_id, task_id, state)

    def clear(self, dag_id: str, run_id: str, *task_ids: str) -> None:
        """Clear tasks, as a person does."""
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": list(task_ids), "only_failed": False}
        self.api.call("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)

    def register_champion(self, model: Path, name: str) -> None:
        """Register a model as a version with the alias ``production``."""
        login = dict(zip(("USERNAME", "PASSWORD"), self.stack.mlflow_login, strict=True))
        call = f"register_model({str(model)!r}, model_name={name!r}, alias='production')"
        subprocess.run(
            [DATA_PYTHON, "-c", f"from llmops_components.tracking.register import register_model; {call}"],
            env=os.environ
            | {"MLFLOW_TRACKING_URI": self.stack.mlflow_url}
            | {f"MLFLOW_TRACKING_{key}": value for key, value in login.items()},
            check=True,
        )

    def kill_task(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> None:
        """SIGKILL the process that runs a task and its supervisor, as the kernel does when memory is short."""
        for process in self._processes_of(dag_id, run_id, task_id, map_index):
            process.send_signal(signal.SIGKILL)

    def evict_task(self, dag_id: str, run_id: str, task_id: str) -> None:
        """SIGTERM the supervisor of a task, as a pod's first process gets it when the pod is evicted."""
        family = self._processes_of(dag_id, run_id, task_id)
        (supervisor,) = [process for process in family if process.parent() not in family]
        supervisor.send_signal(signal.SIGTERM)

    def kill(self, role: str) -> None:
        """SIGKILL a process of Airflow with its children: ``triggerer``, ``scheduler``, ``dag-processor``, ``api-server``."""
        process = self.stack.processes[role]
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            member.send_signal(signal.SIGKILL)
        process.wait()

    def terminate(self, role: str, timeout: float = 60) -> None:
        """SIGTERM a process of Airflow and wait for its end, as a rolling update does."""
        process = self.stack.processes[role]
        process.terminate()
        process.wait(timeout)

    def restart(self, role: str) -> None:
        """Start a killed process of Airflow again."""
        self.stack.restart(role)

    def _processes_of(
        self, dag_id: str, run_id: str, task_id: str, map_index: int = -1
    ) -> list[psutil.Process]:
        instance = self.task(dag_id, run_id, task_id, map_index)
        found = [process for process in self._processes() if _title(process).endswith(str(instance["id"]))]
        if not found:
            raise LookupError(f"No process runs {task_id}; it is {instance['state']}.")
        return found

    def _processes(self) -> list[psutil.Process]:
        return marked_processes(self.stack.directory)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def free_environment() -> dict[str, str]:
    """Environment of the tests without threads that fight for the cores."""
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
