"""The little HTTP that the provider speaks itself: JSON to a model server, a health check to MLflow."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from http.client import HTTPException, InvalidURL
from typing import Any

from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, shortened

MAX_ERROR_CHARACTERS = 300
MAX_ANSWER_BYTES = 16 << 20
_MAX_ERROR_BYTES = 64 << 10


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error: what was meant for one server must not go to another, a key least of all."""

    def redirect_request(self, *_: Any) -> None:
        return None


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
    :param api_key: sent as a bearer token; redirects are not followed then
    :param context: how the certificate of an https address is verified
    :raises ConfigurationError: the address is not http, the server refuses the request (300 to 499), or its answer is larger than
        :data:`MAX_ANSWER_BYTES`
    :raises ApiUnavailableError: the server cannot be reached, is overloaded (429), or failed (500 and up)
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"Not an http or https address: {url!r}")
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    handlers: list[urllib.request.BaseHandler] = []
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
        handlers.append(_NoRedirects())
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    outgoing = urllib.request.Request(url, data=data, headers=headers)  # noqa: S310
    try:
        with urllib.request.build_opener(*handlers).open(outgoing, timeout=timeout) as answer:
            content: bytes = answer.read(MAX_ANSWER_BYTES + 1)
            if len(content) > MAX_ANSWER_BYTES:
                raise ConfigurationError(
                    f"The answer is larger than {MAX_ANSWER_BYTES >> 20} MiB. Is this the address of that service?",
                    f"Address: {url}",
                )
            if answer.length:  # a read of a limited size does not notice that the body was cut off
                raise ApiUnavailableError(
                    f"The answer was cut off {answer.length} bytes before its end.", f"Address: {url}"
                )
            return content
    except urllib.error.HTTPError as error:
        said = error.read(_MAX_ERROR_BYTES).decode("utf-8", errors="replace")
        kind = ConfigurationError if error.code < 500 and error.code != 429 else ApiUnavailableError
        raise kind(
            f"HTTP {error.code} {error.reason}: {shortened(said, MAX_ERROR_CHARACTERS)}", f"Address: {url}"
        ) from error
    except InvalidURL as error:
        raise ConfigurationError(f"Not an http or https address: {error}", f"Address: {url!a}") from error
    except HTTPException as error:
        raise ApiUnavailableError(f"The answer was cut off: {error!r}", f"Address: {url}") from error
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise ApiUnavailableError(f"No connection: {reason}. Is the server up?", f"Address: {url}") from error


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
