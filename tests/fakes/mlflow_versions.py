"""A real MLflow server with registered versions, started from the control plane's tests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from planes import DATA_PYTHON, REPO


@contextmanager
def mlflow_with_versions(directory: Path, asked: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The address of a server that keeps its data in a directory.

    :param directory: where
    :param asked: arguments of ``register_model``, of each version
    """
    command = [DATA_PYTHON, REPO / "tests" / "fakes" / "registered_model.py", directory]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.communicate()
