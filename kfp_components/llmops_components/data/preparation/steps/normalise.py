"""Texts as they were meant: mended encodings, one Unicode form, no control characters, tidy white space."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from llmops_components.data.preparation.step import KEPT, Changed, Inputs, Outcome, Row, RowStep
from llmops_components.data.preparation.texts import with_texts

# Those of C0 and C1 that are no white space, and marks that are not part of a text: a byte order mark, interlinear annotations.
# Left in are what joins letters and emoji, and what orders right-to-left text.
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufff9-\ufffb]")
_LINE_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_BLANK_LINES = re.compile(r"\n{3,}")
_SPACES = re.compile(r"\s+")


@dataclass(kw_only=True)
class Normalise(RowStep):
    """Mend the texts of each row.

    Args:
        encoding: Whether text that was decoded wrongly is mended, as ``schÃ¶n`` (by ftfy).
        html: Whether entities of HTML are replaced, as ``&amp;``.
        quotes: Whether curly quotation marks become straight ones.
        form: The Unicode form; None leaves it as it is.
        control_characters: Whether control characters are removed. Tabs and line feeds are none.
        whitespace: ``trim`` writes every line end as a line feed, removes blanks at ends of lines and around the text, and leaves
            one empty line between two; ``collapse`` leaves one space between two words; ``keep`` does nothing.
        fields: The fields to look at; none means those of TRL's formats.
    """

    step: ClassVar[str] = "normalise"
    libraries: ClassVar[tuple[str, ...]] = ("ftfy",)
    encoding: bool = True
    html: bool = False
    quotes: bool = False
    form: Literal["NFC", "NFD", "NFKC", "NFKD"] | None = "NFC"
    control_characters: bool = True
    whitespace: Literal["trim", "collapse", "keep"] = "trim"
    fields: tuple[str, ...] = ()

    def _changes(self) -> dict[str, Callable[[str], str]]:
        changes: dict[str, Callable[[str], str]] = {}
        if self.encoding or self.html or self.quotes:
            from ftfy import fix_encoding
            from ftfy.fixes import uncurl_quotes, unescape_html

            if self.html:
                changes["entities of HTML"] = lambda text: unescape_html(text) if "&" in text else text
            if self.encoding:
                changes["encoding"] = lambda text: text if text.isascii() else fix_encoding(text)
            if self.quotes:
                changes["quotation marks"] = lambda text: text if text.isascii() else uncurl_quotes(text)
        if self.control_characters:
            changes["control characters"] = lambda text: _CONTROLS.sub("", text)
        if (form := self.form) is not None:
            changes["Unicode form"] = lambda text: (
                text if text.isascii() else unicodedata.normalize(form, text)
            )
        if self.whitespace == "trim":
            changes["white space"] = _trimmed
        elif self.whitespace == "collapse":
            changes["white space"] = lambda text: _SPACES.sub(" ", text).strip()
        return changes

    def start(self, inputs: Inputs) -> Callable[[Row], Outcome]:
        changes = self._changes()

        def judge(row: Row) -> Outcome:
            made = set()

            def change(text: str) -> str:
                for name, each in changes.items():
                    after = each(text)
                    if after != text:
                        made.add(name)
                        text = after
                return text

            value = with_texts(row.value, change, self.fields)
            if value is row.value:
                return KEPT
            return Changed(value, f"normalised: {', '.join(name for name in changes if name in made)}")

        return judge


def _trimmed(text: str) -> str:
    # Not by an expression: one that looks for blanks before a line's end takes time with the square of a row of blanks.
    lines = "\n".join(line.rstrip() for line in _LINE_ENDS.sub("\n", text).split("\n"))
    return _BLANK_LINES.sub("\n\n", lines).strip()
