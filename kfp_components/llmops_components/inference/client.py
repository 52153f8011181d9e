"""One question to a served model, and what became of it: an answer, a refusal, or trouble that may pass."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from llmops_components.errors import SettingError, shortened
from llmops_components.headers import COMPLETION_TOKENS_HEADER, PROMPT_TOKENS_HEADER, REVISION_HEADER
from llmops_components.hosts import is_loopback
from llmops_components.inference.paths import found_at
from llmops_components.inference.protocols import Answer, DeclinedAnswerError, NotAnAnswerError, Question
from llmops_components.inference.service import Access, Service
from llmops_components.json_text import parse_json
from llmops_components.redaction import redact
from llmops_components.uris import host_of, scheme_of

MAX_REPLY_BYTES = 16 << 20
_MAX_ERROR_BYTES = 16 << 10
_MAX_REASON = 500
_CONNECT_SECONDS = 10
_IDLE_SECONDS = (
    15  # less than servers keep a connection, so that it is not they who drop one that is about to be used
)
# Nothing was done with the question, so that asking again is no second try.
_TOO_BUSY = (429, 503)
_PASSING = (*_TOO_BUSY, 408, 425, 500, 502, 504)


@dataclass(frozen=True)
class Reply:
    """An answer, and how it came.

    Args:
        answer: The answer.
        seconds: From the question to the whole answer.
        revision: The revision of the service that answered, where it says so.
    """

    answer: Answer
    seconds: float
    revision: str | None


class AskError(Exception):
    """A question has no answer.

    Args:
        reason: Why, without secrets.
        status: The server's HTTP status, if it sent one.
    """

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class RefusedError(AskError):
    """The server would refuse the same question again."""


class DeclinedError(RefusedError):
    """The model itself declines to answer."""


class PassingError(AskError):
    """Asking again may help.

    Args:
        reason: Why, without secrets.
        status: The server's HTTP status, if it sent one.
        is_try: Whether the server may have worked on the question. It has not where it could not be reached or was too busy.
        retry_after: Seconds after which the server wants to be asked again, where it says so.
        is_late: Whether the answer took too long.
    """

    def __init__(
        self,
        reason: str,
        status: int | None = None,
        *,
        is_try: bool = True,
        retry_after: float | None = None,
        is_late: bool = False,
    ) -> None:
        super().__init__(reason, status)
        self.is_try = is_try
        self.retry_after = retry_after
        self.is_late = is_late


class Client:
    """Asks a service, over connections that are kept: to be used with ``async with``.

    Args:
        service: Whom to ask.
        access: With which key.
        connections: Most connections at a time.
        request_seconds: Longest time for one question, from the connection to the whole answer.
    """

    def __init__(
        self,
        service: Service,
        access: Access | None = None,
        *,
        connections: int = 16,
        request_seconds: float = 120,
    ) -> None:
        self.service = service
        self._access = access or Access()
        self._connections = connections
        self._seconds = request_seconds
        self._proxy = _proxy_for(service.address)
        self.key_variables = self._access.variables
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        if self._access.key is not None:
            headers["Authorization"] = f"Bearer {self._access.key}"
        if self.service.revision is not None:
            headers[REVISION_HEADER] = self.service.revision
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=_IDLE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            timeout=aiohttp.ClientTimeout(
                total=self._seconds, sock_connect=min(_CONNECT_SECONDS, self._seconds)
            ),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def ask(self, question: Question) -> Reply:
        """Ask once.

        Args:
            question: The question.

        Raises:
            RefusedError: The server refuses it.
            PassingError: There is no answer, and asking again may help.
            SettingError: The server's certificate is not to be trusted, or another revision answers than the one that is asked.
        """
        address, body = self.service.address_of(question), self.service.body(question)
        started = time.monotonic()
        try:
            status, headers, content = await self._post(address, body)
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            raise SettingError(
                f"The service's certificate or TLS is refused: {error}. Give its authority in {self._access.ca_file_variable}, or "
                f"correct the address. Address: {self.service.address}."
            ) from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            why = getattr(error, "strerror", None) or error
            raise PassingError(f"no connection: {why}", is_try=False) from None
        except TimeoutError:
            raise PassingError(f"no whole answer within {self._seconds:g} s", is_late=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise PassingError(f"the connection ended before the answer: {self._words(error)}") from None
        if status != 200:
            raise self._refusal(status, headers, content)
        return self._reply(question, headers, content, time.monotonic() - started)

    async def _post(self, address: str, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        assert self._session is not None
        async with self._session.post(
            URL(address, encoded=True),
            data=body,
            allow_redirects=False,  # the key is meant for this server
            proxy=self._proxy,
            ssl=self._access.context or True,
        ) as got:
            limit = MAX_REPLY_BYTES if got.status == 200 else _MAX_ERROR_BYTES
            content = bytearray()
            async for piece in got.content.iter_any():
                content += piece
                if len(content) > limit:
                    got.close()
                    break
            return got.status, got.headers, bytes(content)

    def _reply(self, question: Question, headers: Mapping[str, str], content: bytes, seconds: float) -> Reply:
        answered_by = headers.get(REVISION_HEADER)
        if self.service.revision not in (None, answered_by):
            raise SettingError(
                f"Revision {self.service.revision} was asked, and {self._words(answered_by or 'one that gives no name')} answered: this "
                f"address does not let a client choose. Give each revision's own address. Address: {self.service.address}."
            )
        if len(content) > MAX_REPLY_BYTES:
            raise RefusedError(f"the answer is larger than {MAX_REPLY_BYTES >> 20} MiB", 200)
        try:
            reply = parse_json(content)
            answer = self.service.speaks.of(question).answer(reply)
        except DeclinedAnswerError as error:
            raise DeclinedError(self._words(error), 200) from None
        except NotAnAnswerError as error:
            raise RefusedError(self._words(error), 200) from None
        except ValueError as error:  # no JSON, or cut off
            raise PassingError(f"the reply is no JSON: {self._words(error)}", 200) from None
        prompt, completion = (
            _number(headers, name) for name in (PROMPT_TOKENS_HEADER, COMPLETION_TOKENS_HEADER)
        )
        if answer.completion_tokens is None and completion is not None:
            answer = Answer(answer.value, answer.finish_reason, prompt, completion, answer.tool_calls)
        if self.service.keep:
            kept = {name: found_at(reply, path) for name, path in self.service.keep.items()}
            answer = replace(answer, kept=kept)
        return Reply(answer, seconds, answered_by)

    def _refusal(self, status: int, headers: Mapping[str, str], content: bytes) -> AskError:
        reason = f"HTTP {status}: {self._words(_said(content) or 'the server gives no reason')}"
        if 300 <= status < 400:
            where = self._words(headers.get("Location", "nowhere"))
            reason = f"HTTP {status}: a redirect to {where}, which is not followed; give that address"
        if status in _PASSING:
            return PassingError(
                reason,
                status,
                is_try=status not in _TOO_BUSY,
                retry_after=_retry_after(headers.get("Retry-After")),
            )
        return RefusedError(reason, status)

    def _words(self, said: object) -> str:
        return shortened(redact(self._access.hidden(str(said))), _MAX_REASON)


def _said(content: bytes) -> str:
    """What a server says with an error: OpenAI's ``error.message``, KServe's ``error``, FastAPI's ``detail``, or its text."""
    try:
        body = parse_json(content)
    except ValueError:
        return content.decode("utf-8", errors="replace").strip()
    found: Any = body
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return found if isinstance(found, str) else json.dumps(found)


def _number(headers: Mapping[str, str], name: str) -> int | None:
    value = headers.get(name, "")
    return int(value) if value.isdecimal() and len(value) < 10 else None


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number of them or a date."""
    if value is None:
        return None
    try:
        seconds = float(value) if not value[:1].isalpha() else _until(parsedate_to_datetime(value))
    except (ValueError, TypeError):
        return None
    return max(seconds, 0.0) if seconds < float("inf") else None


def _until(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - time.time()


def _proxy_for(address: str) -> str | None:
    """The environment's proxy, for another machine."""
    host = host_of(address)
    if is_loopback(host) or proxy_bypass(host):
        return None
    return getproxies().get(scheme_of(address))
