"""Which requests a service takes at all: the same rules for the gateway and for the predictor.

A service listens where any program of the machine can reach it, a web page in a browser included: a page may send requests to
any address, and with a name of its own that resolves to 127.0.0.1 it may read the answers, too. So a request must name a host
that is the service's, must not come from a page unless that page's origin is allowed, must have a body of the one type that
a page cannot send unasked, and must be for one of the routes below. KServe's server has more of them, which load and unload models.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmops_components.headers import REVISION_HEADER
from llmops_components.hosts import address_of, is_loopback
from llmops_components.serving.http.names import HOST, hosts_in, origins_in
from llmops_components.serving.http.refusals import RequestError, refuse

_NAME = r"(?!\.{1,2}(?:/|$))[^/\x00-\x1f\x7f]+(?:/(?!\.{1,2}(?:/|$))[^/\x00-\x1f\x7f]+)*"  # of a model; it may have slashes
# Of one predictor alone: a gateway would answer with that of any of its revisions.
METRICS_PATH = "/metrics"
# What users of KServe and of OpenAI's API ask for.
ROUTES: tuple[tuple[str, str], ...] = (
    ("GET", r"/"),
    ("GET", r"/v1/models"),
    ("POST", rf"/v1/models/{_NAME}:predict"),
    ("GET", rf"/v1/models/{_NAME}"),
    ("GET", r"/v2"),
    ("GET", r"/v2/health/live"),
    ("GET", r"/v2/health/ready"),
    ("GET", r"/v2/models"),
    ("POST", rf"/v2/models/{_NAME}/infer"),
    ("GET", rf"/v2/models/{_NAME}/ready"),
    ("GET", rf"/v2/models/{_NAME}"),
    ("GET", r"/openai/v1/models"),
    ("GET", rf"/openai/v1/models/{_NAME}"),
    ("POST", r"/openai/v1/chat/completions"),
    ("POST", r"/openai/v1/completions"),
)
_UTF8 = {"utf-8", "utf8", "us-ascii"}
_MAX_REASON = 300
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Policy:
    """Who may ask.

    Args:
        hosts: Names and addresses, besides those of loopback, that requests may have in their ``Host`` header, as
            :func:`~llmops_components.serving.http.names.hosts_in` writes them; ``*`` is any name. None,
            where a server listens on more than loopback, is any name, too: a cluster's router chooses it.
        origins: Origins of web pages that may ask, such as ``https://chat.example.org``; ``*`` is any.
        listens_beyond_loopback: Whether an address as ``Host`` is a name of the server. (Only a name can be made to resolve to
            somebody else's machine, so an address is no danger; probes of Kubernetes have the pod's.)
    """

    hosts: frozenset[str] | None = frozenset()
    origins: tuple[str, ...] = ()
    listens_beyond_loopback: bool = False

    def is_ours(self, host: str) -> bool:
        """Whether a ``Host`` header names this service.

        Args:
            host: The header's value.
        """
        found = HOST.fullmatch(host)
        if not found:
            return False
        if self.hosts is None or "*" in self.hosts:
            return True
        name = found["name"].lower().rstrip(".")
        if is_loopback(name):
            return True
        if (address := address_of(name)) is None:
            return name in self.hosts
        return self.listens_beyond_loopback or str(address) in self.hosts


def policy_of(hosts: str, origins: str, listens_on: str) -> Policy:
    """The policy that arguments of a command line say.

    Args:
        hosts: Names, as a JSON list or with commas between them; empty for the default.
        origins: Origins in the same form, as vLLM takes them.
        listens_on: Address that the server listens on.

    Raises:
        ValueError: A name or an origin would never be met.
    """
    beyond = not is_loopback(listens_on)
    named = frozenset(hosts_in(hosts))
    return Policy(
        hosts=None if beyond and not named else named,
        origins=tuple(origins_in(origins)),
        listens_beyond_loopback=beyond,
    )


class Door:
    """Lets in the requests that a service takes, and writes one line for each that was not answered as asked.

    Args:
        app: The application behind.
        policy: Says who may ask, for each request anew.
        routes: Methods and patterns of paths.
    """

    def __init__(
        self, app: ASGIApp, *, policy: Callable[[], Policy], routes: Sequence[tuple[str, str]] = ROUTES
    ) -> None:
        self.app = app
        self._policy = policy
        self._routes = [(method, re.compile(pattern)) for method, pattern in routes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        answer = _LoggedAnswer(scope, send)
        policy = self._policy()
        try:
            self._check_host(scope, policy)
            origin = _only(scope, b"origin")
            if origin is None:
                self._check_route(scope)
                await self.app(scope, receive, answer.send)
            elif origin in policy.origins or "*" in policy.origins:
                await _cors(self._behind_cors, policy.origins)(scope, receive, answer.send)
            else:
                raise RequestError(
                    403,
                    f"Web pages of {origin} may not use this service. Name the origin in its argument allowed_origins.",
                    code="origin_not_allowed",
                )
        except RequestError as error:
            await refuse(error, scope, receive, answer.send)

    async def _behind_cors(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check_route(scope)
        except RequestError as error:
            await refuse(error, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    @staticmethod
    def _check_host(scope: Scope, policy: Policy) -> None:
        host = _only(scope, b"host")
        if host is None:
            raise RequestError(400, "The request has no Host header.", code="bad_request")
        if not policy.is_ours(host):
            raise RequestError(
                421,
                f"This service does not go by the name {host}. Name it in its argument allowed_hosts.",
                code="host_not_allowed",
            )

    def _check_route(self, scope: Scope) -> None:
        methods = sorted({method for method, path in self._routes if path.fullmatch(scope["path"])})
        if not methods:
            raise RequestError(404, f"This service has no {scope['path']}.", code="not_found")
        if scope["method"] not in methods:
            raise RequestError(
                405,
                f"{scope['path']} takes {' and '.join(methods)}, not {scope['method']}.",
                code="method_not_allowed",
                headers={"Allow": ", ".join(methods)},
            )
        headers = dict(scope["headers"])
        if (
            scope["method"] == "POST"
            or b"transfer-encoding" in headers
            or headers.get(b"content-length", b"0") != b"0"
        ):
            _check_content_type(scope)


def _check_content_type(scope: Scope) -> None:
    given = _only(scope, b"content-type") or ""
    kind, *parameters = (part.strip().lower() for part in given.split(";"))
    charsets = [part.partition("=")[2].strip('" ') for part in parameters if part.startswith("charset=")]
    encoding = _only(scope, b"content-encoding") or "identity"
    if kind != "application/json" or not _UTF8.issuperset(charsets) or encoding.lower() != "identity":
        shown = f"{given or 'no Content-Type'}{'' if encoding == 'identity' else f' in {encoding}'}"
        raise RequestError(
            415,
            f"Bodies are application/json in UTF-8, not {shown}. Send Content-Type: application/json.",
            code="unsupported_media_type",
        )
    # KServe knows the type without parameters only.
    plain = (b"content-type", b"application/json")
    scope["headers"] = [
        plain if name == b"content-type" else (name, value) for name, value in scope["headers"]
    ]


def _only(scope: Scope, name: bytes) -> str | None:
    """The value of a header that a request may have once."""
    values = [value for key, value in scope["headers"] if key == name]
    if len(values) > 1:
        raise RequestError(400, f"The request has {len(values)} {name.decode()} headers.", code="bad_request")
    return values[0].decode("latin-1") if values else None


@lru_cache(maxsize=16)
def _cors(app: ASGIApp, origins: tuple[str, ...]) -> CORSMiddleware:
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=(
            "*",
        ),  # OpenAI's client has many of its own; without credentials it gives nothing away
        expose_headers=(REVISION_HEADER, "x-request-id", "retry-after"),
    )


class _LoggedAnswer:
    """Passes an answer on, and writes one line to the log if it is an error."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._status = 200

    async def send(self, message: Message) -> None:
        """Send a message of the answer.

        Args:
            message: The message.
        """
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif self._status >= 400:
            asked = f"{self._scope['method']} {self._scope['path'][:_MAX_REASON]!a}"
            reason = bytes(message.get("body", b""))[:_MAX_REASON].decode(errors="replace")
            logger.warning(
                "%s was answered with %d: %s", asked, self._status, reason.encode("unicode_escape").decode()
            )
            self._status = 200  # once
        await self._send(message)
