"""A connection of Airflow to a fake cluster."""

from __future__ import annotations

import json
from typing import Any


def kubernetes_connection(server: str, *, user: dict[str, Any] | None = None, **extra: Any) -> str:
    """A connection of type ``kubernetes``, as JSON.

    :param server: address of the API server
    :param user: how the user is known; not at all when ``None``
    :param extra: further fields of its extra
    """
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    return json.dumps({"conn_type": "kubernetes", "extra": {"kube_config": json.dumps(config), **extra}})
