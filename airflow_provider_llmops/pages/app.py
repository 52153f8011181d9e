"""The web application: GET ``/llmops/pages/<connection>/<run>/<path below the run's artifacts>``.

Who may see the task instances of the DAG that made the run may see its pages. They hold what models have written and
data sets contain, so they are shown without scripts and with nothing from elsewhere.
"""

from __future__ import annotations

import base64
import functools
import html
import re
from pathlib import Path
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import get_user
from airflow.models.connection import Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, Response

from airflow_provider_llmops.backends.pipelines.pages import page_file
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook, local_settings
from airflow_provider_llmops.json_text import parse_json

HEADERS = {
    "Content-Security-Policy": "sandbox allow-popups; default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",
}
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
  table {{ border-collapse: collapse; }} th, td {{ border: 1px solid #ccc; padding: .2rem .6rem; text-align: left; }}
  pre {{ background: #f4f4f4; padding: .8rem; overflow-x: auto; }} img {{ max-width: 100%; }}
</style></head><body>{body}</body></html>"""


@functools.cache
def application() -> FastAPI:
    """The application."""
    app = FastAPI(title="LLMOps pages", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/{conn_id}/{run_id}/{relative:path}", show_page, methods=["GET"], response_model=None)
    return app


def show_page(conn_id: str, run_id: str, relative: str, user: Annotated[Any, Depends(get_user)]) -> Response:
    """One page.

    :param conn_id: connection of type ``kubeflow`` without a host
    :param run_id: id of the run
    :param relative: path below the run's artifacts
    :param user: who asks
    """
    root = _root(conn_id)
    file = page_file(root, run_id, relative) if root else None
    if root is None or file is None:
        raise HTTPException(
            404,
            "There is no such page on the machine of the web server: its run was removed, or ran elsewhere.",
        )
    dag_id = _dag_of(root / "runs" / run_id)
    if dag_id is None or not get_auth_manager().is_authorized_dag(
        method="GET",
        access_entity=DagAccessEntity.TASK_INSTANCE,
        details=DagDetails(id=dag_id),
        user=user,
    ):
        raise HTTPException(403, "Your account may not see the tasks of the DAG that made this page.")
    if file.suffix == ".md":
        return HTMLResponse(_render(file), headers=HEADERS)
    return FileResponse(file, headers=HEADERS)


def _root(conn_id: str) -> Path | None:
    try:
        connection = Connection.get_connection_from_secrets(conn_id)
        if connection.conn_type != KubeflowPipelinesHook.conn_type or connection.host:
            return None
        return Path(local_settings(connection, "slots", "retention")["root"])
    except (AirflowNotFoundException, ConfigurationError):
        return None


def _dag_of(run: Path) -> str | None:
    try:
        request = parse_json((run / "request.json").read_text(encoding="utf-8"))
        return str(request["labels"]["dag_id"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _render(file: Path) -> str:
    """Markdown as a page, with pictures of the same directory in it; HTML inside stays text."""
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(_FRONT_MATTER.sub("", file.read_text(encoding="utf-8", errors="replace")))
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                picture = file.parent / Path(str(child.attrs["src"])).name
                child.attrs["src"] = _as_data(picture) if picture.suffix == ".png" else ""
    body = markdown.renderer.render(tokens, markdown.options, {})
    return _PAGE.format(title=html.escape(file.parent.name), body=body)


def _as_data(picture: Path) -> str:
    if not picture.is_file() or picture.is_symlink():
        return ""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
