"""Tokens that a request took: noted by what computes the answer, read by what counts, here or in the gateway."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from llmops_components.headers import COMPLETION_TOKENS_HEADER, PROMPT_TOKENS_HEADER

# Clients of event streams skip lines that begin with a colon: https://html.spec.whatwg.org/multipage/server-sent-events.html
_COMMENT = re.compile(rb': usage \{"prompt_tokens": (\d{1,9}), "completion_tokens": (\d{1,9})\}')
_TEXT = re.compile(rb'"(?:content|text)":"(?!")')  # quotes within the text have a backslash
_ASKED = re.compile(rb'"max_(?:completion_)?tokens"\s*:\s*(\d{1,9})(?![\d.eE])')


def tokens_asked(body: bytes) -> int:
    """How many tokens a body asks for, whatever its protocol, as far as it says so.

    Args:
        body: The body or a piece of it.
    """
    return sum(int(number) for number in _ASKED.findall(body))


@dataclass
class Usage:
    """Tokens of one request.

    Args:
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written.
        is_for_gateway: Whether the gateway counts them: a stream ends with a comment that has them, then.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_for_gateway: bool = False

    def headers(self) -> dict[str, str]:
        """The same as headers of a whole answer."""
        return {
            PROMPT_TOKENS_HEADER: str(self.prompt_tokens),
            COMPLETION_TOKENS_HEADER: str(self.completion_tokens),
        }

    def read_headers(self, headers: Mapping[str, str]) -> None:
        """Take over what :meth:`headers` made.

        Args:
            headers: Headers of an answer.
        """
        prompt, completion = headers.get(PROMPT_TOKENS_HEADER, ""), headers.get(COMPLETION_TOKENS_HEADER, "")
        if prompt.isdecimal() and completion.isdecimal():
            self.prompt_tokens, self.completion_tokens = int(prompt), int(completion)


class StreamUsage:
    """Reads the tokens of a stream from the comment at its end; counts the events with text where it breaks off before.

    Args:
        usage: Gets the numbers.
    """

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        self._line = b""
        self._texts = 0
        self._has_comment = False

    def see(self, piece: bytes) -> None:
        """Look at a piece of the stream.

        Args:
            piece: Bytes.
        """
        *lines, self._line = (self._line + piece).split(b"\n")
        for line in lines:
            if found := _COMMENT.fullmatch(line):
                self._usage.prompt_tokens, self._usage.completion_tokens = int(found[1]), int(found[2])
                self._has_comment = True
            elif not self._has_comment:
                self._texts += len(_TEXT.findall(line))  # one of them has a token or more
                self._usage.completion_tokens = max(self._usage.completion_tokens, self._texts)


current: ContextVar[Usage | None] = ContextVar("usage", default=None)


def note_usage(prompt_tokens: int, completion_tokens: int) -> None:
    """Say how many tokens the request at hand took.

    Args:
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written.
    """
    if (usage := current.get()) is not None:
        usage.prompt_tokens, usage.completion_tokens = prompt_tokens, completion_tokens


def usage_comment() -> str | None:
    """What a stream says to the gateway before its last event, if one asks."""
    usage = current.get()
    if usage is None or not usage.is_for_gateway:
        return None
    said = json.dumps({"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens})
    return f": usage {said}\n\n"
