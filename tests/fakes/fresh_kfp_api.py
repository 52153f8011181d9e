"""The fake API server, as a server that the provider has never met."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kfp_api import FakeKfpApi


@contextmanager
def fresh_kfp_api() -> Iterator[FakeKfpApi]:
    """A server to which nothing was uploaded."""
    with FakeKfpApi() as api:
        yield api
