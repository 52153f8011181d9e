"""Give disk space back: ``python -m llmops_components.local.prune --root DIR --older-than DAYS``, which prints JSON.

What lies under a root, and what keeps it there beside its age:

    runs/<id>                 a process of its own that lives, or its turn to come; a run under way that has it among its arguments; a
                              service's manifest; a version in MLflow that was registered from it
    checkpoints/<key>         a run under way; a week in any case, for a retry goes on from there
    environments/<key>        a step that uses it
    services/.../revisions/n  a process of its own that lives, or traffic
    models/<digest>           a link to it in any run

A run was used last when it ended, when another run took something of it, or when its result was taken again. Whatever is
not known by its name and content is left alone, and so is everything behind a symbolic link.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from llmops_components.errors import UnavailableError
from llmops_components.local.prune.inventory import Inventory, Item
from llmops_components.local.prune.locks import alone
from llmops_components.local.prune.others import add_checkpoints, add_environments, add_models, add_services
from llmops_components.local.prune.runs import add_runs
from llmops_components.local.prune.versions import Version
from llmops_components.reporting import words_of

TIDY_EVERY_SECONDS = 3600.0
RETENTION_VARIABLE = "LLMOPS_RETENTION_DAYS"


def prune(
    root: str | os.PathLike[str],
    *,
    days: float | None,
    dry_run: bool = False,
    versions: Collection[Version] | None = None,
) -> list[Item]:
    """Remove what nobody has used for a while and nothing refers to.

    Args:
        root: Directory of a local connection.
        days: Age from which something goes; None for only what is of no use at any age.
        dry_run: Remove nothing.
        versions: The versions in MLflow, if it was asked. Otherwise every registration that a run here has made counts.

    Returns:
        What was found, with what was removed.

    Raises:
        UnavailableError: Another one is at it.
    """
    home = Path(root).expanduser().absolute()
    if not home.is_dir():
        return []
    with alone(home):
        found = Inventory(home, days)
        add_services(found)
        add_runs(found, versions, dry_run=dry_run)
        add_checkpoints(found)
        add_environments(found)
        add_models(found)
        if not dry_run:
            found.remove()
        return found.items


def tidy_up(root: str | os.PathLike[str], days: float | None) -> list[Item]:
    """What each run does at its end, for all of them and at most once an hour; returns what was removed.

    Args:
        root: Directory of a local connection.
        days: The connection's retention; None for only what is of no use at any age.
    """
    stamp = Path(root) / ".tidied"
    if stamp.exists() and time.time() - stamp.stat().st_mtime < TIDY_EVERY_SECONDS:
        return []
    stamp.touch()
    with contextlib.suppress(UnavailableError):
        return [item for item in prune(root, days=days) if item.kept is None]
    return []


def tidy_up_after(run: Path) -> None:
    """Give disk space back when a run has ended, as the connection's retention says; nothing that goes wrong fails the run.

    Args:
        run: Directory of the run.
    """
    days = os.environ.get(RETENTION_VARIABLE)
    try:
        removed = tidy_up(run.parent.parent, float(days) if days else None)
    except Exception as error:
        print(f"tidying up failed: {words_of(error)}", flush=True)
        return
    if removed:
        kinds = Counter(item.kind for item in removed)
        what = ", ".join(f"{number} of kind {kind}" for kind, number in sorted(kinds.items()))
        print(f"tidied up: {what}, {sum(item.bytes for item in removed) / 1e6:.1f} MB", flush=True)
