"""Keys and certificates in PEM: in one piece, in lines that come one by one, and with their beginning cut off."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from llmops_components.redaction.signs import HIDDEN, has_all_kinds

_PEM_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{1,40}-----")
_PEM_END = re.compile(r"-----END [A-Z0-9 ]{1,40}-----")
# In one piece; its lines may follow each other by blanks alone.
_PEM_WHOLE = re.compile(
    r"-----BEGIN [A-Z0-9 ]{1,40}-----(?>(?:[A-Za-z0-9+/=:,. \t\r\n]|\\{1,8}[rn]|-(?!----))*)-----END [A-Z0-9 ]{1,40}-----"
)
_PEM_BEGUN = re.compile(
    r"-----BEGIN [A-Z0-9 ]{1,40}-----(?:(?:[ \t]|\\{1,8}[rn])++[A-Za-z0-9+/=]{16,}+(?=[\s\"'\\]|$))*+"
)
# Who speaks of such a line goes on behind it.
_PEM_OPENS = re.compile(r"-----BEGIN [A-Z0-9 ]{1,40}-----(?:\\{1,8}[rn])*+[\"',\s]*+$")
_PEM_HEADER = re.compile(r"(?:Proc-Type|DEK-Info|Version|Comment|Charset): ")
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
# A line of a key reads otherwise, but for a short last one.
_WORD_ALONE = re.compile(r"(?:[A-Z]?[a-z]{2,}+)++|[A-Z]{1,15}|[a-z]|\d{1,15}|")
_NOTHING = re.compile(r"(?:\\{1,8}[rn])*+[\"',\s]*+")
_NEWLINE = re.compile(r"(\n|\\{1,8}n)")
_LAST_NEWLINE = re.compile(r"(?:\n|(?<!\\)\\{1,8}n)\Z")
_NUMBER = re.compile(r"\d+")
_MIN_BODY_CHARACTERS = 16
_CERTAIN_CHARACTERS = 40  # a key's lines have 64 or 70
_MAX_LINES_HELD = 3
_MAX_LINES_BETWEEN = 100  # of other processes, between the lines of a key


class KeyFilter:
    """Leaves out keys in PEM from lines as they come, whatever a logger puts before each line.

    What follows a key's first line is the key's while it reads so. A line that may be either, as one that is empty or a
    single word, is held until the next one tells.
    """

    def __init__(self) -> None:
        self._before: str | None = (
            None  # what stands before each line of the key that goes on, as _shape gives it
        )
        self._others = 0  # lines since the key's last one

    def lines(self, lines: Iterable[str]) -> Iterator[str]:
        """Lines without those of a key but its first one."""
        held: list[str] = []
        for line in lines:
            if self._before is not None and _PEM_BEGIN.search(line) is None:
                if end := _PEM_END.search(line):
                    self._before = None
                    held.clear()
                    if not _NOTHING.fullmatch(rest := line[end.end() :]):
                        yield rest
                    continue
                is_part = self._is_part(line)
                if is_part:
                    held.clear()
                    continue
                if is_part is None and len(held) < _MAX_LINES_HELD:
                    held.append(line)
                    continue
                self._others += 1
                if self._others > _MAX_LINES_BETWEEN:
                    self._before = None
            yield from held
            held.clear()
            if begin := _PEM_OPENS.search(line):
                self._before, self._others = _shape(line[: begin.start()]), 0
            yield line
        yield from held

    def _is_part(self, line: str) -> bool | None:
        """Whether a line is the key's; ``None`` if it may be."""
        head, body = _split_line(line)
        is_certain = len(body) >= _CERTAIN_CHARACTERS and has_all_kinds(body)
        if not is_certain and _shape(head) in ("", self._before):
            if self._others:  # another process may have written in between
                is_certain = len(body) >= _MIN_BODY_CHARACTERS and has_all_kinds(body)
            elif _WORD_ALONE.fullmatch(body):
                return None
            else:
                is_certain = True
        elif not is_certain and (header := _PEM_HEADER.search(line)):
            is_certain = not self._others and _shape(line[: header.start()]) in ("", self._before)
        if is_certain:
            self._others = 0
        return is_certain


def _shape(head: str) -> str:
    """What stands before a line's own text, alike for all lines of a logger: its numbers differ."""
    return _NUMBER.sub("0", " ".join(head.split())).strip(" \"'")


def _split_line(line: str) -> tuple[str, str]:
    """What stands before the characters of a key at the end of a line, and these."""
    for _ in range(4):  # what ends a text, and newlines as Python and JSON show them
        line = line.rstrip(" \t\r\n,")
        if (inner := line.rstrip(")]}")).endswith(("'", '"')):
            line = inner.rstrip("\"'")
        if line.endswith(("\\n", "\\r")):
            line = line[:-1].rstrip("\\")
    head = line.rstrip(_BASE64)
    return head, line[len(head) :]


def hide_keys(text: str) -> str:
    """A text without keys and certificates in PEM, on lines of their own, with \\n in between, or in one line."""
    text = _PEM_WHOLE.sub(HIDDEN, text)
    if "-----BEGIN" in text or "-----END" in text:
        parts = [*_NEWLINE.split(text), ""]
        lines = [line + end for line, end in zip(parts[::2], parts[1::2], strict=True)]
        hidden = "".join(KeyFilter().lines(_without_end_of_key(lines)))
        text = hidden if _LAST_NEWLINE.search(text) else _LAST_NEWLINE.sub("", hidden)
    return _PEM_BEGUN.sub(HIDDEN, text)


def _without_end_of_key(lines: list[str]) -> list[str]:
    """Lines without those of a key whose beginning is cut off."""
    for at, line in enumerate(lines):
        if _PEM_BEGIN.search(line):
            break
        if end := _PEM_END.search(line):
            before, start = _shape(line[: end.start()]), at
            while start and _may_be_body(lines[start - 1], before):
                start -= 1
            if any(len(_split_line(each)[1]) >= _MIN_BODY_CHARACTERS for each in lines[start:at]):
                return [*lines[:start], line[: end.start()] + HIDDEN + line[end.end() :], *lines[at + 1 :]]
            break
    return lines


def _may_be_body(line: str, before: str) -> bool:
    head, body = _split_line(line)
    return _shape(head) in ("", before) and bool(body)
