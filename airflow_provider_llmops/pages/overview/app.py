"""The web application: GET ``/llmops/overview/``.

It is for who may read the connections that it asks through: the web server uses their credentials for whoever looks. Its endpoint is an
ordinary function, which FastAPI runs in a thread, so that waiting for MLflow holds nobody else up.
"""

from __future__ import annotations

import functools
import re
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import ConnectionDetails
from airflow.api_fastapi.core_api.security import get_user
from airflow.configuration import conf
from airflow.models.connection import Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse

from airflow_provider_llmops.exceptions import LLMOpsError, describe_unknown, shown_value
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.hooks.mlflow import MlflowHook
from airflow_provider_llmops.pages.overview.page import Settings, message_page, overview_page
from airflow_provider_llmops.pages.overview.registry import read_registry
from airflow_provider_llmops.pages.overview.services import Services, read_services
from airflow_provider_llmops.pages.overview.style import HEADERS

# What a setting may be, and in words.
_NAME = (re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"), "up to 128 letters, digits, '.', '_' and '-'")
_FORMS = {
    "mlflow_conn_id": (re.compile(r"[\w.-]{1,200}"), "the id of a connection"),
    "kserve_conn_id": (re.compile(r"[\w.-]{1,200}"), "the id of a connection"),
    "namespace": (re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"), "the name of a Kubernetes namespace"),
    "champion": _NAME,
    "candidate": _NAME,
    "name": (re.compile(r"[A-Za-z0-9 ._-]{0,128}"), "up to 128 letters, digits, spaces, '.', '_' and '-'"),
    "page": (re.compile(r"[A-Za-z0-9+/=_.-]{0,1000}"), "what the link to the next page carries"),
}


@functools.cache
def application() -> FastAPI:
    """The application."""
    app = FastAPI(title="LLMOps overview", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/", show_overview, methods=["GET"], response_model=None)
    return app


def show_overview(request: Request, user: Annotated[Any, Depends(get_user)]) -> HTMLResponse:
    """The page.

    :param request: its query has the settings of :class:`Settings`
    :param user: who asks
    """
    query = dict(request.query_params)
    if unknown := describe_unknown(query, _FORMS):
        return _refused(400, f"Unknown setting {unknown}. Known: {', '.join(_FORMS)}.")
    for name, value in query.items():
        form, words = _FORMS[name]
        if not form.fullmatch(value) and value:
            return _refused(400, f"{name} must be {words}, got {shown_value(value, 60)}.")
    settings = Settings(**{name: value for name, value in query.items() if value})
    if not _may_read(settings.mlflow_conn_id, user):
        return _refused(
            403,
            f"Your account may not read the connection {settings.mlflow_conn_id!r}, which this page asks MLflow through.",
        )
    return HTMLResponse(_page(settings, user), headers=HEADERS)


def _page(settings: Settings, user: Any) -> str:
    hook = MlflowHook(settings.mlflow_conn_id)
    if reason := _unusable(hook, hook.conn_type):
        return message_page("LLMOps", reason)
    try:
        address = hook.tracking_uri()
        registry = read_registry(
            hook,
            champion=settings.champion,
            candidate=settings.candidate,
            name_contains=settings.name or None,
            page_token=settings.page or None,
        )
    except LLMOpsError as error:
        return message_page("LLMOps", "The models cannot be read from MLflow.", *str(error).splitlines())
    services = _services(settings, [model.name for model in registry.models], user)
    return overview_page(settings, registry, services, address)


def _services(settings: Settings, names: list[str], user: Any) -> Services:
    if not names:
        return Services()
    conn_id = settings.kserve_conn_id
    if not _may_read(conn_id, user):
        return Services(reason=f"your account may not read the connection {conn_id!r}.")
    hook = KServeHook(conn_id)
    if reason := _unusable(hook, hook.conn_type):
        return Services(reason=reason)
    return read_services(hook, names, settings.namespace)


def _may_read(conn_id: str, user: Any) -> bool:
    team = Connection.get_team_name(conn_id) if conf.getboolean("core", "multi_team") else None
    details = ConnectionDetails(conn_id=conn_id, team_name=team)
    return bool(get_auth_manager().is_authorized_connection(method="GET", details=details, user=user))


def _unusable(hook: MlflowHook | KServeHook, conn_type: str) -> str | None:
    """Why a connection is none that the page asks through; the credentials of any other one would go to a stranger."""
    conn_id = hook.mlflow_conn_id if isinstance(hook, MlflowHook) else hook.kserve_conn_id
    try:
        found = hook.get_connection(conn_id).conn_type
    except AirflowNotFoundException:
        return f"There is no connection {conn_id!r}. Make one of type {conn_type}, or name another one."
    return None if found == conn_type else f"Connection {conn_id!r} is of type {found}, not {conn_type}."


def _refused(status: int, reason: str) -> HTMLResponse:
    return HTMLResponse(message_page("LLMOps", reason), status_code=status, headers=HEADERS)
