"""A question to a served model, as a client asks it. Standard library only: the controller imports this."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from llmops_components.errors import SettingError, UnavailableError
from llmops_components.hosts import is_loopback
from llmops_components.json_text import parse_json
from llmops_components.uris import host_of

SMOKE_MAX_TOKENS = 64
_MAX_ANSWER_BYTES = 4 << 20
_PAUSE_SECONDS = 0.5
# How our predictor and vLLM say it.
_NO_CHAT_TEMPLATE = ("no_chat_template", "must provide a chat template")
_CONTEXT_TOO_SHORT = ("model's context is", "maximum context length")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error: a key must not go to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _ToProcess(urllib.request.HTTPHandler):
    """Connects, and sends nothing if the process that the request is for is gone by then."""

    def __init__(self, lives: Callable[[], bool]) -> None:
        super().__init__()
        self._lives = lives

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_ConnectionToProcess, req, lives=self._lives)


class _ConnectionToProcess(http.client.HTTPConnection):
    def __init__(self, *args: Any, lives: Callable[[], bool], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._lives = lives

    def connect(self) -> None:
        super().connect()
        if not self._lives():
            self.close()
            raise ConnectionRefusedError("The process that listened there is gone.")


def opener_to_process(
    lives: Callable[[], bool], *handlers: urllib.request.BaseHandler
) -> urllib.request.OpenerDirector:
    """Asks a process of this machine: past every proxy, and nobody else that may have taken its port since it died.

    Args:
        lives: Whether the process lives; it holds its port for as long.
        handlers: Further handlers.
    """
    return urllib.request.build_opener(
        urllib.request.ProxyHandler({}), _NoRedirects(), _ToProcess(lives), *handlers
    )


_opener = urllib.request.build_opener(_NoRedirects())
# A proxy would be asked for its own loopback, and would see the secret of a service of this machine.
_local_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())


def _opener_for(address: str) -> urllib.request.OpenerDirector:
    is_local = is_loopback(host_of(address))
    return _local_opener if is_local else _opener


def ask(
    openai_url: str,
    model_name: str,
    prompt: str,
    *,
    max_tokens: int = SMOKE_MAX_TOKENS,
    headers: Mapping[str, str] | None = None,
    timeout_seconds: float = 120,
    lives: Callable[[], bool] | None = None,
) -> str:
    """The model's answer to one question.

    A model without a chat template, as base models are, gets the question as a text to complete. Where the model's
    context has no room for ``max_tokens``, the server decides how long the answer may be.

    Args:
        openai_url: Base URL of an OpenAI API.
        model_name: Name of the model.
        prompt: The question.
        max_tokens: Longest answer.
        headers: Further headers, such as the one with a key; redirects are not followed.
        timeout_seconds: Longest wait.
        lives: Of a process of this machine, whether it lives; nobody else is asked at its port.

    Raises:
        SettingError: The server refuses the question.
        UnavailableError: The server does not answer it.
    """
    common: dict[str, Any] = {"model": model_name, "max_tokens": max_tokens, "temperature": 0}
    chat = f"{openai_url}/chat/completions", {"messages": [{"role": "user", "content": prompt}]}
    plain = f"{openai_url}/completions", {"prompt": prompt}
    address, question = chat
    opener = _opener_for(address) if lives is None else opener_to_process(lives)
    while True:
        try:
            choice = _post(opener, address, common | question, headers or {}, timeout_seconds)
            return _text_in(choice, address)
        except SettingError as refused:
            if "max_tokens" in common and any(phrase in str(refused) for phrase in _CONTEXT_TOO_SHORT):
                del common["max_tokens"]
            elif "messages" in question and any(phrase in str(refused) for phrase in _NO_CHAT_TEMPLATE):
                address, question = plain
            else:
                raise


def _text_in(choice: dict[str, Any], address: str) -> str:
    """The answer in a choice, which is null where a model calls a tool."""
    try:
        text = choice["message"]["content"] if "message" in choice else choice["text"]
    except (LookupError, TypeError):
        text = None
    if not isinstance(text, str):
        raise UnavailableError(f"{address} did not answer the smoke question with text: {choice!r:.200}")
    return text


def is_open_to_all(openai_url: str, *, timeout_seconds: float = 30) -> bool:
    """Whether a service answers without a key.

    Args:
        openai_url: Base URL of an OpenAI API.
        timeout_seconds: Longest wait; a route may be missing for a moment.

    Raises:
        UnavailableError: The service tells neither.
    """
    address, deadline = f"{openai_url}/models", time.monotonic() + timeout_seconds
    while True:
        try:
            with _opener_for(address).open(address, timeout=timeout_seconds):
                return True
        except urllib.error.HTTPError as error:
            if error.code in (301, 302, 303, 307, 308, 401, 403):
                return False
            why = f"HTTP {error.code}"
        except OSError as error:
            why = str(error)
        if time.monotonic() > deadline:
            raise UnavailableError(f"Cannot tell whether a key is needed: {address} answered with {why}.")
        time.sleep(_PAUSE_SECONDS)


def _post(
    opener: urllib.request.OpenerDirector,
    address: str,
    body: dict[str, Any],
    headers: Mapping[str, str],
    timeout_seconds: float,
) -> dict[str, Any]:
    """The first choice of the answer."""
    request = urllib.request.Request(  # noqa: S310  the address comes from the controller, not from a user
        address, data=json.dumps(body).encode(), headers={"Content-Type": "application/json", **headers}
    )
    try:
        with opener.open(request, timeout=timeout_seconds) as answer:
            content = answer.read(_MAX_ANSWER_BYTES + 1)
            if len(content) > _MAX_ANSWER_BYTES:
                raise UnavailableError(f"{address} answered with more than {_MAX_ANSWER_BYTES} bytes.")
            choice: dict[str, Any] = parse_json(content)["choices"][0]
            return choice
    except urllib.error.HTTPError as error:
        detail = error.read(2000).decode(errors="replace")
        kind = (
            SettingError if error.code in (400, 401, 403, 422) else UnavailableError
        )  # a route may be 404 for a moment
        raise kind(f"The smoke question was answered with HTTP {error.code} by {address}: {detail}") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UnavailableError(f"{address} did not answer the smoke question: {error}") from None
