"""What happens when a service is asked: who asks, may they, and what is noted when they have been answered."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmops_components.errors import SettingError
from llmops_components.serving.access.audit import LONGEST_CONTENT, LONGEST_TEXT, AuditLog
from llmops_components.serving.access.quotas import Exceeded, Quotas
from llmops_components.serving.access.settings import Access, Key
from llmops_components.serving.access.usage import Usage
from llmops_components.serving.http.refusals import RequestError

REQUEST_ID_HEADER = "x-request-id"
CLIENT_WENT_AWAY = 499  # nginx's
# What says that a service lives or is ready, and nothing else of it; probes of Kubernetes send no key.
_OPEN = re.compile(r"/|/v2/health/(?:live|ready)|/v2/models/[^?]{1,200}/ready|/v1/models/[^?]{1,200}")
logger = logging.getLogger(__name__)


def is_open(method: str, path: str) -> bool:
    """Whether a request only asks if the service lives or is ready.

    Args:
        method: HTTP method.
        path: Path, without the query.
    """
    return method in ("GET", "HEAD") and _OPEN.fullmatch(path) is not None


@dataclass
class Visit:
    """A request from the moment that its head is there until it is answered.

    Args:
        id: Its id.
        method: HTTP method; None where no request could be read.
        path: Path, without the query; likewise.
        key: Whose key it came with.
        guess: Tokens that count for it until it is answered.
        is_open: Whether it is one that needs no key and is not noted.
        is_let_in: Whether it came through the door, and whoever sent it may ask.
        asked: Most tokens that its answers may have, where the request says so.
        route: Where the gateway sent it.
        usage: Tokens that it took.
        refusal: Why it is refused once it is through the door; the door may refuse it for another reason before.
        content: Body and answer, where they are noted.
    """

    id: str
    method: str | None = None
    path: str | None = None
    started: float = field(default_factory=time.monotonic)
    key: Key | None = None
    guess: int | None = None
    asked: int = 0
    is_open: bool = False
    is_let_in: bool = False
    route: Mapping[str, Any] | None = None
    usage: Usage = field(default_factory=Usage)
    refusal: RequestError | None = None
    content: dict[str, bytes] | None = None

    def keep(self, what: str, piece: bytes) -> None:
        """Keep a piece of what was asked or answered, where the audit log is to have it.

        Args:
            what: ``request`` or ``answer``.
            piece: The piece.
        """
        if self.content is not None and len(kept := self.content.get(what, b"")) < LONGEST_CONTENT:
            self.content[what] = (kept + piece)[:LONGEST_CONTENT]


class Admission:
    """Lets requests in, or says why not.

    Args:
        access: Who may ask.
        directory: Directory of the audit log, unless the access file names one.
        service: Name of the service, which becomes the log's.
        quotas: Counts.
        also_open: Paths that may be read without a key, besides those that say whether the service is well.
    """

    def __init__(
        self,
        access: Access,
        *,
        directory: Path | None,
        service: str,
        quotas: Quotas | None = None,
        also_open: Collection[str] = (),
    ) -> None:
        self._access = access
        self._also_open = also_open
        self._quotas = quotas or Quotas()
        settings = access.settings()
        where = settings.audit.directory or directory
        # A model's name may have slashes.
        name = re.sub(r"[^A-Za-z0-9._-]", "_", service)
        self.audit = None if where is None else AuditLog(where / f"{name}.audit.jsonl")

    def visit(self, method: str, path: str, authorization: str | None) -> Visit:
        """Who asks; :meth:`admit` says whether they may, and :meth:`leave` ends it, whatever became of it.

        Args:
            method: HTTP method.
            path: Path, without the query.
            authorization: The header ``Authorization``.
        """
        opened = is_open(method, path) or (method == "GET" and path in self._also_open)
        visit = Visit(uuid.uuid4().hex, method, path, is_open=opened)
        if visit.is_open:
            return visit
        try:
            settings = self._access.settings()
        except SettingError as error:
            logger.error("Nobody is let in: %s", error)
            visit.refusal = RequestError(
                503,
                "The service cannot read who may ask it; its log says why.",
                code="service_unavailable",
                retry_after_seconds=5,
            )
            return visit
        if settings.audit.content:
            visit.content = {}
        if settings.keys is not None:
            visit.key = settings.identify(authorization)
            if visit.key is None:
                visit.refusal = _unknown(authorization)
        return visit

    def admit(self, visit: Visit, body_bytes: int) -> None:
        """Let a request in that came through the door, or have its ``refusal`` say why not.

        Args:
            visit: What :meth:`visit` returned.
            body_bytes: What the request says its body's length is.
        """
        if visit.key is not None:
            taken = self._quotas.take(visit.key, body_bytes)
            if isinstance(taken, Exceeded):
                visit.refusal = _too_much(visit.key, taken)
            else:
                visit.guess = taken
        visit.is_let_in = visit.refusal is None

    def leave(self, visit: Visit, status: int, **more: Any) -> None:
        """End a visit: count what it took and note it.

        Args:
            visit: What :meth:`visit` returned.
            status: HTTP status of the answer.
            more: Further facts for the log.
        """
        if visit.is_open and visit.is_let_in:
            return
        if visit.key is not None and visit.guess is not None:
            prompt, completion = visit.usage.prompt_tokens, visit.usage.completion_tokens
            if status == CLIENT_WENT_AWAY and not prompt + completion:  # left before a word of what it took
                prompt = max(visit.guess, visit.asked)
            self._quotas.settle(visit.key, visit.guess, prompt, completion)
        elif visit.key is not None and visit.refusal is None:  # the door refused it
            self._quotas.count(visit.key)
        if self.audit is None:
            return
        content = {
            name: text.decode("utf-8", "replace") for name, text in (visit.content or {}).items() if text
        }
        self.audit.write(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "id": visit.id,
                "key": visit.key.name if visit.key else None,
                "method": visit.method,
                "route": None if visit.path is None else visit.path[:LONGEST_TEXT],
                "status": status,
                "prompt_tokens": visit.usage.prompt_tokens,
                "completion_tokens": visit.usage.completion_tokens,
                "seconds": round(time.monotonic() - visit.started, 4),
                **more,
                **content,
            },
            refused=visit.key is None and not visit.is_let_in,
        )

    def note_refused(self, id: str, status: int) -> None:
        """Note what came and was no request that could be read.

        Args:
            id: The id that it was answered with.
            status: HTTP status of the answer.
        """
        self.leave(Visit(id), status)


def body_length(header: str | None) -> int:
    """What a request says its body's length is, or 0.

    Args:
        header: The header ``Content-Length``.
    """
    return int(header) if header and header.isdecimal() and len(header) < 12 else 0


def not_the_gateway() -> RequestError:
    """The refusal of whoever asks a predictor past its gateway."""
    return RequestError(
        401,
        "This address answers its service's gateway only: ask the service's own address.",
        code="not_the_gateway",
    )


def only_the_controller() -> RequestError:
    """The refusal of whoever asks at a path that is the controller's."""
    return RequestError(401, "This path is for the service's controller only.", code="not_the_controller")


def _unknown(authorization: str | None) -> RequestError:
    if authorization is None:
        why = "You sent no API key: send it in the header 'Authorization: Bearer KEY'."
    else:
        why = "The API key is not one of this service. It goes into the header 'Authorization: Bearer KEY'."
    return RequestError(401, why, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _too_much(key: Key, exceeded: Exceeded) -> RequestError:
    wait = exceeded.retry_after_seconds
    return RequestError(
        429,
        f"The key {key.name!r} has used up its {exceeded.limit} {exceeded.quota}. Ask again in {wait} s.",
        code="rate_limit_exceeded",
        retry_after_seconds=wait,
    )
