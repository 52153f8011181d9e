"""Prometheus' text format, version 0.0.4, as model servers export it: https://prometheus.io/docs/instrumenting/exposition_formats/.

Read here, since Airflow's environment has no client library of Prometheus.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

__all__ = ["Exposition", "Sample"]

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(,|$)')
_LINE = re.compile(
    rf'({_NAME})[ \t]*(?:\{{((?:[^"}}]|"(?:[^"\\]|\\.)*")*)\}})?[ \t]*([^ \t{{]+)(?:[ \t]+-?\d+)?'
)
_TYPE = re.compile(rf"#[ \t]+TYPE[ \t]+({_NAME})[ \t]")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|inf|nan)", re.IGNORECASE)
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True)
class Sample:
    """One value.

    :param name: its name, that of a bucket included
    :param labels: its labels
    :param value: the value
    """

    name: str
    labels: dict[str, str]
    value: float


@dataclass
class Exposition:
    """What a server exports, as far as it was asked for.

    :param samples: the values
    :param declared: names of the metrics that have a type, also where no value of them is there yet
    """

    samples: list[Sample] = field(default_factory=list)
    declared: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, text: str, names: Collection[str]) -> Exposition:
        """Read some of the values of a text.

        :param text: the whole text
        :param names: names of the values that are wanted; the others may be of any form
        :raises ValueError: one of them cannot be read, or the text was cut off
        """
        found = cls()
        if text and not text.endswith("\n"):
            raise ValueError("the text ends in the middle of a line")
        for line in text.split("\n"):
            line = line.strip(" \t\r")
            if line.startswith("#"):
                if kind := _TYPE.match(line):
                    found.declared.add(kind[1])
                continue
            name = re.match(_NAME, line)
            if name and name[0] in names:
                found.samples.append(_sample(line))
        return found

    def named(self, name: str) -> list[Sample]:
        """The values of one name.

        :param name: the name
        """
        return [sample for sample in self.samples if sample.name == name]


def _sample(line: str) -> Sample:
    found = _LINE.fullmatch(line)
    if not found:
        raise ValueError(f"not a value in Prometheus' text format: {line[:100]!r}")
    name, labels, value = found.groups()
    if not _NUMBER.fullmatch(value):
        raise ValueError(f"{name} has the value {value[:40]!r}, which is no number")
    return Sample(name, _labels(labels or "", line), float(value))


def _labels(text: str, line: str) -> dict[str, str]:
    found: dict[str, str] = {}
    position, text = 0, text.strip()
    while position < len(text):
        label = _LABEL.match(text, position)
        if not label or label[1] in found:
            raise ValueError(f"labels that cannot be read: {line[:100]!r}")
        found[label[1]] = _ESCAPED.sub(_unescaped, label[2])
        position = label.end()
    return found


def _unescaped(escaped: re.Match[str]) -> str:
    return {"n": "\n"}.get(escaped[1], escaped[1] if escaped[1] in '"\\' else escaped[0])
