"""Filters of the server's listings.

https://github.com/kubeflow/pipelines/blob/master/backend/api/v2beta1/filter.proto
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote


def predicate(key: str, operation: str, **value: Any) -> dict[str, Any]:
    """One condition of a filter.

    :param key: field of the resource
    :param operation: for example ``EQUALS``, ``IN``, ``GREATER_THAN_EQUALS``
    :param value: one of ``string_value``, ``string_values={"values": [...]}``, ``timestamp_value``
    """
    return {"key": key, "operation": operation, **value}


def filter_of(*predicates: dict[str, Any]) -> str:
    """A filter that asks for all conditions, as the API takes it: URL-encoded once more than the request is.

    :param predicates: the conditions
    """
    return quote(json.dumps({"predicates": list(predicates)}, separators=(",", ":")))
