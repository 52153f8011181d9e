"""What each step makes of a row."""

# ruff: noqa: RUF001  (texts in several scripts)

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from llmops_components.data.preparation.declared import read_steps
from llmops_components.data.preparation.run import Source, run
from llmops_components.data.preparation.step import (
    KEPT,
    Changed,
    Dropped,
    Outcome,
    Row,
    RowStep,
    Several,
    WholeStep,
)
from llmops_components.errors import DataError, SettingError
from llmops_components.models.loading import load_tokenizer


def judged(
    value: dict[str, Any], source: str = "a", inputs: dict[str, Path] | None = None, **declared
) -> Outcome:
    (step,) = read_steps([declared], inputs)
    assert isinstance(step, RowStep)
    before = json.dumps(value)
    outcome = step.start(inputs or {})(Row("a:1", source, value))
    assert json.dumps(value) == before
    return outcome


def value_after(value: dict[str, Any], **declared) -> dict[str, Any] | str:
    """The row that comes out, or the reason that it is dropped for."""
    match judged(value, **declared):
        case Changed(after):
            return after
        case Dropped(reason):
            return reason
        case _:
            return value


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        ("schÃ¶n", {}, ("schön", "encoding")),
        ("scho\u0308n", {}, ("schön", "Unicode form")),
        ("a\x00b\x1bc\ufeff", {}, ("abc", "control characters")),
        ("a  b \r\n\r\n\r\n\u2028c\t", {}, ("a  b\n\nc", "white space")),
        ("a" + " " * 200_000 + "b ", {}, ("a" + " " * 200_000 + "b", "white space")),
        ("a  b\n c", {"whitespace": "collapse"}, ("a b c", "white space")),
        ("&lt;b&gt; “x”", {"html": True, "quotes": True}, ('<b> "x"', "entities of HTML, quotation marks")),
        (
            "ﬁn①",
            {"form": "NFKC"},
            ("fin1", "Unicode form"),
        ),
    ],
)
def test_normalise_says_what_it_mends(text, settings, expected):
    after, what = expected
    assert judged({"text": text}, step="normalise", **settings) == Changed(
        {"text": after}, f"normalised: {what}"
    )
    assert judged({"text": after}, step="normalise", **settings) == KEPT


@pytest.mark.parametrize(
    "text",
    [
        "👩\u200d👩\u200d👧 emoji",
        "می\u200cخواهم",
        "\u202bעברית\u202c",
        "&amp; “quoted”",
        "code:\n    indented\n\ttab",
    ],
)
def test_normalise_leaves_emoji_right_to_left_text_and_code_alone(text):
    assert judged({"text": text}, step="normalise") == KEPT


def test_normalise_reaches_the_contents_of_messages():
    parts = [{"type": "text", "text": "c\x00"}, {"type": "image_url", "image_url": "x\x00"}]
    row = {
        "messages": [{"role": "user", "content": "a\x00"}, {"role": "user", "content": parts}],
        "n": "d\x00",
    }
    assert value_after(row, step="normalise") == {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "c"}, parts[1]]},
        ],
        "n": "d\x00",
    }


@pytest.mark.parametrize(
    ("row", "settings", "expected"),
    [
        ({"q": "x", "a": "y", "n": 1}, {}, {"n": 1, "prompt": "x", "completion": "y"}),
        ({"q": "x", "a": "y", "n": 1}, {"keep_others": False}, {"prompt": "x", "completion": "y"}),
        ({"q": "x"}, {}, "has no a"),
        ({"q": "x", "a": None}, {}, "has no a"),
        ({"q": "x", "a": "y"}, {"dataset_format": "preference"}, "has no chosen"),
        (
            {"q": "x", "a": "y", "label": "up"},
            {"values": {"label": {"up": True, "down": False}}},
            {"prompt": "x", "completion": "y", "label": True},
        ),
        (
            {"q": "x", "a": "y", "label": "sideways"},
            {"values": {"label": {"up": True}}},
            "has a value of label that is not in the table",
        ),
    ],
)
def test_columns_are_mapped(row, settings, expected):
    declared = {"step": "map_columns", "columns": {"prompt": "q", "completion": "a"}, **settings}
    assert value_after(row, **declared) == expected


def test_no_step_writes_a_second_row_id(tmp_path: Path):
    declared = {"step": "map_columns", "columns": {"row_id": "id"}}
    with pytest.raises(
        SettingError, match=r"Step 1 \(map_columns\) made a field row_id of row a:1: in what is written"
    ):
        prepared(tmp_path, [write(tmp_path / "a", [{"id": 7}])], declared)


def test_columns_are_written_by_a_template():
    row = {"instruction": "Add.", "input": [1, 2], "output": "{output}"}
    templates = {"prompt": "{instruction}\n\n{input}", "completion": "{output}"}
    assert value_after(row, step="map_columns", templates=templates) == {
        "prompt": "Add.\n\n[1, 2]",
        "completion": "{output}",
    }
    with pytest.raises(SettingError, match="template of prompt has no column"):
        read_steps([{"step": "map_columns", "templates": {"prompt": "Answer:"}}])


QUESTION, ANSWER = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
SHAREGPT = {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}


@pytest.mark.parametrize(
    "row",
    [
        SHAREGPT,
        {"instruction": "2+2?", "input": "", "output": "4"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}, ANSWER]},
        {"conversations": [QUESTION, ANSWER]},
    ],
)
def test_chats_of_every_format_become_the_same_messages(row):
    assert value_after({**row, "id": 7}, step="convert_chat") == {"id": 7, "messages": [QUESTION, ANSWER]}
    assert value_after(row, step="convert_chat", to="prompt_completion", system="Be brief.") == {
        "prompt": [{"role": "system", "content": "Be brief."}, QUESTION],
        "completion": [ANSWER],
    }


@pytest.mark.parametrize(
    ("row", "settings", "reason"),
    [
        ({"text": "x"}, {}, "holds no conversation of a known format"),
        ({"conversations": []}, {}, "has a conversation without messages"),
        (
            {"conversations": [{"from": "narrator", "value": "x"}]},
            {},
            "has a turn from 'narrator', which is no known role",
        ),
        (
            {"conversations": [{"from": "gpt", "value": None}]},
            {},
            "has a turn without from and a text as value",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            {},
            "has a content part of the type 'image_url'; only text is taken",
        ),
        ({"messages": [{"role": "user"}]}, {}, "has a message without content"),
        (
            {"messages": [{"role": "narrator", "content": "x"}]},
            {},
            "has a message from 'narrator', which is no known role",
        ),
        ({"messages": [QUESTION]}, {"to": "prompt_completion"}, "does not end with an answer to something"),
        ({"instruction": "x", "output": ""}, {}, "has no instruction or no output"),
        (SHAREGPT | {"system": ["x"]}, {}, "has a system message that is no text"),
        ({"instruction": "x", "output": "y", "system": {"a": 1}}, {}, "has a system message that is no text"),
        (SHAREGPT, {"chat_format": "alpaca"}, "has no instruction or no output"),
        ({"instruction": "x"}, {"chat_format": "openai"}, "holds no conversation of the format openai"),
    ],
)
def test_what_is_no_chat_is_dropped_with_its_reason(row, settings, reason):
    assert value_after(row, step="convert_chat", **settings) == reason


def test_nothing_of_a_turn_is_lost_and_no_second_system_message():
    turns = [{"from": "system", "value": "s"}, {"from": "gpt", "value": "4", "weight": 0}]
    assert value_after({"conversations": turns, "system": "other"}, step="convert_chat") == {
        "messages": [{"role": "system", "content": "s"}, {**ANSWER, "weight": 0}],
        "system": "other",
    }


def test_alpaca_s_system_and_history_are_turns():
    row = {"instruction": "b", "input": "c", "output": "d", "system": "s", "history": [["x", "y"]]}
    assert value_after(row, step="convert_chat") == {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "y"},
            {"role": "user", "content": "b\n\nc"},
            {"role": "assistant", "content": "d"},
        ]
    }


def test_both_sides_of_each_length_are_told(tiny_model: Path):
    row = {"prompt": "one two", "completion": [{"role": "assistant", "content": "three"}]}
    for limit, reason in (
        ({"min_characters": 13}, "fewer characters than 13"),
        ({"max_characters": 11}, "more characters than 11"),
        ({"min_words": 4}, "fewer words than 4"),
        ({"max_words": 2}, "more words than 2"),
    ):
        dropped = judged(row, step="filter_length", **limit)
        assert dropped == Dropped(reason, 12 if "characters" in reason else 3)
    fits = {"min_characters": 12, "max_characters": 12, "min_words": 3, "max_words": 3}
    assert judged(row, step="filter_length", **fits) == KEPT
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("one two", "three"))
    inputs = {"tokenizer": partial(load_tokenizer, tiny_model)}
    limits = {"step": "filter_length", "min_tokens": tokens}
    assert judged(row, inputs=inputs, **limits) == KEPT
    limits["min_tokens"] += 1
    assert judged(row, inputs=inputs, **limits) == Dropped(f"fewer tokens than {tokens + 1}", tokens)


def test_languages_are_told_and_short_texts_are_not():
    german = {"text": "Dies ist ein ganz gewöhnlicher Satz in deutscher Sprache, und noch einer dazu."}
    assert judged(german, step="filter_language", languages=["de", "fr"]) == KEPT
    match judged(german, step="filter_language", languages=["en"]):
        case Dropped("is in the language de", float(score)):
            assert 0.9 < score <= 1
        case other:
            pytest.fail(f"{other}")
    for text in ("Ja.", "1234 5678 9012 3456 7890"):
        assert judged({"text": text}, step="filter_language", languages=["en"], min_probability=0.6) == KEPT
        dropped = judged(
            {"text": text}, step="filter_language", languages=["en"], min_probability=0.6, undecided="drop"
        )
        assert dropped == Dropped("its language cannot be told")
    with pytest.raises(SettingError, match="Unknown language: 'english'"):
        read_steps([{"step": "filter_language", "languages": ["english"]}])


SAID = (
    "The old mill stood at the end of the road, and nobody had worked there for years; it belonged to my uncle, who sold "
    "bread in town until the river took his bridge, his cart and, some would say, whatever patience was left to him."
)
GOOD = "The old mill stood at the end of the road, and nobody had worked there for years. " * 4


def test_rules_on_quality_name_themselves_and_take_other_limits():
    row = {"text": "The old mill stood at the end of the road."}
    assert judged(row, step="filter_quality") == Dropped("gopher_words_least: less than 50 words", 10.0)
    assert judged(row, step="filter_quality", limits={"gopher_words_least": 10}) == KEPT
    assert judged({"text": GOOD.strip()}, step="filter_quality") == KEPT
    assert judged({"text": " "}, step="filter_quality") == Dropped("has no text")
    with pytest.raises(SettingError, match="Unknown rule in limits: 'gopher_word_least'"):
        read_steps([{"step": "filter_quality", "limits": {"gopher_word_least": 1}}])
    with pytest.raises(SettingError, match="rules that are not in use: c4_sentences"):
        read_steps([{"step": "filter_quality", "limits": {"c4_sentences": 1}}])
    with pytest.raises(SettingError, match="add c4 to rules"):
        read_steps([{"step": "filter_quality", "remove_lines": True}])
    with pytest.raises(SettingError, match="spaCy has no rules for the language 'xx-none'"):
        read_steps([{"step": "filter_quality", "words": "spacy", "language": "xx-none"}])


def test_lines_that_c4_does_not_take_are_removed_where_asked_for():
    row = {"text": f"{GOOD}\nMenu\nPlease turn on JavaScript to see it.\n{GOOD}And more of it."}
    kept = f"{GOOD.strip()}\n{GOOD}And more of it."
    assert value_after(row, step="filter_quality", rules=["c4"]) == row
    assert value_after(row, step="filter_quality", rules=["c4"], remove_lines=True) == {"text": kept}


def test_repetition_is_told():
    lines = {"text": "The old mill stood there.\nNobody worked.\n" + "It was said to be haunted.\n" * 2}
    assert judged(lines, step="filter_repetition") == Dropped(
        "gopher_repeated_line_characters: more than 0.2 of the characters are in repeated lines", 0.273684
    )
    assert judged({"text": SAID}, step="filter_repetition") == KEPT


def test_sources_by_data_set_or_by_column():
    assert judged({}, source="a", step="allow_sources", sources=["a"]) == KEPT
    assert judged({}, source="b", step="allow_sources", sources=["a"]) == Dropped("its source is not allowed")
    by_column = {"step": "allow_sources", "sources": ["wiki"], "column": "from"}
    assert judged({"from": "wiki"}, **by_column) == KEPT
    assert judged({"from": "blog"}, **by_column) == Dropped("its source is not allowed")
    assert judged({}, **by_column) == Dropped("it names no source")


@pytest.fixture
def row_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "row_functions.py").write_text(
        "from json import dumps\n"
        "def judge(row, least=0):\n"
        "    row['n'] += 1\n"
        "    if row['n'] <= least: return 'is too small'\n"
        "    return {3: row, 4: None, 5: [row, {'n': 0}], 6: 7, 7: {'n': {1}}, 9: [row]}[row['n']]\n"
        "def same(row): return row\n"
        "def leave(row): raise SystemExit(0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LLMOPS_ALLOWED_CODE", "row_functions")


def test_function_of_a_user_keeps_changes_drops_and_adds(row_functions):
    declared = {"step": "custom", "function": "row_functions:judge"}
    why = "row_functions:judge"
    assert judged({"n": 2}, **declared) == Changed({"n": 3}, f"changed by {why}")
    assert judged({"n": 2}, arguments={"least": 3}, **declared) == Dropped("is too small")
    assert judged({"n": 3}, **declared) == Dropped(f"rejected by {why}")
    assert judged({"n": 4}, **declared) == Several(({"n": 5}, {"n": 0}), f"made by {why}")
    assert judged({"n": 8}, **declared) == Changed({"n": 9}, f"changed by {why}")
    assert judged({"n": 8}, step="custom", function="row_functions:same") == KEPT


@pytest.mark.parametrize(
    ("function", "n", "message"),
    [
        (
            "row_functions:judge",
            0,
            r"function row_functions:judge failed at row a:1: KeyError: 1\. Correct it",
        ),
        ("row_functions:judge", 5, "function row_functions:judge gave 7 for row a:1. It has to give a row"),
        ("row_functions:leave", 0, "row_functions:leave failed at row a:1: SystemExit: 0"),
        ("row_functions:judge", 6, "gave what is no JSON for row a:1: Object of type set"),
        ("row_functions:jugde", 0, "Unknown name in row_functions: 'jugde' .did you mean 'judge'"),
        ("row_functions:dumps", 0, "is not a function that row_functions defines"),
        ("row_functions", 0, "does not name a function"),
        ("os:getpid", 0, "functions of the module os are not allowed here"),
    ],
)
def test_function_that_cannot_be_used_is_named_with_its_row(row_functions, function, n, message):
    with pytest.raises(SettingError, match=message):
        judged({"n": n}, step="custom", function=function)


def write(file: Path, rows: list[dict[str, Any]]) -> Source:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(file, file.name)


def prepared(
    directory: Path, sources: list[Source], *steps: dict[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    out = {name: directory / f"{name}.out" for name in ("prepared", "held_out", "ledger")}
    run(sources, read_steps(list(steps)), out)
    return {name: [json.loads(line) for line in file.open()] for name, file in out.items()}


def test_equal_prompts_stand_on_one_side_and_stay_there_when_rows_come(tmp_path: Path):
    rows = [{"prompt": f"Question {n % 200}", "completion": f"answer {n}"} for n in range(600)]
    rows[3]["prompt"] = " QUESTION   3"
    rows[5]["prompt"] = [{"role": "user", "content": "Question 5"}]
    split = {"step": "split", "share": 0.2, "seed": 1}
    out = prepared(tmp_path, [write(tmp_path / "a", rows)], split)

    def prompts(side: str) -> set[str]:
        return {json.dumps(row["prompt"]).lower().split("question")[1].strip(' "}]') for row in out[side]}

    assert prompts("prepared") & prompts("held_out") == set()
    assert len(out["prepared"]) + len(out["held_out"]) == 600
    assert 60 < len(out["held_out"]) < 180
    before = {row["row_id"] for row in out["held_out"]}
    more = [*rows, *({"prompt": f"New {n}", "completion": "x"} for n in range(50))]
    again = prepared(tmp_path, [write(tmp_path / "a", more)], split)
    assert {row["row_id"] for row in again["held_out"] if int(row["row_id"][2:]) <= 600} == before
    other = prepared(tmp_path, [write(tmp_path / "a", rows)], {**split, "seed": 2})
    assert {row["row_id"] for row in other["held_out"]} != before


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [  # what each greets with, and a prompt without text, puts nothing together
        (["Hi!", "What is  2?"], ["hi!", "what is 2?"], ["Hi!", "What is 3?"]),
        (
            {"prompt": [], "completion": "a"},
            {"completion": "A", "prompt": []},
            {"prompt": [], "completion": "b"},
        ),
        ({"q": "What?"}, {"q": "what? "}, {"q": "Why?"}),
    ],
)
def test_what_belongs_together_has_one_key(one, same, other):
    def key(row: Any) -> bytes:
        if isinstance(row, list):
            roles = ("assistant", "user", "assistant")
            row = {
                "messages": [
                    {"role": role, "content": each} for role, each in zip(roles, [*row, "a"], strict=True)
                ]
            }
        group = ["q"] if "q" in row else []
        (step,) = read_steps([{"step": "split", "share": 0.5, "group": group}])
        assert isinstance(step, WholeStep)
        return step.start({})(Row("a:1", "a", row))

    assert key(one) == key(same) != key(other)


def test_strata_have_the_same_share_held_out(tmp_path: Path):
    rows = [{"text": f"text {n}", "kind": "rare" if n < 10 else "usual"} for n in range(100)]
    split = {"step": "split", "share": 0.2, "stratify": "kind"}
    out = prepared(tmp_path, [write(tmp_path / "a", rows)], split)
    kinds = [row["kind"] for row in out["held_out"]]
    assert (kinds.count("rare"), kinds.count("usual")) == (2, 18)
    with pytest.raises(DataError, match=r"Nothing is held out by split: 0.2 of 2 rows in 1 groups"):
        same = [{"text": "same", "kind": "x"}] * 2
        prepared(tmp_path, [write(tmp_path / "b", same)], split)


def test_sample_has_the_size_asked_for_and_spares_what_is_held_out(tmp_path: Path):
    source = write(tmp_path / "a", [{"text": f"text {n}"} for n in range(100)])
    out = prepared(tmp_path, [source], {"step": "sample", "rows": 30})
    assert (len(out["prepared"]), len(out["ledger"])) == (30, 70)
    split = {"step": "split", "share": 0.5, "stratify": "none"}
    out = prepared(tmp_path, [source], split, {"step": "sample", "share": 0.5})
    assert (len(out["prepared"]), len(out["held_out"])) == (25, 50)
    with pytest.raises(DataError, match="More rows are to be sampled than there are: 101 of 100"):
        prepared(tmp_path, [source], {"step": "sample", "rows": 101})
    with pytest.raises(SettingError, match="give rows or share"):
        read_steps([{"step": "sample"}])


def test_mixture_has_its_weights_and_counts_repeats_apart(tmp_path: Path):
    sources = [
        write(tmp_path / name, [{"text": f"{name} {n}"} for n in range(size)])
        for name, size in (("big", 90), ("small", 10))
    ]

    def mixed(**settings) -> tuple[int, int, int]:
        out = prepared(tmp_path, sources, {"step": "mix", "weights": {"big": 1, "small": 3}, **settings})
        names = [row["row_id"].partition(":")[0] for row in out["prepared"]]
        ids = [row["row_id"] for row in out["prepared"]]
        assert len(set(ids)) == len(ids)
        added = [entry for entry in out["ledger"] if entry["action"] == "added"]
        return names.count("big"), names.count("small"), len(added)

    assert mixed() == (3, 10, 0)
    assert mixed(max_times=3) == (10, 30, 20)
    assert mixed(rows=17, max_times=2) == (4, 13, 3)
    with pytest.raises(
        DataError, match="Too few rows are there to mix: 15 of small are wanted, and it has 10"
    ):
        mixed(rows=20)
    with pytest.raises(SettingError, match="Data sets have no weight in mix: small"):
        mixed(weights={"big": 1})
    with pytest.raises(DataError, match="Nothing is there to mix of smal: check the name"):
        mixed(weights={"big": 1, "small": 1, "smal": 1})
