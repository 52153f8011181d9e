"""No reader of addresses tells what they have of logins and keys, in its error or in what led to it."""

from __future__ import annotations

import json
import re
import traceback
from pathlib import Path

import pytest

from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, LLMOpsError
from airflow_provider_llmops.http import request
from airflow_provider_llmops.specs.files import read_source
from airflow_provider_llmops.uris import split_address

SHAPES = json.loads((Path(__file__).parents[1] / "shapes/secrets.json").read_text("utf-8"))["hidden"]
URLS = [
    (re.sub(r"(://(?:[^/?#]*@)?)[^/?#]+", r"\g<1>127.0.0.1:1", url[0]), secret)
    for text, secret, _ in SHAPES
    if (url := re.search(r"https?://\S+", text)) and secret in url[0]
]

SECRET = "abcdef1234"  # noqa: S105 - by name: a traceback shows the line


def ask(url: str) -> bytes:
    return request(url, timeout=1)


@pytest.mark.parametrize("read", [read_source, ask])
@pytest.mark.parametrize(("url", "secret"), URLS)
@pytest.mark.parametrize("suffix", ["", "/a b"])
def test_secret_in_an_address_is_nowhere_in_what_is_logged(read, url, secret, suffix):
    assert secret in url
    with pytest.raises(LLMOpsError) as caught:
        read(url + suffix)
    assert secret not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("read", [read_source, ask])
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://ann:pa55w0rd@127.0.0.1/x", "Addresses with a login in them"),
        ("https://pa55w0rd@127.0.0.1/x", "Addresses with a login in them"),
        ("https://ann:pa55w0rd@[bad/x", "Addresses with a login in them"),
        ("http://[::1/x?token=pa55w0rd", "That is not a valid address"),
        ("http://h:pa55w0rd/x", "That is not a valid address"),
        ("http://evil.com%2f.example.com/x", "That is not a valid address"),
        ("http://127.0.0.1/x y?token=pa55w0rd", "[Nn]ot a valid"),
    ],
)
def test_address_that_is_none_is_final_and_not_repeated(read, url, reason):
    with pytest.raises(ConfigurationError, match=reason) as caught:
        read(url)
    assert "pa55w0rd" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("address", ["s3://[x/y", "s3://key:pa55w0rd@bucket/x"])
def test_addresses_of_object_stores_are_held_to_the_same(address):
    with pytest.raises(ConfigurationError):
        read_source(address)


def test_id_of_a_connection_may_stand_before_a_bucket():
    assert split_address("s3://aws_default@bucket/p.yaml").hostname == "bucket"


class OwnWords(Exception):
    def __str__(self) -> str:
        return f"token={SECRET}"


@pytest.mark.parametrize(
    "cause",
    [
        ValueError(f"token={SECRET}"),
        KeyError(f"https://ann:{SECRET}@h/x"),
        FileNotFoundError(2, "No such file", f"https://ann:{SECRET}@h/x"),
        OwnWords(),
        ExceptionGroup("several", [ValueError(f"token={SECRET}")]),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_what_led_to_an_error_has_no_secret(cause):
    def fail() -> None:
        try:
            try:
                raise cause
            except Exception as error:
                raise RuntimeError(f"password={SECRET}") from error
        except RuntimeError as error:
            raise ApiUnavailableError("It failed") from error

    with pytest.raises(ApiUnavailableError) as caught:
        fail()
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown
    assert type(cause).__name__ in shown
