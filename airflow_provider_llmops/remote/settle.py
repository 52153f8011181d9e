"""Keep a trigger from firing before Airflow has noticed that the worker which deferred the task is gone."""

from __future__ import annotations

import asyncio
import time

from airflow.sdk.configuration import conf

MARGIN_SECONDS = 1.5


async def settle(started: float) -> None:
    """Wait until a task that was deferred at about ``started`` may be resumed.

    A worker's supervisor can take ``workers.min_heartbeat_interval`` seconds to see that its process has ended. If the
    task is resumed before, the scheduler takes that end for the end of the resumed attempt, and retries or fails it:
    https://github.com/apache/airflow/issues/67287, https://github.com/apache/airflow/issues/72716.

    :param started: ``time.monotonic()`` when the trigger began to run
    """
    until = started + conf.getint("workers", "min_heartbeat_interval") + MARGIN_SECONDS
    await asyncio.sleep(max(0.0, until - time.monotonic()))
