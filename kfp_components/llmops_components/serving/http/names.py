"""Names that a service goes by, and origins of web pages that may ask it, as people write them. Standard library only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from llmops_components.hosts import address_of

HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/@]+)(?::\d{1,5})?")
_JSON_LIST = re.compile(r"\s*\[\s*[\"\]]")
_SCHEME = re.compile(r"https?://", re.I)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[!-~]+?)(?P<port>:\d{1,5})?/?", re.I)
_USUAL_PORTS = {"http": ":80", "https": ":443"}


def hosts_in(text: str) -> list[str]:
    """Host names as a ``Host`` header is compared with: in lower case, without scheme and port; ``*`` is any.

    Args:
        text: A JSON list of names, or names with commas between them.

    Raises:
        ValueError: One of them would never be met.
    """
    return _names_in(text, _host)


def origins_in(text: str) -> list[str]:
    """Origins as browsers send them: in lower case, without the usual port and a slash at their end; ``*`` is any.

    Args:
        text: A JSON list of origins, or origins with commas between them.

    Raises:
        ValueError: One of them would never be met.
    """
    return _names_in(text, _origin)


def _names_in(text: str, normal: Callable[[str], str]) -> list[str]:
    names = text.split(",")
    if _JSON_LIST.match(text):  # an IPv6 address begins with a bracket, too
        try:
            names = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{text!r:.80} is no JSON list of names: {error}") from None
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"{text!r:.80} is not a list of names")
    return [normal(name.strip()) for name in names if name.strip()]


def _host(given: str) -> str:
    if given == "*":
        return given
    if "*" in given:
        raise ValueError(f"{given!r:.80} has a wildcard: write each name, or * alone for any")
    name = _SCHEME.sub("", given, count=1).removesuffix("/").lower()
    if (address := address_of(name)) is not None:
        return str(address)
    if (found := HOST.fullmatch(name)) is None:
        raise ValueError(f"{given!r:.80} is no name of a host: write it as in chat.example.org")
    name = found["name"].rstrip(".")
    if (address := address_of(name)) is not None:
        return str(address)
    if not name.isascii():
        raise ValueError(
            f"{given!r:.80} is not how browsers send it: write its Punycode, which begins with xn--"
        )
    if not _DNS_NAME.fullmatch(name):
        raise ValueError(f"{given!r:.80} is no name of a host: write it as in chat.example.org")
    return name


def _origin(given: str) -> str:
    if given in ("*", "null"):
        return given
    found = _ORIGIN.fullmatch(given)
    if found is None or set(found["host"]) & set("*/?#@"):
        raise ValueError(
            f"{given!r:.80} is no origin of a page: write it as in https://chat.example.org, or * alone for any"
        )
    scheme, port = found["scheme"].lower(), found["port"] or ""
    return f"{scheme}://{found['host'].lower()}{'' if port == _USUAL_PORTS.get(scheme) else port}"
