"""One look at the server for every task that waits there.

Each waiting task asking for its own run costs requests in proportion to the tasks. Instead, one poll serves all tasks of
a triggerer that wait on one connection:

* a run is read once when its task starts to wait, up to a hundred runs with one request;
* then one listing per interval, of the runs that finished since the last, however many runs there are;
* runs that go on are read again in turns, at most one request per interval, for the states of their steps and for what
  a listing of finished runs cannot show: a run that was deleted, or whose end was recorded late.

Time is the server's alone: the listing goes on from the latest end that it has shown. It overlaps with the one before,
since ends have whole seconds and are recorded after they happen. It steps back when a run is found to have ended before
what it shows: the server's clock was set back, or some run carries an end in the future.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from airflow_provider_llmops.backends.pipelines.kubeflow.reading import EPOCH
from airflow_provider_llmops.backends.pipelines.kubeflow.runs import MAX_RUNS_PER_READ
from airflow_provider_llmops.backends.retrying import for_ever_while_unavailable
from airflow_provider_llmops.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_provider_llmops.backends.pipelines.base import PipelineServer, Run

T = TypeVar("T")

OVERLAP = timedelta(seconds=30)
LONGEST_STEP_BACK = timedelta(hours=1)  # a listing of all that ended since then is still some pages
REREAD_SECONDS = 15.0  # how old the last look at a waiting run may become, if one request per interval allows
GATHER_SECONDS = 0.1  # tasks that start to wait together are read together


@dataclass
class _Watched:
    """A run that somebody waits for.

    :param since: when the last of those began to wait. An answer to a request that was sent before may be older than
        what they have done to the run, a retry for example.
    """

    since: float = 0.0
    read_at: float | None = None
    last: Run | None = None
    queues: list[asyncio.Queue[Run | Exception]] = field(default_factory=list)


class RunStream:
    """The runs that tasks of this process wait for on one connection.

    ``backend`` is what the poll asks, from its beginning on.

    :param interval: seconds between two listings
    :param overlap: how far a listing reaches back behind the latest end that the one before has shown
    :param reread_seconds: age at which the last look at a run is repeated
    """

    def __init__(
        self, interval: float, *, overlap: timedelta = OVERLAP, reread_seconds: float = REREAD_SECONDS
    ) -> None:
        self.interval = interval
        self.backend: PipelineServer | None = None
        self.overlap = overlap
        self.reread_seconds = reread_seconds
        # In the order of the last look: those that nobody has looked at yet, then the longest ago.
        self._watched: OrderedDict[str, _Watched] = OrderedDict()
        self._arrived = asyncio.Event()
        self._seen_until = EPOCH
        self._seen: dict[str, datetime] = {}
        self._stepped_back = False

    @asynccontextmanager
    async def watch(self, run_id: str) -> AsyncIterator[asyncio.Queue[Run | Exception]]:
        """A queue that gets the run at once and whenever it has changed, or why nobody can tell any more.

        :param run_id: run to watch
        """
        queue: asyncio.Queue[Run | Exception] = asyncio.Queue()
        watched = self._watched.setdefault(run_id, _Watched())
        watched.queues.append(queue)
        # Others that watch it get it once more.
        watched.since, watched.read_at, watched.last = time.monotonic(), None, None
        self._watched.move_to_end(run_id, last=False)
        self._arrived.set()
        try:
            yield queue
        finally:
            watched.queues.remove(queue)
            if not watched.queues:
                self._watched.pop(run_id, None)

    async def poll(self, connect: Callable[[], Awaitable[PipelineServer]]) -> None:
        """Serve the watchers for as long as it is not cancelled.

        :param connect: gives the backend
        """
        try:
            self.backend = await connect()
            await self._poll(self.backend)
        except Exception as error:
            for watched in self._watched.values():
                _put(watched, error)
            raise

    async def _poll(self, backend: PipelineServer) -> None:
        self._seen_until, self._seen = await self._ask(backend.last_finished_at), {}
        next_listing = time.monotonic() + self.interval
        may_reread = False
        while True:
            if time.monotonic() >= next_listing:
                next_listing = time.monotonic() + self.interval
                may_reread = True
                await self._list(backend)
            if batch := self._due(rereads=may_reread):
                may_reread = False
                await self._read(backend, batch)
            else:
                await self._sleep_until(next_listing)

    async def _list(self, backend: PipelineServer) -> None:
        # A run that goes on carries the epoch as its end.
        since = max(self._seen_until - self.overlap, EPOCH + timedelta(seconds=1))
        asked_at = time.monotonic()
        for run in await self._ask(lambda: list(backend.list_finished(since, with_steps_of=self._watched))):
            assert run.finished_at is not None
            if self._seen.get(run.run_id) != run.finished_at:
                self._seen[run.run_id] = run.finished_at
                if not self._stepped_back:  # or else to where it was before, by what it has shown before
                    self._seen_until = max(self._seen_until, run.finished_at)
            self._tell(run, asked_at)
        self._stepped_back = False
        shown_again = self._seen_until - self.overlap
        self._seen = {run_id: at for run_id, at in self._seen.items() if at >= shown_again}

    async def _sleep_until(self, moment: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, moment - time.monotonic())):
                await self._arrived.wait()
                self._arrived.clear()
                await asyncio.sleep(GATHER_SECONDS)
        except TimeoutError:
            pass

    def _due(self, *, rereads: bool) -> list[str]:
        """Runs to read now: those that nobody has read yet and, in the same request or if it is time, the longest unread.

        :param rereads: whether a request may be made for the latter alone
        """
        batch: list[str] = []
        now = time.monotonic()
        for run_id, watched in self._watched.items():
            if len(batch) == MAX_RUNS_PER_READ:
                break
            if watched.read_at is not None and (
                now - watched.read_at < self.reread_seconds or not (batch or rereads)
            ):
                break
            batch.append(run_id)
        return batch

    async def _read(self, backend: PipelineServer, batch: list[str]) -> None:
        asked_at = time.monotonic()
        found = await self._ask(lambda: backend.read_many(batch))
        for run_id in batch:
            watched = self._watched.get(run_id)
            if watched is None or watched.since > asked_at:
                continue  # nobody waits for it any more, or somebody who has not asked for it yet
            goes_on = watched.last is not None and not watched.last.state.is_terminal
            watched.read_at = time.monotonic()
            self._watched.move_to_end(run_id)
            run = found.get(run_id)
            if run is None:  # a listing may leave it out for other reasons than that it is gone
                try:
                    run = await self._ask(partial(backend.get, run_id))
                except ConfigurationError as error:
                    _put(watched, error)
                    continue
            if goes_on and run.finished_at and run.finished_at < self._seen_until - self.overlap:
                self._seen_until = max(run.finished_at, self._seen_until - LONGEST_STEP_BACK)
                self._stepped_back = True
            self._tell(run, asked_at)

    async def _ask(self, request: Callable[[], T]) -> T:
        """Ask the server, for as long as it takes: deadlines are kept by those who wait."""
        attempts = for_ever_while_unavailable()
        return await attempts(asyncio.to_thread, request)

    def _tell(self, run: Run, asked_at: float) -> None:
        watched = self._watched.get(run.run_id)
        if watched is None or watched.since > asked_at:
            return
        before = watched.last
        if before is None or (before.state, before.tasks, before.waits) != (
            run.state,
            run.tasks,
            run.waits,
        ):
            watched.last = run
            _put(watched, run)


def _put(watched: _Watched, item: Run | Exception) -> None:
    for queue in watched.queues:
        queue.put_nowait(item)


_streams: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, RunStream]] = WeakKeyDictionary()


def stream_of(key: Any, interval: float) -> RunStream:
    """The stream of a key, in this process and event loop.

    :param key: what tells streams apart
    :param interval: seconds between two listings
    """
    streams = _streams.setdefault(asyncio.get_running_loop(), {})
    if key not in streams:
        streams[key] = RunStream(interval)
    return streams[key]
