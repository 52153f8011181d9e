"""What a storage library raises, said so that Airflow and a person know what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from airflow.sdk.io.store import _STORE_CACHE, attach
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_llmops.backends.pipelines.artifacts import list_outputs, read_result
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError

ROOT = "s3://bucket/llmops/pipeline/run/train"


class LostConnectionError(Exception):
    """As botocore's ``EndpointConnectionError``: no ``OSError``."""


class NoCredentialsError(Exception):
    """As botocore's."""


class Store(MemoryFileSystem):
    """A bucket that fails at what a test says, listing or reading."""

    cachable = False
    fails_at, error = "", Exception()

    def ls(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if self.fails_at == "ls":
            raise self.error
        return super().ls(path, *args, **kwargs)

    def _open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if self.fails_at == "open":
            raise self.error
        return super()._open(path, *args, **kwargs)


@pytest.fixture
def store(monkeypatch) -> Iterator[Store]:
    monkeypatch.setenv("AIRFLOW_CONN_LAB", '{"conn_type": "aws"}')
    store = Store()
    store.store.clear()
    with store.open("/bucket/llmops/pipeline/run/train/a1/result", "wb") as file:
        file.write(b"{}")
    attach("s3", conn_id="lab", fs=store)
    yield store
    _STORE_CACHE.pop("s3-lab")
    store.store.clear()


def test_a_result_is_read_with_the_connection(store):
    text, address = read_result([ROOT], "r1", "train", "lab")
    assert (text, address) == ("{}", f"{ROOT}/a1/result")


@pytest.mark.parametrize("fails_at", ["ls", "open"])
def test_a_lost_connection_may_pass(store, fails_at):
    store.fails_at = fails_at
    store.error = LostConnectionError('Could not connect to the endpoint URL: "http://store:9000/bucket"')
    with pytest.raises(ApiUnavailableError) as caught:
        read_result([ROOT], "r1", "train", "lab")
    assert str(caught.value) == (
        'The artifact store did not answer: Could not connect to the endpoint URL: "http://store:9000/bucket".\n'
        f"Looked below: {ROOT}"
    )


@pytest.mark.parametrize("error", [PermissionError("Access Denied"), NoCredentialsError("Access Denied")])
@pytest.mark.parametrize("fails_at", ["ls", "open"])
def test_missing_rights_and_accounts_are_final(store, fails_at, error):
    store.fails_at, store.error = fails_at, error
    with pytest.raises(ConfigurationError) as caught:
        read_result([ROOT], "r1", "train", "lab")
    assert str(caught.value) == (
        "Artifacts may not be read: Access Denied. Name a connection whose account may in 'storage_conn_id', which is 'lab'.\n"
        f"Looked below: {ROOT}"
    )


def test_outputs_are_listed_with_the_same_words(store):
    assert list_outputs([ROOT], "lab") == {"result": f"{ROOT}/a1/result"}
    store.fails_at, store.error = "ls", TimeoutError()
    with pytest.raises(ApiUnavailableError, match=r"The artifact store did not answer: TimeoutError\."):
        list_outputs([ROOT], "lab")


def test_a_store_of_which_no_provider_is_installed_is_final():
    with pytest.raises(ConfigurationError, match=r"airflow-provider-llmops\[s3\]"):
        read_result(["hdfs://host/llmops"], "r1", "train", None)
