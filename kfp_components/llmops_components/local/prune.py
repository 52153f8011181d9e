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

import argparse
import contextlib
import fcntl
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from llmops_components.errors import ComponentError, SettingError, UnavailableError
from llmops_components.local import queue
from llmops_components.models.store import MODELS
from llmops_components.reporting import words_of
from llmops_components.serving.local import processes
from llmops_components.serving.local.uses import USED, USERS
from llmops_components.state_files import StateFileError, read_content, read_json

DAY_SECONDS = 24 * 3600.0
KEEP_CHECKPOINTS_DAYS = 7.0  # of trainings that nobody has tried again
TIDY_EVERY_SECONDS = 3600.0
RETENTION_VARIABLE = "LLMOPS_RETENTION_DAYS"
TEMPORARY = "tmp"  # in a run's directory: a symbolic link to its temporary directory
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ATTEMPTS_KEY = re.compile(r"[0-9a-f]{12}")  # as the provider calls what retries of a task share
_PREPARED = re.compile(rf"\.({_RUN_ID.pattern})\.\d+")
_REMOVED = ".removed-"
_OF_A_RUN = ("request.json", "state.json")
_PREPARED_DAYS = 1.0  # a submission takes a second


@dataclass
class Item:
    """Something on the disk.

    Args:
        kind: ``run``, ``checkpoints``, ``environment``, ``service``, ``model``, ``temporary``, or ``foreign``.
        name: What to call it.
        path: Where it is.
        days: Since it was last used.
        kept: Why it stays; None when it goes.
        bytes: What its removal gives back, or, of what is kept, what it takes up.
    """

    kind: str
    name: str
    path: Path
    days: float
    kept: str | None = None
    bytes: int = 0


@dataclass
class Version:
    """A model version in MLflow: where its model is said to be, and the digests among its tags."""

    name: str
    version: str
    source: str = ""
    digests: Collection[str] = field(default_factory=frozenset)

    def __str__(self) -> str:
        return f"{self.name} version {self.version} in MLflow"


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
    with _alone(home):
        return _Pruning(home, days, dry_run, versions).carry_out()


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


@contextlib.contextmanager
def temporary_directory(run: Path) -> Iterator[None]:
    """Give a run's processes a temporary directory of their own, which goes when the run ends.

    It lies in the system's and not in the run's directory: paths of sockets have 107 characters at most.

    Args:
        run: Directory of the run.
    """
    own = tempfile.mkdtemp(prefix="llmops-run-")
    (run / TEMPORARY).symlink_to(own)
    os.environ["TMPDIR"] = tempfile.tempdir = own
    try:
        yield
    finally:
        tempfile.tempdir = None
        remove_temporary(run)


def remove_temporary(run: Path) -> None:
    """Remove the temporary directory of a run that has ended, and the link to it.

    Args:
        run: Directory of the run.
    """
    link = run / TEMPORARY
    with contextlib.suppress(OSError):
        shutil.rmtree(link.readlink(), ignore_errors=True)
        link.unlink()


class _Pruning:
    def __init__(
        self, root: Path, days: float | None, dry_run: bool, versions: Collection[Version] | None
    ) -> None:
        self.root, self.days, self.dry_run, self.versions = root, days, dry_run, versions
        self.now = time.time()
        self.items: list[Item] = []
        self.removals: list[tuple[Item, Callable[[], str | None]]] = []
        self.links: Counter[tuple[int, int]] = Counter()  # of what goes: links by device and inode

    def carry_out(self) -> list[Item]:
        self._services()
        self._runs()
        self._checkpoints()
        self._environments()
        self._models()
        if not self.dry_run:
            for item, remove in self.removals:
                item.kept = remove()
        return self.items

    def _add(
        self,
        item: Item,
        remove: Callable[[], str | None],
        *,
        kept: str | None = None,
        at: float | None = None,
    ) -> None:
        """Note an item, and what removes it if it goes.

        Args:
            item: What was found.
            remove: Removes it, unless something has happened since it was looked at; then it says what.
            kept: Why it stays whatever its age.
            at: Another age than the one that was asked for.
        """
        age = self.days if at is None else at
        if kept is None and (age is None or item.days < age):
            kept = "younger" if age is not None else "no age is set"
        item.kept = kept
        item.bytes = _size(item.path, self.links if kept is None else None)
        self.items.append(item)
        if kept is None:
            self.removals.append((item, remove))

    def _foreign(self, path: Path, why: str) -> None:
        self.items.append(Item("foreign", path.name, path, self._days(path), f"not of this program: {why}"))

    def _days(self, path: Path) -> float:
        with contextlib.suppress(OSError):
            return (self.now - path.lstat().st_mtime) / DAY_SECONDS
        return 0.0

    def _directories(self, parent: Path, pattern: re.Pattern[str] | None = None) -> Iterator[Path]:
        """Directories of ours; others are noted."""
        if parent.is_symlink():
            self._foreign(parent, "a symbolic link")
            return
        for path in sorted(parent.glob("*")) if parent.is_dir() else ():
            if path.is_symlink():
                self._foreign(path, "a symbolic link")
            elif not path.is_dir():
                if not path.name.endswith(".lock"):
                    self._foreign(path, "not a directory")
            elif pattern is not None and not pattern.fullmatch(path.name):
                if not path.name.startswith("."):
                    self._foreign(path, "another name")
            else:
                yield path

    def _services(self) -> None:
        for manifest in sorted(self.root.glob("services/*/*/revisions/[0-9]*/facts.json")):
            revision = manifest.parent
            home = revision.parent.parent
            kept = "it has the service's traffic" if revision.name in _routed(home) else None
            name = f"{home.parent.name}/{home.name} {revision.name}"
            self._add(
                Item("service", name, revision, self._days(revision / "state.json")),
                partial(_remove_revision, revision),
                kept="it runs" if processes.is_running(revision) else kept,
            )

    def _runs(self) -> None:
        runs = list(self._directories(self.root / "runs", _RUN_ID))
        ours = []
        for run in runs:
            if not (run / "request.json").is_file():
                self._foreign(run, "a directory without request.json")
            elif unreadable := [name for name in _OF_A_RUN if not _is_readable(run / name)]:
                self._foreign(run, f"{unreadable[0]} cannot be read")
            else:
                ours.append(run)
        alive = {run for run in ours if is_alive(run)}
        for run in ours:
            if run not in alive and not self.dry_run:  # it was killed
                remove_temporary(run)
        # Before anything else is looked at: whoever takes something of a run from here on keeps it.
        used = {run: _last_used(run, read_json(run / "request.json")) for run in ours}
        reasons = self._references(ours, alive)
        for run in ours:
            request = read_json(run / "request.json")
            name = f"{run.name} {str(request.get('display_name', '')).partition(' ')[0]}".strip()
            if run in alive:
                kept = "it waits for its turn" if queue.is_waiting(run) else "it runs"
            else:
                kept = reasons.get(run.name)
            item = Item("run", name, run, (self.now - used[run]) / DAY_SECONDS)
            self._add(item, partial(_remove_run, run, request, used[run]), kept=kept)
        for leftover in sorted((self.root / "runs").glob(".*")):
            if _PREPARED.fullmatch(leftover.name) or leftover.name.startswith(_REMOVED):
                item = Item("run", leftover.name, leftover, self._days(leftover))
                self._add(item, partial(_remove_directory, leftover), at=_PREPARED_DAYS)

    def _references(self, runs: Iterable[Path], alive: Collection[Path]) -> dict[str, str]:
        """Why runs are kept, by run id."""
        reasons: dict[str, str] = {}
        going = {item.path for item in self.items if item.kind == "service" and item.kept is None}
        for manifest in self.root.glob("services/*/*/**/manifest.json"):
            if manifest.parent not in going:
                service = manifest.relative_to(self.root / "services").parts
                for run in self._named_in(_read(manifest)):
                    reasons[run] = f"the service {'/'.join(service[:2])}"
        for run in runs:
            for user in (run / USERS).glob("*"):
                with contextlib.suppress(OSError):
                    where = Path(user.read_text(encoding="utf-8"))
                    if where.exists() and where not in going:
                        reasons.setdefault(run.name, f"the service in {where}")
        for run in self._our_runs():
            if run not in alive and not is_alive(run):
                continue
            for other in self._named_in(_read(run / "request.json")):
                reasons.setdefault(other, f"the run {run.name}, which is under way")
        registered = None if self.versions is None else {(each.name, each.version) for each in self.versions}
        makers: defaultdict[str, list[Path]] = defaultdict(list)
        for run in runs:
            results = list(_results(run))
            for result in results:
                if result.get("component") == "register_model":
                    details = result["details"]
                    version = Version(str(details.get("name")), str(details.get("version")))
                    if registered is None or (version.name, version.version) in registered:
                        for other in (run.name, *self._named_in(read_json(run / "request.json"))):
                            reasons.setdefault(other, str(version))
            for result in results:
                for artifact in result["artifacts"].values():
                    makers[str(artifact.get("digest"))].append(run)
        for each in self.versions or ():
            for run in self._named_in(each.source):
                reasons.setdefault(run, str(each))
            # Of several runs that made the same, one is enough, the last.
            for made in (makers[digest] for digest in each.digests if digest in makers):
                if not any(run.name in reasons for run in made):
                    newest = max(made, key=lambda run: _last_used(run, read_json(run / "request.json")))
                    reasons[newest.name] = str(each)
        return reasons

    def _named_in(self, value: Any) -> set[str]:
        """Ids of the runs whose paths or addresses are among the texts of a JSON value."""
        if isinstance(value, str):
            places = "|".join({re.escape(str(self.root)), re.escape(os.path.realpath(self.root))})
            pattern = re.compile(rf"(?:{places})/runs/({_RUN_ID.pattern})")
            return {match[1] for text in {value, unquote(value)} for match in pattern.finditer(text)}
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return set().union(*(self._named_in(part) for part in parts))

    def _checkpoints(self) -> None:
        in_use = self._checkpoints_in_use()
        for directory in self._directories(self.root / "checkpoints", _ATTEMPTS_KEY):
            newest = min(self._days(path) for path in (directory, *directory.glob("*")))
            kept = "a run under way" if str(directory) in in_use else None
            item = Item("checkpoints", directory.name, directory, newest)
            at = max(self.days or 0, KEEP_CHECKPOINTS_DAYS)
            self._add(item, partial(self._remove_checkpoints, directory), kept=kept, at=at)

    def _checkpoints_in_use(self) -> set[str]:
        requests = (_read(run / "request.json") for run in self._our_runs() if is_alive(run))
        return {str(request.get("checkpoints")) for request in requests if isinstance(request, dict)}

    def _remove_checkpoints(self, directory: Path) -> str | None:
        if str(directory) in self._checkpoints_in_use():
            return "a run under way"
        return _remove_directory(directory)

    def _our_runs(self) -> list[Path]:
        runs = (self.root / "runs").glob("[!.]*")
        return [run for run in runs if not run.is_symlink() and (run / "request.json").is_file()]

    def _environments(self) -> None:
        for directory in self._directories(self.root / "environments"):
            made = directory / "environment.json"
            lock = _lock_of(directory)
            if not made.is_file() and not lock.is_file():
                self._foreign(directory, "neither environment.json nor a lock")
                continue
            known = (path for path in (directory / USED, made, lock) if path.exists())
            days = min((self._days(path) for path in known), default=0.0)
            item = Item("environment", directory.name, directory, days)
            self._add(item, partial(_remove_environment, directory))

    def _models(self) -> None:
        directory = self.root / MODELS
        if directory.is_symlink():
            self._foreign(directory, "a symbolic link")
            return
        for path in sorted(directory.glob("*")):
            if path.is_symlink() or not path.is_file() or not re.fullmatch(r"[0-9a-f]{64}", path.name):
                self._foreign(path, "another name")
                continue
            known = path.stat()
            others = known.st_nlink - 1 - self.links[known.st_dev, known.st_ino]
            kept = f"{others} link{'s' if others > 1 else ''} in runs" if others > 0 else None
            item = Item("model", path.name, path, self._days(path))
            self._add(item, partial(_remove_model, path), kept=kept, at=0)


def is_alive(run: Path) -> bool:
    """Whether the process of a run lives, or is to be started when its turn comes.

    Args:
        run: Directory of the run.
    """
    return queue.is_waiting(run) or processes.is_running(
        run
    )  # in this order: it is locked before its ticket goes


def _last_used(run: Path, request: Mapping[str, Any]) -> float:
    """When the run ended (or was made, if it never began), or was last of use to another, as a time stamp."""
    times = [0.0]
    with contextlib.suppress(OSError):
        times.append((run / USED).stat().st_mtime)
    state = _read(run / "state.json")
    finished_at = state.get("finished_at") if isinstance(state, dict) else None
    for value in (request.get("created_at"), finished_at):
        with contextlib.suppress(TypeError, ValueError):
            times.append(datetime.fromisoformat(value).timestamp())
    return max(times) or run.stat().st_mtime


def _remove_directory(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)


def _remove_run(run: Path, request: Mapping[str, Any], before: float) -> str | None:
    aside = run.with_name(f"{_REMOVED}{run.name}")
    shutil.rmtree(aside, ignore_errors=True)
    with _held(run / "lock") as is_ours:
        if not is_ours:
            return "it runs"
        if queue.is_waiting(run):
            return "it waits for its turn"
        run.rename(aside)  # who wants to note that it takes something of it no longer finds it
        if _last_used(aside, request) > before:
            aside.rename(run)
            return "somebody has begun to use it"
    remove_temporary(aside)
    shutil.rmtree(aside, ignore_errors=True)
    return None


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


def _remove_environment(directory: Path) -> str | None:
    lock = _lock_of(directory)
    with _held(lock) as is_ours:
        if not is_ours:
            return "a step uses it"
        shutil.rmtree(directory, ignore_errors=True)
        lock.unlink(missing_ok=True)  # who waits for it looks whether it still is there
    return None


def _lock_of(environment: Path) -> Path:
    return environment.with_name(f"{environment.name}.lock")


def _remove_model(path: Path) -> str | None:
    if path.stat().st_nlink > 1:
        return "a run has linked it"
    path.unlink()
    return None


def _results(run: Path) -> Iterator[dict[str, Any]]:
    """What the steps of a run said of themselves; a user's output of that name may hold anything."""
    for path in (run / "artifacts").rglob("result"):
        with contextlib.suppress(StateFileError, OSError):
            result = read_json(path)
            details, artifacts = result.get("details", {}), result.get("artifacts", {})
            if isinstance(details, dict) and isinstance(artifacts, dict):
                known = {name: each for name, each in artifacts.items() if isinstance(each, dict)}
                yield result | {"details": details, "artifacts": known}


def _read(path: Path) -> Any:
    """What a JSON file holds, or its text where that is no JSON; nothing of a file that cannot be read."""
    text = None
    with contextlib.suppress(OSError, ValueError, RecursionError, StateFileError):
        text = read_content(path).decode("utf-8", errors="replace")
        return json.loads(text)
    return text


def _is_readable(path: Path) -> bool:
    try:
        read_json(path)
    except StateFileError:
        return False
    return True


def _size(path: Path, links: Counter[tuple[int, int]] | None) -> int:
    """Bytes on disk below a path; with ``links``, those that its removal and that of all counted before give back."""
    total = 0
    seen: set[tuple[int, int]] = set()
    for file in (path, *path.rglob("*")) if path.is_dir() and not path.is_symlink() else (path,):
        with contextlib.suppress(OSError):
            status = file.lstat()
            key = status.st_dev, status.st_ino
            if links is not None:
                links[key] += 1
                gone = file.is_dir() or links[key] >= status.st_nlink
                total += status.st_blocks * 512 if gone else 0
            elif key not in seen:
                seen.add(key)
                total += status.st_blocks * 512
    return total


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    with _held(root / ".prune.lock", make=True) as is_ours:
        if not is_ours:
            raise UnavailableError(
                f"Another process prunes {root} at this moment. Try again when it has ended."
            )
        yield


@contextlib.contextmanager
def _held(path: Path, *, make: bool = False) -> Iterator[bool]:
    """Whether the lock was free, and is held now. Without a regular file there is nobody to hold it."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        yield True
        return
    except PermissionError:
        yield False  # another user's: it may be held
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(lock)


def read_versions(tracking_uri: str) -> list[Version]:
    """Every model version that MLflow has.

    Args:
        tracking_uri: Its address; credentials are in the environment.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from llmops_components.tracking.client import PATIENCE, environment_variables, past_proxies

    patience = {key: os.environ.get(key, value) for key, value in PATIENCE.items()}
    found: list[Version] = []
    token = None
    try:
        environment = {**patience, **past_proxies(tracking_uri), "MLFLOW_DISABLE_TELEMETRY": "true"}
        with environment_variables(environment):
            client = MlflowClient(tracking_uri)
            while True:
                page = client.search_model_versions(max_results=1000, page_token=token)
                for each in page:
                    digests = {value for value in each.tags.values() if value.startswith("sha256:")}
                    found.append(Version(each.name, str(each.version), each.source or "", digests))
                if not (token := page.token):
                    return found
    except (MlflowException, OSError) as error:
        raise UnavailableError(
            f"MLflow did not say which model versions there are: {str(error)[:300]}. Nothing was removed."
        ) from error


def main(argv: list[str] | None = None) -> int:
    """Prune and print what was found as JSON; an error is ``{"error": {"message"}}``.

    Args:
        argv: Command line.

    Returns:
        Exit status: 0, or 1 with an error.
    """
    parser = argparse.ArgumentParser("llmops_components.local.prune")
    parser.add_argument("--root", required=True, help="directory of a local connection")
    parser.add_argument("--older-than", type=float, required=True, metavar="DAYS")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--tracking-uri", help="MLflow, to ask which versions there are")
    options = parser.parse_args(argv)
    try:
        if not options.older_than >= 0:
            raise SettingError(f"--older-than is {options.older_than}; give a number of days from 0 on.")
        versions = read_versions(options.tracking_uri) if options.tracking_uri else None
        items = prune(options.root, days=options.older_than, dry_run=options.dry_run, versions=versions)
    except (ComponentError, OSError) as error:
        print(json.dumps({"error": {"message": words_of(error)}}))
        return 1
    print(json.dumps({"items": [asdict(item) | {"path": str(item.path)} for item in items]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
