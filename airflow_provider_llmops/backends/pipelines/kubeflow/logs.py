"""The output of a step, which Kubeflow Pipelines leaves in the artifact store.

Its launcher writes what the step prints to ``<root>/<pipeline>/<run>/<task>/<attempt>/executor-logs-<retry>``, where the task is
the last part of the step's name and the attempt a random name that the driver makes once for each item of a loop
(``provisionOutputs`` in ``backend/src/v2/driver/driver.go``, ``qualifyExecutorLogsForRetry`` in
``backend/src/v2/component/launcher_v2.go``). Of steps that failed since 2.16, where it is all that is uploaded; up to 2.16.0
without the retry's number. An installation may do without (``PUBLISH_LOGS``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_provider_llmops.object_store import storage_path

TAIL_BYTES = 64 * 1024
MAX_OUTPUTS_READ = 5
_LOG = re.compile(r"executor-logs(?:-(?P<retry>\d{1,6}))?")
_TIMES = ("LastModified", "mtime", "updated", "last_modified", "created")


@dataclass(frozen=True)
class StepOutput:
    """What a step printed.

    :param text: the end of it
    :param attempt: at which attempt, counted from 1; ``None`` where its name does not say
    :param address: where it is
    :param is_sure: whether it cannot be that of a step of the same name that succeeded
    """

    text: str
    attempt: int | None
    address: str
    is_sure: bool = True


@dataclass(frozen=True)
class _Log:
    name: str
    size: int
    retry: int | None
    written_at: float
    has_outputs: bool


def read_failed_outputs(
    roots: Iterable[str],
    conn_id: str | None,
    *,
    since: datetime | None = None,
    others_succeeded: int = 0,
) -> list[StepOutput]:
    """The end of the output of attempts at a step that may have failed, the likeliest first.

    A loop, or a pipeline that is used twice, has several steps of the name. One that succeeded has uploaded its outputs as
    well, if it has any: what it printed is no reason. Only of a step that is alone they may be its own, written by itself.

    :param roots: places where the step may have written
    :param conn_id: Airflow connection for the storage
    :param since: leave out what was written until then, where the storage says when
    :param others_succeeded: how many other steps of the name are known to have succeeded
    """
    for root in roots:
        place = storage_path(root, conn_id)
        logs = _logs(place.path, place.fs.find(place.path, detail=True), since.timestamp() if since else 0.0)
        if logs:
            without = [log for log in logs if not log.has_outputs]
            is_sure = len(logs) - len(without) >= others_succeeded
            if others_succeeded or len(logs) > 1:
                logs = without
            logs.sort(key=lambda log: -log.written_at)
            return [_read(place.fs, log, root, is_sure) for log in logs[:MAX_OUTPUTS_READ]]
    return []


def _read(storage: Any, log: _Log, root: str, is_sure: bool) -> StepOutput:
    content = (
        storage.cat_file(log.name, start=max(0, log.size - TAIL_BYTES), end=log.size) if log.size else b""
    )
    text = content[-TAIL_BYTES:].decode("utf-8", errors="replace")
    if log.size > TAIL_BYTES:
        text = text.partition("\n")[2]  # the rest of a line
    within = log.name.rstrip("/").rsplit("/", 2)[1:]
    return StepOutput(text, None if log.retry is None else log.retry + 1, "/".join([root, *within]), is_sure)


def _logs(root: str, found: Mapping[str, Mapping[str, Any]], since: float) -> list[_Log]:
    """The output of the last try at each attempt.

    :param root: the step's place
    :param found: everything below it
    :param since: Unix time from which on they were written
    """
    logs: dict[str, _Log] = {}
    with_outputs = set()
    below = len(root.strip("/")) + 1
    for name, entry in found.items():
        attempt, _, rest = name.strip("/")[below:].partition("/")
        match = _LOG.fullmatch(rest)
        if match is None:
            with_outputs.add(attempt)
            continue
        retry = None if match["retry"] is None else int(match["retry"])
        log = _Log(name, int(entry.get("size") or 0), retry, _time_of(entry), has_outputs=False)
        if 0.0 < log.written_at <= since:
            continue
        if attempt not in logs or (retry or 0) >= (logs[attempt].retry or 0):
            logs[attempt] = log
    return [
        _Log(log.name, log.size, log.retry, log.written_at, attempt in with_outputs)
        for attempt, log in logs.items()
    ]


def _time_of(entry: Mapping[str, Any]) -> float:
    """When an object was written: every storage library has a name and a type of its own for that."""
    value = next((entry[name] for name in _TIMES if entry.get(name)), 0.0)
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        return value.timestamp() if isinstance(value, datetime) else float(value)
    except (TypeError, ValueError):
        return 0.0
