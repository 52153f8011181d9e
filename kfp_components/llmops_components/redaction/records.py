"""What results, tracking and model cards show: settings under one name each, paths without where they lie."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmops_components.redaction.text import redact
from llmops_components.redaction.values import redacted

# An absolute path of two parts or more that is not the path of a URL: only its last part says anything elsewhere.
_PATH = re.compile(r"(?<![\w:/.@~-])(?:file://)?/(?:[\w.@+ -]*[\w.@+-]/)+([\w.@+-]+)/?")


def without_paths(text: str) -> str:
    """A text in which absolute paths of files are cut to the file's name."""
    return _PATH.sub(r"\1", text)


def flat(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings under dotted names, as texts without secrets; what is not set is left out."""
    return dict(_flatten(redacted(values)))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", redact(str(value))
