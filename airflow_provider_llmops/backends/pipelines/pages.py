"""Where the web server shows a page, and which file that is: both directions in one place."""

from __future__ import annotations

import uuid
from pathlib import Path
from urllib.parse import quote

PREFIX = "/llmops/pages"
SUFFIXES = (".html", ".md", ".png")


def page_address(uri: str, conn_id: str, root: Path) -> str:
    """Address of a page below a connection's directory; empty if the file is no page there.

    :param uri: path of the file
    :param conn_id: connection of type ``kubeflow``
    :param root: the connection's directory
    """
    from airflow.sdk.configuration import conf

    try:
        run_id, artifacts, *rest = Path(uri).relative_to(root / "runs").parts
    except ValueError:
        return ""
    relative = "/".join(rest)
    if artifacts != "artifacts" or page_file(root, run_id, relative) is None:
        return ""
    base = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{base}{PREFIX}/{quote(conn_id, safe='')}/{run_id}/{quote(relative)}"


def page_file(root: Path, run_id: str, relative: str) -> Path | None:
    """The file behind an address, if there is one that may be shown: a page among the artifacts of a run.

    :param root: the connection's directory
    :param run_id: id of the run
    :param relative: path below the run's artifacts, as anybody may have typed it
    """
    try:
        if str(uuid.UUID(run_id)) != run_id:  # the only form that becomes a path
            return None
        artifacts = (root / "runs" / run_id / "artifacts").resolve()
        file = (artifacts / relative).resolve()
        shown = file.suffix in SUFFIXES and file.is_relative_to(artifacts) and file.is_file()
    except (ValueError, OSError):
        return None
    return file if shown else None
