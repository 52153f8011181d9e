"""A question to a served model, through the OpenAI API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    LLMOpsError,
    shown_value,
)

# How our predictor and vLLM say it.
_NO_CHAT_TEMPLATE = ("no_chat_template", "must provide a chat template")


def ask_model(
    post: Callable[[str, dict[str, Any]], Any],
    model: str,
    prompt: str,
    settings: dict[str, Any],
    *,
    address: str,
) -> str:
    """The model's answer. One without a chat template, as base models are, gets the question as a text to complete.

    :param post: sends a body to a path below the server's address, and returns the JSON that comes
    :param model: name of the model
    :param prompt: the question
    :param settings: further fields of the request, for example ``max_tokens``
    :param address: what the paths lie below, for messages
    :raises ConfigurationError: the server refuses the question
    :raises ApiUnavailableError: it does not answer as a language model does
    """
    messages = [{"role": "user", "content": prompt}]
    try:
        path = "openai/v1/chat/completions"
        answer = post(path, {"model": model, "messages": messages, **settings})
        return _text(answer, "message", "content", where=f"Address: {address}/{path}")
    except ConfigurationError as refused:
        if not any(phrase in str(refused) for phrase in _NO_CHAT_TEMPLATE):
            raise
    others = dict(settings)
    if "max_completion_tokens" in others:  # the older request calls it otherwise
        others["max_tokens"] = others.pop("max_completion_tokens")
    body = {"model": model, "prompt": prompt, **others}
    path = "openai/v1/completions"
    return _text(post(path, body), "text", where=f"Address: {address}/{path}")


def ask_each(ask: Callable[[str], str], models: Sequence[str]) -> str:
    """The answer of the first model, when the others, which are its adapters, have answered as well.

    :param ask: asks one of them
    :param models: names of the model and of its adapters
    :raises LLMOpsError: one does not answer
    """
    answer = ask(models[0])
    for adapter in models[1:]:
        try:
            is_answered = bool(ask(adapter).strip())
        except LLMOpsError as error:
            raise type(error)(f"Adapter {adapter!r} does not answer: {error}") from error
        if not is_answered:
            raise ConfigurationError(f"Adapter {adapter!r} answered with nothing.")
    return answer


def _text(answer: Any, *path: str, where: str) -> str:
    found = answer
    try:
        found = found["choices"][0]
        for key in path:
            found = found[key]
        if not isinstance(found, str):  # null, where a model calls a tool
            raise TypeError(type(found).__name__)
    except (LookupError, TypeError) as error:
        raise ApiUnavailableError(
            f"The service did not answer as a language model does: {shown_value(answer, 200)}", where
        ) from error
    return found
