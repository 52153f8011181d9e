"""Rows drawn by a hash: the same seed draws the same rows on every machine, whatever the others are.

A row's number is the hash of the seed and its id. Rows that are held out already are left alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Lt, MinLen

from llmops_components.data.preparation.records import SOURCE_ROW_ID
from llmops_components.data.preparation.row import HELD_OUT, PREPARED, Row
from llmops_components.data.preparation.spool import Keys, Rows
from llmops_components.data.preparation.step import Dropped, Inputs, Repeated, Sent, Verdict, WholeStep
from llmops_components.data.preparation.texts import text_of
from llmops_components.errors import DataError, SettingError

_NUMBER_BYTES = 8
_ROUNDING = 1e-9
_END = 1 << 8 * _NUMBER_BYTES
Share = Annotated[float, Gt(0), Lt(1)]


def _number(seed: int, text: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{text}".encode(), digest_size=_NUMBER_BYTES).digest()


@dataclass(kw_only=True)
class Split(WholeStep):
    """Hold rows out for evaluation.

    Rows of one group are on one side; case and white space make no other group. Without ``stratify`` a group's side depends on the seed and the group alone, so that it
    stays there when rows come or go, and the share is met on average; with it, the share is met in each stratum as closely as
    its groups allow.

    Args:
        share: Share of the rows to hold out.
        seed: Draws other rows.
        group: The fields that say which rows belong together; none means the prompt, or of a conversation without one all up to
            its first answer, or else the text.
        stratify: A column; each of its values has the same share held out.
    """

    step: ClassVar[str] = "split"
    share: Share
    seed: int = 0
    group: tuple[str, ...] = ()
    stratify: str | None = None

    def start(self, inputs: Inputs) -> Callable[[Row], bytes]:
        def key(row: Row) -> bytes:
            if row.side != PREPARED:
                return b""
            stratum = "" if self.stratify is None else _as_text(row.value.get(self.stratify))
            return _number(self.seed, _group_of(row.value, self.group)) + stratum.encode()

        return key

    def decide(self, keys: Keys, rows: Rows) -> Mapping[int, Verdict]:
        members: defaultdict[bytes, list[int]] = defaultdict(list)
        strata: dict[bytes, list[bytes]] = {}  # the groups of each; a group belongs to that of its first row
        for index, key in enumerate(keys):
            if key:
                group = key[:_NUMBER_BYTES]
                if group not in members:
                    strata.setdefault(key[_NUMBER_BYTES:], []).append(group)
                members[group].append(index)
        held = self._held_by_stratum(strata, members) if self.stratify is not None else self._held(members)
        verdict = Sent(HELD_OUT)
        found = {index: verdict for group in held for index in members[group]}
        if not 0 < len(found) < sum(map(len, members.values())):
            what = "Nothing is" if not found else "All is"
            raise DataError(
                f"{what} held out by split: {self.share:g} of {sum(map(len, members.values()))} rows in {len(members)} groups. Give "
                "more rows, another share, or another seed."
            )
        return found

    def _held(self, members: Mapping[bytes, Sequence[int]]) -> list[bytes]:
        limit = int(self.share * _END)
        return [group for group in members if int.from_bytes(group) < limit]

    def _held_by_stratum(
        self, strata: Mapping[bytes, list[bytes]], members: Mapping[bytes, Sequence[int]]
    ) -> list[bytes]:
        held = []
        for groups in strata.values():
            wanted = self.share * sum(len(members[group]) for group in groups)
            for group in sorted(groups):
                size = len(members[group])
                if size - wanted <= wanted:  # with it the share is met more closely than without
                    held.append(group)
                    wanted -= size
        return held


@dataclass(kw_only=True)
class Sample(WholeStep):
    """Keep some of the rows.

    Args:
        rows: How many to keep; None where a share is given.
        share: Which share to keep.
        seed: Draws other rows.
    """

    step: ClassVar[str] = "sample"
    rows: Annotated[int, Ge(1)] | None = None
    share: Share | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.rows is None) == (self.share is None):
            raise SettingError("give rows or share, one of them.")

    def start(self, inputs: Inputs) -> Callable[[Row], bytes]:
        return lambda row: _number(self.seed, row.row_id) if row.side == PREPARED else b""

    def decide(self, keys: Keys, rows: Rows) -> Mapping[int, Verdict]:
        drawn = sorted((key, index) for index, key in enumerate(keys) if key)
        wanted = round(self.share * len(drawn)) if self.rows is None else self.rows  # type: ignore[operator]
        if wanted > len(drawn):
            raise DataError(f"More rows are to be sampled than there are: {wanted} of {len(drawn)}.")
        verdict = Dropped("was not drawn for the sample")
        return {index: verdict for _, index in drawn[wanted:]}


@dataclass(kw_only=True)
class Mix(WholeStep):
    """Mix data sets by weight: each gets its share of the rows. Repeats are counted apart.

    Args:
        weights: Weight of each data set, by its name; all of them are named.
        rows: How many rows the mixture has; None for as many as the data sets allow.
        max_times: How often a row may be in the mixture.
        seed: Draws other rows.
    """

    step: ClassVar[str] = "mix"
    weights: Annotated[dict[str, Annotated[float, Gt(0)]], MinLen(1)]
    rows: Annotated[int, Ge(1)] | None = None
    max_times: Annotated[int, Ge(1)] = 1
    seed: int = 0

    def start(self, inputs: Inputs) -> Callable[[Row], bytes]:
        def key(row: Row) -> bytes:
            if row.side != PREPARED:
                return b""
            return _number(self.seed, row.row_id) + row.source.encode()

        return key

    def decide(self, keys: Keys, rows: Rows) -> Mapping[int, Verdict]:
        of_source: defaultdict[str, list[tuple[bytes, int]]] = defaultdict(list)
        for index, key in enumerate(keys):
            if key:
                of_source[key[_NUMBER_BYTES:].decode()].append((key[:_NUMBER_BYTES], index))
        counts = {source: len(members) for source, members in of_source.items()}
        wanted = self._wanted(counts)
        verdicts: dict[int, Verdict] = {}
        dropped = Dropped("was not drawn for the mixture")
        for source, members in of_source.items():
            times, further = divmod(wanted[source], counts[source])
            for place, (_, index) in enumerate(sorted(members)):
                number = times + (place < further)
                if number == 0:
                    verdicts[index] = dropped
                elif number > 1:
                    verdicts[index] = Repeated(number, f"the mixture has it {number} times")
        return verdicts

    def _wanted(self, counts: Mapping[str, int]) -> dict[str, int]:
        """How many rows the mixture has of each data set."""
        if unnamed := sorted(set(counts) - set(self.weights)):
            raise SettingError(f"Data sets have no weight in mix: {', '.join(unnamed)}. Name all of them.")
        if absent := sorted(set(self.weights) - set(counts)):
            raise DataError(
                f"Nothing is there to mix of {', '.join(absent)}: check the name, and what the steps before have dropped. There "
                f"is {', '.join(sorted(counts)) or 'nothing'}."
            )
        whole = sum(self.weights.values())
        shares = {source: self.weights[source] / whole for source in sorted(counts)}
        rows = self.rows
        if rows is None:
            most = min(counts[source] * self.max_times / share for source, share in shares.items())
            rows = int(most + _ROUNDING)
        wanted = _apportioned(rows, shares)
        for source, number in wanted.items():
            if number > counts[source] * self.max_times:
                raise DataError(
                    f"Too few rows are there to mix: {number} of {source} are wanted, and it has {counts[source]}, each taken "
                    f"{self.max_times} times at most. Ask for fewer rows, or set max_times."
                )
        return wanted


def _apportioned(rows: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that come to all rows, by largest remainder."""
    exact = {source: rows * share for source, share in shares.items()}
    found = Counter({source: int(number) for source, number in exact.items()})
    rest = rows - sum(found.values())
    for source in sorted(exact, key=lambda each: (int(exact[each]) - exact[each], each))[:rest]:
        found[source] += 1
    return dict(found)


def _group_of(value: dict[str, Any], fields: Sequence[str]) -> str:
    if fields:
        named = [value.get(name) for name in fields]
        return json.dumps(
            [_folded(each) if isinstance(each, str) else each for each in named], sort_keys=True
        )
    asked = value["prompt"] if value.get("prompt") is not None else _until_answer(value)
    # What has no text, as a prompt of pictures alone, says nothing of what belongs together.
    return _folded(text_of({"prompt": asked}, ("prompt",))) or _folded(text_of(value)) or _as_json(value)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _until_answer(value: dict[str, Any]) -> list[Any]:
    """A conversation up to the first answer to a user: many begin with the assistant's greeting, which is the same in all."""
    messages = next((value[name] for name in ("messages", "chosen") if isinstance(value.get(name), list)), [])
    is_asked = False
    for place, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        is_asked = is_asked or role == "user"
        if role == "assistant" and is_asked:
            return messages[:place]
    return messages


def _as_json(value: dict[str, Any]) -> str:
    return json.dumps({name: each for name, each in value.items() if name != SOURCE_ROW_ID}, sort_keys=True)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
