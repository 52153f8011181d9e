"""Published rules decide as datatrove's own classes do, on the same texts in several languages."""

# ruff: noqa: RUF001  (texts in several scripts)

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest
from llmops_components.data.quality import c4, fineweb, gopher
from llmops_components.data.quality.words import (
    MARKS,
    SENTENCE_ENDS,
    PlainSplitter,
    SpacySplitter,
    Splitter,
    Text,
)

SENTENCES = {
    "en": (
        "The old mill stood at the end of the road, and nobody had worked there for years.",
        "To be honest, I have never seen that with my own eyes; it's what people say!",
        "Is there a quicker way of getting the cheese (or the bread) across the river?",
        "Prices rose by 3.5% in 2019, to $1,200.50, then fell again...",
    ),
    "de": (
        "Die alte Mühle stand am Ende der Straße, und seit Jahren hatte dort niemand gearbeitet.",
        "Ehrlich gesagt habe ich das nie mit eigenen Augen gesehen; man erzählt es sich so!",
        "Gibt es z. B. einen schnelleren Weg, den Käse (oder das Brot) über den Fluss zu bringen?",
        "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz „sagt“ er …",
    ),
    "fr": (
        "Le vieux moulin se trouvait au bout de la route, et l'on n'y travaillait plus depuis longtemps.",
        "Pour être honnête, je ne l'ai jamais vu de mes propres yeux ; c'est ce qu'on dit !",
        "Y a-t-il un moyen plus rapide de faire passer le fromage « ou le pain » de l'autre côté ?",
    ),
    "es": (
        "El viejo molino estaba al final del camino, y nadie trabajaba allí desde hacía años.",
        "¿Hay una manera más rápida de pasar el queso (o el pan) al otro lado del río?",
        "¡La verdad es que nunca lo he visto con mis propios ojos!",
    ),
    "ru": (
        "Старая мельница стояла в конце дороги, и никто там уже много лет не работал.",
        "Честно говоря, я никогда не видел этого своими глазами; так говорят люди!",
        "Есть ли более быстрый способ переправить сыр (или хлеб) через реку?",
    ),
    "ar": (
        "كانت الطاحونة القديمة في نهاية الطريق، ولم يعمل فيها أحد منذ سنوات.",
        "هل هناك طريقة أسرع لنقل الجبن أو الخبز عبر النهر؟",
    ),
}
CODES = {
    "en": "eng_Latn",
    "de": "deu_Latn",
    "fr": "fra_Latn",
    "es": "spa_Latn",
    "ru": "rus_Cyrl",
    "ar": "arb_Arab",
}
ODDITIES = (
    "- {}",
    "• {}",
    "{} ...",
    "{}…",
    "# # # # # {}",
    "... ... {} ... … … …",
    "{} {}",
    "Lorem ipsum {}",
    "if (x) {{ {} }}.",
    "{} [12] [citation needed]",
    "Please enable JavaScript. {}",
    "We use cookies. {}",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 {}",
    "@ € ° -- → 12-34 §§ {}",
)


@cache
def texts(language: str) -> list[str]:
    """Texts of all lengths: whole ones, ones that repeat themselves, lists, and ones with what rules look for."""
    dice = random.Random(language)  # noqa: S311
    sentences = SENTENCES[language]
    words = [word for sentence in sentences for word in sentence.split()]
    found = [sentences[0], f"{sentences[0]}\n\n{sentences[0]}", " ".join(words), "word", "\n \n", "x" * 1001]
    for number in range(30):
        lines = []
        for _ in range(dice.choice((1, 3, 6, 12))):
            line = " ".join(dice.sample(words, dice.choice((2, 5, 9, 14))))
            if dice.random() < 0.4:
                line = dice.choice(sentences)
            if dice.random() < number / 45:
                line = dice.choice(ODDITIES).replace("{}", line).replace("{{", "{").replace("}}", "}")
            lines += [line] * dice.choice((1, 1, 1, 1, 2, 4))
        found.append(dice.choice(("\n", "\n\n", "\n\n", " ")).join(lines))
    return found


def gopher_quality(code: str):
    from datatrove.pipeline.filters import GopherQualityFilter

    names = {
        "min_doc_words": ("words_least", 50),
        "max_doc_words": ("words_most", 100_000),
        "min_avg_word_length": ("word_length_least", 3),
        "max_avg_word_length": ("word_length_most", 10),
        "max_symbol_word_ratio": (("hashes", "ellipses"), 0.1),
        "max_bullet_lines_ratio": ("bullets", 0.9),
        "max_ellipsis_lines_ratio": ("ellipsis_ends", 0.3),
        "max_non_alpha_words_ratio": ("letters", 0.8),
        "min_stop_words": ("stop_words", 2),
    }
    nothing = dict.fromkeys(names)
    for setting, (ours, limit) in names.items():
        theirs = GopherQualityFilter(**nothing | {setting: limit}, language=code)
        yield tuple(f"gopher_{each}" for each in ([ours] if isinstance(ours, str) else ours)), theirs


def gopher_repetition(code: str):
    from datatrove.pipeline.filters import GopherRepetitionFilter

    nothing = {"top_n_grams": (), "dup_n_grams": ()} | dict.fromkeys(
        ("dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac")
    )
    for setting, ours, limit in (
        ("dup_line_frac", "repeated_lines", 0.3),
        ("dup_para_frac", "repeated_paragraphs", 0.3),
        ("dup_line_char_frac", "repeated_line_characters", 0.2),
        ("dup_para_char_frac", "repeated_paragraph_characters", 0.2),
        *(("top_n_grams", f"top_{n}_gram", ((n, limit),)) for n, limit in ((2, 0.2), (3, 0.18), (4, 0.16))),
        *(
            ("dup_n_grams", f"repeated_{n}_grams", ((n, limit),))
            for n, limit in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1))
        ),
    ):
        yield (
            (f"gopher_{ours}",),
            GopherRepetitionFilter(**nothing | {setting: limit}, language=code),
        )


def fineweb_quality(code: str):
    from datatrove.pipeline.filters import FineWebQualityFilter

    nothing = {"line_punct_thr": -1, "short_line_thr": 2, "char_duplicates_ratio": 2, "new_line_ratio": 1e9}
    for setting, ours, limit in (
        ("line_punct_thr", "line_ends", 0.12),
        ("short_line_thr", "short_lines", 0.67),
        ("char_duplicates_ratio", "repeated_characters", 0.01),
        ("new_line_ratio", "line_feeds", 0.3),
    ):
        yield (f"fineweb_{ours}",), FineWebQualityFilter(**nothing | {setting: limit}, language=code)


@pytest.fixture(params=["plain", pytest.param("spacy", marks=pytest.mark.slow)])
def splitters(request, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Splitter]:
    """What splits texts of a language, on both sides; spaCy's rules take a quarter of a minute to load."""
    if request.param == "spacy":
        return SpacySplitter
    from datatrove.pipeline.filters import (
        c4_filters,
        fineweb_quality_filter,
        gopher_quality_filter,
        gopher_repetition_filter,
    )

    plain = PlainSplitter()
    for module in (fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter):
        monkeypatch.setattr(module, "split_into_words", lambda text, language: plain.words(text))
    monkeypatch.setattr(
        c4_filters, "split_into_sentences", lambda text, language: [""] * plain.sentences(text)
    )
    return lambda language: plain


RULES = {rule.name: rule for rule in (*gopher.QUALITY, *gopher.REPETITION, *fineweb.RULES)}


def test_every_rule_decides_as_datatrove_does_with_the_published_thresholds(splitters):
    from datatrove.data import Document

    decisions: Counter[tuple[str, bool]] = Counter()
    differ = []
    compared = set()
    for language, code in CODES.items():
        pairs = [*gopher_quality(code), *gopher_repetition(code), *fineweb_quality(code)]
        splitter = splitters(language)
        for number, text in enumerate(texts(language)):
            ours_text = Text(text, splitter)
            for names, theirs in pairs:
                if not text.strip():
                    continue
                kept = theirs.filter(Document(text=text, id="x"))
                is_kept = kept is True
                ours = all(RULES[name].breaks(ours_text, RULES[name].limit) is None for name in names)
                decisions[names[0], ours] += 1
                compared |= set(names)
                if ours != is_kept:
                    differ.append((language, number, names, kept))
    assert differ == []
    assert compared == set(RULES)
    one_sided = {name for name, _ in decisions if not (decisions[name, True] and decisions[name, False])}
    assert one_sided == {"gopher_words_most"}  # a text of 100,000 words takes too long here


def test_c4_decides_and_takes_lines_away_as_datatrove_does(splitters):
    from datatrove.data import Document
    from datatrove.pipeline.filters import C4QualityFilter

    outcomes: Counter[str] = Counter()
    for language, code in CODES.items():
        theirs = C4QualityFilter(language=code)
        splitter = splitters(language)
        for text in texts(language):
            document = Document(text=text, id="x")
            kept = theirs.filter(document)
            ours = Text(text, splitter)
            broken = [rule.name for rule in c4.RULES if rule.breaks(ours, rule.limit) is not None]
            expected = {
                "lorem_ipsum": ["c4_lorem_ipsum"],
                "curly_bracket": ["c4_curly_bracket"],
                "too_few_sentences": ["c4_sentences"],
            }
            assert broken == ([] if kept is True else expected[kept[1]]), text
            if kept is True:
                assert "\n".join(c4.remains(text).lines).strip() == document.text
            outcomes["kept" if kept is True else kept[1]] += 1
    assert set(outcomes) == {"kept", "lorem_ipsum", "curly_bracket", "too_few_sentences"}


def test_marks_are_those_of_datatrove():
    from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION

    assert SENTENCE_ENDS == TERMINAL_PUNCTUATION
    assert MARKS == PUNCTUATION_SET


@pytest.mark.slow
def test_plain_words_nearly_always_decide_as_spacy_s():
    same = total = 0
    plain, spacy = PlainSplitter(), SpacySplitter("en")
    for text in texts("en"):
        both = Text(text, plain), Text(text, spacy)
        for rule in (*RULES.values(), *c4.RULES):
            one, other = (rule.breaks(each, rule.limit) is None for each in both)
            same, total = same + (one == other), total + 1
    assert same / total > 0.98


@pytest.mark.parametrize(
    ("text", "words", "sentences"),
    [
        ("It's 3.5%, well-known... Is it?! Yes.", "It's 3.5 % , well - known ... Is it ? ! Yes .", 2),
        ("Ärger\u2026 naïve coöperation", "Ärger \u2026 naïve coöperation", 1),
        ("我爱北京。你呢？", "我 爱 北 京 。 你 呢 ？", 2),
        ("", "", 0),
        ("...", "...", 1),
    ],
)
def test_plain_words_and_sentences(text, words, sentences):
    assert " ".join(PlainSplitter().words(text)) == words
    assert PlainSplitter().sentences(text) == sentences
