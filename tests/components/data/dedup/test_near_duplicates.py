"""Near duplicates: what is injected is found, what only looks alike stays, and each row that goes names one that stays."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from llmops_components.data.dedup import near
from llmops_components.data.dedup.bands import Bands, bands_for
from llmops_components.data.dedup.near import Duplicate, NearDuplicates, NearSettings, find_near_duplicates
from llmops_components.data.dedup.words import tokens_of
from llmops_components.errors import SettingError

WORDS = [f"word{number}" for number in range(3000)]


def drawn(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - no secret


def found(texts: list[str], directory: Path, **settings: object) -> NearDuplicates:
    return find_near_duplicates([[("text", text)] for text in texts], directory, NearSettings(**settings))  # type: ignore[arg-type]


def similarity(one: str, other: str, size: int = 5) -> float:
    """Jaccard similarity of words, the plain way."""

    def shingles(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"[a-z0-9]+", text.lower())
        return {tuple(words[start : start + size]) for start in range(max(len(words) - size + 1, 1))}

    ours, theirs = shingles(one), shingles(other)
    return len(ours & theirs) / len(ours | theirs)


def sentences(count: int, words: int, seed: int = 1) -> list[str]:
    chance = drawn(seed)
    return [" ".join(chance.choices(WORDS, k=words)) for _ in range(count)]


def edited(text: str, edits: int, chance: random.Random) -> str:
    words = text.split(" ")
    for place in chance.sample(range(len(words)), edits):
        words[place] = f"other{chance.randrange(10**6)}"
    return " ".join(words)


def test_injected_near_duplicates_are_found_and_nothing_else(tmp_path: Path):
    chance = drawn(2)
    texts = sentences(3000, 80)
    originals = chance.sample(range(3000), 1000)
    copies = {3000 + place: original for place, original in enumerate(originals)}
    texts += [edited(texts[original], chance.choice((0, 1, 1, 2)), chance) for original in originals]
    truth = {row for row, original in copies.items() if similarity(texts[row], texts[original]) >= 0.8}
    result = found(texts, tmp_path)
    assert len(truth) > 600
    assert len({each.row for each in result.duplicates} & truth) / len(truth) >= 0.95
    for each in result.duplicates:
        assert each.kept == copies[each.row]
        assert each.similarity == round(similarity(texts[each.row], texts[each.kept]), 4) >= 0.8


@pytest.mark.parametrize("template_words", [30, 400])
def test_rows_of_one_template_stay_where_what_they_say_themselves_differs(
    tmp_path: Path, template_words: int
):
    template = " ".join(drawn(3).choices(WORDS, k=template_words))
    own = sentences(1500, 20, seed=4)
    texts = [f"{template} {each}" for each in own]
    repeated = [*texts, *(each.upper() for each in texts[:100])]
    result = found(repeated, tmp_path)
    assert [(each.row, each.kept) for each in result.duplicates] == [(1500 + row, row) for row in range(100)]
    assert result.rows_of_templates == 1600
    assert result.rows_not_fully_compared == 0


def test_table_that_is_too_small_for_the_rows_does_not_take_them_for_templates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(near, "_LEAST_SLOTS", 11)
    monkeypatch.setattr(near, "_MOST_SLOTS", 11)  # as many shingles in a slot as of ten million pages
    texts = sentences(1000, 120)
    repeated = [*texts, *(" ".join(each.split()[:-8]) for each in texts)]  # 0.93 alike
    result = found(repeated, tmp_path)
    assert len(result.duplicates) > 990
    assert {round(each.similarity, 2) for each in result.duplicates} == {0.93}


def test_a_chain_keeps_both_ends(tmp_path: Path):
    [words] = [each.split() for each in sentences(1, 120)]
    chain = []
    for step in range(5):
        changed = list(words)
        for place in range(step):
            changed[10 + 25 * place] = f"other{place}"
        chain.append(" ".join(changed))
    assert similarity(chain[0], chain[1]) >= 0.8 > similarity(chain[0], chain[4])
    result = found(chain, tmp_path, recall=0.999)
    kept = set(range(5)) - {each.row for each in result.duplicates}
    assert len(kept) > 1
    for each in result.duplicates:
        assert each.kept in kept
        assert similarity(chain[each.row], chain[each.kept]) >= 0.8


def test_the_most_similar_row_that_stays_is_named(tmp_path: Path):
    [text] = sentences(1, 100)
    words = text.split()
    first, second = list(words), list(words)
    first[5:11] = [f"a{place}" for place in range(6)]
    second[60] = "b"
    result = found([" ".join(first), text, " ".join(second)], tmp_path, threshold=0.85, recall=0.999)
    assert [(each.row, each.kept) for each in result.duplicates] == [(2, 1)]


def test_many_rows_that_agree_in_a_band_cost_a_bounded_time_and_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(near, "_keys", lambda values, offsets, bands, seed: _one_bucket(offsets, bands))
    result = found(sentences(300, 30), tmp_path, comparisons=10)
    assert result.duplicates == []
    assert result.pairs_compared == sum(min(row, 10) for row in range(300))
    assert result.pairs_not_compared == bands_for(0.8, 0.95).count * sum(
        max(row - 10, 0) for row in range(300)
    )
    assert result.rows_not_fully_compared == 289


def _one_bucket(offsets: near.Array, bands: Bands) -> near.Array:
    return near.np.zeros((bands.count, len(offsets) - 1), near.np.uint64)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The cat, it sat; on the mat!", "the CAT it sat on the mat"),
        ("Stra\u00dfe na\u00efve caf\u00e9 fertig los", "STRA\u00dfE nai\u0308ve cafe\u0301 fertig los"),
        ("\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002", "\u4eca\u5929 \u5929\u6c14 \u5f88\u597d"),
        ("\U0001f600 hi", "\U0001f600\nhi"),
    ],
)
def test_spelling_that_is_no_difference(tmp_path: Path, one: str, other: str):
    assert found([one, other], tmp_path).duplicates == [Duplicate(1, 0, 1.0)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 3 + 5?", "What is 3 - 5?"),
        ("\u0444\u044b\u0432\u0430", "\u0430\u0432\u044b\u0444"),
        ("I like \U0001f600", "I like \U0001f621"),
        ("\u0e01\u0e34\u0e19\u0e02\u0e49\u0e32\u0e27", "\u0e01\u0e34\u0e19\u0e19\u0e49\u0e33"),
        ("one two three", "one two three four"),
        ("a" * 100, "a" * 99 + "b"),
    ],
)
def test_short_texts_that_differ_stay(tmp_path: Path, one: str, other: str):
    assert found([one, other], tmp_path).duplicates == []


def test_languages_without_spaces_are_compared_by_characters(tmp_path: Path):
    chance = drawn(5)
    text = "".join(chr(chance.randrange(0x4E00, 0x9FA5)) for _ in range(200))
    other = text[:100] + "\u3042" + text[101:]
    assert found([text, other, text[::-1]], tmp_path).duplicates == [Duplicate(1, 0, round(191 / 201, 4))]


def test_a_text_is_another_one_under_another_name(tmp_path: Path):
    good, bad = sentences(2, 40)
    pair = [("chosen", good), ("rejected", bad)]
    swapped = [("chosen", bad), ("rejected", good)]
    result = find_near_duplicates([pair, swapped, list(pair)], tmp_path)
    assert result.duplicates == [Duplicate(2, 0, 1.0)]


def test_rows_without_words_are_compared_with_none_and_counted(tmp_path: Path):
    result = found(["", "...", "?!", "...", "a word"], tmp_path)
    assert (result.duplicates, result.rows, result.rows_without_words) == ([], 5, 4)
    assert find_near_duplicates([], tmp_path) == NearDuplicates()


def test_what_is_found_is_the_same_on_every_machine_and_in_every_run(tmp_path: Path):
    """The numbers are those of an x86-64 machine: others would find other duplicates."""
    texts = sentences(9000, 12)
    texts += [edited(text, 1, drawn(6)) for text in texts[:500]]
    results = [found(texts, tmp_path, threshold=0.5) for _ in range(2)]
    assert results[0] == results[1]
    assert tokens_of(["Hello, world \u00e9"]).hashes[[0, 2]].tolist() == [
        2618193241597299054,
        14387459705777444863,
    ]
    values, counts = near.np.arange(1000, dtype=near.np.uint64), near.np.array([0, 1000], near.np.uint64)
    keys = near._keys(values, counts, Bands(2, 3), 42)
    assert keys.tolist() == [[3914205021653858353], [17500858672351397479]]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.95])
def test_bands_have_the_recall_that_is_stated(threshold: float):
    bands = bands_for(threshold, 0.95)
    assert bands.recall(threshold) >= 0.95
    assert bands.recall(0.05) < 0.001
    assert bands.count * bands.hashes <= 256


def test_settings_that_cannot_work_are_refused():
    for settings, message in (
        ({"threshold": 1.5}, r"threshold must be a number from 0.3 to 0.99, got 1.5"),
        ({"recall": True}, r"recall must be a number from 0.5 to 0.999, got True"),
        ({"shingle_tokens": 0}, r"shingle_tokens must be a whole number from 1 to 50"),
        ({"template_rows": 1}, r"template_rows must be a whole number from 2"),
    ):
        with pytest.raises(SettingError, match=message):
            NearSettings(**settings)  # type: ignore[arg-type]
