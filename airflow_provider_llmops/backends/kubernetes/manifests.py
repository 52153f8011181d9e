"""What manifests of all kinds have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
DNS_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def variables_from(kind: str, sources: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """Environment variables of a container from keys of other objects.

    :param kind: ``secretKeyRef`` or ``configMapKeyRef``
    :param sources: by name of the object, the variable for each of its keys
    """
    return [
        {"name": variable, "valueFrom": {kind: {"name": source, "key": key}}}
        for source, keys in sources.items()
        for key, variable in keys.items()
    ]
