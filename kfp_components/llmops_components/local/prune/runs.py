"""Runs: which of them go, and how one is removed that somebody may begin to use."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from llmops_components.local import queue
from llmops_components.local.prune.facts import RUN_ID, is_alive, is_readable, last_used
from llmops_components.local.prune.inventory import DAY_SECONDS, Inventory, Item
from llmops_components.local.prune.locks import held
from llmops_components.local.prune.others import remove_directory
from llmops_components.local.prune.references import why_runs_stay
from llmops_components.local.prune.temporary import remove_temporary
from llmops_components.local.prune.versions import Version
from llmops_components.state_files import read_json

_PREPARED = re.compile(rf"\.({RUN_ID.pattern})\.\d+")
_REMOVED = ".removed-"
_OF_A_RUN = ("request.json", "state.json")
_PREPARED_DAYS = 1.0  # a submission takes a second


def add_runs(found: Inventory, versions: Collection[Version] | None, *, dry_run: bool) -> None:
    """Add the runs, and what is left of submissions and removals that were interrupted.

    Args:
        found: The services are in it already.
        versions: The versions in MLflow, if it was asked.
        dry_run: Remove nothing.
    """
    runs = list(found.directories(found.root / "runs", RUN_ID))
    ours = []
    for run in runs:
        if not (run / "request.json").is_file():
            found.note_foreign(run, "a directory without request.json")
        elif unreadable := [name for name in _OF_A_RUN if not is_readable(run / name)]:
            found.note_foreign(run, f"{unreadable[0]} cannot be read")
        else:
            ours.append(run)
    alive = {run for run in ours if is_alive(run)}
    for run in ours:
        if run not in alive and not dry_run:  # it was killed
            remove_temporary(run)
    # Before anything else is looked at: whoever takes something of a run from here on keeps it.
    used = {run: last_used(run, read_json(run / "request.json")) for run in ours}
    reasons = why_runs_stay(found, ours, alive, versions)
    for run in ours:
        request = read_json(run / "request.json")
        name = f"{run.name} {str(request.get('display_name', '')).partition(' ')[0]}".strip()
        if run in alive:
            kept = "it waits for its turn" if queue.is_waiting(run) else "it runs"
        else:
            kept = reasons.get(run.name)
        item = Item("run", name, run, (found.now - used[run]) / DAY_SECONDS)
        found.add(item, partial(_remove_run, run, request, used[run]), kept=kept)
    for leftover in sorted((found.root / "runs").glob(".*")):
        if _PREPARED.fullmatch(leftover.name) or leftover.name.startswith(_REMOVED):
            item = Item("run", leftover.name, leftover, found.days_since(leftover))
            found.add(item, partial(remove_directory, leftover), at=_PREPARED_DAYS)


def _remove_run(run: Path, request: Mapping[str, Any], before: float) -> str | None:
    aside = run.with_name(f"{_REMOVED}{run.name}")
    shutil.rmtree(aside, ignore_errors=True)
    with held(run / "lock") as is_ours:
        if not is_ours:
            return "it runs"
        if queue.is_waiting(run):
            return "it waits for its turn"
        run.rename(aside)  # who wants to note that it takes something of it no longer finds it
        if last_used(aside, request) > before:
            aside.rename(run)
            return "somebody has begun to use it"
    remove_temporary(aside)
    shutil.rmtree(aside, ignore_errors=True)
    return None
