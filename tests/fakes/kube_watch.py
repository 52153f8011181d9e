"""How an API server lists and watches: versions, events of what has changed, bookmarks, 410 for what it has forgotten.

What there is, is asked for again and again and compared with what there was, so that a fake cluster may change as it likes.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

LOOK_SECONDS = 0.02
BOOKMARK_SECONDS = 0.2


@dataclass
class Journal:
    """What has happened to the objects of one list."""

    there: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)


class WatchedLists:
    """The lists of a fake cluster, by path.

    ``ends_after`` is how many seconds a watch lasts at most, ``gone`` how a client is told that the past is forgotten: as the ``status`` of the answer, or as
    an ``event`` in it. ``cuts`` breaks watches off, as a network does, ``holds_back`` keeps what happens from them, bookmarks, too. ``streams`` is how many go on.

    :param items: the objects of a list, for a path
    :param lock: held while they are asked for
    """

    def __init__(self, items: Callable[[str, str], list[dict[str, Any]]], lock: threading.RLock) -> None:
        self.ends_after = 60.0
        self.gone = "event"
        self.cuts = 0
        self.holds_back = False
        self.streams = 0
        self._items = items
        self._lock = lock
        self._version = 100
        self._forgotten = 0
        self._journals: dict[tuple[str, str], Journal] = {}

    def forget(self) -> None:
        """What has happened until now is not remembered any more; whoever watches is told."""
        with self._lock:
            self._version += 1
            self._forgotten = self._version
            for journal in self._journals.values():
                journal.events.clear()

    def _follow(self, key: tuple[str, str]) -> Journal:
        """Note what has changed since."""
        journal = self._journals.setdefault(key, Journal())
        now = {item["metadata"]["name"]: item for item in self._items(*key)}
        for name in list(journal.there):
            if name not in now:
                gone = journal.there.pop(name)
                self._note(journal, "DELETED", gone)
        for name, item in now.items():
            plain = copy.deepcopy(item)
            plain["metadata"].pop("resourceVersion", None)
            before = journal.there.get(name)
            if before is None or {**before, "metadata": _unversioned(before)} != plain:
                journal.there[name] = plain
                self._note(journal, "ADDED" if before is None else "MODIFIED", plain)
        return journal

    def _note(self, journal: Journal, what: str, item: dict[str, Any]) -> None:
        self._version += 1
        item["metadata"]["resourceVersion"] = str(self._version)
        journal.events.append((self._version, what, copy.deepcopy(item)))

    def list(self, path: str, selector: str) -> dict[str, Any]:
        """What there is."""
        with self._lock:
            journal = self._follow((path, selector))
            return {
                "metadata": {"resourceVersion": str(self._version)},
                "items": [copy.deepcopy(journal.there[name]) for name in sorted(journal.there)],
            }

    def watch(self, handler: BaseHTTPRequestHandler, path: str, query: dict[str, str], selector: str) -> None:
        """Answer with what happens from a version on."""
        key, seen = (path, selector), int(query["resourceVersion"])
        with self._lock:
            is_gone = seen < self._forgotten
            cuts = self.cuts
        if is_gone and self.gone == "status":
            content = json.dumps(_EXPIRED).encode()
            handler.send_response(410)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        self.streams += 1
        try:
            self._stream(handler, key, seen, min(float(query["timeoutSeconds"]), self.ends_after), cuts)
        except OSError:
            handler.close_connection = True
        finally:
            self.streams -= 1

    def _stream(
        self, handler: BaseHTTPRequestHandler, key: tuple[str, str], seen: int, seconds: float, cuts: int
    ) -> None:
        until, marked = time.monotonic() + seconds, time.monotonic()
        while time.monotonic() < until:
            if self.cuts != cuts:
                handler.close_connection = True
                return
            with self._lock:
                journal = self._follow(key)
                events = [event for event in journal.events if event[0] > seen]
                is_gone, version = seen < self._forgotten, self._version
            if not self.holds_back:
                if is_gone:
                    _send(handler, "ERROR", _EXPIRED)
                    break
                for _, what, item in events:
                    _send(handler, what, item)
                seen = max([seen, *(at for at, _, _ in events)])
                if time.monotonic() > marked + BOOKMARK_SECONDS:
                    marked, seen = time.monotonic(), version
                    _send(handler, "BOOKMARK", {"metadata": {"resourceVersion": str(version)}})
            time.sleep(LOOK_SECONDS)
        handler.wfile.write(b"0\r\n\r\n")


# As apimachinery's NewExpiredError has it.
_EXPIRED = {
    "kind": "Status",
    "apiVersion": "v1",
    "metadata": {},
    "status": "Failure",
    "message": "too old resource version: 1 (100)",
    "reason": "Expired",
    "code": 410,
}


def _unversioned(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item["metadata"].items() if name != "resourceVersion"}


def _send(handler: BaseHTTPRequestHandler, what: str, item: dict[str, Any]) -> None:
    line = json.dumps({"type": what, "object": item}).encode() + b"\n"
    handler.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
    handler.wfile.flush()
