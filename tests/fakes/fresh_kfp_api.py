"""The fake API server, as a server that the provider has never met."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kfp_api import FakeKfpApi


@contextmanager
def fresh_kfp_api() -> Iterator[FakeKfpApi]:
    """A server to which nothing was uploaded: the provider remembers addresses, and their ports come round again."""
    from airflow_provider_llmops.backends import kfp_versions

    kfp_versions._reference_cache.clear()
    with FakeKfpApi() as api:
        yield api
