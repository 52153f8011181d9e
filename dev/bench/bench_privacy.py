"""Personal data: rows per second, against Presidio's BatchAnalyzerEngine with the same recognisers on the same texts.

Chats, of which one in ten has a value in it and one in ten a number that is none. Presidio runs without a model (its engine
``no_op``), which is its fastest. Times are CPU time as well as wall time: on a busy machine only the first can be trusted.

    .venv/data/bin/python dev/bench/bench_privacy.py --rows 2000 --theirs 300
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

from llmops_components.data.privacy.detect import LEAST_SCORE, as_phone, detector, email_recognizer
from llmops_components.data.privacy.finding import Finding, without_overlaps
from llmops_components.data.privacy.kinds import KINDS, USUAL
from presidio_analyzer import AnalyzerEngine, BatchAnalyzerEngine, RecognizerRegistry, predefined_recognizers
from presidio_analyzer.nlp_engine import NlpEngineProvider

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "a",
    "in",
    "is",
    "that",
    "it",
    "for",
    "was",
    "on",
    "are",
    "with",
    "as",
    "they",
    "at",
    "be",
    "this",
    "from",
    "have",
    "or",
    "by",
    "one",
    "had",
    "not",
    "but",
    "what",
    "all",
    "were",
    "we",
    "when",
]
VALUES = (
    "ana.silva@example.com",
    "+49 30 901820",
    "(201) 555-0123",
    "4111 1111 1111 1111",
    "DE89 3704 0044 0532 0130 00",
    "192.168.17.4",
)
OTHERS = (
    "order 2024-118-77",
    "on 2024-05-17 at 10:35",
    "version 3.11.7",
    "it costs 1,299.00",
    "page 12 of 345",
)
KINDS_OF_BOTH = tuple(kind for kind in USUAL if KINDS[kind].recognizer)


def texts_of(count: int) -> list[str]:
    chance = random.Random(1)  # noqa: S311 - no secret
    texts = []
    for number in range(count):
        words = chance.choices(WORDS, k=chance.randint(40, 200))
        if number % 10 < 2:
            words.insert(chance.randrange(len(words)), chance.choice(VALUES if number % 10 else OTHERS))
        texts.append(" ".join(words))
    return texts


def presidio() -> BatchAnalyzerEngine:
    names = {"nlp_engine_name": "no_op", "models": [{"lang_code": "en", "model_name": "no_op"}]}
    recognizers = [
        email_recognizer()
        if kind == "EMAIL_ADDRESS"
        else getattr(predefined_recognizers, str(KINDS[kind].recognizer))()
        for kind in KINDS_OF_BOTH
    ]
    registry = RecognizerRegistry(recognizers=recognizers, supported_languages=["en"])
    engine = NlpEngineProvider(nlp_configuration=names).create_engine()
    return BatchAnalyzerEngine(
        AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])
    )


def measured(
    name: str, find: Callable[[list[str]], list[list[Finding]]], texts: list[str]
) -> tuple[float, list[list[Finding]]]:
    started, cpu = time.perf_counter(), time.process_time()
    found = find(texts)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(
        f"{name:28} {len(texts):7,} rows  {len(texts) / wall:9,.0f}/s  {len(texts) / cpu:9,.0f} a CPU second"
    )
    return len(texts) / cpu, found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--theirs", type=int, default=500, help="how many of them Presidio gets")
    options = parser.parse_args()
    texts = texts_of(options.rows)
    few = texts[: options.theirs]
    engine, find = presidio(), detector(KINDS_OF_BOTH)

    def theirs(rows: list[str]) -> list[list[Finding]]:
        found = engine.analyze_iterator(rows, "en", entities=list(KINDS_OF_BOTH), score_threshold=LEAST_SCORE)
        return [
            without_overlaps(
                finding
                for each in results
                if (
                    finding := as_phone(text, each.start, each.end, each.score)
                    if each.entity_type == "PHONE_NUMBER"
                    else Finding(each.start, each.end, each.entity_type, each.score)
                )
            )
            for text, results in zip(rows, found, strict=True)
        ]

    theirs(few[:5]), [find(text) for text in few[:5]]  # what is loaded once
    them, expected = measured("Presidio BatchAnalyzerEngine", theirs, few)
    us, found = measured("ours", lambda rows: [find(text) for text in rows], texts)
    print(
        f"ratio: {us / them:.1f} times the rows of a CPU second; findings of the first {len(few):,} rows are the same: {found[: len(few)] == expected}"
    )


if __name__ == "__main__":
    main()
