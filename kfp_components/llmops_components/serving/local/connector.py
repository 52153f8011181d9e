"""Connections of a gateway to the processes of its revisions, and to nobody else."""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path

from aiohttp import ClientRequest, ClientTimeout, TCPConnector
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from llmops_components.serving.detached import processes

destination: ContextVar[Path] = ContextVar("destination")
"""Directory of the process that the request at hand is for, with the lock that it holds."""


class ProcessGoneError(Exception):
    """The process that a request is for is gone, whoever may listen at its port now."""


class ProcessConnector(TCPConnector):
    """Connects to processes that live: each holds its port and its lock from its birth to its death.

    The lock is looked at when there is a connection and nothing has been sent: prompts, and the secret that opens the
    service, must not go to another program that took the port of a process that died.
    """

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:
        """Take a connection, or make one."""
        connection = await super().connect(req, traces, timeout)
        if not processes.is_running(destination.get()):
            connection.close()
            raise ProcessGoneError("its process is gone")
        return connection
