"""The service that is asked: where it is, which model, in which protocol, with which settings and which key."""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llmops_components.errors import SettingError, check_known
from llmops_components.inference.paths import check_path
from llmops_components.inference.protocols import (
    OPENAI_EMBEDDINGS,
    PROTOCOL_NAMES,
    PROTOCOLS,
    Protocol,
    ProtocolName,
    Question,
)
from llmops_components.uris import is_http, is_server, place_of, scheme_of, split_login

# An API key is no argument: those are kept and shown. The first wins.
SERVICE_PREFIX, JUDGE_PREFIX = "LLMOPS_SERVICE", "LLMOPS_JUDGE"
KEY_VARIABLE, KEY_FILE_VARIABLE, CA_FILE_VARIABLE = (
    f"{SERVICE_PREFIX}{end}" for end in ("_KEY", "_KEY_FILE", "_CA_FILE")
)
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_OPENAI_PREFIX = "/openai/v1"  # where KServe's runtimes and our predictor have OpenAI's API


@dataclass(frozen=True)
class Service:
    """A served model and how it is asked.

    Args:
        url: Address of the service, or for OpenAI's protocols the base URL of an API, which ends in ``/v1``.
        model_name: Name of the model.
        protocol: Name of the protocol.
        request: Further fields of each request, such as ``max_tokens``: of V1 and V2 the ``parameters``.
        revision: The revision that is to answer, behind a gateway of ours; None for whichever has its turn.
        keep: What else is kept of a reply: a path in it by name, such as ``sources.*.text``.

    Raises:
        SettingError: One of them cannot be meant.
    """

    url: str
    model_name: str
    protocol: ProtocolName = "openai_chat"
    request: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None
    keep: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_known([self.protocol], PROTOCOL_NAMES, "protocol")
        _check_address(self.url)
        if not isinstance(self.model_name, str) or not self.model_name.strip():
            raise SettingError(f"model_name is {self.model_name!r:.100}. Give the name of the served model.")
        _check_request(self.request, self.speaks)
        for path in self.keep.values():
            check_path(path)
        if self.revision is not None and not _REVISION.fullmatch(self.revision):
            raise SettingError(
                f"{self.revision!r:.100} is no name of a revision. Give one of the service's, such as 00002."
            )

    @property
    def speaks(self) -> Protocol:
        """The protocol."""
        return PROTOCOLS[self.protocol]

    @cached_property
    def address(self) -> str:
        """Where questions are sent; of a protocol that asks each question in its own way, what all have in common."""
        return self._base + self.speaks.path(self.model_name)

    @cached_property
    def _base(self) -> str:
        base = self.url.rstrip("/")
        if self.protocol.startswith("openai") and not base.endswith("/v1"):
            base += _OPENAI_PREFIX
        return base

    def address_of(self, question: Question) -> str:
        """Where a question is sent.

        Args:
            question: The question.
        """
        return self._base + self.speaks.of(question).path(self.model_name)

    def body(self, question: Question) -> bytes:
        """What is sent to ask a question.

        Args:
            question: The question.
        """
        body = self.speaks.of(question).body(self.model_name, question, self.request)
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8")


@dataclass(frozen=True)
class EmbeddingService(Service):
    """A served model that embeds texts, by OpenAI's API."""

    @property
    def speaks(self) -> Protocol:
        """The protocol."""
        return OPENAI_EMBEDDINGS


def origin_of(url: str) -> tuple[str, str]:
    """Scheme, host and port of a service: whom a key is meant for.

    Args:
        url: Its address.
    """
    return scheme_of(url), place_of(url).partition("/")[0].lower()


def _check_address(url: str) -> None:
    how = "Give the service's address, for example http://127.0.0.1:8080."
    if not isinstance(url, str) or not is_http(url):
        raise SettingError(f"url is no http or https address: {url!r:.200}. {how}")
    shown, login = split_login(url, "url")
    if login is not None:
        raise SettingError(
            f"url has a login in it, which clients show in their errors: {shown}. Leave it out; a key comes from the "
            f"environment variable {KEY_VARIABLE}."
        )
    if not is_server(url):
        raise SettingError(f"url is not the address of a service alone: {url!r:.200}. {how}")


def _check_request(request: Mapping[str, Any], protocol: Protocol) -> None:
    if not isinstance(request, Mapping):
        raise SettingError(f"request is {request!r:.100}, and no object with settings.")
    if taken := sorted(protocol.reserved.intersection(request)):
        raise SettingError(
            f"request has {taken[0]!r}, which is set for each row. Leave it out; request is for settings such as max_tokens."
        )
    if request.get("n", 1) not in (1, None) or request.get("best_of", 1) not in (1, None):
        raise SettingError(
            "request asks for several answers to a question (n); a row has one answer. Leave it out."
        )
    try:
        json.dumps(dict(request), allow_nan=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise SettingError(f"request is nothing that JSON can hold: {error}.") from None


@dataclass(frozen=True)
class Access:
    """With what a service is asked.

    Args:
        key: Sent as a bearer token.
        context: How the certificate of an https address is verified; by the system's authorities when None.
        variables: Where a key is given, for messages: the variable, and the one that names a file.
        ca_file_variable: Where authorities are given.
    """

    key: str | None = field(default=None, repr=False)
    context: ssl.SSLContext | None = None
    variables: tuple[str, str] = (KEY_VARIABLE, KEY_FILE_VARIABLE)
    ca_file_variable: str = CA_FILE_VARIABLE

    @classmethod
    def from_environment(cls, prefix: str = SERVICE_PREFIX) -> Access:
        """What the environment says: ``LLMOPS_SERVICE_KEY``, or the file that ``LLMOPS_SERVICE_KEY_FILE`` names, and the
        authorities in ``LLMOPS_SERVICE_CA_FILE``.

        Args:
            prefix: What the variables begin with, for another service than the one that is put to use.

        Raises:
            SettingError: A file cannot be read, or no header can hold the key; the message does not repeat it.
        """
        key_variable, file_variable, ca_variable = (
            f"{prefix}{end}" for end in ("_KEY", "_KEY_FILE", "_CA_FILE")
        )
        key, what = os.environ.get(key_variable) or None, key_variable
        if key is None and (file := os.environ.get(file_variable)):
            what = file_variable
            try:
                key = Path(file).read_text(encoding="utf-8").strip() or None
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or "it is not text"
                raise SettingError(f"The API key in {what} cannot be read: {why}. File: {file}.") from None
        if key is not None and not all("!" <= sign <= "~" for sign in key):
            raise SettingError(
                f"The API key in {what} cannot be sent: a header takes visible ASCII, on one line. Give the key alone."
            )
        context = _context(ca_variable, os.environ.get(ca_variable))
        return cls(key, context, (key_variable, file_variable), ca_variable)

    def hidden(self, text: str) -> str:
        """A text without the key, should a server repeat it.

        Args:
            text: What the server said.
        """
        return text.replace(self.key, "***") if self.key else text


def _context(variable: str, ca_file: str | None) -> ssl.SSLContext | None:
    if not ca_file:
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SettingError(
            f"The authorities in {variable} cannot be read as PEM: {error.strerror}. File: {ca_file}."
        ) from None
