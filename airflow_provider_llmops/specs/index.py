"""The index beside the compiled components: what ``dev/compile_components`` has asked the data plane. Read when it is asked for."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any


@functools.cache
def read_index() -> dict[str, Any]:
    """The whole index.

    ``components`` has each one's inputs and outputs; ``trainings`` names those that train, ``presets`` how several of their
    processes work together; ``arguments``, ``classes``, ``elsewhere`` and ``code`` say what is passed on to the libraries.
    """
    file = resources.files("airflow_provider_llmops") / "components" / "index.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
