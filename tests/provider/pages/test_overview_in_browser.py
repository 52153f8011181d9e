"""The page of all models in a real browser, in a frame as Airflow's own page has it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import airflow
import pytest
import uvicorn
from airflow.api_fastapi.core_api.security import get_user
from browser import in_browser, needs_browser
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from test_overview import FakeMlflow, service

from airflow_provider_llmops.pages.overview import app as overview
from airflow_provider_llmops.pages.overview.services import Services

pytestmark = needs_browser
SANDBOX = "allow-scripts allow-same-origin allow-forms allow-downloads"
FRAME = f"""<!doctype html><html class="CLASS" style="height: 100%"><head><base href="/"><title>Airflow</title></head>
<body style="height: 95%"><iframe sandbox="{SANDBOX}" src="llmops/overview/" style="border: 0; height: 100%; width: 100%"></iframe></body></html>"""


@pytest.fixture
def address(monkeypatch):
    """A web server with the page, and pages that frame it as Airflow does, at ``/plugin/light`` and ``/plugin/dark``."""
    mlflow = FakeMlflow(
        {"chat": (1, 1), "a-model-with-a-rather-long-name-that-somebody-has-given-it": (3, 12)}
    )
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": mlflow.url}))
    monkeypatch.setattr(
        overview, "get_auth_manager", lambda: SimpleNamespace(is_authorized_connection=lambda **_: True)
    )
    served = Services({"chat": service("00003", "00004", **{"00003": 80, "00004": 20})})
    monkeypatch.setattr(overview, "_services", lambda *_: served)
    page = overview.application.__wrapped__()
    page.dependency_overrides[get_user] = lambda: "somebody"
    app = FastAPI()
    app.mount("/llmops/overview", page)
    app.add_api_route("/plugin/{theme}", lambda theme: HTMLResponse(FRAME.replace("CLASS", theme)))
    app.add_api_route("/dags/{rest:path}", lambda rest: HTMLResponse(f"<title>{rest}</title>"))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < until
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    mlflow.close()


IN_FRAME = "document.querySelector('iframe').contentDocument"


def test_airflow_frames_pages_as_it_is_done_here():
    scripts = Path(airflow.__file__).parent / "ui" / "dist" / "assets"
    assert any(f"sandbox:`{SANDBOX}`" in path.read_text() for path in scripts.glob("index-*.js"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_in_airflows_frame_has_its_colours_and_links_lead_out_of_the_frame(address, theme):
    async def look(page):
        await page.wait_for(f"{IN_FRAME}.readyState === 'complete' && !!{IN_FRAME}.querySelector('table')")
        colour = await page.run(f"getComputedStyle({IN_FRAME}.body).backgroundColor")
        # The first is of Airflow's own frame.
        usual = ("can escape its sandboxing", "favicon.ico")
        said = [each for each in page.said if not any(words in each for words in usual)]
        await page.run(
            f"const link = {IN_FRAME}.querySelector('td a[target=_top]');"
            "link.href = new URL('../../dags/mine/runs/one', link.baseURI).href; setTimeout(() => link.click())"
        )
        await page.wait_for("document.title === 'mine/runs/one'")
        return colour, said, await page.run("top === self && location.pathname")

    colour, said, path = in_browser(f"{address}/plugin/{theme}", look)
    assert colour == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 22, 29)"}[theme]
    assert said == []
    assert path == "/dags/mine/runs/one"


def test_filter_is_used_without_leaving_the_frame(address):
    async def look(page):
        await page.wait_for(f"!!({IN_FRAME}.querySelector('table'))")
        await page.run(
            f"{IN_FRAME}.querySelector('#name').value = 'chat'; {IN_FRAME}.querySelector('button').click()"
        )
        await page.wait_for(
            f"{IN_FRAME}.location.search === '?name=chat' && {IN_FRAME}.readyState === 'complete'"
        )
        return await page.run(f"[location.pathname, {IN_FRAME}.querySelector('#name').value]")

    assert in_browser(f"{address}/plugin/light", look) == ["/plugin/light", "chat"]


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_cut_off_whatever_the_width(address, width):
    async def look(page):
        await page.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False
        )
        return await page.run(
            "[document.documentElement.scrollWidth <= innerWidth, getComputedStyle(document.querySelector('td')).display]"
        )

    assert in_browser(f"{address}/llmops/overview/", look) == [
        True,
        "block" if width == 400 else "table-cell",
    ]
