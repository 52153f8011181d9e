"""Personal data: what is planted is found, as Presidio finds it, without a network, and stands in no record."""

from __future__ import annotations

import json
import logging
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import phonenumbers
import pytest
from llmops_components.data.privacy import detect
from llmops_components.data.privacy.detect import detector, replaced
from llmops_components.data.privacy.finding import Finding, without_overlaps
from llmops_components.data.privacy.kinds import (
    KINDS,
    USUAL,
    USUAL_REGIONS,
    check_kinds,
    check_regions,
)
from llmops_components.data.privacy.rows import search
from llmops_components.data.privacy.standins import masked, pseudonyms
from llmops_components.data.privacy.widening import widened
from llmops_components.errors import SettingError

PAGE = Path(__file__).parents[4] / "docs" / "personal-data.md"
chance = random.Random(16)  # noqa: S311 - no secret
KEY = "a key of thirty-two bytes, or so"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refused)


def digits(count: int) -> str:
    return "".join(chance.choices("0123456789", k=count))


def card(start: str, length: int) -> str:
    body = start + digits(length - len(start) - 1)
    total = sum(sum(divmod(2 * int(each), 10)) for each in body[::-2])
    total += sum(int(each) for each in body[-2::-2])
    return body + str(-total % 10)


def iban(country: str, body: str) -> str:
    number = "".join(str(int(each, 36)) for each in f"{body}{country}00")
    whole = f"{country}{98 - int(number) % 97:02}{body}"
    return " ".join(whole[start : start + 4] for start in range(0, len(whole), 4))


def nhs() -> str:
    while True:
        body = digits(9)
        check = 11 - sum(int(each) * (10 - place) for place, each in enumerate(body)) % 11
        if check != 10:
            return f"{body[:3]} {body[3:6]} {body[6:]}{check % 11}"


def pesel() -> str:
    body = f"{chance.randrange(60, 99)}0{chance.randrange(1, 10)}{chance.randrange(10, 29)}{digits(4)}"
    total = sum(int(each) * weight for each, weight in zip(body, (1, 3, 7, 9) * 3, strict=False))
    return body + str(-total % 10)


def nif() -> str:
    number = digits(8)
    return number + "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23]


def phone(region: str, form: int) -> str:
    number = phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)
    return phonenumbers.format_number(number, form)


NATIONAL, INTERNATIONAL = (
    phonenumbers.PhoneNumberFormat.NATIONAL,
    phonenumbers.PhoneNumberFormat.INTERNATIONAL,
)
NAMES = ("ana.silva", "j.o'neill", "bj\u00f6rn", "li-wei", "user+tag")
HOSTS = ("example.com", "mail.example.co.uk", "beispiel.de", "b\u00fccher.example.org")
PLANTED = {
    "EMAIL_ADDRESS": lambda: f"{chance.choice(NAMES)}@{chance.choice(HOSTS)}",
    "PHONE_NUMBER": lambda: chance.choice(
        [
            *(phone(region, NATIONAL) for region in USUAL_REGIONS),
            *(
                phone(region, INTERNATIONAL)
                for region in (*USUAL_REGIONS, "JP", "PL", "ZA", "MX", "CH", "AU")
            ),
        ]
    ),
    "CREDIT_CARD": lambda: card(*chance.choice([("4", 16), ("51", 16), ("37", 15), ("6011", 16)])),
    "IBAN_CODE": lambda: iban(
        *chance.choice(
            [
                ("DE", digits(18)),
                ("GB", f"NWBK{digits(14)}"),
                ("FR", digits(23)),
                ("ES", digits(20)),
                ("NL", f"ABNA{digits(10)}"),
                ("CH", digits(17)),
            ]
        )
    ),
    "IP_ADDRESS": lambda: chance.choice(
        [".".join(str(chance.randrange(1, 255)) for _ in range(4)), f"2001:db8:{digits(4)}::{digits(3)}"]
    ),
    "URL_WITH_LOGIN": lambda: f"postgres://admin:pw{digits(5)}@db{digits(2)}.example.com/main",
    "ACCESS_TOKEN": lambda: chance.choice(
        [
            f"ghp_{digits(9)}abcdEFGH{digits(19)}",
            f"AKIA{digits(16)}",
            f"hf_abcdEFGH{digits(20)}",
            f"sk-proj-ab{digits(30)}",
        ]
    ),
    "US_SSN": lambda: (
        f"{chance.randrange(101, 660)}-{chance.randrange(10, 99)}-{chance.randrange(1001, 9999)}"
    ),
    "UK_NHS": nhs,
    "UK_NINO": lambda: f"AB {digits(2)} {digits(2)} {digits(2)} C",
    "ES_NIF": nif,
    "PL_PESEL": pesel,
    "IN_PAN": lambda: f"ABCPK{digits(4)}L",
}
SENTENCES = (
    "My number is {}, please note it.",
    "\U0001f600 cafe\u0301: {} \u65e5\u672c",
    "Contact ({}) for more.",
    "It says \u201c{}\u201d here",
    "{}",
)
OTHERS = (
    lambda: f"Order 2024-{digits(6)} of 2024-0{chance.randrange(1, 9)}-1{digits(1)} at 10:3{digits(1)}",
    lambda: f"Version 3.{digits(1)}.{digits(2)} costs {digits(3)},{digits(3)}.00 EUR, {digits(2)}.5 %",
    lambda: f"ISBN 978-3-16-{digits(6)}-{digits(1)}",
    lambda: f"commit {chance.randbytes(20).hex()}",
    lambda: f"std::vector<int> a; a[{digits(2)}] = x@y; // e.g. foo::bar",
    lambda: f"The number {digits(9)} and the number {digits(16)}",
    lambda: f"pi is 3.1415926535 and e is 2.{digits(9)}",
    lambda: "Mail me at the office, or @ten o'clock; http://example.com/a@b?c=d:e",
)


def planted_rows(count: int) -> Iterator[tuple[dict[str, object], str | None, str]]:
    """Rows of chats, with the kind that is planted in them and its value."""
    chance.seed(16)
    kinds = list(PLANTED)
    for number in range(count):
        kind = kinds[number // 2 % len(kinds)] if number % 2 else None
        value = PLANTED[kind]() if kind else chance.choice(OTHERS)()
        text = chance.choice(SENTENCES).format(value)
        answer = "It is noted."
        if chance.random() < 0.5:
            text, answer = answer, text
        messages = [
            {"role": "user", "content": text},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
        yield {"messages": messages, "id": number}, kind, value


def found_in(row: object, find: detect.Find) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    def noted(kind: str, value: str) -> str:
        found.append((kind, value))
        return masked(kind, value)

    search(row, find, noted)
    return found


def test_recall_and_precision_for_each_kind_are_those_of_the_page():
    find = detector(tuple(PLANTED))
    planted, hit, wrong = Counter[str](), Counter[str](), Counter[str]()
    for row, kind, value in planted_rows(1000):
        found = found_in(row, find)
        planted[kind or ""] += 1
        hit[kind or ""] += (kind, value) in found
        wrong.update(name for name, text in found if (name, text) != (kind, value))
    table = [
        f"| `{kind}` | {planted[kind]} | {hit[kind] / planted[kind]:.2f} | {hit[kind] / (hit[kind] + wrong[kind]):.2f} |"
        for kind in PLANTED
    ]
    page = PAGE.read_text(encoding="utf-8")
    assert [line for line in table if line not in page] == []


@pytest.fixture(scope="module")
def presidio():
    """Presidio's own engine, without a model."""
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry, predefined_recognizers
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    engine = NlpEngineProvider(
        nlp_configuration={"nlp_engine_name": "no_op", "models": [{"lang_code": "en", "model_name": "no_op"}]}
    ).create_engine()
    recognizers = [
        detect.email_recognizer()
        if name == "EMAIL_ADDRESS"
        else getattr(predefined_recognizers, kind.recognizer)(supported_language="en")
        for name, kind in KINDS.items()
        if kind.recognizer
    ]
    registry = RecognizerRegistry(recognizers=recognizers, supported_languages=["en"])
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])


THEIRS = tuple(name for name, kind in KINDS.items() if kind.recognizer)


def test_findings_are_those_of_presidios_engine(presidio):
    chance.seed(1)
    texts = [text for row, _, _ in planted_rows(130) for text in _texts(row)]
    letters = "0123456789" * 4 + " -./:ABCDEFxz@,()+\u0664\n"
    texts += ["".join(chance.choices(letters, k=40)) for _ in range(60)]
    find = detector(THEIRS)
    count = 0
    for text in texts:
        results = presidio.analyze(text, "en", entities=list(THEIRS), score_threshold=detect.LEAST_SCORE)
        expected = [
            detect.as_phone(text, each.start, each.end, each.score)
            if each.entity_type == "PHONE_NUMBER"
            else Finding(each.start, each.end, each.entity_type, each.score)
            for each in results
        ]
        expected = list(filter(None, expected))
        assert find(text) == without_overlaps(expected), text
        count += len(expected)
    assert count > 70


def _texts(row):
    return [row["messages"][0]["content"], row["messages"][1]["content"][0]["text"]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(+49 30 901820", "+49 30 901820"),
        ("call (201) 555-0123 now", "(201) 555-0123"),
        ("+1 201-555-0123 ext. 44", "+1 201-555-0123 ext. 44"),
        ("3.1415926535", None),
        ("2.094851712", None),
        ("0936491004849191", None),
    ],
)
def test_what_presidio_takes_for_a_phone_number_and_is_none(text: str, value: str | None):
    found = [text[each.start : each.end] for each in detector(("PHONE_NUMBER",))(text)]
    assert found == ([value] if value else [])


def test_looking_first_loses_nothing():
    find, slow = detector(tuple(KINDS)), detector(tuple(KINDS), look_first=False)
    for row, _, _ in planted_rows(60):
        for text in _texts(row):
            assert find(text) == slow(text)


@pytest.mark.parametrize(
    ("narrow", "text"),
    [
        (r"\b\d{3}(?!4)[- ]?\d\b", "x123-4x"),
        (r"(?<![\w-])[A-Z]{2}(?i)[^\d]\w+", "-ab\U0001f600\u00e9"),
        (r"([a-c])x\1.{0,3}$", "AxA\n"),
        (r"(?:\w|@){2,}\s", "\u0e01\u0e34\u2003"),
    ],
)
def test_a_widened_expression_finds_more(narrow: str, text: str):
    import re2

    options = re2.Options()
    options.case_sensitive = False
    assert re2.compile(widened(narrow), options).search(text)


def test_places_are_right_behind_emoji_and_accents_and_nothing_else_changes():
    text = "\U0001f469\u200d\U0001f4bb e\u0301\u05e9\u05dc\u05d5\u05dd bob@example.com\u2028\U0001f600, 4111 1111 1111 1111\x00!"
    find = detector()
    assert replaced(text, find(text), masked) == (
        "\U0001f469\u200d\U0001f4bb e\u0301\u05e9\u05dc\u05d5\u05dd <EMAIL_ADDRESS>\u2028\U0001f600, <CREDIT_CARD>\x00!"
    )


def test_what_overlaps_is_covered_as_a_whole():
    text = "see ftp://me:bob@example.com/x now"
    assert replaced(text, detector()(text), masked) == "see <URL_WITH_LOGIN> now"
    found = [
        Finding(0, 5, "A", 0.5),
        Finding(3, 9, "B", 1.0),
        Finding(9, 12, "C", 0.5),
        Finding(3, 9, "B", 1.0),
    ]
    assert without_overlaps(found) == [Finding(0, 9, "B", 1.0), Finding(9, 12, "C", 0.5)]


@pytest.mark.parametrize(
    "text", ["a" * 300_000 + "@", "1-" * 10_000, "a@" * 10_000, "A1 " * 10_000, "::" * 10_000]
)
def test_no_text_hangs(text: str):
    find = detector(tuple(kind for kind in KINDS if kind != "PHONE_NUMBER"))
    started = time.process_time()
    find(text)
    assert time.process_time() - started < 10


def test_a_long_text_is_searched_to_its_end():
    chance.seed(3)
    filler = "words of no interest, " * 170
    values = [PLANTED["IBAN_CODE"]() for _ in range(10)]
    text = filler.join(["", *values, ""])
    assert [text[each.start : each.end] for each in detector()(text)] == values


def test_rows_are_looked_through_wherever_texts_stand_and_stay_where_nothing_is():
    find = detector()
    row = {"a": [{"b": {"c": "bob@example.com"}}, 1, None, True], "bob@example.com": "x"}
    found = search(row, find, masked)
    assert found.value == {"a": [{"b": {"c": "<EMAIL_ADDRESS>"}}, 1, None, True], "bob@example.com": "x"}
    assert (found.kinds, found.score) == (Counter({"EMAIL_ADDRESS": 1}), 1.0)
    clean = {"messages": [{"role": "user", "content": "hello"}]}
    assert search(clean, find, masked).value is clean


def test_one_value_has_one_stand_in_under_one_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STAND_INS", KEY)
    stand_in = pseudonyms("STAND_INS", USUAL_REGIONS)
    assert stand_in("EMAIL_ADDRESS", "bob@example.com") == "<EMAIL_ADDRESS_ckilooccepkk>"
    assert stand_in("EMAIL_ADDRESS", "Bob@Example.com") == stand_in("EMAIL_ADDRESS", "bob@example.com")
    assert stand_in("PHONE_NUMBER", "(201) 555-0123") == stand_in("PHONE_NUMBER", "+1 201-555-0123")
    assert stand_in("IBAN_CODE", "DE89 3704 0044") == stand_in("IBAN_CODE", "DE8937040044")
    assert stand_in("ACCESS_TOKEN", "hf_a") != stand_in("ACCESS_TOKEN", "hf_A")
    assert stand_in("CREDIT_CARD", "1") != stand_in("CRYPTO", "1").replace("CRYPTO", "CREDIT_CARD")
    monkeypatch.setenv("STAND_INS", KEY + "!")
    assert (
        pseudonyms("STAND_INS", USUAL_REGIONS)("EMAIL_ADDRESS", "bob@example.com")
        != "<EMAIL_ADDRESS_ckilooccepkk>"
    )


def test_a_key_that_is_missing_or_short_is_refused_and_never_said(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SettingError, match="No key for stand-ins is in the environment variable 'STAND_INS'"):
        pseudonyms("STAND_INS", USUAL_REGIONS)
    monkeypatch.setenv("STAND_INS", "tooshort")
    with pytest.raises(SettingError, match="has 8 bytes, and needs 16") as refused:
        pseudonyms("STAND_INS", USUAL_REGIONS)
    assert "tooshort" not in str(refused.value)


def test_kinds_and_regions_that_are_not_offered_are_refused():
    with pytest.raises(
        SettingError, match=r"Unknown kinds of personal data: 'EMAIL_ADRESS' \(did you mean 'EMAIL_ADDRESS'"
    ):
        check_kinds(("EMAIL_ADRESS",))
    with pytest.raises(SettingError, match="kinds must name at least one kind"):
        check_kinds(())
    with pytest.raises(SettingError, match="Unknown phone_regions: 'UK'"):
        check_regions(("UK",))
    check_kinds(USUAL)
    check_regions(USUAL_REGIONS)


def test_what_is_found_is_in_no_record(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    text = "card 4111 1111 1111 1111, IBAN GB82 WEST 1234 5698 7654 32, \u00c4B12 3456 7890 1234 5678"
    found = search({"text": text}, detector(tuple(KINDS)), masked)
    told = json.dumps([found.kinds, found.score]) + caplog.text
    assert not any(part in told for part in ("4111", "WEST", "5678"))


def test_secret_longer_than_a_piece_goes_as_a_whole():
    key = "-----BEGIN RSA PRIVATE KEY-----\n" + "Ab3dEf9h" * 500 + "\n-----END RSA PRIVATE KEY-----"
    token = "eyJ" + "a1B2" * 50 + ".eyJ" + "c3D4" * 200 + "." + "e5F6" * 100
    text = "word " * 250 + token + " word " * 500 + key + " end"
    assert search(text, detector(("ACCESS_TOKEN",)), masked).value == (
        "word " * 250 + "<ACCESS_TOKEN>" + " word " * 500 + "<ACCESS_TOKEN> end"
    )


def test_arguments_of_a_tool_stay_json_and_are_read_without_escapes():
    arguments = r'{"to":  "hi\nana@example.com", "card": 4111111111111111, "cc": ["bob\u0040example.com", 7], "half": "\\"}'
    found = search({"arguments": arguments}, detector(("EMAIL_ADDRESS", "CREDIT_CARD")), masked)
    assert found.value["arguments"] == (
        r'{"to":  "hi\n<EMAIL_ADDRESS>", "card": "<CREDIT_CARD>", "cc": ["<EMAIL_ADDRESS>", 7], "half": "\\"}'
    )
    assert found.kinds == {"EMAIL_ADDRESS": 2, "CREDIT_CARD": 1}
    assert (
        search(r'["\ud800 ana@example.com"]', detector(("EMAIL_ADDRESS",)), masked).value
        == r'["\ud800 <EMAIL_ADDRESS>"]'
    )


def test_stand_in_is_not_personal_data_itself(monkeypatch):
    monkeypatch.setenv("KEY", "k" * 32)
    stand_in, find = pseudonyms("KEY", ("US",)), detector()
    assert not any(find(f"mail {stand_in('PHONE_NUMBER', f'+49151{each:08d}')} me") for each in range(5000))
