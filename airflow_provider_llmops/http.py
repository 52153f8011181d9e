"""The little HTTP that the provider speaks itself: JSON to a model server, a health check to MLflow."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from http.client import HTTPException, InvalidURL
from typing import Any

from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, shortened
from airflow_provider_llmops.uris import split_address

MAX_ERROR_CHARACTERS = 300
MAX_ANSWER_BYTES = 16 << 20
_MAX_ERROR_BYTES = 64 << 10
_CHUNK_BYTES = 64 << 10
_MAX_TIMEOUTS = 5  # that a whole answer may take
_SCHEMES = ("http", "https")


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
    context: ssl.SSLContext | None = None,
) -> bytes:
    """Send a request, a POST with JSON if there is a body, and return the answer.

    :param url: http or https address
    :param body: anything that JSON can hold
    :param timeout: seconds to wait for each part of the answer
    :param api_key: sent as a bearer token; no redirect is followed then, otherwise those of the same host
    :param context: how the certificate of an https address is verified
    :raises ConfigurationError: the address is not http, the server refuses the request (300 to 499), or its answer is larger than
        :data:`MAX_ANSWER_BYTES`
    :raises ApiUnavailableError: the server cannot be reached, is overloaded (429), or failed (500 and up)
    """
    if split_address(url).scheme not in _SCHEMES:
        raise ConfigurationError(f"Not an http or https address: {url!r}")
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    handlers: list[urllib.request.BaseHandler] = [_Redirects(follows=api_key is None)]
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    outgoing = urllib.request.Request(url, data=data, headers=headers)  # noqa: S310
    try:
        with urllib.request.build_opener(*handlers).open(outgoing, timeout=timeout) as answer:
            content = _read(answer, url, time.monotonic() + _MAX_TIMEOUTS * timeout)
            if answer.length:  # a read of a limited size does not notice that the body was cut off
                raise ApiUnavailableError(
                    f"The answer was cut off {answer.length} bytes before its end.", f"Address: {url}"
                )
            return bytes(content)
    except urllib.error.HTTPError as error:
        said = error.read(_MAX_ERROR_BYTES).decode("utf-8", errors="replace")
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
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise ApiUnavailableError(f"No connection: {reason}. Is the server up?", f"Address: {url}") from error


def _read(answer: Any, url: str, deadline: float) -> bytearray:
    content = bytearray()
    while chunk := answer.read1(_CHUNK_BYTES):  # as much as has come: a read waits for each byte anew
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise ConfigurationError(
                f"The answer is larger than {MAX_ANSWER_BYTES >> 20} MiB. Is this the address of that service?",
                f"Address: {url}",
            )
        if time.monotonic() > deadline:
            raise ApiUnavailableError("The answer came too slowly. Is the network slow?", f"Address: {url}")
    return content


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
