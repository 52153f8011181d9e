"""Keep secrets and paths of this machine out of what is published: tracking, model cards."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

_SECRET_NAME = re.compile(
    r"(?i)(?<!eos)(?<!pad)(?<!bos)(?<!unk)(?<!cls)(?<!sep)(?<!mask)"
    r"(^|[_.-])(token|secret|password|passwd|apikey|accesskey|credentials?|(?<=[_.-])key)$"
)
_USERINFO = re.compile(r"://[^/@\s]+@")
_TOKEN = re.compile(
    r"\b(hf|sk|ghp|gho|github_pat|glpat)([_-])[A-Za-z0-9_-]{16,}|(?i:bearer) [A-Za-z0-9._~+/=-]{8,}"
)
_MIN_SECRET_CHARACTERS = 8  # a shorter value, such as "true", would blank out ordinary words
# An absolute path of two parts or more that is not the path of a URL: only its last part says anything elsewhere.
_PATH = re.compile(r"(?<![\w:/.@~-])(?:file://)?/(?:[\w.@+ -]*[\w.@+-]/)+([\w.@+-]+)/?")
HIDDEN = "***"


def is_secret_name(name: str) -> bool:
    """Whether a setting of this name holds a secret, as ``hub_token`` does; ``eos_token`` and ``max_tokens`` do not."""
    return bool(_SECRET_NAME.search(name))


def scrub(text: str) -> str:
    """A text without passwords in addresses, tokens, and values of secret environment variables."""
    for name, value in os.environ.items():
        if is_secret_name(name) and len(value) >= _MIN_SECRET_CHARACTERS:
            text = text.replace(value, HIDDEN)
    return _TOKEN.sub(HIDDEN, _USERINFO.sub(f"://{HIDDEN}@", text))


def without_paths(text: str) -> str:
    """A text in which absolute paths of files are cut to the file's name."""
    return _PATH.sub(r"\1", text)


def redacted(value: Any) -> Any:
    """Settings without secrets, however deep they lie."""
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if item is not None and is_secret_name(str(key)) else redacted(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return scrub(value) if isinstance(value, str) else value


def flat(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings under dotted names, as texts without secrets; what is not set is left out."""
    return dict(_flatten(redacted(values)))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", scrub(str(value))
