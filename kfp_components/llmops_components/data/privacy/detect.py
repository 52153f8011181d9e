"""Where personal data stands in a text: Presidio's recognisers, behind one look with RE2 for whether any of them can find something.

Most texts have nothing, and are done with that look. It finds at least what the recognisers find (see
:mod:`~llmops_components.data.privacy.widening`), so that nothing is lost by it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from llmops_components.data.privacy.finding import Finding, without_overlaps
from llmops_components.data.privacy.kinds import (
    EMAIL_ADDRESS,
    IBAN_CODE,
    KINDS,
    PHONE_NUMBER,
    USUAL,
    USUAL_REGIONS,
)
from llmops_components.data.privacy.own import OWN, own_expression
from llmops_components.data.privacy.widening import widened

LEAST_SCORE = 0.4  # that of Presidio's phone numbers; what is below is a number of the right length
_PHONE_DIGITS, _MOST_DIGITS = 7, 12
_CLOSED_BY = {"(": ")", "[": "]", "\uff08": "\uff09", "\uff3b": "\uff3d"}
# What may stand between the digits of a phone number, as phonenumbers has it, and before them.
_PHONE_BETWEEN = r"x\-\x{2010}-\x{2015}\x{2212}\x{30fc}\x{ff0d}-\x{ff0f} \xa0\xad\x{200b}\x{2060}\x{3000}()\x{ff08}\x{ff09}\x{ff3b}\x{ff3d}.\[\]/~\x{2053}\x{223c}\x{ff5e}"
_PHONE_HINT = rf"\p{{Nd}}(?:[{_PHONE_BETWEEN}]{{0,4}}\p{{Nd}}){{{_PHONE_DIGITS - 1}}}"
_PHONE_RUN = rf"[+\x{{ff0b}}{_PHONE_BETWEEN}\p{{Nd}}]*{_PHONE_HINT}[{_PHONE_BETWEEN}\p{{Nd}}]*"
_PHONE_MARGIN = (
    40  # characters around one that tell whether it is a date, a price or part of a word, and its extension
)
# Presidio's expressions take time that grows with the square of a text's length.
_PIECE_CHARACTERS, _SHARED_CHARACTERS = 2000, 300
_SECONDS = 20  # for one expression and one piece
Find = Callable[[str], list[Finding]]


def detector(
    kinds: Sequence[str] = USUAL, phone_regions: Sequence[str] = USUAL_REGIONS, *, look_first: bool = True
) -> Find:
    """What finds personal data in a text.

    Args:
        kinds: Names of kinds.
        phone_regions: Whose phone numbers are found without a country's code.
        look_first: Whether texts in which nothing can be are passed over; only the time depends on it.

    Returns:
        What takes a text and gives findings, of which none overlap. It raises :class:`TimeoutError` for a text that takes too long.
    """
    finders = {kind: _finder(kind, tuple(phone_regions)) for kind in kinds}
    hints = _Hints(kinds) if look_first else None

    def find(text: str) -> list[Finding]:
        hinted = list(finders) if hints is None else hints.kinds(text)
        if not hinted:
            return []
        # In one piece, which RE2 takes: a private key or a token may be longer than what pieces share.
        found = [each for kind in hinted if kind in OWN for each in finders[kind](text)]
        for start, piece in _pieces(text):
            inside = hinted if hints is None or len(piece) == len(text) else hints.kinds(piece)
            for kind in (each for each in inside if each not in OWN):
                found += [
                    Finding(start + each.start, start + each.end, kind, each.score)
                    for each in finders[kind](piece)
                ]
        return without_overlaps(found)

    return find


class _Hints:
    """Which kinds may be in a text."""

    def __init__(self, kinds: Sequence[str]) -> None:
        import re2

        options = re2.Options()
        options.case_sensitive = False
        options.max_mem = 256 << 20
        self._set = re2.Set.SearchSet(options)
        self._kinds = []
        for kind in kinds:
            for hint in _hints_of(kind):
                self._set.Add(hint)
                self._kinds.append(kind)
        self._set.Compile()

    def kinds(self, text: str) -> list[str]:
        """The kinds, in the order in which they were given."""
        numbers = self._set.Match(text)
        return list(dict.fromkeys(self._kinds[number] for number in sorted(numbers))) if numbers else []


def _hints_of(kind: str) -> list[str]:
    if kind in OWN:
        return [OWN[kind]]
    if kind == PHONE_NUMBER:
        return [_PHONE_HINT]
    return [widened(pattern.regex) for pattern in _recognizer(kind).patterns]


def _finder(kind: str, phone_regions: tuple[str, ...]) -> Find:
    if kind in OWN:
        expression = own_expression(kind)
        return lambda text: [
            Finding(match.start(), match.end(), kind, 1.0) for match in expression.finditer(text)
        ]
    if kind == PHONE_NUMBER:
        return _phone_finder(phone_regions)
    if kind == IBAN_CODE:  # whose recogniser looks for shorter ones in what it finds
        recognizer = _recognizer(kind)
        return lambda text: _scored(kind, recognizer.analyze(text, [kind]))
    return _pattern_finder(kind)


def _pattern_finder(kind: str) -> Find:
    """As Presidio's ``PatternRecognizer`` finds, save that it goes on in silence where an expression takes too long."""
    import regex

    recognizer = _recognizer(kind)
    compiled = [
        (pattern.score, regex.compile(pattern.regex, flags=recognizer.global_regex_flags))
        for pattern in recognizer.patterns
    ]

    def find(text: str) -> list[Finding]:
        found = []
        for usual, expression in compiled:
            for match in expression.finditer(text, timeout=_SECONDS):
                if not (value := match[0]):
                    continue
                valid = recognizer.validate_result(value)
                score = usual if valid is None else float(valid)
                if score >= LEAST_SCORE and not recognizer.invalidate_result(value):
                    found.append(Finding(*match.span(), kind, score))
        return found

    return find


def _phone_finder(regions: tuple[str, ...]) -> Find:
    import re2

    options = re2.Options()
    options.case_sensitive = False
    recognizer = _presidio("PhoneRecognizer")(supported_regions=regions)
    run = re2.compile(_PHONE_RUN, options)

    def find(text: str) -> list[Finding]:
        found = []
        for start, end in _windows([match.span() for match in run.finditer(text)], len(text)):
            for each in _scored(PHONE_NUMBER, recognizer.analyze(text[start:end], [PHONE_NUMBER])):
                if finding := as_phone(text, start + each.start, start + each.end, each.score):
                    found.append(finding)
        return found

    return find


def as_phone(text: str, start: int, end: int, score: float) -> Finding | None:
    """What Presidio takes for a phone number, where it can be somebody's.

    A number with fewer than seven digits is a service's, one with a decimal point before or in it is a quantity, and more than
    twelve digits in a row are too many. A bracket that is not closed is no part of it.

    Args:
        text: The text.
        start: The first character in it.
        end: Behind the last one.
        score: Presidio's.
    """
    value = text[start:end]
    if value[:1] in _CLOSED_BY and _CLOSED_BY[value[0]] not in value:
        start, value = start + 1, value[1:]
    written = "".join(
        itertools.takewhile(lambda each: not each.isalpha() or each in "xX", value)
    )  # no extension
    digits = sum(map(str.isdigit, written))
    is_quantity = text[max(start - 2, 0) : start - 1].isdigit() and text[start - 1 : start] in (".", ",")
    is_quantity = is_quantity or (written.count(".") == 1 and written.replace(".", "").isdigit())
    if digits < _PHONE_DIGITS or is_quantity or (digits > _MOST_DIGITS and written.isdigit()):
        return None
    return Finding(start, end, PHONE_NUMBER, score)


def _windows(spans: Sequence[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """Spans with a margin, those that meet as one."""
    found: list[tuple[int, int]] = []
    for start, end in spans:
        start, end = max(start - _PHONE_MARGIN, 0), min(end + _PHONE_MARGIN, length)
        if found and start <= found[-1][1]:
            start = found.pop()[0]
        found.append((start, end))
    return found


def _scored(kind: str, results: Any) -> list[Finding]:
    return [Finding(each.start, each.end, kind, each.score) for each in results if each.score >= LEAST_SCORE]


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Parts of a long text that begin and end at white space where there is some, and share characters."""
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        end = _blank(text, start + _PIECE_CHARACTERS - _SHARED_CHARACTERS, start + _PIECE_CHARACTERS)
        yield start, text[start:end]
        start = _blank(text, end - 2 * _SHARED_CHARACTERS, end - _SHARED_CHARACTERS)
    yield start, text[start:]


def _blank(text: str, begin: int, end: int) -> int:
    """The last white space within these bounds, or the upper one."""
    return next((place for place in range(end, begin, -1) if text[place].isspace()), end)


def _presidio(name: str) -> Any:
    from presidio_analyzer import predefined_recognizers

    logging.getLogger("presidio-analyzer").setLevel(logging.CRITICAL + 1)  # it logs what it has found
    return getattr(predefined_recognizers, name)


@cache
def _recognizer(kind: str) -> Any:
    name = KINDS[kind].recognizer
    assert name is not None
    if kind == EMAIL_ADDRESS:
        return email_recognizer()
    return _presidio(name)()


def email_recognizer(**settings: Any) -> Any:
    """Presidio's recogniser of mail addresses with the list of domains that tldextract brings: its own one fetches a newer one.

    Args:
        settings: Of Presidio's ``EmailRecognizer``.
    """
    import tldextract

    extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    class OfflineEmailRecognizer(_presidio("EmailRecognizer")):  # type: ignore[misc]
        def validate_result(self, pattern_text: str) -> bool:
            return bool(extract(pattern_text).fqdn)

    return OfflineEmailRecognizer(**settings)


def replaced(text: str, findings: Sequence[Finding], instead: Callable[[str, str], str]) -> str:
    """The text with something else in place of each finding; all else stays as it is.

    Args:
        text: The text.
        findings: Of which none overlap.
        instead: What stands there for a kind and a value.
    """
    ordered = sorted(findings)
    between = [
        text[before:after]
        for before, after in zip(
            [0, *(each.end for each in ordered)],
            [*(each.start for each in ordered), len(text)],
            strict=True,
        )
    ]
    stands = [instead(each.kind, text[each.start : each.end]) for each in ordered]
    return "".join(itertools.chain.from_iterable(itertools.zip_longest(between, stands, fillvalue="")))
