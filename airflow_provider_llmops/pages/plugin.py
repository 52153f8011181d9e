"""The plugin that Airflow's web server finds the pages by. Every process of Airflow imports it: it has to cost nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from airflow_provider_llmops.backends.pipelines.pages import PREFIX

OVERVIEW_PREFIX = "/llmops/overview"


async def pages(
    scope: dict[str, Any], receive: Callable[..., Awaitable[Any]], send: Callable[..., Awaitable[Any]]
) -> None:
    """The application, which is made when it is first asked for."""
    from airflow_provider_llmops.pages.app import application

    await application()(scope, receive, send)


async def overview(
    scope: dict[str, Any], receive: Callable[..., Awaitable[Any]], send: Callable[..., Awaitable[Any]]
) -> None:
    """The application of the overview, likewise."""
    from airflow_provider_llmops.pages.overview.app import application

    await application()(scope, receive, send)


class PagesPlugin(AirflowPlugin):
    """Shows all models at a glance, and reports, data docs and model cards of runs on this machine."""

    name = "llmops_pages"
    fastapi_apps = [
        {"app": pages, "url_prefix": PREFIX, "name": "LLMOps pages"},
        {"app": overview, "url_prefix": OVERVIEW_PREFIX, "name": "LLMOps overview"},
    ]
    external_views = [
        {
            "name": "LLMOps",
            # Without a slash before it: below whatever path Airflow is.
            "href": f"{OVERVIEW_PREFIX.removeprefix('/')}/",
            "destination": "nav",
            "url_route": "llmops",
        }
    ]
