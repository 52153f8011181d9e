"""What a Kubeflow cluster does with runs of the toy component that a fake API server was given."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from executor_logs import leave_log
from kfp_api import FakeKfpApi, Timeout

STEP = "toy"
PIPELINE = "toy-run"  # what the provider names the pipeline that it makes of the component


class Cluster:
    """Carries runs out: reports their step, and writes what it would leave below the pipeline root.

    The parameters of the component are what tests control a run with: it takes ``seconds`` (or until :meth:`finish`),
    and fails if its ``ending`` is ``crash``.

    :param api: server whose runs are carried out
    :param root: directory that stands for the object storage
    """

    def __init__(self, api: FakeKfpApi, root: Path) -> None:
        self.api = api
        self.root = root
        self._released: dict[str, threading.Event] = {}
        api.on_run_created = self._carry_out

    def connection(self) -> str:
        """An Airflow connection to the server, as an environment variable holds it."""
        extra = {"pipeline_root": f"file://{self.root}"}
        return json.dumps({"conn_type": "kubeflow", "host": self.api.url, "extra": extra})

    def reset(self) -> None:
        """Forget the requests and faults of the former test."""
        self.api.faults.clear()
        self.api.clear_requests()

    def runs(self, dag_id: str) -> dict[str, list[str]]:
        """Ids of the runs that each task of a DAG has made, oldest first; ``task[0]`` is a mapped one."""
        found: dict[str, list[str]] = {}
        for run_id, run in self.api.runs.items():
            name, _, _token = run["display_name"].rpartition(" ")
            run_of, _, task = name.partition(".")
            if run_of == dag_id:
                found.setdefault(task, []).append(run_id)
        return found

    def state(self, run_id: str) -> str:
        """State of a run."""
        return str(self.api.runs[run_id]["state"])

    def finish(self, run_id: str) -> None:
        """Let a run end now."""
        self._release(run_id).set()

    def terminated(self) -> list[str]:
        """Ids of the runs that the server was asked to terminate, once for each request."""
        paths = [request.path for request in list(self.api.requests) if request.method == "POST"]
        return [path.rpartition("/")[2].partition(":")[0] for path in paths if path.endswith(":terminate")]

    @contextmanager
    def held_post(self, *, after_effect: bool) -> Iterator[threading.Event]:
        """Keep the next request for a run without an answer.

        :param after_effect: whether the run is made all the same
        :return: tells when that request is there
        """
        held = threading.Event()
        draw = self.api.faults.draw

        def tell(method: str, path: str) -> Any:
            if drawn := draw(method, path):
                held.set()
            return drawn

        self.api.faults.add(Timeout(60), method="POST", path=r"/runs$", after_effect=after_effect)
        with mock.patch.object(self.api.faults, "draw", tell):
            yield held

    def _carry_out(self, run: Mapping[str, Any]) -> None:
        run_id = str(run["run_id"])
        parameters = run["runtime_config"].get("parameters", {})
        self._report(run_id, "PENDING", "RUNNING")
        self._release(run_id).wait(parameters.get("seconds", 0))
        if parameters.get("ending") == "crash":
            leave_log(self.root, PIPELINE, run_id, STEP, "RuntimeError: crashed\n")
            self._report(run_id, "RUNNING", "FAILED")
        else:
            self._write_outputs(run_id, str(parameters.get("text", "hello")))
            self._report(run_id, "RUNNING", "SUCCEEDED")

    def _release(self, run_id: str) -> threading.Event:
        return self._released.setdefault(run_id, threading.Event())

    def _report(self, run_id: str, before: str, after: str) -> None:
        """Change the state of a run that nobody has terminated meanwhile."""
        with self.api.state.lock:
            if self.state(run_id) == before:
                self.api.advance(run_id, after, tasks={STEP: after})

    def _write_outputs(self, run_id: str, text: str) -> None:
        attempt = leave_log(self.root, PIPELINE, run_id, STEP, "toy finished in 1.0 s\n").parent
        (attempt / "echo").write_text(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        result = {
            "schema_version": 1,
            "component": STEP,
            "passed": True,
            "findings": [],
            "artifacts": {
                "echo": {"uri": f"file://{attempt}/echo", "digest": f"sha256:{digest}", "bytes": len(text)}
            },
            "metrics": {"length": len(text)},
            "details": {},
            "resources": {"seconds": 1.0},
        }
        (attempt / "result").write_text(json.dumps(result))
