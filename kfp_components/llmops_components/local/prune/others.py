"""Services, checkpoints, environments and models: which of them go, and how they are removed."""

from __future__ import annotations

import contextlib
import re
import shutil
from functools import partial
from pathlib import Path

from llmops_components.local.prune.facts import is_alive, our_runs, read_any
from llmops_components.local.prune.inventory import Inventory, Item
from llmops_components.local.prune.locks import held
from llmops_components.models.store import MODELS
from llmops_components.serving.detached import processes
from llmops_components.serving.local.uses import USED
from llmops_components.state_files import StateFileError, read_json

KEEP_CHECKPOINTS_DAYS = 7.0  # of trainings that nobody has tried again
_ATTEMPTS_KEY = re.compile(r"[0-9a-f]{12}")  # as the provider calls what retries of a task share


def add_services(found: Inventory) -> None:
    """Add the revisions of services.

    Args:
        found: Where to.
    """
    for manifest in sorted(found.root.glob("services/*/*/revisions/[0-9]*/facts.json")):
        revision = manifest.parent
        home = revision.parent.parent
        kept = "it has the service's traffic" if revision.name in _routed(home) else None
        name = f"{home.parent.name}/{home.name} {revision.name}"
        found.add(
            Item("service", name, revision, found.days_since(revision / "state.json")),
            partial(_remove_revision, revision),
            kept="it runs" if processes.is_running(revision) else kept,
        )


def _remove_revision(revision: Path) -> str | None:
    home = revision.parent.parent
    with processes.exclusive(home / "lock"):
        if processes.is_running(revision) or revision.name in _routed(home):
            return "it was started again"
        shutil.rmtree(revision, ignore_errors=True)
    return None


def _routed(home: Path) -> set[str]:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, StateFileError):
        return {route["revision"] for route in read_json(home / "routes.json").get("routes") or []}
    return {path.name for path in (home / "revisions").glob("*")}  # any of them may be what cannot be read


def add_checkpoints(found: Inventory) -> None:
    """Add the checkpoints that retries of tasks go on from.

    Args:
        found: Where to.
    """
    in_use = _checkpoints_in_use(found.root)
    for directory in found.directories(found.root / "checkpoints", _ATTEMPTS_KEY):
        newest = min(found.days_since(path) for path in (directory, *directory.glob("*")))
        kept = "a run under way" if str(directory) in in_use else None
        item = Item("checkpoints", directory.name, directory, newest)
        at = max(found.days or 0, KEEP_CHECKPOINTS_DAYS)
        found.add(item, partial(_remove_checkpoints, directory, found.root), kept=kept, at=at)


def _checkpoints_in_use(root: Path) -> set[str]:
    requests = (read_any(run / "request.json") for run in our_runs(root) if is_alive(run))
    return {str(request.get("checkpoints")) for request in requests if isinstance(request, dict)}


def _remove_checkpoints(directory: Path, root: Path) -> str | None:
    if str(directory) in _checkpoints_in_use(root):
        return "a run under way"
    return remove_directory(directory)


def add_environments(found: Inventory) -> None:
    """Add the environments of steps with packages of their own.

    Args:
        found: Where to.
    """
    for directory in found.directories(found.root / "environments"):
        made = directory / "environment.json"
        lock = _lock_of(directory)
        if not made.is_file() and not lock.is_file():
            found.note_foreign(directory, "neither environment.json nor a lock")
            continue
        known = (path for path in (directory / USED, made, lock) if path.exists())
        days = min((found.days_since(path) for path in known), default=0.0)
        item = Item("environment", directory.name, directory, days)
        found.add(item, partial(_remove_environment, directory))


def _remove_environment(directory: Path) -> str | None:
    lock = _lock_of(directory)
    with held(lock) as is_ours:
        if not is_ours:
            return "a step uses it"
        shutil.rmtree(directory, ignore_errors=True)
        lock.unlink(missing_ok=True)  # who waits for it looks whether it still is there
    return None


def _lock_of(environment: Path) -> Path:
    return environment.with_name(f"{environment.name}.lock")


def add_models(found: Inventory) -> None:
    """Add the files of models that no run links to any more.

    Args:
        found: Where to.
    """
    directory = found.root / MODELS
    if directory.is_symlink():
        found.note_foreign(directory, "a symbolic link")
        return
    for path in sorted(directory.glob("*")):
        if path.is_symlink() or not path.is_file() or not re.fullmatch(r"[0-9a-f]{64}", path.name):
            found.note_foreign(path, "another name")
            continue
        known = path.stat()
        others = known.st_nlink - 1 - found.links[known.st_dev, known.st_ino]
        kept = f"{others} link{'s' if others > 1 else ''} in runs" if others > 0 else None
        item = Item("model", path.name, path, found.days_since(path))
        found.add(item, partial(_remove_model, path), kept=kept, at=0)


def _remove_model(path: Path) -> str | None:
    if path.stat().st_nlink > 1:
        return "a run has linked it"
    path.unlink()
    return None


def remove_directory(directory: Path) -> None:
    """Remove a directory, as far as it can be removed.

    Args:
        directory: Which one.
    """
    shutil.rmtree(directory, ignore_errors=True)
