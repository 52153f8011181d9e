"""The little HTTP that the provider speaks itself: JSON to a model server, a health check to MLflow."""

from __future__ import annotations

import base64
import io
import json
import socket
import ssl
import time
import urllib.error
import urllib.request
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, InvalidURL
from typing import Any

from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, shortened
from airflow_provider_llmops.hosts import is_loopback
from airflow_provider_llmops.uris import split_address

MAX_ERROR_CHARACTERS = 300
MAX_ANSWER_BYTES = 16 << 20
_MAX_ERROR_BYTES = 64 << 10
_CHUNK_BYTES = 64 << 10
_MAX_TIMEOUTS = 5  # that a whole answer may take
_SCHEMES = ("http", "https")


class TooSlowError(TimeoutError):
    """An answer that was not whole in the time that it had."""


def open_within(
    request: urllib.request.Request | str,
    *handlers: urllib.request.BaseHandler,
    timeout: float,
    seconds: float,
    context: ssl.SSLContext | None = None,
) -> Any:
    """Open an http or https address, past the environment's proxies where it is of this machine.

    :param request: what to ask
    :param handlers: of redirects
    :param timeout: seconds to wait for each part of the answer
    :param seconds: for all of it, redirects and head included
    :param context: how the certificate of an https address is verified
    :raises TooSlowError: the answer takes longer, also while it is read
    """
    servers = _Servers(time.monotonic() + seconds, context)
    return urllib.request.build_opener(_Proxies(), servers, *handlers).open(request, timeout=timeout)


class _Proxies(urllib.request.ProxyHandler):
    """The environment's proxies, for other machines."""

    def proxy_open(self, req: Any, proxy: Any, type: Any) -> Any:
        host = split_address(req.full_url).hostname
        return None if is_loopback(host or "") else super().proxy_open(req, proxy, type)


class _Servers(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens connections whose answers have to be whole at a time."""

    def __init__(self, deadline: float, context: ssl.SSLContext | None) -> None:
        urllib.request.HTTPHandler.__init__(self)  # the other's reads all authorities, whatever the address
        self._deadline = deadline
        self._tls = context

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(partial(self._connect, HTTPConnection), req)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(partial(self._connect, partial(HTTPSConnection, context=self._tls)), req)

    def _connect(self, kind: Any, host: str, **settings: Any) -> Any:
        connection = kind(host, **settings)
        connection.response_class = partial(_Response, deadline=self._deadline)
        return connection


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, deadline: float, **settings: Any) -> None:
        super().__init__(sock, *args, **settings)
        self.fp.close()
        self.fp = io.BufferedReader(_Incoming(sock, deadline))


class _Incoming(io.RawIOBase):
    """What a server sends. A socket's own time-out begins anew with each byte."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._socket = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left, usual = self._deadline - time.monotonic(), self._socket.gettimeout()
        if left <= 0:
            raise TooSlowError("too slow")
        self._socket.settimeout(left if usual is None else min(left, usual))
        try:
            return self._raw.readinto(buffer)
        except TimeoutError:
            kind = TooSlowError if time.monotonic() >= self._deadline else TimeoutError
            raise kind("timed out") from None

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects of the same host; another one is an error, and each where a key is sent: it is meant for one server."""

    def __init__(self, follows: bool) -> None:
        self._follows = follows

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        to = split_address(newurl)
        if (
            not self._follows
            or to.scheme not in _SCHEMES
            or to.hostname != split_address(req.full_url).hostname
        ):
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def request(
    url: str,
    *,
    body: Any = None,
    timeout: float,
    api_key: str | None = None,
    login: tuple[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> bytes:
    """Send a request, a POST with JSON if there is a body, and return the answer.

    :param url: http or https address
    :param body: anything that JSON can hold
    :param timeout: seconds to wait for each part of the answer; all of it may take five times as long
    :param api_key: sent as a bearer token; no redirect is followed then, otherwise those of the same host
    :param login: user and password, sent by HTTP's basic scheme; likewise
    :param context: how the certificate of an https address is verified
    :raises ConfigurationError: the address is not http, the server refuses the request (300 to 499), or its answer is larger than
        :data:`MAX_ANSWER_BYTES`
    :raises ApiUnavailableError: the server cannot be reached, is overloaded (429), or failed (500 and up)
    """
    if split_address(url).scheme not in _SCHEMES:
        raise ConfigurationError(f"Not an http or https address: {url!r}")
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    elif login is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(':'.join(login).encode()).decode()}"
    outgoing = urllib.request.Request(url, data=data, headers=headers)  # noqa: S310
    try:
        with open_within(
            outgoing,
            _Redirects(follows="Authorization" not in headers),
            timeout=timeout,
            seconds=_MAX_TIMEOUTS * timeout,
            context=context,
        ) as answer:
            content = _read(answer, url)
            if answer.length:  # a read of a limited size does not notice that the body was cut off
                raise ApiUnavailableError(
                    f"The answer was cut off {answer.length} bytes before its end.", f"Address: {url}"
                )
            return bytes(content)
    except urllib.error.HTTPError as error:
        said = _words(error)
        kind = ConfigurationError if error.code < 500 and error.code != 429 else ApiUnavailableError
        raise kind(
            f"HTTP {error.code} {error.reason}: {shortened(said, MAX_ERROR_CHARACTERS)}", f"Address: {url}"
        ) from error
    except (InvalidURL, ValueError) as error:  # whose words repeat a part of the address
        raise ConfigurationError(
            "Not a valid http or https address. Write it as https://host:port/path, with other characters percent-encoded.",
            f"Address: {url!a}",
        ) from error
    except HTTPException as error:
        raise ApiUnavailableError(f"The answer was cut off: {error!r}", f"Address: {url}") from error
    except TooSlowError as error:
        raise ApiUnavailableError(
            "The answer came too slowly. Is the network slow?", f"Address: {url}"
        ) from error
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise ApiUnavailableError(f"No connection: {reason}. Is the server up?", f"Address: {url}") from error


def _read(answer: Any, url: str) -> bytearray:
    content = bytearray()
    while chunk := answer.read1(_CHUNK_BYTES):
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise ConfigurationError(
                f"The answer is larger than {MAX_ANSWER_BYTES >> 20} MiB. Is this the address of that service?",
                f"Address: {url}",
            )
    return content


def _words(error: urllib.error.HTTPError) -> str:
    """What a server says with an error, as far as it comes: its status counts in any case."""
    try:
        return error.read(_MAX_ERROR_BYTES).decode("utf-8", errors="replace")
    except (OSError, HTTPException):
        return ""


def header_fault(value: str, *, spaces: bool = False) -> str | None:
    """Why a header cannot hold a secret, told without the secret; ``None`` if it can.

    A header takes visible ASCII. What else there is makes the client fail in words that repeat the value, or the server answer 500.

    :param value: token or cookie
    :param spaces: whether it may have spaces in it, as several cookies have
    """
    if len(lines := value.splitlines()) > 1 or value != "".join(lines):
        return f"it has {len(lines)} lines" if len(lines) > 1 else "it has a line break at its end"
    for position, character in enumerate(value, start=1):
        if not "!" <= character <= "~" and not (spaces and character == " "):
            return f"its character {position} is U+{ord(character):04X}, and only visible ASCII can be sent"
    return None
