"""A real browser without a window, told what to do over its own protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
# Continuous integration installs one: there a test that cannot be run has failed.
needs_browser = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="there is no Chromium or Chrome on PATH"
)
_OPTIONS = (
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-sync",
    ),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"),
)
_SECONDS = 60


class Navigated(Exception):
    """The page that was asked has gone."""


class Page:
    """A page that is open.

    Args:
        socket: The browser's end of the protocol.
        said: What the page has written to its console, and what has failed in it.
    """

    def __init__(self, socket: Any) -> None:
        self.said: list[str] = []
        self._socket = socket
        self._number = 0

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask the browser for something."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=_SECONDS)
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.said.append(json.dumps(message["params"])[:500])
            if message.get("id") == self._number:
                if "navigated" in message.get("error", {}).get("message", ""):
                    raise Navigated(message)
                assert "error" not in message, message
                return message["result"]

    async def run(self, script: str) -> Any:
        """The value of a script, awaited where it is a promise."""
        found = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def press(self, key: str) -> None:
        """Press a key, as a person does."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            await self.send("Input.dispatchKeyEvent", type=kind, key=key, **text)

    async def reload(self) -> None:
        """Load the page again, and return when another one has taken the place of this one."""
        await self.run("window.isFormerPage = true")
        await self.send("Page.reload")
        await self.wait_for("!window.isFormerPage && document.readyState === 'complete'")

    async def wait_for(self, script: str) -> None:
        """Wait until a script's value is true."""
        until, is_true = time.monotonic() + _SECONDS, False
        while not is_true:
            assert time.monotonic() < until, f"{script}: {self.said}"
            with contextlib.suppress(Navigated):  # the page was asked just as it went
                is_true = await self.run(script)
            await asyncio.sleep(0.05)


def in_browser(address: str, what: Any, downloads: Path | None = None) -> Any:
    """Open a page, do something with it, and close the browser.

    Args:
        address: Of the page.
        what: An asynchronous function of the page.
        downloads: Where files go that the page saves.
    """
    import aiohttp

    async def drive(port: int) -> Any:
        async with aiohttp.ClientSession() as session:
            async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
                target = await answer.json(content_type=None)
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                for domain in ("Runtime", "Log", "Page"):
                    await page.send(f"{domain}.enable")
                if downloads is not None:
                    await page.send(
                        "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads)
                    )
                await page.send("Page.navigate", url=address)
                await page.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'")
                return await what(page)

    assert CHROMIUM is not None, "there is no Chromium or Chrome on PATH: apt-get install chromium"
    # Its processes may write there for a moment after it has ended.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            file, until = Path(profile, "DevToolsActivePort"), time.monotonic() + _SECONDS
            while not (file.is_file() and file.read_text().strip()):
                assert browser.poll() is None and time.monotonic() < until, "the browser did not start"
                time.sleep(0.05)
            return asyncio.run(drive(int(file.read_text().split()[0])))
        finally:
            browser.terminate()
            browser.wait(10)
