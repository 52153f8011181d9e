"""Near duplicates, evaluation rows, personal data and toxic texts as steps: what the ledger says, and never what was found."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from pathlib import Path
from typing import Any

import pytest
from llmops_components.data.preparation.declared import read_steps, settings_of
from llmops_components.data.preparation.run import Source, run
from llmops_components.errors import DataError, SettingError

WORDS = [f"word{number}" for number in range(3000)]


def sentence(seed: int, words: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))  # noqa: S311 - no secret


def chat(question: str, answer: str = "It is so.") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def prepared(
    directory: Path,
    files: dict[str, list[dict[str, Any]]],
    inputs: dict[str, Path] | None = None,
    **declared: Any,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What is written, and the ledger."""
    for name, rows in files.items():
        (directory / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = {name: directory / f"out-{name}" for name in ("prepared", "held_out", "ledger")}
    steps = read_steps([declared], inputs or {})
    run([Source(directory / name, name) for name in files], steps, out, inputs=inputs)
    return tuple([json.loads(line) for line in out[name].open()] for name in ("prepared", "ledger"))  # type: ignore[return-value]


def test_near_duplicates_within_and_between_files_name_the_row_that_is_kept(tmp_path: Path):
    first, second = sentence(1), sentence(2)
    files = {
        "a": [chat(first), chat(second), chat(f"{first} indeed")],
        "b": [chat(second.upper()), chat("Hi", "Hi.")],
    }
    rows, ledger = prepared(tmp_path, files, step="drop_near_duplicates")
    assert [row["row_id"] for row in rows] == ["a:1", "a:2", "b:2"]
    assert [(each["row_id"], each["kept_row_id"], each["similarity"]) for each in ledger] == [
        ("a:3", "a:1", round(57 / 58, 4)),
        ("b:1", "a:2", 1.0),
    ]
    assert {each["reason"] for each in ledger} == {"nearly repeats another row"}
    rows, ledger = prepared(tmp_path, files, step="drop_near_duplicates", within="source")
    assert [each["row_id"] for each in ledger] == ["a:3"]


def test_what_was_not_compared_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    template = sentence(3, 200)
    rows = [chat(f"{template} {sentence(number, 8)}") for number in range(10, 30)]
    settings = {"comparisons": 1, "threshold": 0.95, "recall": 0.999, "template_rows": None}
    prepared(tmp_path, {"a": rows}, step="drop_near_duplicates", **settings)
    assert "rows that stay were not compared with all that may be like them" in capsys.readouterr().out


def test_contaminated_rows_name_the_evaluation_row_and_the_overlap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    evaluation = tmp_path / "evaluation"
    questions = [{"prompt": sentence(5, 40)}, {"prompt": "Too short."}, {"prompt": sentence(6, 40)}]
    evaluation.write_text("\n".join(json.dumps(row) for row in questions))
    files = {"a": [chat(sentence(7)), chat(f"Tell me: {sentence(6, 40)}")]}
    rows, [entry] = prepared(tmp_path, files, {"evaluation": evaluation}, step="drop_contaminated")
    assert len(rows) == 1
    assert (entry["row_id"], entry["evaluation_row_id"], entry["score"]) == ("a:2", "evaluation:3", 1.0)
    assert "1 of 3 evaluation rows were not looked for" in capsys.readouterr().out
    evaluation.write_text('{"prompt": "x"}\n{')
    with pytest.raises(
        DataError, match="The evaluation set cannot be compared with: line 2 is not valid JSON"
    ):
        prepared(tmp_path, files, {"evaluation": evaluation}, step="drop_contaminated")
    with pytest.raises(SettingError, match="give evaluation"):
        prepared(tmp_path, files, step="drop_contaminated")


KEY = "a key of thirty-two bytes, or so"


def stand_in(kind: str, value: str) -> str:
    digest = hmac.new(KEY.encode(), f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()
    letters = digest[:12].translate(str.maketrans("0123456789abcdef", "abcdefghijklmnop"))
    return f"<{kind}_{letters}>"  # without digits, which could be found again as a number


SOMEBODY, PHONE = stand_in("EMAIL_ADDRESS", "ana@example.com"), stand_in("PHONE_NUMBER", "+4930901820")
MAIL = chat("I am ana@example.com", "Hello ANA@example.com, call +49 30 901820.")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, chat("I am <EMAIL_ADDRESS>", "Hello <EMAIL_ADDRESS>, call <PHONE_NUMBER>.")),
        (
            {"kinds": ["PHONE_NUMBER"]},
            chat("I am ana@example.com", "Hello ANA@example.com, call <PHONE_NUMBER>."),
        ),
        (
            {"action": "pseudonym", "key_variable": "STAND_INS"},
            chat(f"I am {SOMEBODY}", f"Hello {SOMEBODY}, call {PHONE}."),
        ),
    ],
)
def test_personal_data_is_replaced_and_stands_in_no_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], expected: dict[str, Any]
):
    monkeypatch.setenv("STAND_INS", KEY)
    [row], [entry] = prepared(tmp_path, {"a": [MAIL]}, step="redact_personal_data", **settings)
    assert row["messages"] == expected["messages"]
    assert entry["action"] == "changed"
    assert entry["reason"].startswith("personal data replaced: ")
    assert not any(value in json.dumps(entry) for value in ("ana", "901820", "thirty-two"))


def test_a_row_with_personal_data_is_dropped_and_its_text_is_in_no_ledger(tmp_path: Path):
    clean = chat("Nobody is here.")
    rows, [entry] = prepared(tmp_path, {"a": [MAIL, clean]}, step="redact_personal_data", action="drop")
    assert [row["row_id"] for row in rows] == ["a:2"]
    assert (entry["reason"], entry["score"]) == ("has personal data: EMAIL_ADDRESS, PHONE_NUMBER", 1.0)
    assert "ana" not in json.dumps(entry)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ["PERSON"]}, "Unknown kinds of personal data: 'PERSON'"),
        ({"action": "pseudonym"}, "stand-ins need a key: give key_variable"),
        ({"key_variable": "X"}, "key_variable is of the action pseudonym alone"),
        (
            {"action": "pseudonym", "key_variable": "NOT_SET"},
            "No key for stand-ins is in the environment variable 'NOT_SET'",
        ),
        ({"phone_regions": ["UK"]}, "Unknown phone_regions: 'UK'"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=message):
        read_steps([{"step": "redact_personal_data", **settings}])


def test_toxic_rows_are_dropped_and_other_languages_are_not_judged(tmp_path: Path):
    files = {
        "a": [
            chat("What is the budget for schools and roads in the city?"),
            chat("Shut up, you stupid idiot bitch", "I will not answer that, my friend."),
            chat("Das ist eine sehr sch\u00f6ne Stadt mit vielen alten H\u00e4usern, bitch bitch bitch."),
        ]
    }
    rows, [entry] = prepared(tmp_path, files, step="filter_toxicity", max_score=0.8)
    assert [row["row_id"] for row in rows] == ["a:1", "a:3"]
    assert (entry["row_id"], entry["reason"], entry["score"] > 0.8) == ("a:2", "more toxic than 0.8", True)
    rows, ledger = prepared(tmp_path, files, step="filter_toxicity", max_score=0.8, other_languages="drop")
    assert [each["reason"] for each in ledger] == ["more toxic than 0.8", "is in the language de"]


def test_the_settings_of_a_step_hold_no_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STAND_INS", KEY)
    [step] = read_steps(
        [{"step": "redact_personal_data", "action": "pseudonym", "key_variable": "STAND_INS"}]
    )
    assert "thirty-two" not in json.dumps(settings_of(step))
