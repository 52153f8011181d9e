"""Real services and predictors of this machine, for tests."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil

if TYPE_CHECKING:
    from llmops_components.serving.local.controller import LocalServing

START_SECONDS = 240  # processes load at once where the machine is busy


def manifest_for(model: Path, name: str = "helper", **change: Any) -> dict[str, Any]:
    made = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "namespace": "default",
            "annotations": {"llmops/model-digest": "sha256:00"},
        },
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "model": {
                    "modelFormat": {"name": "huggingface"},
                    "storageUri": f"file://{model}",
                    "args": [f"--model_name={name}", "--dtype=float32", "--max_length=256"],
                    "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
                },
            }
        },
    }
    made["spec"]["predictor"]["model"] |= change
    return made


def another(manifest: dict[str, Any], digest: str) -> dict[str, Any]:
    made = copy.deepcopy(manifest)
    made["metadata"]["annotations"]["llmops/model-digest"] = digest
    return made


def wait(serving: LocalServing, name: str, revision: str, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + START_SECONDS
    while True:
        found = next(item for item in serving.status(name)["revisions"] if item["revision"] == revision)
        if found["state"] in states:
            return found
        assert time.monotonic() < deadline, found
        assert found["state"] == "STARTING", found
        time.sleep(0.05)


def ask(url: str, name: str = "helper", **more: Any) -> httpx.Response:
    body = {
        "model": name,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 4,
        "temperature": 0,
    } | more
    return httpx.post(f"{url}/openai/v1/chat/completions", json=body, timeout=60)


def processes_below(root: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if (
            str(root) in line
            and "llmops_components.serving" in line
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ):
            found.append(line)
    return found


QUESTION = [{"role": "user", "content": "What colour is the sky?"}]


@dataclass
class Predictor:
    url: str
    process: subprocess.Popen[bytes]
    state_file: Path
    client: httpx.Client

    def chat(self, **more: object) -> httpx.Response:
        body = {"model": "tiny", "messages": QUESTION, "max_tokens": 8, "temperature": 0} | more
        return self.client.post("/openai/v1/chat/completions", json=body)

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def running_predictor(model: Path, directory: Path, *arguments: str) -> Iterator[Predictor]:
    """A predictor process that is ready."""
    state_file = directory / "state.json"
    command = [sys.executable, "-m", "llmops_components.serving.predictor", "--dtype=float32"]
    command += [f"--model_dir={model}", "--http_port=0", f"--state_file={state_file}", *arguments]
    with (directory / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    deadline = time.monotonic() + START_SECONDS
    while not state_file.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert state_file.exists(), (directory / "log.txt").read_text()
    state = json.loads(state_file.read_text())
    assert state["state"] == "READY", state
    headers = {"Content-Type": "application/json"}
    with httpx.Client(base_url=state["url"], timeout=60, headers=headers) as client:
        yield Predictor(state["url"], process, state_file, client)
    process.kill()
    process.wait()
