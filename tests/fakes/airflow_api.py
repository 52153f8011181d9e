"""Airflow's public REST API over HTTP, as far as a backfill asks it, with DAGs whose runs end after a few looks.

Its answers have the fields that Airflow 3.3.2 gives; ``tests/dags/guarantees/test_backfill.py`` has the same command talk to a real one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LOOKS = 2  # at which a run has ended
LOG: list[dict[str, Any]] = [
    {
        "event": "Task failed with exception",
        "error_detail": [{"exc_type": "ValueError", "exc_value": "no rows"}],
    }
]


@dataclass
class Dag:
    """A DAG of the fake.

    :param schedule: ``cron``, ``asset``, ``runtime`` or ``none``
    :param listens: names of assets that it is scheduled on
    :param outlets: names of assets that its tasks announce
    :param joined: what the steps have returned that its first task has joined, by name
    """

    schedule: str = "cron"
    listens: tuple[str, ...] = ()
    outlets: tuple[str, ...] = ()
    is_paused: bool = False
    max_active_runs: int = 16
    allowed_run_types: list[str] | None = None
    seconds: float = 60.0
    fails: set[str] = field(default_factory=set)
    results: list[Any] = field(default_factory=list)
    joined: dict[str, Any] = field(default_factory=dict)

    def details(self) -> dict[str, Any]:
        summary = {"cron": "0 0 * * *", "asset": "Partitioned Asset", "runtime": "PartitionedAtRuntime"}
        assets = [{"asset": {"uri": name, "name": name, "group": "asset", "id": 1}} for name in self.listens]
        return {
            "timetable_partitioned": self.schedule in ("cron", "asset"),
            "timetable_periodic": self.schedule == "cron",
            "timetable_summary": summary.get(self.schedule),
            "asset_expression": {"all": assets} if assets else None,
            "is_paused": self.is_paused,
            "max_active_runs": self.max_active_runs,
            "allowed_run_types": self.allowed_run_types,
        }


class FakeAirflow:
    """The server.

    :param dags: by id
    :param password: that it wants; ``None`` for nothing
    """

    def __init__(self, dags: Mapping[str, Dag], password: str | None = None) -> None:
        self.dags = dict(dags)
        self.password = password
        self.runs: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.schedules = True  # whether it starts DAGs whose assets are announced
        self.outages = 0  # answers 503 so often
        self.conflicts: set[str] = set()  # ids that another call takes just before
        self.tokens: set[str] = set()
        self.looks: dict[tuple[str, str], int] = {}
        self.most_active = 0
        self._lock = threading.Lock()

    def __enter__(self) -> FakeAirflow:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._answer("GET", None)

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                self._answer("POST", json.loads(content))

            def _answer(self, method: str, body: Any) -> None:
                with fake._lock:
                    token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
                    status, answer = fake.answer(method, self.path, body, token)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add_run(
        self, dag_id: str, key: str | None, state: str = "success", run_id: str = "", conf: Any = None
    ) -> str:
        """Make a run, in whatever state."""
        run_id = run_id or f"run-{len(self.runs)}"
        now = datetime.now(UTC) - timedelta(hours=1)
        has_ended = state in ("success", "failed")
        self.runs.append(
            {
                "dag_run_id": run_id,
                "dag_id": dag_id,
                "partition_key": key,
                "partition_date": f"{key}T00:00:00Z",
                "state": state,
                "conf": conf,
                "start_date": now.isoformat(),
                "end_date": (now + timedelta(seconds=60)).isoformat() if has_ended else None,
                "duration": self.dags[dag_id].seconds if has_ended else None,
            }
        )
        return run_id

    def states(self, dag_id: str) -> list[tuple[str, str]]:
        """Key and state of the runs of a DAG, in the order in which they were made."""
        return [(run["partition_key"], run["state"]) for run in self.runs if run["dag_id"] == dag_id]

    def answer(self, method: str, address: str, body: Any, token: str) -> tuple[int, Any]:
        """Status and answer to a request."""
        parts = urlsplit(address)
        path, query = parts.path, parse_qs(parts.query)
        self.requests.append(f"{method} {unquote(path)}")
        if self.outages:
            self.outages -= 1
            return 503, {"detail": "starting"}
        if path == "/auth/token":
            if body["password"] != self.password:
                return 401, {"detail": f"wrong: {body}"}
            self.tokens.add(f"token-{len(self.requests)}")
            return 201, {"access_token": max(self.tokens)}
        if self.password is not None and token not in self.tokens:
            return 401, {"detail": "Not authenticated"}
        return self._public(method, [unquote(part) for part in path.split("/")[3:]], query, body)

    def _public(self, method: str, parts: list[str], query: Any, body: Any) -> tuple[int, Any]:
        match parts:
            case ["dags", dag_id, *_] if dag_id not in self.dags:
                return 404, {"detail": "not found"}
            case ["dags", dag_id, "details"]:
                return 200, self.dags[dag_id].details()
            case ["dags", dag_id, "dagRuns"] if method == "POST":
                return self._start(dag_id, body)
            case ["dags", dag_id, "dagRuns"]:
                return 200, self._list(dag_id, query)
            case ["dags", dag_id, "dagRuns", run_id]:
                run = next(
                    (each for each in self.runs if (each["dag_id"], each["dag_run_id"]) == (dag_id, run_id)),
                    None,
                )
                return (404, {"detail": "not found"}) if run is None else (200, self._look(run))
            case ["dags", _, "dagRuns", _, "taskInstances"]:
                tasks = [
                    {"task_id": name, "map_index": -1, "try_number": 1, "end_date": date}
                    for name, date in (("later", "2"), ("train", "1"))
                ]
                return 200, {"task_instances": tasks, "total_entries": 2}
            case ["dags", _, "dagRuns", _, "taskInstances", _, "logs", _]:
                return 200, {"content": LOG}
            case ["dags", dag_id, "dagRuns", _, "taskInstances", "~", "xcomEntries"]:
                entries = [
                    {"task_id": f"task-{at}", "map_index": -1} for at in range(len(self.dags[dag_id].results))
                ]
                return 200, {"xcom_entries": entries, "total_entries": len(entries)}
            case ["dags", dag_id, "dagRuns", _, "taskInstances", task_id, "xcomEntries", "return_value"]:
                return 200, {"value": self.dags[dag_id].results[int(task_id.removeprefix("task-"))]}
            case ["dags", dag_id, "dagRuns", _, "taskInstances", "task-0", "xcomEntries"]:
                entries = [
                    {"key": key, "map_index": -1} for key in ("return_value", *self.dags[dag_id].joined)
                ]
                return 200, {"xcom_entries": entries, "total_entries": len(entries)}
            case ["dags", dag_id, "dagRuns", _, "taskInstances", "task-0", "xcomEntries", key]:
                return 200, {"value": self.dags[dag_id].joined[key]}
            case ["assets"]:
                assets = [
                    {"name": name, "uri": name, "producing_tasks": [{"dag_id": dag_id, "task_id": "x"}]}
                    for dag_id in query["dag_ids"]
                    for name in self.dags[dag_id].outlets
                ]
                return 200, {"assets": assets, "total_entries": len(assets)}
            case ["assets", "events"]:
                if query["order_by"] != ["timestamp"]:
                    return 400, {"detail": "Ordering with that is disallowed"}
                found = [each for each in self.events if each["source_run_id"] == query["source_run_id"][0]]
                return 200, {"asset_events": found, "total_entries": len(found)}
            case ["backfills", "dry_run"]:
                first = datetime.fromisoformat(body["from_date"])
                days = (datetime.fromisoformat(body["to_date"]) - first).days + 1
                keys = [f"{first + timedelta(days=day):%Y-%m-%d}" for day in range(days)]
                active = {key for key, state in self.states(body["dag_id"]) if state in ("queued", "running")}
                found = [
                    {"partition_key": key, "partition_date": f"{key}T00:00:00Z"}
                    for key in keys
                    if key not in active
                ]
                return 200, {"backfills": found, "total_entries": len(found)}
        return 404, {"detail": "Not Found"}

    def _list(self, dag_id: str, query: Any) -> dict[str, Any]:
        prefix = query.get("partition_key_prefix_pattern", [""])[0].rstrip("-")
        states = query.get("state")
        found = [
            run
            for run in self.runs
            if run["dag_id"] == dag_id
            and (run["partition_key"] or "").startswith(prefix)
            and (not states or run["state"] in states)
        ]
        if query["order_by"][0].startswith("-"):
            found.reverse()
        offset = int(query.get("offset", ["0"])[0])
        return {"dag_runs": found[offset : offset + int(query["limit"][0])], "total_entries": len(found)}

    def _start(self, dag_id: str, body: dict[str, Any]) -> tuple[int, Any]:
        key, run_id = body["partition_key"], body["dag_run_id"]
        if run_id in self.conflicts:
            self.conflicts.remove(run_id)
            self.add_run(dag_id, key, "running", run_id)
        if any((run["dag_id"], run["dag_run_id"]) == (dag_id, run_id) for run in self.runs):
            return 409, {"detail": {"reason": "Unique constraint violation", "message": "see the log"}}
        if body["conf"].get("refused"):
            return 400, {"detail": "Invalid input for param refused"}
        self.add_run(dag_id, key, "queued", run_id, body["conf"])
        self.most_active = max(
            self.most_active, sum(run["state"] in ("queued", "running") for run in self.runs)
        )
        return 200, self.runs[-1]

    def _look(self, run: dict[str, Any]) -> dict[str, Any]:
        """A run as it is at this look; one that ends announces its assets, and starts who is scheduled on them."""
        if run["state"] not in ("queued", "running"):
            return run
        dag_id, key = run["dag_id"], run["partition_key"]
        at = self.looks[dag_id, run["dag_run_id"]] = self.looks.get((dag_id, run["dag_run_id"]), 0) + 1
        if at < LOOKS:
            run["state"] = "running"
            return run
        dag = self.dags[dag_id]
        has_failed = key in dag.fails
        run |= {
            "state": "failed" if has_failed else "success",
            "end_date": datetime.now(UTC).isoformat(),
            "duration": dag.seconds,
        }
        if not has_failed:
            for name in dag.outlets:
                event = {"name": name, "uri": name, "partition_key": key, "source_run_id": run["dag_run_id"]}
                self.events.append(event)
                for other, consumer in self.dags.items():
                    if self.schedules and name in consumer.listens and not consumer.is_paused:
                        self.add_run(other, key, "queued", f"asset_triggered__{len(self.runs)}")
        return run
