"""The log of a service, read record by record: who wrote it decides its form.

===================  ===========================================================================================
a record of ours     ``id``, ``messages`` or ``prompt``, ``answer`` or ``answers``, ``model``, ``model_version``, ``time``
bodies               ``id``, ``request`` and ``response`` (or ``answer``, as the audit log of a service on this machine has it)
                     with bodies of OpenAI's API
events               CloudEvents of KServe's logger, or what it writes to a store: one for the request and one for the response,
                     with the same ``id``
===================  ===========================================================================================
"""

from __future__ import annotations

import base64
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from llmops_components.data.feedback.bodies import (
    Answer,
    Reply,
    UnreadableBodyError,
    body_in,
    prompt_of,
    reply_in,
)
from llmops_components.data.feedback.times import time_of
from llmops_components.data.files import read_lines
from llmops_components.data.lines import Line, rejected_line

REQUEST_EVENT = "org.kubeflow.serving.inference.request"
RESPONSE_EVENT = "org.kubeflow.serving.inference.response"
_FIRST_ERROR = 400


@dataclass(frozen=True)
class Exchange:
    """A request and what was answered.

    Args:
        line: Where it was read.
        ids: What it is called: by the record, and by the reply.
        prompt: What was asked.
        answers: What was answered.
        model: Name of the model.
        model_version: Which version, or revision, of it.
        time: When.
    """

    line: int
    ids: tuple[str, ...]
    prompt: str | list[dict[str, str]]
    answers: tuple[Answer, ...]
    model: str | None = None
    model_version: str | None = None
    time: datetime | None = None


@dataclass
class Log:
    """What was read.

    Args:
        requests: How many requests have an answer.
        known: Those that somebody has said something of, by id.
        twice: Ids that stand for several requests, with the line of the second one.
        rejected: Lines that were not used.
    """

    requests: int = 0
    known: dict[str, Exchange] = field(default_factory=dict)
    twice: dict[str, int] = field(default_factory=dict)
    rejected: list[dict[str, Any]] = field(default_factory=list)


def read_log(path: str | os.PathLike[str], name: str, wanted: Collection[str]) -> Log:
    """Read a log.

    Args:
        path: The file.
        name: What it is called in ids of rows.
        wanted: Ids of requests that somebody has said something of; of the others nothing is kept.

    Raises:
        DataError: The file cannot be read.
    """
    log, halves = Log(), dict[str, dict[str, tuple[Line, Mapping[str, Any]]]]()

    def refuse(line: Line, reason: str) -> None:
        log.rejected.append(rejected_line(line, reason, file="requests", row_id=f"{name}:{line.number}"))

    for line in read_lines(path):
        if line.row is None:
            refuse(line, str(line.problem))
            continue
        lines = [line]
        try:
            if event := _event(line.row):
                pair = halves.setdefault(id := _id(line.row), {})
                if event in pair:
                    raise UnreadableBodyError(
                        f"has an id and type that line {pair[event][0].number} has, too"
                    )
                pair[event] = line, _payload(line.row)
                if len(pair) == 1:
                    continue
                del halves[id]
                lines = [each for each, _ in pair.values()]
                exchange = _joined(line, id, pair)
            else:
                exchange = _exchange(line)
        except UnreadableBodyError as error:
            for each in lines:
                refuse(each, str(error))
            continue
        log.requests += 1
        _note(log, exchange, line, wanted)
    for pair in halves.values():
        for event, (line, _) in pair.items():
            other = "response" if event == REQUEST_EVENT else "request"
            refuse(line, f"has no {other}")
    log.rejected.sort(key=lambda each: each["line"])
    return log


def _note(log: Log, exchange: Exchange, line: Line, wanted: Collection[str]) -> None:
    for id in exchange.ids:
        if id not in wanted:
            continue
        before = log.known.get(id)
        if before is None:
            log.known[id] = exchange
        elif (before.prompt, before.answers) != (exchange.prompt, exchange.answers):
            log.twice.setdefault(id, line.number)


def _lowered(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name.lower(): value for name, value in row.items()}


def _event(row: Mapping[str, Any]) -> str | None:
    """Which of KServe's events a record is; None where it is none. Its files of CSV, Parquet and JSON write the names in different case."""
    lowered = _lowered(row)
    kind = lowered.get("reqtype") or lowered.get("type")
    return kind if kind in (REQUEST_EVENT, RESPONSE_EVENT) else None


def _payload(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an event says, with its data as text or as an object."""
    lowered = _lowered(row)
    coded = lowered.get("data_base64") or lowered.get("bytes")
    if coded is not None:
        try:
            lowered["data"] = base64.b64decode(coded, validate=True).decode("utf-8")
        except (ValueError, TypeError):
            raise UnreadableBodyError("has data that are no text in base64") from None
    if lowered.get("data") is None:
        raise UnreadableBodyError("has no data")
    return lowered


def _joined(line: Line, id: str, pair: Mapping[str, tuple[Line, Mapping[str, Any]]]) -> Exchange:
    (_, asked), (_, answered) = pair[REQUEST_EVENT], pair[RESPONSE_EVENT]
    body, reply = body_in(asked["data"]), reply_in(answered["data"])
    service = answered.get("inferenceservicename") or answered.get("inferenceservice")
    version = answered.get("model_version") or answered.get("endpoint")
    model = reply.model or _word(body.get("model")) or _word(service)
    return _made(line, id, prompt_of(body), reply, model, version, answered.get("time"))


def _exchange(line: Line) -> Exchange:
    row = line.row or {}
    status = row.get("status")
    if isinstance(status, int) and status >= _FIRST_ERROR:
        raise UnreadableBodyError(f"was not answered: status {status}")
    response = next((row[name] for name in ("response", "answer") if row.get(name) is not None), None)
    if row.get("request") is not None:
        if response is None:
            raise UnreadableBodyError("has a request without response")
        body, reply = body_in(row["request"]), reply_in(response)
    elif "messages" in row or "prompt" in row:
        body, reply = row, _plain(row, response)
    elif "route" in row:
        raise UnreadableBodyError("has no bodies: the audit log has them only with content")
    else:
        seen = ", ".join(list(row)[:8]) or "none"
        raise UnreadableBodyError(f"has the form of no log that is known; fields: {seen}")
    version = row.get("model_version") or row.get("revision")
    model = _word(row.get("model")) or reply.model or _word(body.get("model"))
    return _made(line, _id(row, reply.id), prompt_of(body), reply, model, version, row.get("time"))


def _plain(row: Mapping[str, Any], response: Any) -> Reply:
    """The answers of a record that has them as text, or as a body."""
    answers = row.get("answers") if response is None else [response] if isinstance(response, str) else None
    if response is not None and answers is None:
        return reply_in(response)
    if not isinstance(answers, list) or not answers or not all(isinstance(each, str) for each in answers):
        raise UnreadableBodyError("has no answer that is text, nor answers that are texts")
    return Reply(tuple(Answer(each) for each in answers))


def _made(
    line: Line, id: str, prompt: Any, reply: Reply, model: str | None, version: Any, time: Any
) -> Exchange:
    try:
        at = time_of(time) or reply.time
    except ValueError:
        raise UnreadableBodyError(f"has a time that is none: {time!r:.40}") from None
    ids = tuple(dict.fromkeys(each for each in (id, reply.id) if each))
    version = None if version in (None, "") else str(version)
    return Exchange(line.number, ids, prompt, reply.answers, model, version, at)


def _id(row: Mapping[str, Any], other: str | None = None) -> str:
    lowered = _lowered(row)
    id = next((lowered[name] for name in ("request_id", "id") if lowered.get(name) is not None), other)
    if isinstance(id, bool) or not isinstance(id, str | int) or id == "":
        raise UnreadableBodyError("has no id")
    return str(id)


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
