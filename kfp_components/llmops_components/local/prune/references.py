"""What keeps runs beside their age: services, runs under way, versions in MLflow."""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from llmops_components.local.prune.facts import RUN_ID, is_alive, last_used, our_runs, read_any, results
from llmops_components.local.prune.inventory import Inventory
from llmops_components.local.prune.versions import Version
from llmops_components.serving.local.uses import USERS
from llmops_components.state_files import read_json


def why_runs_stay(
    found: Inventory, runs: Collection[Path], alive: Collection[Path], versions: Collection[Version] | None
) -> dict[str, str]:
    """Why runs are kept beside their age, by run id.

    Args:
        found: The services that were found, with those that go.
        runs: The runs.
        alive: Those of them that live.
        versions: The versions in MLflow, if it was asked.
    """
    reasons: dict[str, str] = {}
    going = {item.path for item in found.items if item.kind == "service" and item.kept is None}
    _add_services(reasons, found.root, runs, going)
    for run in our_runs(found.root):
        if run not in alive and not is_alive(run):
            continue
        for other in _named_in(read_any(run / "request.json"), found.root):
            reasons.setdefault(other, f"the run {run.name}, which is under way")
    made = {run: list(results(run)) for run in runs}
    _add_registrations(reasons, found.root, made, versions)
    _add_versions(reasons, found.root, made, versions or ())
    return reasons


def _add_services(
    reasons: dict[str, str], root: Path, runs: Collection[Path], going: Collection[Path]
) -> None:
    for manifest in root.glob("services/*/*/**/manifest.json"):
        if manifest.parent not in going:
            service = manifest.relative_to(root / "services").parts
            for run in _named_in(read_any(manifest), root):
                reasons[run] = f"the service {'/'.join(service[:2])}"
    for path in runs:
        for user in (path / USERS).glob("*"):
            with contextlib.suppress(OSError):
                where = Path(user.read_text(encoding="utf-8"))
                if where.exists() and where not in going:
                    reasons.setdefault(path.name, f"the service in {where}")


def _add_registrations(
    reasons: dict[str, str],
    root: Path,
    made: Mapping[Path, list[dict[str, Any]]],
    versions: Collection[Version] | None,
) -> None:
    """Runs that have registered a model, and those that it came from."""
    registered = None if versions is None else {(each.name, each.version) for each in versions}
    for run, found in made.items():
        for result in found:
            if result.get("component") != "register_model":
                continue
            details = result["details"]
            version = Version(str(details.get("name")), str(details.get("version")))
            if registered is None or (version.name, version.version) in registered:
                for other in (run.name, *_named_in(read_json(run / "request.json"), root)):
                    reasons.setdefault(other, str(version))


def _add_versions(
    reasons: dict[str, str],
    root: Path,
    made: Mapping[Path, list[dict[str, Any]]],
    versions: Collection[Version],
) -> None:
    """Runs that MLflow names as the source of a version, or that have made what it names by its digest."""
    makers: defaultdict[str, list[Path]] = defaultdict(list)
    for run, found in made.items():
        for result in found:
            for artifact in result["artifacts"].values():
                makers[str(artifact.get("digest"))].append(run)
    for each in versions:
        for name in _named_in(each.source, root):
            reasons.setdefault(name, str(each))
        # Of several runs that made the same, one is enough, the last.
        for same in (makers[digest] for digest in each.digests if digest in makers):
            if not any(run.name in reasons for run in same):
                newest = max(same, key=lambda run: last_used(run, read_json(run / "request.json")))
                reasons[newest.name] = str(each)


def _named_in(value: Any, root: Path) -> set[str]:
    """Ids of the runs whose paths or addresses are among the texts of a JSON value."""
    if isinstance(value, str):
        places = "|".join({re.escape(str(root)), re.escape(os.path.realpath(root))})
        pattern = re.compile(rf"(?:{places})/runs/({RUN_ID.pattern})")
        return {match[1] for text in {value, unquote(value)} for match in pattern.finditer(text)}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*(_named_in(part, root) for part in parts))
