"""The protocol between hooks and whatever executes pipeline runs."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.redaction import Redactor
from airflow_provider_llmops.specs.pipeline import BoundPipeline
from airflow_provider_llmops.states import RunState
from airflow_provider_llmops.uris import Address

SHOWN_LINES = 5  # of a step's output, in an error


@dataclass(frozen=True)
class RunRequest:
    """What to run.

    :param display_name: unique name of the run; contains the token of the task that asks for it
    :param pipeline: specification and parameters
    :param version: ids of a version on the server that holds the specification; only where there is a server
    :param labels: where the run comes from: dag, run, task and component digest
    :param environment: environment variables for the steps. May hold secrets: never logged or shown, and stored only on this machine,
        for its owner alone, while the run waits for its turn
    :param attempts_key: the same for all attempts of the task that may go on from each other's checkpoints
    """

    display_name: str
    pipeline: BoundPipeline
    version: Mapping[str, str] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    attempts_key: str | None = None


@dataclass(frozen=True)
class Run:
    """A pipeline run as its backend sees it now.

    :param run_id: the backend's id
    :param display_name: name given when it was submitted
    :param state: current state
    :param tasks: state of each step by name, in the order in which they run
    :param ahead: how many runs begin before it, of one that waits for its turn on this machine
    :param waits: whether any pod of it has not begun; which step's that is may not be known
    :param attempts: how many times a step was started, of those that were started more than once
    :param error: why it failed, in one line; ``None`` where nothing says so
    :param failed_steps: names of the steps that failed
    :param retryable: False when the step said that the same input will fail again
    :param created_at: when it was submitted
    :param finished_at: when it ended
    :param log_hint: where to read the whole log
    :param output: where the output of the step that failed is
    :param last_lines: the end of it, where that says more than the error
    """

    run_id: str
    display_name: str
    state: RunState
    tasks: Mapping[str, str] = field(default_factory=dict)
    ahead: int | None = None
    waits: bool = False
    attempts: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    failed_steps: tuple[str, ...] = ()
    retryable: bool = True
    created_at: datetime | None = None
    finished_at: datetime | None = None
    log_hint: str | None = None
    output: str | None = None
    last_lines: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why it failed, as far as anything says so."""
        steps = ", ".join(map(repr, self.failed_steps[:5]))
        return self.error or (
            f"Step {steps} failed; its log says why"
            if steps
            else f"The run is {self.state}, and no step says why"
        )

    def places(self, what: str | None = None) -> tuple[str, ...]:
        """Where to look for more, a line each.

        :param what: what was run, if it is known by another name
        """
        names = [
            f"{name!r}" + (f" (attempt {self.attempts[name]})" if name in self.attempts else "")
            for name in self.failed_steps[:5]
        ]
        steps = f"Step {', '.join(names)} of run" if names else "Run"
        log = (f"Log: {self.log_hint}",) if self.log_hint else ()
        output = (f"Output of the step: {self.output}",) if self.output else ()
        lines = ("It ends with:", *(f"  {line}" for line in self.last_lines[-SHOWN_LINES:]))
        return (
            f"{steps} {self.run_id} ({what or self.display_name})",
            *log,
            *output,
            *(lines if self.last_lines else ()),
        )


@dataclass(frozen=True)
class Wait:
    """Why a step has not begun.

    :param step: its name; empty if nothing says so
    :param kind: what it is a case of; the same for reasons that differ in their words only
    :param reason: why
    :param since: Unix time from which on it has waited, if it is known
    """

    step: str
    kind: str
    reason: str
    since: float | None = None


class PipelineBackend(Protocol):
    """Something that carries out pipeline runs.

    Every method may raise :class:`ApiUnavailableError` (may be retried) or :class:`ConfigurationError` (may not).
    """

    poll_interval: float
    """Seconds between two looks, unless somebody says otherwise."""

    @property
    def image(self) -> str | None:
        """Image to run the provider's own components in, instead of the one that they were compiled with."""

    def image_of(self, compiled: str, own: str | None = None) -> str | None:
        """Image that a step of the provider's components runs in: what its settings name, the connection or the component; ``None`` without containers."""

    def pinned(self, image: str | None, run_id: str, task: str) -> str | None:
        """The image of a step that has run, with its digest where that can be told; never raises, since the step has done its work."""

    def place(self, pipeline: BoundPipeline, addresses: Mapping[str, Address]) -> BoundPipeline:
        """The pipeline with addresses that its steps can read; :class:`ConfigurationError` names one that they cannot."""

    def submit(self, request: RunRequest) -> str:
        """Start a run and return its id; the same display name never starts two."""

    def get(self, run_id: str) -> Run:
        """Read one run; :class:`RunNotFoundError` if there is none with that id."""

    def find(self, display_name: str) -> Run | None:
        """Look a run up by its exact display name."""

    def find_reusable(self, fingerprint: str) -> Run | None:
        """The newest successful run that was submitted with the label ``fingerprint``."""

    def cancel(self, run_id: str, patience: float | None = None) -> None:
        """Stop a run; does nothing if it has ended."""

    def read_result(self, run_id: str, pipeline: str, task: str) -> tuple[str, str]:
        """Text and address of the result that a step wrote; :class:`ResultError` if there is none."""

    def list_outputs(self, run_id: str, pipeline: str, task: str) -> dict[str, str]:
        """Address of each artifact that a step has written, by its name."""

    def input_digest(self, uri: str) -> str | None:
        """Something that changes when the content at an address does; ``None`` if it cannot be told."""

    def run_url(self, run_id: str) -> str:
        """The run's page in a web interface; empty if there is none."""

    def page_url(self, uri: str, conn_id: str) -> str:
        """Address at which a browser shows an artifact; empty if there is none.

        :param uri: address of the artifact
        :param conn_id: connection of this backend
        """

    def check(self) -> str:
        """Say in one line what was reached; raises if it cannot be used."""


@runtime_checkable
class PipelineServer(PipelineBackend, Protocol):
    """A backend with a server, which can do more than one machine, and is asked for all that wait on it together."""

    def find_version(self, pipeline: str, version: str | None) -> dict[str, str]:
        """Ids of a pipeline that is on the server, and of one of its versions; the newest when ``None``."""

    def read_version(self, version: Mapping[str, str]) -> dict[str, Any]:
        """The specification that a version on the server holds."""

    def retry(self, run_id: str) -> None:
        """Go on with a failed run: its failed steps, and those that depend on them."""

    def why_waiting(self, run_id: str) -> list[Wait]:
        """Why steps of a run have not begun, as far as it can be told."""

    async def awhy_waiting(self, run_id: str) -> list[Wait]:
        """The same from the triggerer."""

    def explain_failure(self, run: Run) -> Run:
        """A run that has failed, with what more can be found out about why."""

    def impatient(self) -> PipelineServer:
        """The same server, asked once: for who repeats a question anyway."""

    def last_finished_at(self) -> datetime:
        """When the newest of the finished runs has ended, by the server's clock."""

    def list_finished(self, since: datetime, *, with_steps_of: Container[str] = ()) -> Iterator[Run]:
        """The runs that have ended since a time; with their steps those that are named."""

    def read_many(self, run_ids: Sequence[str]) -> dict[str, Run]:
        """Several runs with one request, as far as they are found."""


@runtime_checkable
class PipelineMachine(PipelineBackend, Protocol):
    """A backend whose runs leave everything on this machine's disk."""

    def read_log(self, run_id: str, offset: int) -> tuple[list[str], int]:
        """Complete log lines from a byte offset on, and the offset behind them."""

    def read_outputs(self, run_id: str) -> dict[str, Any]:
        """Output parameters of a successful run's pipeline by name."""


def server_of(backend: PipelineBackend, what: str) -> PipelineServer:
    """The backend as a server.

    :param backend: what a connection chooses
    :param what: what only a server can do, for the message
    :raises ConfigurationError: it is this machine
    """
    if not isinstance(backend, PipelineServer):
        raise ConfigurationError(
            f"{what} needs a server of Kubeflow Pipelines, and the connection has no host, so that runs are local. Give the "
            "connection a host, or do without."
        )
    return backend


def step_changes(before: Mapping[str, str], run: Run) -> list[str]:
    """A line for each step whose state has changed.

    :param before: states of the steps at the last look
    :param run: the run now
    """
    return [
        f"Step {name}: {state}" + (f" (attempt {run.attempts[name]})" if name in run.attempts else "")
        for name, state in run.tasks.items()
        if before.get(name) != state
    ]


def pass_log_on(backend: PipelineBackend, run_id: str, offset: int, logger: Any, redactor: Redactor) -> int:
    """Log what a run has written since the last time; returns the offset behind it.

    :param backend: where the run is
    :param run_id: the run
    :param offset: byte in the log to begin with
    :param logger: of the task
    :param redactor: hides secrets, also those that go over several lines
    """
    while isinstance(backend, PipelineMachine):
        lines, end = backend.read_log(run_id, offset)
        for line in redactor.lines(lines):
            logger.info("%s", line)
        if end == offset:
            break
        offset = end
    return offset


def parse_time(value: Any) -> datetime | None:
    """Read an ISO 8601 time; ``None`` stays ``None``.

    :param value: the time as text
    """
    return datetime.fromisoformat(value) if value else None
