"""One revision of a service: the process of a predictor, and the directory that says what has become of it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops_components.serving.detached import processes
from llmops_components.serving.local.files import read_or_empty, write_private
from llmops_components.serving.local.manifest import NAMES_READ, ServiceSpec, read_manifest
from llmops_components.serving.local.routes import RULES_SHAPE
from llmops_components.serving.local.uses import note_use
from llmops_components.state_files import StateFileError, read_json, unreadable

HOST = "127.0.0.1"
STATES = ("STARTING", "READY", "FAILED", "STOPPED")
LIVING_STATES = ("STARTING", "READY")
FACTS_SHAPE = {
    "digest": str,
    "url": str,
    "model_name": str,
    "ignored": [str],
    "access_file": str,
    **RULES_SHAPE,
}
STATE_SHAPE = {"state": str, "error": str}
HISTORY_SHAPE = {"served_at": str, "given_up_at": str, "as_of": str}
# Set for the processes of a pipeline run; a service is not part of the run that started it.
_OF_A_RUN = {"LLMOPS_RUN_DIR", "TMPDIR"}


@dataclass(frozen=True)
class Revision:
    """A revision, as its directory says.

    Args:
        directory: Its directory.
    """

    directory: Path

    @property
    def name(self) -> str:
        """Its number, as text of five digits."""
        return self.directory.name

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return processes.is_running(self.directory)

    def facts(self) -> dict[str, Any]:
        """What it was started with.

        Raises:
            StateFileError: That cannot be read.
        """
        facts = read_json(self.directory / "facts.json", FACTS_SHAPE)
        if not facts.get("url") or not facts.get("digest"):
            raise unreadable(self.directory / "facts.json", "it lacks the revision's address")
        return facts

    def readable_facts(self) -> dict[str, Any]:
        """The same as far as it can be read."""
        return read_or_empty(self.directory / "facts.json", FACTS_SHAPE)

    def state(self) -> dict[str, Any]:
        """What the predictor says of itself, unless it died without saying so: ``state``, and ``error`` where there is one."""
        is_running = self.is_running  # before reading: it may write its last word and exit in between
        try:
            state = read_json(self.directory / "state.json", STATE_SHAPE)
            self.facts()
            if state.get("state") not in STATES:
                raise unreadable(self.directory / "state.json", "it names no state")
        except StateFileError as error:
            return {"state": "FAILED", "error": str(error)}
        if state.get("state") in LIVING_STATES and not is_running:
            tail = processes.log_tail(self.directory)
            why = "the process is gone without a last word (killed, perhaps for memory; or the machine restarted)"
            return {
                "state": "FAILED",
                "error": f"{why}. The end of {self.directory / 'log.txt'}:\n{tail}",
            }
        return {"state": state["state"]} | ({"error": state["error"]} if state.get("error") else {})

    def history(self) -> dict[str, Any]:
        """What it has been: when it was first given the requests that it has or had last, the date of its model, when it was given up."""
        return read_or_empty(self.directory / "history.json", HISTORY_SHAPE)

    def note(self, **facts: str | None) -> None:
        """Add to its history.

        Args:
            facts: What to note; times are in ISO 8601 and UTC, so that they sort.
        """
        write_private(self.directory / "history.json", self.history() | facts)

    @property
    def is_given_up(self) -> bool:
        """Whether it was given up since it was last given requests."""
        history = self.history()
        return bool(history.get("given_up_at")) and history["given_up_at"] >= (history.get("served_at") or "")

    @property
    def is_good(self) -> bool:
        """Whether it has served and was not given up: something to go back to."""
        return bool(self.history().get("served_at")) and not self.is_given_up

    def route(self, weight: int) -> dict[str, Any]:
        """How the gateway finds it, as in ``routes.json``.

        Args:
            weight: Percent of the requests.
        """
        facts = self.facts()
        rules = {key: facts[key] for key in RULES_SHAPE if key in facts}
        return {"revision": self.name, "url": facts["url"], "weight": weight, **rules}

    def start(self, manifest: dict[str, Any], digest: str, secret_file: Path) -> None:
        """Start its predictor and return at once.

        Args:
            manifest: What it serves.
            digest: The manifest's.
            secret_file: By which the predictor knows its service's gateway.
        """
        spec = read_manifest(manifest)
        with socket.socket() as sock:
            sock.bind((HOST, 0))  # bound here and used by the predictor: nobody can take the port in between
            facts = {
                "digest": digest,
                "url": f"http://{HOST}:{sock.getsockname()[1]}",
                "model_name": spec.arguments["model_name"],
                "ignored": list(spec.ignored),
                "access_file": str(spec.access_file) if spec.access_file else None,
            } | rules_of(spec)
            write_private(self.directory / "manifest.json", manifest)
            write_private(self.directory / "facts.json", facts)
            write_private(self.directory / "state.json", {"state": "STARTING"})
            note_use(spec.model_dir, self.directory)
            command = [sys.executable, "-m", "llmops_components.serving.predictor"]
            command += ["--model_dir", str(spec.model_dir), "--fd", str(sock.fileno())]
            command += ["--state_file", str(self.directory / "state.json")]
            command += ["--log_file", str(self.directory / "log.txt")]
            command += ["--gateway_secret_file", str(secret_file)]
            command += [f"--{key}={value}" for key, value in spec.arguments.items()]
            processes.start(
                self.directory,
                command,
                environment=environment_of_service(spec.env),
                inherited=[sock.fileno()],
            )

    def restart(self, secret_file: Path) -> None:
        """Start its predictor again, at another port.

        Args:
            secret_file: By which the predictor knows its service's gateway.
        """
        self.start(read_json(self.directory / "manifest.json"), self.facts()["digest"], secret_file)

    def start_again(self, secret_file: Path) -> bool:
        """Start its predictor again unless it runs; whether it was started.

        Args:
            secret_file: By which the predictor knows its service's gateway.
        """
        if self.state()["state"] in LIVING_STATES:
            return False
        self.restart(secret_file)
        return True

    def stop(self) -> None:
        """Stop its predictor; directory and log stay."""
        state = self.state()["state"]
        processes.stop(self.directory)
        if state in LIVING_STATES:
            write_private(self.directory / "state.json", {"state": "STOPPED"})


def rules_of(spec: ServiceSpec) -> dict[str, Any]:
    """What the gateway must know of a revision: how long it may take, and who may ask.

    Args:
        spec: What is served.
    """
    given = spec.arguments
    rules: dict[str, Any] = {key: read(given[key]) for key, read in NAMES_READ.items() if key in given}
    if "request_timeout_seconds" in given:
        rules["timeout_seconds"] = float(given["request_timeout_seconds"])
    return rules


def environment_of_service(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process of a service, whoever starts it.

    Args:
        extra: Further variables.
    """
    dropped = _OF_A_RUN if "LLMOPS_RUN_DIR" in os.environ else ()
    return {key: value for key, value in os.environ.items() if key not in dropped} | dict(extra)
