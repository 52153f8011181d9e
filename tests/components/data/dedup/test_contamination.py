"""Rows of an evaluation set in training data: found by their words, and phrases that everybody uses are none."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from llmops_components.data.dedup.contamination import Overlap, OverlapSettings, find_overlaps
from llmops_components.errors import DataError, SettingError

WORDS = [f"word{number}" for number in range(3000)]


def drawn(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - no secret


def sentence(words: int, seed: int) -> str:
    return " ".join(drawn(seed).choices(WORDS, k=words))


QUESTIONS = [[sentence(40, seed)] for seed in range(20)]
TRAINING = [[sentence(100, 1000 + seed)] for seed in range(50)]


def test_a_copied_question_is_found_inside_other_text(tmp_path: Path):
    copied = [f"Before it. {QUESTIONS[7][0].upper()}! And behind."]
    result = find_overlaps([*TRAINING, copied], QUESTIONS, tmp_path)
    assert result.found == [Overlap(50, 7, 1.0)]
    assert (result.rows, result.evaluation_rows, result.evaluation_rows_too_short) == (51, 20, 0)


def test_both_sides_of_thirteen_words(tmp_path: Path):
    words = QUESTIONS[3][0].split()
    rows = [[" ".join(words[5:18])], [" ".join(words[5:17])]]
    assert find_overlaps(rows, QUESTIONS, tmp_path).found == [Overlap(0, 3, round(1 / 28, 4))]


def test_both_sides_of_the_least_overlap(tmp_path: Path):
    words = QUESTIONS[3][0].split()
    settings = OverlapSettings(least_overlap=0.5)
    rows = [[" ".join(words[:26])], [" ".join(words[:25])]]  # 14 and 13 of the 28 sequences
    assert find_overlaps(rows, QUESTIONS, tmp_path, settings).found == [Overlap(0, 3, 0.5)]


def test_a_short_question_is_looked_for_as_a_whole_and_a_shorter_one_is_counted(tmp_path: Path):
    questions = [["Which river flows through the old town of Basel?"], ["What is it?", "It is nothing."]]
    rows = [
        ["So: which river flows through the old town of Basel", "the Rhine"],
        ["Which river flows through the old town of"],
    ]
    result = find_overlaps(rows, questions, tmp_path)
    assert result.found == [Overlap(0, 0, 1.0)]
    assert result.evaluation_rows_too_short == 1


def test_a_template_of_many_rows_is_no_contamination_but_a_question_copied_often_is(tmp_path: Path):
    system = sentence(30, 5000)
    questions = [[system, text] for [text] in QUESTIONS]
    rows = [[system, text] for [text] in TRAINING]
    copies = [[system, QUESTIONS[4][0]]] * 20
    result = find_overlaps([*rows, *copies], questions, tmp_path)
    assert result.found == [Overlap(50 + copy, 4, 1.0) for copy in range(20)]
    assert result.common_sequences == 18 + 28
    assert find_overlaps([*rows, *copies[:3]], questions, tmp_path).found == [
        Overlap(50 + copy, 4, 1.0) for copy in range(3)
    ]


def test_characters_are_the_words_of_languages_without_spaces(tmp_path: Path):
    chance = drawn(9)
    text = "".join(chr(chance.randrange(0x4E00, 0x9FA5)) for _ in range(60))
    result = find_overlaps([[text[10:40]], [text[::-1]]], [[text]], tmp_path)
    assert result.found == [Overlap(0, 0, round(18 / 48, 4))]


def test_an_evaluation_set_that_nothing_can_be_found_of_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="There are no evaluation rows"):
        find_overlaps(TRAINING, [], tmp_path)
    with pytest.raises(DataError, match="None of the 2 evaluation rows has a text of 8 words"):
        find_overlaps(TRAINING, [["too short"], []], tmp_path)
    with pytest.raises(SettingError, match="least_words must be a whole number from 1 to 13"):
        OverlapSettings(least_words=14)
    assert find_overlaps([], QUESTIONS, tmp_path).found == []
