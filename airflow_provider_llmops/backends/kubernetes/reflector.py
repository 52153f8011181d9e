"""Keeps the objects of one kind in one namespace as an API server has them: lists them, then watches what becomes of them.

The name is Kubernetes' own. What is kept is behind by as long as an event needs; where more may be missing, nothing is said at all, until the
objects have been listed again: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_llmops.backends.kubernetes.asking import (
    ANSWER_SECONDS,
    Advice,
    CredentialsRefusedError,
    GoneError,
    ask,
)
from airflow_provider_llmops.backends.kubernetes.cluster import Cluster
from airflow_provider_llmops.backends.kubernetes.requests import document_of
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, LLMOpsError
from airflow_provider_llmops.json_text import parse_json

__all__ = ["Kind", "Reflector"]

log = logging.getLogger(__name__)

Document = dict[str, Any]

WATCH_SECONDS = 30  # after which the API server ends a watch, which then goes on where it was
SILENT_SECONDS = 5.0  # that may pass after that
FIRST_WAIT_SECONDS = 1.0
MAX_WAIT_SECONDS = 30.0
REFUSED_SECONDS = 300.0  # after which is asked again what was refused: rights may be given


@dataclass(frozen=True)
class Kind:
    """A kind of objects.

    :param name: in the plural, for messages
    :param path: of the list of a namespace, which stands for ``{}``
    :param key: by what an object is asked for, of its document
    :param labels: selector; all when empty
    :param fields: the same for fields
    """

    name: str
    path: str
    key: Callable[[Document], str]
    labels: str = ""
    fields: str = ""


class Reflector:
    """Keeps what there is of a kind, in a thread of its own.

    :param kind: the kind
    :param namespace: where
    :param connect: gives the cluster, whose client may be another one each time: credentials are renewed
    :param advice: what to do where the API server refuses it
    """

    def __init__(self, kind: Kind, namespace: str, connect: Callable[[], Cluster], advice: Advice) -> None:
        self.kind = kind
        self.has_begun = False
        """Whether the objects were listed once, or could not be."""
        self._namespace = namespace
        self._connect = connect
        self._advice = advice
        self._lock = threading.Lock()
        self._by_key: dict[str, dict[str, Document]] = {}
        self._keys: dict[str, str] = {}  # by name
        self._heard_at: float | None = None  # None: what is kept is not all
        self._stopped = threading.Event()
        self._stream: Any = None
        self._has_said_refused = False
        name = f"watch {kind.name} in {namespace}"
        self._thread = threading.Thread(target=self._keep, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; does not wait for the thread."""
        self._stopped.set()
        with self._lock:
            self._heard_at, self._by_key, self._keys = None, {}, {}
            stream = self._stream
        if stream is not None:
            # The thread waits in it. Where it cannot be cut, it ends with its time.
            with contextlib.suppress(Exception):
                stream.shutdown()

    def found(self, key: str) -> list[Document] | None:
        """The objects of a key, in the order of their names; ``None`` while it is not known which there are.

        :param key: the key
        """
        with self._lock:
            is_known = (
                self._heard_at is not None
                and time.monotonic() < self._heard_at + WATCH_SECONDS + SILENT_SECONDS
            )
            if not is_known:
                return None
            kept = self._by_key.get(key, {})
            return [kept[name] for name in sorted(kept)]

    def _keep(self) -> None:
        version: str | None = None
        failures = 0
        while not self._stopped.is_set():
            try:
                if version is None:
                    version = self._list()
                began = time.monotonic()
                version = self._watch(version)
                failures = 0
                # Something on the way may not let a watch last.
                seconds = FIRST_WAIT_SECONDS if time.monotonic() < began + FIRST_WAIT_SECONDS else 0.0
            except Exception as error:
                version = None
                failures += 1
                seconds = self._seconds_after(error, failures)
                with self._lock:
                    self._heard_at = None
            self.has_begun = True
            self._stopped.wait(seconds)

    def _seconds_after(self, error: Exception, failures: int) -> float:
        """How long to wait before the objects are listed again. A refusal is said once."""
        if self._stopped.is_set() or (isinstance(error, GoneError) and failures == 1):
            return 0.0
        if isinstance(error, ConfigurationError) and not isinstance(error, CredentialsRefusedError):
            if not self._has_said_refused:
                log.warning(
                    "Tasks that wait in namespace %s each read %s for themselves: %s",
                    self._namespace,
                    self.kind.name,
                    error,
                )
            self._has_said_refused = True
            return REFUSED_SECONDS
        if not isinstance(error, LLMOpsError):
            log.error("Watching %s in namespace %s failed", self.kind.name, self._namespace, exc_info=error)
        ceiling = min(MAX_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(failures - 1, 16))
        return random.uniform(0.5, 1.0) * ceiling  # noqa: S311

    def _list(self) -> str:
        """Take up what there is now; the version from which on it is watched."""
        found: dict[str, Any] = self._ask("list", ANSWER_SECONDS, document_of)
        by_key: dict[str, dict[str, Document]] = {}
        keys: dict[str, str] = {}
        for document in found.get("items") or []:
            name = document["metadata"]["name"]
            keys[name] = self.kind.key(document)
            by_key.setdefault(keys[name], {})[name] = document
        version: str = found["metadata"]["resourceVersion"]
        with self._lock:
            if not self._stopped.is_set():
                self._by_key, self._keys, self._heard_at = by_key, keys, time.monotonic()
        self.has_begun = True
        return version

    def _watch(self, version: str) -> str:
        """Follow what happens until the API server ends that in its time; the version from which on to go on."""
        from kubernetes.watch.watch import iter_resp_lines  # type: ignore[import-untyped]
        from urllib3.exceptions import HTTPError

        stream = self._ask(
            "watch",
            WATCH_SECONDS + SILENT_SECONDS,
            lambda answer: answer,
            watch="true",
            resourceVersion=version,
            allowWatchBookmarks="true",
            timeoutSeconds=str(WATCH_SECONDS),
        )
        self._has_said_refused = False
        try:
            with self._lock:
                self._stream = stream
            if self._stopped.is_set():  # before there was a stream to cut
                return version
            for line in iter_resp_lines(stream):
                if self._stopped.is_set():
                    return version
                if line:
                    version = self._take(parse_json(line))
            with self._lock:
                if self._heard_at is not None:
                    self._heard_at = time.monotonic()
            return version
        except (HTTPError, OSError) as error:
            raise ApiUnavailableError(f"The API server does not answer any more: {error}") from error
        finally:
            with self._lock:
                self._stream = None
            stream.close()
            stream.release_conn()

    def _take(self, event: Mapping[str, Any]) -> str:
        """Take up one thing that has happened; its version."""
        what, document = event["type"], event["object"]
        if what == "ERROR":
            said = str(document.get("message") or document)
            raise (GoneError if document.get("code") == 410 else ApiUnavailableError)(said)
        metadata = document["metadata"]
        with self._lock:
            self._heard_at = time.monotonic()
            if what != "BOOKMARK" and not self._stopped.is_set():
                name = metadata["name"]
                self._by_key.get(self._keys.pop(name, ""), {}).pop(name, None)
                if what != "DELETED":
                    self._keys[name] = self.kind.key(document)
                    self._by_key.setdefault(self._keys[name], {})[name] = document
        version: str = metadata["resourceVersion"]
        return version

    def _ask(self, what: str, answer_within: float, read: Callable[[Any], Any], **query: str) -> Any:
        kind, cluster = self.kind, self._connect()
        query |= {
            name: value
            for name, value in (("labelSelector", kind.labels), ("fieldSelector", kind.fields))
            if value
        }

        def call(*, _request_timeout: float) -> Any:
            answer = cluster.client.call_api(
                kind.path.format(self._namespace),
                "GET",
                query_params=list(query.items()),
                header_params={"Accept": "application/json"},
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=_request_timeout,
            )
            return read(answer)

        wanted = f"{what} {kind.name} in namespace {self._namespace}"
        return ask(
            wanted, call, self._advice, conn_id=cluster.conn_id, patience=0.0, answer_within=answer_within
        )
