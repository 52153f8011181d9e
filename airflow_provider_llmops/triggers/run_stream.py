"""One look at the server for every task that waits there.

Each waiting task asking for its own run costs requests in proportion to the tasks. Instead, one poll serves all tasks of
a triggerer that wait on one connection:

* a run is read once when its task starts to wait, up to a hundred runs with one request;
* then one listing per interval, of the runs that finished since the last, however many runs there are;
* runs that go on are read again in turns, at most one request per interval, for the states of their steps and for what
  a listing of finished runs cannot show: a run that was deleted, or whose end was recorded late.

Time is the server's alone: the listing goes on from the latest end that it has shown. It overlaps with the one before,
since ends have whole seconds and are recorded after they happen.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from tenacity import AsyncRetrying, before_sleep_log, retry_if_exception_type, stop_never

from airflow_provider_llmops.backends.kfp_api import wait_before_retry
from airflow_provider_llmops.backends.kubeflow import MAX_RUNS_PER_READ
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_provider_llmops.backends.base import Run
    from airflow_provider_llmops.backends.kubeflow import KubeflowPipelineBackend

log = logging.getLogger(__name__)
T = TypeVar("T")

OVERLAP = timedelta(seconds=30)
REREAD_SECONDS = 15.0  # how old the last look at a waiting run may become, if one request per interval allows
GATHER_SECONDS = 0.1  # tasks that start to wait together are read together


class RunStream:
    """The runs that tasks of this process wait for on one connection.

    :param interval: seconds between two listings
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._queues: dict[str, list[asyncio.Queue[Run | Exception]]] = {}
        # When each run was last read, the longest ago first; 0 for one that was not read yet.
        self._read_at: OrderedDict[str, float] = OrderedDict()
        self._last: dict[str, Run] = {}
        self._arrived = asyncio.Event()

    @asynccontextmanager
    async def watch(self, run_id: str) -> AsyncIterator[asyncio.Queue[Run | Exception]]:
        """A queue that gets the run at once and whenever it has changed, or why nobody can tell any more.

        :param run_id: run to watch
        """
        queue: asyncio.Queue[Run | Exception] = asyncio.Queue()
        queues = self._queues.setdefault(run_id, [])
        queues.append(queue)
        self._forget(run_id)
        self._read_at[run_id] = 0.0
        self._read_at.move_to_end(run_id, last=False)
        self._arrived.set()
        try:
            yield queue
        finally:
            queues.remove(queue)
            if not queues:
                self._queues.pop(run_id, None)
                self._read_at.pop(run_id, None)
                self._last.pop(run_id, None)

    async def poll(self, connect: Callable[[], Awaitable[KubeflowPipelineBackend]]) -> None:
        """Serve the watchers for as long as it is not cancelled.

        :param connect: gives the backend
        """
        try:
            await self._poll(await connect())
        except Exception as error:
            self._tell_all(error)
            raise

    async def _poll(self, backend: KubeflowPipelineBackend) -> None:
        seen_until = await self._ask(backend.last_finished_at)
        seen: dict[str, datetime] = {}
        next_listing = time.monotonic() + self.interval
        next_reread = 0.0
        while True:
            now = time.monotonic()
            if batch := self._due(now, rereads=now >= next_reread):
                next_reread = now + self.interval
                await self._read(backend, batch)
            elif now >= next_listing:
                next_listing = now + self.interval
                since = seen_until - OVERLAP
                for run in await self._ask(lambda since=since: list(backend.list_finished(since))):  # type: ignore[misc]
                    assert run.finished_at is not None
                    seen_until = max(seen_until, run.finished_at)
                    if seen.get(run.run_id) != run.finished_at:
                        seen[run.run_id] = run.finished_at
                        self._tell(run)
                seen = {run_id: at for run_id, at in seen.items() if at >= seen_until - OVERLAP}
            else:
                await self._sleep_until(next_listing)

    async def _sleep_until(self, moment: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, moment - time.monotonic())):
                await self._arrived.wait()
                self._arrived.clear()
                await asyncio.sleep(GATHER_SECONDS)
        except TimeoutError:
            pass

    def _due(self, now: float, *, rereads: bool) -> list[str]:
        """Runs to read now: those that nobody has read yet, or else, if it is time, those read longest ago."""
        batch: list[str] = []
        for run_id, read_at in self._read_at.items():
            if len(batch) == MAX_RUNS_PER_READ or (
                read_at and not (rereads and now - read_at >= REREAD_SECONDS)
            ):
                break
            batch.append(run_id)
        return batch

    async def _read(self, backend: KubeflowPipelineBackend, batch: list[str]) -> None:
        found = await self._ask(lambda: backend.read_many(batch))
        now = time.monotonic()
        for run_id in batch:
            if run_id not in self._read_at:
                continue  # nobody waits for it any more
            self._read_at[run_id] = now
            self._read_at.move_to_end(run_id)
            if run := found.get(run_id):
                self._tell(run)
                continue
            # A listing may leave a run out for other reasons than that it is gone, so it is asked for by itself.
            try:
                self._tell(await self._ask(lambda run_id=run_id: backend.get(run_id)))  # type: ignore[misc]
            except ConfigurationError as error:
                self._put(run_id, error)

    async def _ask(self, request: Callable[[], T]) -> T:
        """Ask the server, for as long as it takes: deadlines are kept by those who wait."""
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(ApiUnavailableError),
            wait=wait_before_retry,
            stop=stop_never,
            before_sleep=before_sleep_log(log, logging.WARNING),
            reraise=True,
        )
        return await attempts(asyncio.to_thread, request)

    def _tell(self, run: Run) -> None:
        before = self._last.get(run.run_id)
        changed = before is None or (before.state, before.tasks) != (run.state, run.tasks)
        if run.run_id in self._queues and changed:
            self._last[run.run_id] = run
            self._put(run.run_id, run)

    def _put(self, run_id: str, item: Run | Exception) -> None:
        for queue in self._queues.get(run_id, ()):
            queue.put_nowait(item)

    def _tell_all(self, error: Exception) -> None:
        for run_id in list(self._queues):
            self._put(run_id, error)

    def _forget(self, run_id: str) -> None:
        """A new watcher of a run that others watch gets it too, and they once more."""
        self._last.pop(run_id, None)


_streams: dict[Any, RunStream] = {}


def stream_of(key: Any, interval: float) -> RunStream:
    """The stream of a key, in this process and event loop.

    :param key: what tells streams apart
    :param interval: seconds between two listings
    """
    return _streams.setdefault((key, id(asyncio.get_running_loop())), RunStream(interval))
