"""The sample data are real, reproducible, of the size asked for, and fit the formats they are meant for."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from llmops_components.data import sample
from llmops_components.data.sample import MAX_DOCUMENTATION_CHARACTERS, VARIANTS, prepare_sample_data
from llmops_components.data.valid_rows import read_valid_rows
from llmops_components.errors import SettingError


def prepare(directory: Path, **settings):
    paths = [directory / name for name in ("train", "preferences", "evaluation")]
    report = prepare_sample_data(*paths, **settings)
    return report, [read_valid_rows(path) for path in paths], paths


QUESTION = re.compile("|".join(re.escape(q).replace(r"\{name\}", r"([\w.]+)") for q in sample._QUESTIONS))


def objects(rows):
    """Names of the documented objects that the questions are about."""
    matches = [QUESTION.search(row["prompt"][0]["content"]) for row in rows]
    return {next(name for name in match.groups() if name) for match in matches}


def test_default_sizes_fit_their_formats_and_share_no_object(tmp_path):
    report, datasets, _ = prepare(tmp_path)
    assert [str(found) for _, found in datasets] == [
        "prompt_completion (conversational)",
        "preference (conversational)",
        "evaluation (conversational)",
    ]
    assert [len(rows) for rows, _ in datasets] == [400, 200, 48]
    assert report.metrics == {"train_rows": 400, "preference_rows": 200, "evaluation_rows": 48}
    assert report.details["python_version"] == platform.python_version()
    assert report.details["wordings_per_object"] == 1
    assert report.details["documented_objects"] > 2000

    train, preferences, evaluation = (objects(rows) for rows, _ in datasets)
    assert [len(train), len(preferences), len(evaluation)] == [400, 200, 48]
    assert not train & preferences and not train & evaluation and not preferences & evaluation

    references = {row["reference"] for row in datasets[2][0]}
    seen = {row["completion"][0]["content"] for row in datasets[0][0]}
    seen |= {row[field][0]["content"] for row in datasets[1][0] for field in ("chosen", "rejected")}
    assert not references & seen


def test_answers_are_one_sentence_out_of_a_short_documentation(tmp_path):
    _, ((train, _), _, (evaluation, _)), _ = prepare(tmp_path)
    for row in train:
        answer, prompt = row["completion"][0]["content"], row["prompt"][0]["content"]
        assert answer.endswith(".") and "\n" not in answer and len(answer) <= 160
        assert len(prompt) < MAX_DOCUMENTATION_CHARACTERS + 250
    for row in evaluation:
        (context,) = row["contexts"]
        assert context in row["prompt"][0]["content"]
        assert len(context) <= MAX_DOCUMENTATION_CHARACTERS
        # A full stop may have been added; otherwise the answer is the docstring's own words.
        assert row["reference"].rstrip(".") in " ".join(context.split())


def test_rejected_answers_are_wrong_or_ramble(tmp_path):
    _, (_, (preferences, _), _), _ = prepare(tmp_path)
    lengths = [len(row["rejected"][0]["content"]) for row in preferences]
    assert sum(length > 160 for length in lengths) > 40
    assert sum(length <= 160 for length in lengths) > 80


def test_same_seed_gives_the_same_bytes_in_another_process_and_another_seed_does_not(tmp_path):
    code = (
        "import sys; from llmops_components.data.sample import prepare_sample_data as p;"
        "p(*sys.argv[1:4], train_rows=300, preference_rows=60, evaluation_rows=30, seed=int(sys.argv[4]))"
    )
    made = []
    for name, seed, hash_seed in (("a", "5", "1"), ("b", "5", "2"), ("c", "6", "1")):
        paths = [tmp_path / name / part for part in ("train", "preferences", "evaluation")]
        subprocess.run(
            [sys.executable, "-c", code, *map(str, paths), seed],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        made.append([path.read_bytes() for path in paths])
    assert made[0] == made[1]
    assert all(left != right for left, right in zip(made[0], made[2], strict=True))


def test_thousands_of_rows_reword_the_question_and_stay_distinct_and_disjoint(tmp_path):
    report, datasets, _ = prepare(tmp_path, train_rows=9000, preference_rows=3000, evaluation_rows=600)
    assert [len(rows) for rows, _ in datasets] == [9000, 3000, 600]
    assert 1 < report.details["wordings_per_object"] <= VARIANTS
    prompts = [row["prompt"][0]["content"] for rows, _ in datasets for row in rows]
    assert len(set(prompts)) == len(prompts)
    assert not objects(datasets[0][0]) & objects(datasets[2][0])


def test_only_what_is_wanted_is_written_and_its_rows_are_the_same(tmp_path):
    sizes = {"train_rows": 30, "preference_rows": 20, "evaluation_rows": 10}
    _, _, everything = prepare(tmp_path / "all", **sizes)
    paths = [tmp_path / name for name in ("train", "preferences", "evaluation")]
    report = prepare_sample_data(*paths, **sizes, only=["preferences", "evaluation"])
    assert report.metrics == {"train_rows": 0, "preference_rows": 20, "evaluation_rows": 10}
    assert [path.read_bytes() for path in paths] == [b"", *(path.read_bytes() for path in everything[1:])]
    with pytest.raises(SettingError, match="preference"):
        prepare_sample_data(*paths, only=["preference"])


def test_smallest_sizes_work(tmp_path):
    _, datasets, _ = prepare(tmp_path, train_rows=1, preference_rows=1, evaluation_rows=1)
    assert [len(rows) for rows, _ in datasets] == [1, 1, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_rows": 0}, "train_rows is 0; give a whole number of at least 1"),
        ({"evaluation_rows": -3}, "evaluation_rows is -3"),
        ({"preference_rows": 2.5}, "preference_rows is 2.5"),
        ({"train_rows": True}, "train_rows is True"),
        (
            {"train_rows": 10_000_000},
            r"10000248 rows were asked for, but \d+ documented objects in 24 wordings",
        ),
    ],
)
def test_impossible_sizes_are_refused_by_name(tmp_path, settings, message):
    with pytest.raises(SettingError, match=message):
        prepare(tmp_path, **settings)
    assert list(tmp_path.iterdir()) == []
