"""What is secret is not said; what is not, is. The provider's tests read the same table."""

import json
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llmops_components.errors import DataError
from llmops_components.local.runner import RunState
from llmops_components.redaction import Redactor, redact, redacted
from pydantic import BaseModel

SHAPES = json.loads((Path(__file__).parent.parent / "shapes/secrets.json").read_text("utf-8"))


@pytest.mark.parametrize(("text", "secret", "shown"), SHAPES["hidden"])
def test_secret_is_hidden_and_the_rest_stays(text, secret, shown):
    assert secret in text
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize("text", SHAPES["kept"])
def test_ordinary_text_stays_as_it_is(text):
    assert redact(text) == text


@given(
    st.sampled_from(SHAPES["hidden"]),
    st.text(alphabet="abc 019.\n", max_size=20),
    st.text(alphabet="abc 019.\n", max_size=20),
)
def test_secret_is_hidden_between_other_text(shape, before, after):
    text, secret, _ = shape
    whole = f"{before} {text}\n{after}"
    for form in (whole, repr(whole), json.dumps({"message": whole})):
        assert secret not in redact(form)


@pytest.mark.parametrize("distance", [1, 5, 23])
def test_secret_is_hidden_behind_another_one_on_the_line_before(distance):
    rows = SHAPES["hidden"]
    told = []
    for (text, secret, _), (other, _, _) in zip(rows, rows[distance:] + rows[:distance], strict=True):
        whole = f"{other}\n{text}\nend"
        for form in (whole, repr(whole), json.dumps(json.dumps({"message": whole}))):
            hidden = redact(form)
            if (secret in hidden and secret not in redact(f"{other}\nend")) or redact(hidden) != hidden:
                told.append((form, hidden))
    assert told == []


@given(st.text(max_size=200))
def test_any_text_is_hidden_once(text):
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(("lines", "shown"), SHAPES["lines"])
def test_key_of_several_lines_is_hidden_and_what_follows_is_not(lines, shown):
    assert list(Redactor().lines(lines)) == shown
    assert list(Redactor().lines(f"{line}\r\n" for line in lines)) == [f"{line}\r\n" for line in shown]
    assert redact("\n".join(lines)) == "\n".join(shown)
    for form in (json.dumps("\n".join(lines)), json.dumps(json.dumps({"log": "\n".join(lines)}))):
        assert not [
            line
            for line in lines
            if len(line) > 60 and "-----" not in line and line.split()[-1] in redact(form)
        ]


def test_key_may_go_on_in_later_lines():
    (first, *others), shown = SHAPES["lines"][0]
    redactor = Redactor()
    assert [
        said for lines in ([first, others[0]], others[1:3], others[3:]) for said in redactor.lines(lines)
    ] == shown


def test_end_of_a_key_whose_beginning_is_cut_off_is_hidden():
    lines = SHAPES["lines"][2][0]
    assert redact("\n".join(["0123456789abcdef==", *lines[3:]])) == f"[rank0]: ***\n{lines[-1]}"


def test_error_has_no_secret_in_its_text():
    assert str(DataError("no rows at https://ann:pa55w0rd@h/x")) == "no rows at https://***@h/x"


SECRET = "abcdef1234"  # noqa: S105 - by name: a traceback shows the line


class OwnWords(Exception):
    def __str__(self):
        return f"token={SECRET}"


@pytest.mark.parametrize(
    "cause",
    [ValueError(f"token={SECRET}"), FileNotFoundError(2, "none", f"https://ann:{SECRET}@h/x"), OwnWords()],
    ids=lambda cause: type(cause).__name__,
)
def test_what_led_to_an_error_has_no_secret(cause):
    def fail():
        try:
            raise cause
        except Exception as error:
            raise DataError("It failed") from error

    with pytest.raises(DataError) as caught:
        fail()
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown
    assert type(cause).__name__ in shown


def test_state_of_a_run_has_no_secret(tmp_path):
    RunState(tmp_path).finish("FAILED", {"type": "E", "message": "token=abc123", "retryable": True})
    assert json.loads((tmp_path / "state.json").read_text())["error"]["message"] == "token=***"


def test_settings_hide_what_their_names_say():
    given_ = {
        "apiKey": "a",
        "x-api-key": "b",
        "Authorization": "c",
        "Cookie": "d",
        "eosToken": "e",
        "keys": ["f"],
    }
    hidden = {"apiKey": "***", "x-api-key": "***", "Authorization": "***", "Cookie": "***"}
    assert redacted(given_) == {**given_, **hidden}


def test_values_of_secret_variables_are_hidden_and_the_working_directory_is_not(monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "correct-horse")
    monkeypatch.setenv("PWD", "/srv/llmops")
    assert redact("correct-horse in /srv/llmops") == "*** in /srv/llmops"


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
    def fail():
        try:
            try:
                Login(api_key=[SECRET])
            except ValueError as error:
                raise RuntimeError("of a library") from error
        except RuntimeError as error:
            raise DataError(f"It failed: {error.__cause__}") from error

    with pytest.raises(DataError) as caught:
        fail()
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown
    assert "pydantic_core._pydantic_core.ValidationError: 1 validation error for Login" in shown
