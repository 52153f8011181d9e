"""A profile's figures are those of plain computations, and nothing that stands in rows is markup."""

from __future__ import annotations

import json
import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from llmops_components.data.profile import profile_dataset
from llmops_components.data.profile.lengths import QUANTILES, distribution
from llmops_components.data.profile.rows import Sample, Sampled, count
from llmops_components.errors import DataError, SettingError

TOPICS = ("pan butter onion salt garlic oven", "orbit planet rocket moon comet star")


def chat(number):
    words = TOPICS[number % 2].split()
    said = " ".join(words[(number * step) % 6] for step in range(1, 5 + number % 7))
    return {"messages": [{"role": "user", "content": f"Tell me of {said}"}, {"role": "assistant", "content": f"{said} is number{number}."}]}  # fmt: skip


ROWS = [
    *map(chat, range(40)),
    {"prompt": "Wie heißt die Hauptstadt von Deutschland?", "completion": "Die Hauptstadt heißt Berlin."},
    *[{"prompt": "", "completion": "one two three"}] * 3,
    {"prompt": None, "completion": 7},
]


@pytest.fixture
def profile(tmp_path):
    def run(rows=ROWS, **settings):
        for name in ("rows", "compared"):
            given = rows if name == "rows" else settings.get(name)
            if given is not None:
                lines = [each if isinstance(each, str) else json.dumps(each) for each in given]
                (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        if "compared" in settings:
            settings["compared"] = tmp_path / "compared"
        report = profile_dataset(tmp_path / "rows", tmp_path / "page", profile_json=tmp_path / "json", **settings)  # fmt: skip
        return report, json.loads((tmp_path / "json").read_text()), (tmp_path / "page").read_text()

    return run


def test_figures_are_those_of_plain_computations(profile):
    report, told, page = profile([*ROWS, "{broken"])
    assert (told["rows"], told["bad_lines"], report.passed) == (len(ROWS), 1, True)
    assert told["formats"] == {"language_modeling (conversational)": 40, "prompt_completion (plain text)": 5}
    columns = {each["name"]: each for each in told["columns"]}
    assert columns["prompt"] == {"name": "prompt", "rows": 4, "missing": 41, "kinds": {"text": 4}, "empty_texts": 3}  # fmt: skip
    assert columns["completion"]["kinds"] == {"a number": 1, "text": 4}
    texts = ["\n".join(each["content"] for each in row["messages"]) for row in ROWS[:40]]
    characters = [len(text) for text in texts]
    of_chats = next(each for each in told["lengths"] if (each["column"], each["unit"]) == ("messages", "characters"))  # fmt: skip
    assert list(of_chats["quantiles"].values()) == pytest.approx(np.quantile(characters, QUANTILES), abs=0.01)
    assert of_chats["mean"] == pytest.approx(np.mean(characters), abs=0.01)
    assert sum(of_chats["histogram"]["counts"]) == 40
    assert told["chats"][0]["roles"] == {"assistant": 40, "user": 40}
    assert told["chats"][0]["messages"]["quantiles"]["0.5"] == 2
    assert (told["exact_duplicates"]["rows"], told["exact_duplicates"]["most_copies"]) == (2, 3)
    assert told["exact_duplicates"]["examples"][0]["lines"] == [42, 43, 44]
    texts += [row[name] for row in ROWS[40:44] for name in ("prompt", "completion")]
    split = [re.findall(r"\w+", text.lower()) for text in texts]
    words = Counter(word for each in split for word in each)
    threes = Counter(" ".join(gram) for each in split for gram in zip(each, each[1:], each[2:], strict=False))
    assert told["vocabulary"]["words"] == words.total()
    assert told["vocabulary"]["different_words"] == len(words)
    for size, counts in (("1", words), ("3", threes)):
        most = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        assert told["most_frequent"][size] == [list(pair) for pair in most[:25] if size == "1" or pair[1] > 1]
    assert told["languages"]["de"] == 1
    assert report.metrics["exact_duplicates"] == 2
    for sentence in ("Lines that are no rows, and were left out: 1. Line 46 ", "Rows are in several formats: ", "The column `prompt` is empty or white space in 3 of 4 rows."):  # fmt: skip
        assert any(each.startswith(sentence) for each in report.findings), sentence
    assert 'class="findings"' in page and "Lines that are no rows, and were left out: 1. Line 46 " in page


def test_clusters_tell_topics_apart(profile):
    _, told, _ = profile()
    found = [set(each["terms"]) for each in told["clusters"]]
    assert sum(each["rows"] for each in told["clusters"]) == 45 - 1  # the last row has no text
    assert len(found) > 1
    for terms in found:
        assert not (terms & {*TOPICS[0].split()} and terms & {*TOPICS[1].split()})


def test_clusters_are_found_in_scripts_without_spaces(profile):
    signs = "\u4eca\u5929\u6c14\u597d", "\u673a\u5668\u5b66\u4e60"
    _, told, _ = profile([{"text": f"{signs[number % 2]}{number}"} for number in range(20)])
    assert sorted("".join(sorted(each["terms"])) for each in told["clusters"]) == sorted(
        "".join(sorted(each)) for each in signs
    )


def test_near_duplicates_name_the_row_that_they_are_like(profile):
    long = " ".join(f"word{number}" for number in range(60))
    rows = [
        {"text": long},
        {"text": "something else altogether that is not like it"},
        {"text": f"{long} more"},
    ]
    _, told, _ = profile(rows)
    assert told["near_duplicates"]["rows"] == 1
    example = told["near_duplicates"]["examples"][0]
    assert example["lines"] == [3, 1]
    assert example["similarity"] == pytest.approx(56 / 57, abs=1e-4)


def test_other_split_is_compared_by_rows_and_words(profile):
    report, told, page = profile([{"text": "red green"}, {"text": "red blue"}], compared=[{"text": "red green"}, {"text": "black"}])  # fmt: skip
    compared = told["compared"]
    assert (compared["rows_in_both"], compared["shared_words"], compared["jaccard"]) == (1, 2, 0.5)
    assert compared["share_of_words_known"] == 0.75
    assert (compared["only_here"], compared["only_in_compared"]) == ([["blue", 1]], [["black", 1]])
    assert "1 of 2 rows are in the compared data set, too." in report.findings
    assert "<h2>The compared data set</h2>" in page


def test_tokens_are_those_of_the_tokenizer(profile):
    class Tokenizer:
        model_max_length = 4

        def __call__(self, texts, **_):
            return {"input_ids": [text.split() for text in texts]}

    report, told, _ = profile([{"text": "a b c d e"}, {"text": "a"}], tokenizer=Tokenizer)
    tokens = next(each for each in told["lengths"] if each["unit"] == "tokens")
    assert (tokens["rows"], tokens["mean"], tokens["quantiles"]["1"]) == (2, 3, 5)
    assert "The longest text of `text` has 5 tokens, and the model reads 4." in report.findings


def test_same_rows_and_seed_give_the_same_bytes(profile):
    first, second = profile(), profile()
    assert first[2] == second[2]
    assert first[0] == second[0]


def test_what_rows_say_is_no_markup(profile):
    rows = [{"text": "<script>alert(1)</script>\u202e\x07 </style>", "<blink>": "&", "messages": [{"role": "<u>", "content": "\"><img src=x>"}]}] * 3  # fmt: skip
    _, _, page = profile([*rows, "<script>"])
    _, _, plain = profile(
        [{"text": "a", "b": "c", "messages": [{"role": "user", "content": "d"}]}] * 3 + ["e"]
    )
    assert set(re.findall(r"<[/!]?[a-z]+", page)) == set(re.findall(r"<[/!]?[a-z]+", plain))
    assert not re.search("<(script|img|u>|blink)", page)
    assert page.count("</style>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e\\x07" in page
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert not {"\u202e", "\x07"} & set(page)


def test_sample_is_chosen_by_seed_and_bounded(tmp_path):
    (tmp_path / "rows").write_text(
        "".join(json.dumps({"text": str(number)}) + "\n" for number in range(3000))
    )
    lines = {seed: {row.line for row in count(tmp_path / "rows", 1000, seed).sample} for seed in (1, 2)}
    assert [len(each) for each in lines.values()] == [1000, 1000]
    assert 250 < len(lines[1] & lines[2]) < 420  # a third of a third of 3,000 by chance
    assert 420 < np.mean([line < 1500 for line in lines[1]]) * 1000 < 580
    sample = Sample(1000, 1, characters=50)
    for line in range(100):
        sample.add(Sampled(line, b"", {"text": "0123456789"}))
    assert len(sample.rows()) == 5


def test_rows_that_are_too_long_are_counted_and_not_sampled(profile, monkeypatch):
    monkeypatch.setattr("llmops_components.data.profile.rows.MAX_ROW_CHARACTERS", 100)
    report, told, _ = profile([{"text": "a" * 100}, {"text": "b" * 101}])
    assert told["sample"] == {"rows": 1, "seed": 0, "rows_too_long": 1}
    characters = next(each for each in told["lengths"] if each["unit"] == "characters")
    assert (characters["rows"], characters["quantiles"]["1"]) == (2, 101)
    assert report.findings == ["1 of 2 rows have more than 1,000,000 characters, and are not in the sample."]
    assert profile([{"text": "b" * 101}])[1]["sample"]["rows"] == 0


def test_value_that_is_null_is_no_field_of_a_format(profile):
    chat = {"messages": [{"role": "user", "content": "a"}], "prompt": None, "completion": None}
    _, told, _ = profile([chat, {"messages": None, "prompt": "b", "completion": "c"}])
    assert told["formats"] == {"language_modeling (conversational)": 1, "prompt_completion (plain text)": 1}


def test_last_bar_takes_what_is_far_away():
    told = distribution(Counter({**dict.fromkeys(range(200), 1), 10_000: 1}))["histogram"]
    assert told["last_is_open"] and sum(told["counts"]) == 201
    assert told["width"] * len(told["counts"]) < 300
    assert distribution({0: 4})["histogram"] == {"width": 1, "counts": [4, 0], "last_is_open": False}


@pytest.mark.parametrize(("rows", "why"), [([], r"^The dataset has no rows: "), (["[1]"], r"^No line of the dataset is a row\. Line 1 is not a JSON object")])  # fmt: skip
def test_file_without_rows_is_refused(profile, rows, why):
    with pytest.raises(DataError, match=why):
        profile(rows)
    with pytest.raises(DataError, match=why):
        profile(compared=rows)


@pytest.mark.parametrize("settings", [{"sample_rows": 99}, {"seed": -1}, {"seed": True}])
def test_setting_that_is_none_is_refused(profile, settings):
    with pytest.raises(SettingError, match=next(iter(settings))):
        profile(**settings)


def test_component_makes_a_page_that_asks_for_nothing(tmp_path):
    from llmops_components.kfp.profile_dataset import profile_dataset as component

    (tmp_path / "dataset").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    names = ("dataset", "profile", "profile_json", "metrics", "result")
    made = {name: SimpleNamespace(path=str(tmp_path / name), uri=f"s3://bucket/{name}", metadata={}) for name in names}  # fmt: skip
    logged = {}
    made["metrics"].log_metric = logged.__setitem__
    component.python_func(**made)
    page, result = ((tmp_path / name).read_text() for name in ("profile", "result"))
    assert made["profile"].uri == "s3://bucket/profile.html"
    assert page.startswith("<!doctype html>") and page.endswith("</html>")
    assert not re.search(r"<(script|link|img|iframe)|\b(src|href|on[a-z]+)=|url\(", page)
    found = json.loads(result)
    assert (found["passed"], found["metrics"]["rows"], logged["rows"]) == (True, 45, 45)
    assert found["artifacts"].keys() == {"profile", "profile_json"}
