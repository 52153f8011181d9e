"""What the files of a run say: whether it lives, when it was last of use, what its steps made."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from llmops_components.local import queue
from llmops_components.serving.detached import processes
from llmops_components.serving.local.uses import USED
from llmops_components.state_files import StateFileError, read_content, read_json

RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def our_runs(root: Path) -> list[Path]:
    """The runs below a root that have a request and are no links.

    Args:
        root: Directory of a local connection.
    """
    runs = (root / "runs").glob("[!.]*")
    return [run for run in runs if not run.is_symlink() and (run / "request.json").is_file()]


def is_alive(run: Path) -> bool:
    """Whether the process of a run lives, or is to be started when its turn comes.

    Args:
        run: Directory of the run.
    """
    return queue.is_waiting(run) or processes.is_running(
        run
    )  # in this order: it is locked before its ticket goes


def last_used(run: Path, request: Mapping[str, Any]) -> float:
    """When the run ended (or was made, if it never began), or was last of use to another, as a time stamp."""
    times = [0.0]
    with contextlib.suppress(OSError):
        times.append((run / USED).stat().st_mtime)
    state = read_any(run / "state.json")
    finished_at = state.get("finished_at") if isinstance(state, dict) else None
    for value in (request.get("created_at"), finished_at):
        with contextlib.suppress(TypeError, ValueError):
            times.append(datetime.fromisoformat(value).timestamp())
    return max(times) or run.stat().st_mtime


def results(run: Path) -> Iterator[dict[str, Any]]:
    """What the steps of a run said of themselves; a user's output of that name may hold anything."""
    for path in (run / "artifacts").rglob("result"):
        with contextlib.suppress(StateFileError, OSError):
            result = read_json(path)
            details, artifacts = result.get("details", {}), result.get("artifacts", {})
            if isinstance(details, dict) and isinstance(artifacts, dict):
                known = {name: each for name, each in artifacts.items() if isinstance(each, dict)}
                yield result | {"details": details, "artifacts": known}


def read_any(path: Path) -> Any:
    """What a JSON file holds, or its text where that is no JSON; nothing of a file that cannot be read."""
    text = None
    with contextlib.suppress(OSError, ValueError, RecursionError, StateFileError):
        text = read_content(path).decode("utf-8", errors="replace")
        return json.loads(text)
    return text


def is_readable(path: Path) -> bool:
    try:
        read_json(path)
    except StateFileError:
        return False
    return True
