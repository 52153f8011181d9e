"""``llmops prune``: give disk space back that runs on this machine have used."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.cli import CommandError
from airflow_provider_llmops.cli.connection import (
    DEFAULT_CONN_ID,
    DEFAULT_MLFLOW_CONN_ID,
    ask_data_plane,
    find_connections,
    settings_of_connection,
)

if TYPE_CHECKING:
    from airflow_provider_llmops.backends.data_plane import DataPlane

_MODULE = "llmops_components.local.prune"
_SHOWN_NAME = 80


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command's arguments.

    :param commands: subparsers of ``llmops``
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        "prune",
        help="remove old runs, checkpoints, environments and model files of this machine",
        description="Remove what lies under a local connection's root and nobody has used for a while. What a service, a "
        "version in MLflow, or a run under way refers to stays.",
    )
    parser.add_argument(
        "--older-than", type=float, metavar="DAYS", help="default: the connection's retention"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.add_argument("--conn-id", default=DEFAULT_CONN_ID, help="local connection (default: %(default)s)")
    parser.add_argument("--root", help="directory, instead of the connection's")
    parser.add_argument("--python", help="the data plane's interpreter, instead of the connection's")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument(
        "--mlflow-conn-id", help=f"MLflow to ask (default: {DEFAULT_MLFLOW_CONN_ID}, if there is one)"
    )
    asked.add_argument(
        "--no-mlflow", action="store_true", help="keep what a run here has registered, without asking MLflow"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Carry the command out.

    :param options: as :func:`add_parser` declares them
    """
    find_connections()
    from airflow_provider_llmops.backends.data_plane import DataPlane
    from airflow_provider_llmops.exceptions import LLMOpsError

    settings = _settings(options)
    days = options.older_than if options.older_than is not None else settings.get("retention")
    if days is None:
        raise CommandError(
            f"no age was given: pass --older-than DAYS, or set 'retention' in the extra of connection {options.conn_id!r}."
        )
    uri, credentials = (None, {}) if options.no_mlflow else _mlflow(options.mlflow_conn_id)
    try:
        items = _prune(
            DataPlane(settings["python"]), settings["root"], float(days), options.dry_run, uri, credentials
        )
    except LLMOpsError as error:
        raise CommandError(str(error)) from error
    for line in report(items, dry_run=options.dry_run):
        print(line)
    if uri is None:
        print("MLflow was not asked: whatever a run here has registered counts as a version that exists.")
    return 0


def report(items: Iterable[Mapping[str, Any]], *, dry_run: bool) -> list[str]:
    """A table: one line for each thing that goes or that is old and stays, and the sums.

    :param items: what was found
    :param dry_run: whether it only would be removed
    """
    goes = "would go" if dry_run else "removed"
    rows: list[tuple[str, ...]] = [("what", "name", "days", "size", "why")]
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for item in items:
        count = sums[item["kind"]]
        is_kept = item["kept"] is not None
        count[2 if is_kept else 0] += 1
        count[3 if is_kept else 1] += item["bytes"]
        if item["kept"] not in ("younger", "no age is set") and not (is_kept and item["kind"] == "model"):
            why = f"kept: {item['kept']}" if is_kept else goes
            rows.append(
                (item["kind"], _short(item["name"]), f"{item['days']:.0f}", _size(item["bytes"]), why)
            )
    lines = _table(rows) if len(rows) > 1 else []
    summary: list[tuple[str, ...]] = [("what", goes, "size", "kept", "size")]
    for kind, (gone, freed, kept, taken) in sorted(sums.items()):
        summary.append((kind, str(gone), _size(freed), str(kept), _size(taken)))
    if len(summary) == 1:
        return ["There is nothing."]
    freed = sum(count[1] for count in sums.values())
    last = f"{'Would give' if dry_run else 'Gave'} {_size(freed)} back."
    return [*lines, *([""] if lines else []), *_table(summary), "", last]


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Root, interpreter and retention: of the options, else of the connection."""
    given = {name: value for name in ("root", "python") if (value := getattr(options, name))}
    if len(given) == 2 and options.older_than is not None:
        return {**given, "root": _root(given["root"])}
    settings = settings_of_connection(
        options.conn_id, "Name another with --conn-id, or give --root, --python and --older-than."
    )
    if "root" in given:
        given["root"] = _root(given["root"])
    return settings | given


def _root(path: str) -> Path:
    root = Path(path).expanduser().absolute()
    if not root.is_dir():
        raise CommandError(f"{root} is not a directory. Give --root the directory that holds runs/.")
    return root


def _mlflow(conn_id: str | None) -> tuple[str | None, dict[str, str]]:
    """Address and credentials of MLflow; none where no connection was named and the default one does not exist."""
    from airflow.sdk.exceptions import AirflowNotFoundException

    from airflow_provider_llmops.exceptions import LLMOpsError
    from airflow_provider_llmops.hooks.mlflow import MlflowHook

    hook = MlflowHook(conn_id or DEFAULT_MLFLOW_CONN_ID)
    try:
        return hook.tracking_uri(), hook.environment()
    except AirflowNotFoundException as error:
        if conn_id is None:
            return None, {}
        raise CommandError(
            f"there is no connection {conn_id!r}. Name another, or pass --no-mlflow."
        ) from error
    except LLMOpsError as error:
        raise CommandError(str(error)) from error


def _prune(
    data_plane: DataPlane,
    root: Path,
    days: float,
    dry_run: bool,
    uri: str | None,
    credentials: Mapping[str, str],
) -> list[dict[str, Any]]:
    arguments = ["-m", _MODULE, "--root", str(root), "--older-than", str(days)]
    arguments += ["--dry-run"] if dry_run else []
    arguments += ["--tracking-uri", uri] if uri else []
    items: list[dict[str, Any]] = ask_data_plane(data_plane, arguments, f"prune {root}", credentials)["items"]
    return items


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _short(name: str) -> str:
    return name if len(name) <= _SHOWN_NAME else f"{name[: _SHOWN_NAME - 3]}..."


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
