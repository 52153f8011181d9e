"""What is declared wrong is refused by its position and name before anything is read."""

from __future__ import annotations

from dataclasses import fields

import pytest
from llmops_components.data.preparation.declared import read_steps, settings_of
from llmops_components.data.preparation.table import STEPS
from llmops_components.errors import SettingError

LENGTH = {"step": "filter_length"}
WHERE = r"steps, number 2 \(filter_length\)"


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ([], "steps is empty"),
        ("filter_length", "steps must be a list of objects"),
        (LENGTH, "steps must be a list of objects"),
        ([LENGTH | {"min_words": 1}, "x"], "steps, number 2, must be an object with the name of a step"),
        (
            [{"step": "filter_lenght"}],
            "Unknown step in steps, number 1: 'filter_lenght' .did you mean 'filter_length'",
        ),
        (
            [LENGTH | {"min_words": 1}, LENGTH | {"min_word": 1}],
            f"Unknown setting of {WHERE}: 'min_word' .did you mean 'min_words'",
        ),
        (
            [LENGTH | {"min_words": 1}, LENGTH | {"min_words": "1"}],
            f"settings of {WHERE} are wrong: min_words should be a valid integer, got '1'",
        ),
        (
            [{"step": "mix", "weights": {"a": float("inf")}}],
            r"settings of steps, number 1 \(mix\) are no JSON",
        ),
        ([LENGTH | {"min_words": True}], "min_words should be a valid integer, got True"),
        ([LENGTH | {"min_words": -1}], "min_words should be greater than or equal to 0, got -1"),
        ([LENGTH], "no limit is given"),
        ([LENGTH | {"min_words": 2, "max_words": 1}], "min_words is 2, more than max_words, which is 1"),
        ([LENGTH | {"min_tokens": 1}], "tokens are those of a model: give base_model"),
        ([{"step": "allow_sources"}], "sources is missing"),
        ([{"step": "allow_sources", "sources": []}], "sources should have at least 1 item"),
        ([{"step": "allow_sources", "sources": "a"}], "sources should be a valid array|tuple, got 'a'"),
        ([{"step": "drop_duplicates", "within": "file"}], "within should be 'all' or 'source', got 'file'"),
        ([{"step": "drop_duplicates", "fields": ["a", "a"]}], "a field is named twice"),
    ],
)
def test_wrong_declaration_is_refused_by_position_and_name(declared, message):
    with pytest.raises(SettingError, match=message):
        read_steps(declared)


def test_settings_of_a_step_are_told_with_defaults_and_version():
    (step,) = read_steps([{"step": "drop_duplicates", "fields": ["text"]}])
    assert settings_of(step) == {"step": "drop_duplicates", "version": 1, "fields": ["text"], "within": "all"}


@pytest.mark.parametrize("name", STEPS)
def test_every_step_says_what_it_does_and_what_its_settings_mean(name):
    kind = STEPS[name]
    settings = [each.name for each in fields(kind) if each.init]
    assert kind.__doc__
    assert [each for each in settings if f"\n        {each}: " not in kind.__doc__] == []
