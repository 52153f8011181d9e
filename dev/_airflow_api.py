"""Airflow's REST API, as the tools and tests use it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import httpx

# SQLite's own patience of 5 s is short where two cores train a model: what waits longer is refused as an error.
DATABASE_PATIENCE_SECONDS = 60
DATABASE_ATTEMPTS = 3


class StackError(Exception):
    """The stack cannot be started or did not stay up; the message names the log to read."""


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
            # What this request did has been taken back, as a rule: see set_task_state.
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

    def approve(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Say yes to a task that asks for approval, as the page of required actions does; once is enough."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails"
        if not self.call("GET", path)["response_received"]:
            self.call("PATCH", path, json={"chosen_options": ["Approve"], "params_input": {}})

    def set_task_state(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Mark a task instance, as a person does in the UI."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        try:
            self.call("PATCH", path, json={"new_state": state})
        except StackError as error:
            # A database that was busy when the answer was made: the first request had done it, and the second is refused.
            if f"is already in {state} state" not in str(error):
                raise
