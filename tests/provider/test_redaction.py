"""What is secret is not said; what is not, is. The data plane's tests read the same table."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from airflow_provider_llmops.backends.last_words import clean, read_last_words
from airflow_provider_llmops.exceptions import MAX_CHARACTERS, ConfigurationError, shown_value
from airflow_provider_llmops.redaction import Redactor, redact, redacted
from airflow_provider_llmops.results import StageResult

ROOT = Path(__file__).parents[2]
SHAPES = json.loads((ROOT / "tests/shapes/secrets.json").read_text("utf-8"))


@pytest.mark.parametrize(("text", "secret", "shown"), SHAPES["hidden"])
def test_secret_is_hidden_and_the_rest_stays(text, secret, shown):
    assert redact(text) == shown
    for said in (
        clean(text),
        str(ConfigurationError(text, f"Address: {text}")),
        shown_value({"x": text}, 9999),
    ):
        assert secret not in said


@pytest.mark.parametrize("text", SHAPES["kept"])
def test_ordinary_text_stays_as_it_is(text):
    assert redact(text) == text


@given(
    st.sampled_from(SHAPES["hidden"]),
    st.text(alphabet="abc 019.\n", max_size=20),
    st.text(alphabet="abc 019.\n", max_size=20),
)
def test_no_error_tells_a_secret(shape, before, after):
    text, secret, _ = shape
    assert secret not in str(ConfigurationError(f"{before} {text}\n{after}"))


@pytest.mark.parametrize(("lines", "shown"), SHAPES["lines"])
def test_key_of_several_lines_is_hidden_and_what_follows_is_not(lines, shown):
    assert list(Redactor().lines(lines)) == shown
    assert redact("\n".join(lines)) == "\n".join(shown)


def test_key_in_the_output_of_a_step_is_hidden_across_lines():
    key = "-----BEGIN PRIVATE KEY-----\nMIIEowIBAAKCAQEA75\nx7Tz\n-----END PRIVATE KEY-----"
    words = read_last_words(f"reading\n{key}\nValueError: bad key {key}\n")
    assert "MIIEow" not in f"{words.reason} {words.lines}"


def test_xcom_has_no_secret():
    text = json.dumps(
        {
            "schema_version": 1,
            "component": "c",
            "passed": True,
            "findings": ["read https://ann:pa55w0rd@h/x"],
            "artifacts": {},
            "metrics": {},
            "details": {"tracking": {"url": "https://h/?token=abc123", "api_key": "k"}},
            "resources": {},
        }
    )
    value = StageResult.parse(text, run_id="r", component_digest="d", where="w").to_xcom()
    assert value["findings"] == ["read https://***@h/x"]
    assert value["details"] == {"tracking": {"url": "https://h/?token=***", "api_key": "***"}}


def test_what_only_sounds_like_a_secret_stays_in_results():
    value = {
        "cost_per_token": 0.12,
        "nll_per_token": [1, 2.5],
        "sort_key": "name",
        "public_key": "abcdefgh12345678",
        "signature": "f(text) -> text",
        "stop_token": "</s>",
        "token": 5,
    }
    assert redacted(value) == value
    assert redacted({"password": 12345678, "hub_token": "abc", "api_key": ["a"]}) == {
        "password": "***",
        "hub_token": "***",
        "api_key": "***",
    }


class Login(BaseModel):
    api_key: int


def test_error_of_a_validation_tells_no_secret_in_the_traceback_of_ours():
    secret = "correct-horse"  # noqa: S105 - by name: a traceback shows the line

    def fail():
        try:
            try:
                Login.model_validate({"api_key": [secret]})
            except ValueError as error:
                raise RuntimeError("of a library") from error
        except RuntimeError as error:
            raise ConfigurationError(f"It failed: {error.__cause__}") from error

    with pytest.raises(ConfigurationError) as caught:
        fail()
    shown = "".join(traceback.format_exception(caught.value))
    assert secret not in shown.replace('secret = "correct-horse"', "")
    assert "pydantic_core._pydantic_core.ValidationError: 1 validation error for Login" in shown


def test_message_is_cut_in_its_middle_where_it_is_long():
    said = str(ConfigurationError(f"The beginning {'x' * 100_000} what to do.", "Address: here"))
    assert said.startswith("The beginning ") and said.endswith(" what to do.\nAddress: here")
    assert len(said) <= MAX_CHARACTERS + 100
