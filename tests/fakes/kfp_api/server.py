"""The server: HTTP/1.1 with keep-alive on a thread of its own, and what tests do to it."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from email import message_from_bytes, policy
from typing import Any

from . import tasks as task_details
from .connection import LOGIN_PAGE, Answer, Connection, Incoming
from .errors import (
    ALREADY_EXISTS,
    INTERNAL,
    INVALID_ARGUMENT,
    NOT_FOUND,
    PERMISSION_DENIED,
    STACK,
    UNAUTHENTICATED,
    UNIMPLEMENTED,
    ApiError,
    gateway_error,
    unauthenticated,
)
from .faults import Faults
from .rows import FINAL, Run
from .state import NameTooLongError, State, User

_PREFIX = "/apis/v2beta1/"
_MAX_FILE_BYTES = 32 << 20  # common.MaxFileLength
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Request:
    """One request as it arrived, and the status it was answered with (0: no answer)."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    status: int
    at: float


class FakeKfpApi:
    """A Kubeflow Pipelines API server on 127.0.0.1, for one test.

    :param multi_user: namespaces and experiments are required as in a multi-user installation.
    :param token: bearer token that all requests must carry, as a proxy in front of the server wants it; ``cookie`` likewise, as
        ``name=value``. Upstream itself asks who somebody is only where it has to know: see ``users``.
    :param clock_skew: seconds by which the server's clock is ahead of this machine's.
    :param page_limit: largest page of a list; upstream's is 200.
    :param record: keep every request in ``requests``; the counts by path are kept in any case.
    """

    def __init__(
        self,
        multi_user: bool = False,
        token: str | None = None,
        clock_skew: float = 0.0,
        page_limit: int = 200,
        *,
        port: int = 0,
        record: bool = True,
    ) -> None:
        self.token = token
        self.cookie: str | None = None
        # Accounts of a multi-user installation by their bearer tokens; without any everybody may do everything.
        self.users: dict[str, User] = {}
        # What Kubernetes says of tokens that it does not take, where that is not that they are none.
        self.token_faults: dict[str, str] = {}
        self.clock_skew = clock_skew
        self.faults = Faults()
        self.requests: list[Request] = []
        self.counts: Counter[str] = Counter()
        self.on_run_created: Callable[[dict[str, Any]], None] | None = None
        self.on_run_terminated: Callable[[dict[str, Any]], None] | None = None
        self.on_run_retried: Callable[[dict[str, Any]], None] | None = None
        self.terminate_seconds = 0.05
        # Upstream never writes CANCELED: Argo ends a terminated workflow as Failed, or as Succeeded when that was faster.
        self.terminated_state = "FAILED"
        # The tasks of a run are all nodes of its workflow; as upstream installs it, each may be done again.
        self.nodes: task_details.Nodes = "with retries"
        self.tag_name = "2.17.0"
        self.state = State(multi_user=multi_user, page_limit=page_limit, clock=self.now)
        self._record = record
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._thread: threading.Thread | None = None

    # Life

    def __enter__(self) -> FakeKfpApi:
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-kfp-api", daemon=True)
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not None:
            self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listens, after ``stop`` on the same port again."""
        if self._server is not None:
            return

        async def listen() -> asyncio.Server:
            return await self._loop.create_server(
                lambda: Connection(self, self._connections), "127.0.0.1", self._port, backlog=1024
            )

        self._server = asyncio.run_coroutine_threadsafe(listen(), self._loop).result(10)
        self._port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Refuses connections and drops those that are open; the state is kept."""
        server, self._server = self._server, None
        if server is None:
            return

        async def close() -> None:
            server.close()
            for connection in list(self._connections):
                connection.abort()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(10)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """The server is unreachable inside."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def now(self) -> float:
        return time.time() + self.clock_skew

    # What tests look at

    @property
    def runs(self) -> dict[str, dict[str, Any]]:
        with self.state.lock:
            return {run_id: run.to_json() for run_id, run in self.state.runs.items()}

    def count(self, method: str | None = None, path: str | None = None) -> int:
        pattern = re.compile(path or "")
        return sum(
            (method is None or request.method == method) and pattern.search(request.path) is not None
            for request in list(self.requests)
        )

    def clear_requests(self) -> None:
        self.requests.clear()
        self.counts.clear()

    # What tests do

    def advance(
        self,
        run_id: str,
        state: str,
        *,
        tasks: dict[str, str] | None = None,
        error: str | None = None,
        task_errors: dict[str, str] | None = None,
        finished_at: datetime | None = None,
    ) -> None:
        """What a report of the run's workflow does to the run.

        :param tasks: states of steps by name; an empty state is that of a step which Argo left out.
        :param error: the run's ``error``. Upstream sets this field, and that of a task, only when it cannot
            convert a row: the message of a failed step is not in its answers. Leave both out for what
            upstream answers.
        :param finished_at: when the workflow finished; upstream's persistence agent reports it some seconds later,
            so a run may show up in lists with a time that lies before the last list.
        """
        with self.state.lock:
            if run_id not in self.state.runs:
                raise KeyError(run_id)
            run = self.state.runs[run_id]
            now = int(self.now())
            finished = int(finished_at.timestamp()) if finished_at else (now if state in FINAL else 0)
            run.reported = state
            run.error = error
            self.state.set_state(run, state, finished=finished)
            if tasks is not None or run.tasks:
                task_details.report(
                    run,
                    tasks or {},
                    task_errors or {},
                    now=now,
                    nodes=self.nodes,
                    final=state in FINAL,
                )

    def finish(self, run_id: str, state: str = "SUCCEEDED", **report: Any) -> None:
        self.advance(run_id, state, **report)

    def lose_workflow(self, run_id: str) -> None:
        """Somebody deletes the run's workflow from the cluster: the server keeps the run, and hears of it no more."""
        with self.state.lock:
            self.state.lost_workflows.add(run_id)

    def delete(self, run_id: str) -> None:
        """The run is gone, as after the server's garbage collection."""
        with self.state.lock:
            self.state.remove(self.state.runs[run_id])

    # Requests

    def answer(self, request: Incoming) -> Answer:
        if request.path == "/dex/auth":
            return Answer(200, LOGIN_PAGE, (("Content-Type", "text/html; charset=utf-8"),))
        refused = self._unauthorised(request)
        if refused is not None:
            return refused
        if not _PRINTABLE.fullmatch(request.headers.get("authorization", "")):
            error = gateway_error(
                INTERNAL, 'header key "authorization" contains value with non-printable ASCII characters'
            )
            return _json(error.status, error.body())
        try:
            with self.state.lock:
                self.state.caller = self._caller(request)
                return self._route(request)
        except ApiError as error:
            return _json(error.status, error.body())
        except Exception as error:
            # A mistake in this fake: it must not look like a server that is merely unwell.
            traceback.print_exc()
            return _json(500, {"code": INTERNAL, "message": f"the fake itself failed: {error!r}"})

    def _unauthorised(self, request: Incoming) -> Answer | None:
        missing = self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}"
        if not missing and self.cookie is not None:
            cookies = [cookie.strip() for cookie in request.headers.get("cookie", "").split(";")]
            missing = self.cookie not in cookies
        if not missing:
            return None
        error = unauthenticated("Request header error")
        return _json(error.status, error.body())

    def _caller(self, request: Incoming) -> User | ApiError | None:
        """Who asks, or what is said where that has to be known."""
        if not self.users:
            return None
        none = "Request header error: there is no user identity header."
        none = f"Unauthenticated: {none}: {none}"
        if not (header := request.headers.get("authorization", "")):
            return unauthenticated(none)
        scheme, _, token = header.partition(" ")
        if scheme != "Bearer":
            wrong = "Header 'Authorization' is incorrectly formatted. Expected prefix 'Bearer '"
            return unauthenticated(f"[{none}, BadRequestError: {wrong}: {wrong}]")
        if token not in self.users:
            why = self.token_faults.get(token, "invalid bearer token")
            return unauthenticated(
                f"[{none}, Authentication failure: Unauthenticated: Review.Status.Authenticated is false. Error {why}: Failed to "
                "authenticate token review]"
            )
        return self.users[token]

    def _route(self, request: Incoming) -> Answer:
        method, path = request.method, request.path
        if path == _PREFIX + "healthz":
            # main.go answers this one itself, whatever the method.
            return _json(
                200,
                {
                    "commit_sha": "7b70c7b95f6832772efd6fd0029a4024491a0f44",
                    "tag_name": self.tag_name,
                    "multi_user": self.state.multi_user,
                    "pipeline_store": "database",
                },
            )
        if path in (_PREFIX + "pipelines/upload", _PREFIX + "pipelines/upload_version"):
            return self._upload(request, version=path.endswith("_version"))
        if not path.startswith(_PREFIX):
            raise gateway_error(NOT_FOUND, "Not Found")
        collection, *rest = path[len(_PREFIX) :].split("/")
        handler = {
            "runs": self._runs,
            "experiments": self._experiments,
            "pipelines": self._pipelines,
            "recurringruns": self._recurring_runs,
        }.get(collection)
        if handler is None:
            raise gateway_error(NOT_FOUND, "Not Found")
        answer = handler(method, rest, request)
        if answer is None:
            raise gateway_error(UNIMPLEMENTED, "Method Not Allowed")
        return answer

    def _runs(self, method: str, rest: list[str], request: Incoming) -> Answer | None:
        state = self.state
        match method, rest:
            case "POST", []:
                run = state.create_run(_body(request))
                self._call(self.on_run_created, run)
                return Answer(200, run.encoded())
            case "GET", []:
                page, total, token = state.list_runs(request.query)
                return _page("runs", [run.encoded() for run in page], total, token)
            case "GET", [run_id]:
                return Answer(200, state.get_run(run_id).encoded())
            case "DELETE", [run_id]:
                state.delete_run(run_id)
                return Answer(200, b"{}")
            case "POST", [target]:
                run_id, _, verb = target.rpartition(":")
                if verb == "terminate":
                    self._terminated(state.terminate_run(run_id))
                elif verb == "retry":
                    self._call(self.on_run_retried, state.retry_run(run_id))
                elif verb == "archive":
                    state.archive_run(run_id)
                elif verb == "unarchive":
                    state.unarchive_run(run_id)
                else:
                    return None
                return Answer(200, b"{}")
            case _, [_, *further] if further:
                raise gateway_error(NOT_FOUND, "Not Found")
        return None

    def _recurring_runs(self, method: str, rest: list[str], request: Incoming) -> Answer | None:
        """There are none."""
        return Answer(200, b"{}") if (method, rest) == ("GET", []) else None

    def _experiments(self, method: str, rest: list[str], request: Incoming) -> Answer | None:
        state = self.state
        match method, rest:
            case "POST", []:
                return _json(200, state.create_experiment(_body(request)).to_json())
            case "GET", []:
                return _rows("experiments", state.list_experiments(request.query))
            case "GET", [experiment_id]:
                return _json(200, state.get_experiment(experiment_id).to_json())
            case "DELETE", [experiment_id]:
                state.delete_experiment(experiment_id)
                return Answer(200, b"{}")
            case "POST", [target]:
                experiment_id, _, verb = target.rpartition(":")
                if verb not in ("archive", "unarchive"):
                    return None
                state.archive_experiment(experiment_id, archived=verb == "archive")
                return Answer(200, b"{}")
        return None

    def _pipelines(self, method: str, rest: list[str], request: Incoming) -> Answer | None:
        state = self.state
        match method, rest:
            case "POST", []:
                return _json(200, state.create_pipeline(_body(request)).to_json())
            case "POST", ["create"]:
                return _json(200, state.create_pipeline_and_version(_body(request)).to_json())
            case "GET", []:
                return _rows("pipelines", state.list_pipelines(request.query))
            case "GET", ["names", name]:
                return _json(200, state.pipeline_by_name(name, request.query).to_json())
            case "GET", [pipeline_id]:
                return _json(200, state.get_pipeline(pipeline_id).to_json())
            case "PATCH", [pipeline_id]:
                return _json(200, state.update_pipeline(pipeline_id, _body(request)).to_json())
            case "DELETE", [pipeline_id]:
                state.delete_pipeline(pipeline_id, request.query)
                return Answer(200, b"{}")
            case "POST", [pipeline_id, "versions"]:
                return _json(200, state.create_version(pipeline_id, _body(request)).to_json())
            case "GET", [pipeline_id, "versions"]:
                return _rows("pipeline_versions", state.list_versions(pipeline_id, request.query))
            case "GET", [_, "versions", version_id]:
                return _json(200, state.get_version(version_id).to_json())
            case "PATCH", [_, "versions", version_id]:
                return _json(200, state.update_version(version_id, _body(request)).to_json())
            case "DELETE", [_, "versions", version_id]:
                state.delete_version(version_id)
                return Answer(200, b"{}")
        return None

    def _upload(self, request: Incoming, *, version: bool) -> Answer:
        """Uploads are no part of the gateway and have errors of their own (pipeline_upload_server.go)."""
        failed = f"Failed to create a pipeline{'' if not version else ' version'}"
        try:
            filename, text = _uploaded_file(request)
        except ValueError:
            reading = failed if version else "Failed to read pipeline from file"
            return _upload_error(400, reading)
        try:
            if version:
                return _json(200, self.state.upload_version(request.query, filename, text).to_json())
            return _json(200, self.state.upload_pipeline(request.query, filename, text).to_json())
        except NameTooLongError as error:
            text = f"Invalid input error: {error}\n"
            return Answer(400, text.encode(), (("Content-Type", "text/plain; charset=utf-8"),))
        except ApiError as error:
            if error.code == INVALID_ARGUMENT:
                return _upload_error(400, error.external or error.message)
            if error.code in (PERMISSION_DENIED, UNAUTHENTICATED):  # whose codes are lost here
                return _upload_error(400, failed)
            both = failed if version else "Failed to create a pipeline and a pipeline version"
            if error.code == ALREADY_EXISTS:
                return _upload_error(409, both)
            # An unknown pipeline is a bad request here, not 404.
            return _upload_error(500 if error.code == INTERNAL else 400, both)

    def _terminated(self, run: Run) -> None:
        if self.on_run_terminated is not None:
            self._call(self.on_run_terminated, run)
            return

        def end() -> None:
            with self.state.lock:
                if self.state.runs.get(run.run_id) is run and run.state == "CANCELING":
                    self.finish(run.run_id, self.terminated_state)

        self._loop.call_soon_threadsafe(self._loop.call_later, self.terminate_seconds, end)

    def _call(self, callback: Callable[[dict[str, Any]], None] | None, run: Run) -> None:
        if callback is not None:
            # Behind the lock: the callback must find the request's effect complete.
            threading.Thread(target=callback, args=(deepcopy(run.to_json()),), daemon=True).start()

    def control(self, request: Incoming) -> Answer:
        """For benchmarks, which run the server in another process: not recorded, no faults."""
        body = json.loads(request.payload or b"{}")
        if request.path == "/fake/runs":
            with self.state.lock:
                first = self.state.create_run(body["run"])
                runs = [first, *self.state.copies(first, int(body.get("n", 1)) - 1)]
            return _json(200, {"run_ids": [run.run_id for run in runs]})
        if request.path == "/fake/finish":
            for run_id in body["run_ids"]:
                self.finish(run_id, body.get("state", "SUCCEEDED"))
            return _json(200, {"now": self.now()})
        if request.path == "/fake/requests":
            counts = dict(self.counts)
            if request.method == "DELETE":
                self.clear_requests()
            return _json(200, {"counts": counts, "cpu_seconds": time.process_time()})
        return _json(404, {"message": "Not Found"})

    def note(self, request: Incoming, status: int) -> None:
        template = _UUID.sub("{id}", request.path)
        self.counts[f"{request.method} {template}"] += 1
        if self._record:
            body = None
            if request.payload and "json" in request.headers.get("content-type", "json"):
                try:
                    body = json.loads(request.payload)
                except ValueError:
                    body = None
            self.requests.append(
                Request(
                    request.method, request.path, request.query, request.headers, body, status, time.time()
                )
            )


def _body(request: Incoming) -> Any:
    if not request.payload:
        return {}
    try:
        return json.loads(request.payload)
    except ValueError as error:
        if getattr(error, "pos", 0) >= len(request.payload):
            raise gateway_error(INVALID_ARGUMENT, "unexpected EOF") from error
        raise gateway_error(INVALID_ARGUMENT, f"proto: syntax error (line 1:1): {error}") from error


def _uploaded_file(request: Incoming) -> tuple[str, str]:
    """Name and text of the part ``uploadfile`` of a form."""
    kind = request.headers.get("content-type", "")
    message = message_from_bytes(
        b"Content-Type: " + kind.encode() + b"\r\n\r\n" + request.payload, policy=policy.HTTP
    )
    for part in message.iter_parts() if message.is_multipart() else ():
        if part.get_param("name", header="content-disposition") != "uploadfile":
            continue
        filename = part.get_filename() or ""
        if not filename.endswith((".yaml", ".yml", ".json")):
            raise ValueError(filename)
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        if len(content) > _MAX_FILE_BYTES:
            raise ValueError("too large")
        return filename, content.decode()
    raise ValueError("no file")


def _json(status: int, body: dict[str, Any]) -> Answer:
    return Answer(status, json.dumps(body, separators=(",", ":")).encode())


def _upload_error(status: int, message: str) -> Answer:
    """The details are the error printed with its stack trace."""
    return _json(status, {"error_message": message, "error_details": f"{message}\n{STACK}"})


def _rows(name: str, page: tuple[list[Any], int, str]) -> Answer:
    rows, total, token = page
    encoded = [json.dumps(row.to_json(), separators=(",", ":")).encode() for row in rows]
    return _page(name, encoded, total, token)


def _page(name: str, rows: list[bytes], total: int, token: str) -> Answer:
    """An empty list is an empty object: none of the three fields is written when it is zero."""
    fields = []
    if rows:
        fields.append(b'"%s":[%s]' % (name.encode(), b",".join(rows)))
    if total:
        fields.append(b'"total_size":%d' % total)
    if token:
        fields.append(b'"next_page_token":"%s"' % token.encode())
    return Answer(200, b"{" + b",".join(fields) + b"}")
