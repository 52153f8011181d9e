"""The samples of a page: packed, so that thousands find room in it, and without a sign that HTML knows.

What a page has no room for is cut where it is long, and then left out from the samples that differ least; how much that is stands
in the page.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmops_components.evaluation.report.content import Content, prompt_text
from llmops_components.evaluation.scored import shown_answer

MAX_PAGE_BYTES = 5_000_000
LONGEST_TEXT, SHORTEST_TEXT = 8000, 200  # characters: where texts are cut at the latest, and at the earliest
_MORE = (("retrieved_contexts", "Retrieved contexts"), ("tool_calls", "Tool calls"))
_SAFE = 0.93  # of the room, since less is packed a little worse
_OF_FURTHER = 0.1  # of the room, for the answers of further models


@dataclass(frozen=True)
class Packed:
    """Samples as text of letters, digits, ``+``, ``/`` and ``=``: JSON, compressed, in Base64.

    Args:
        data: The text.
        unpacked: Bytes of the JSON.
        places: Places of the samples that are in it.
        limit: Most characters of a text.
        cut_off: Samples with a text that is cut.
        lengths: Characters of each text, before.
        without_further: Samples without the answers of further models.
    """

    data: str
    unpacked: int
    places: Sequence[int]
    limit: int
    cut_off: int
    lengths: np.ndarray
    without_further: int

    @property
    def samples(self) -> int:
        """How many samples there are in it."""
        return len(self.places)

    def told(self, total: int) -> list[str]:
        """Sentences on what is not in the page; none where all is.

        Args:
            total: Samples of the evaluation.
        """
        found = []
        if self.samples < total:
            found.append(
                f"{total - self.samples:,} of {total:,} samples are left out here, since the page has no room for them: those "
                "that differ least. The scores file has all."
            )
        if self.cut_off:
            found.append(
                f"Texts are cut at {self.limit:,} characters, which {self.cut_off:,} samples shown here have more of, and are "
                "searched up to there. The scores file has all."
            )
        if self.without_further:
            found.append(
                f"Answers of further models are shown with {self.samples - self.without_further:,} samples, those that differ most, since "
                "the page has no room for more. Their own scores files have all."
            )
        return found


def pack(content: Content, room: int = MAX_PAGE_BYTES) -> Packed:
    """The samples, as many and as much of each as there is room for.

    Args:
        content: What the report says.
        room: Most bytes.
    """
    if not content.further:
        return _packed_within(content, room)
    return _with_further(content, _packed_within(content, int(room * (1 - _OF_FURTHER))), room)


def _packed_within(content: Content, room: int) -> Packed:
    """The samples without the answers of further models."""
    places = list(range(len(content.samples)))
    packed = _packed(content, places, LONGEST_TEXT)
    while len(packed.data) > room and packed.limit > SHORTEST_TEXT:
        limit = _limit_for(packed, room / len(packed.data) * _SAFE)
        packed = _packed(content, places, limit)
    while len(packed.data) > room and packed.samples:
        keep = int(packed.samples * room / len(packed.data) * _SAFE)
        packed = _packed(content, sorted(content.by_greatest_change[:keep]), packed.limit)
    return packed


def _with_further(content: Content, packed: Packed, room: int) -> Packed:
    """The same samples, those that differ most with the answers of further models, as far as there is room."""
    there = set(packed.places)
    candidates = [place for place in content.by_greatest_change if place in there]
    share = (room - len(packed.data)) * packed.unpacked / max(1, len(packed.data)) * _SAFE
    count = 0
    for place in candidates:
        share -= len(json.dumps(_further(content, place, packed.limit)))
        if share < 0:
            break
        count += 1
    while count:
        found = _packed(content, packed.places, packed.limit, frozenset(candidates[:count]))
        if len(found.data) <= room:
            return found
        count = count * 3 // 4
    return packed


def _limit_for(packed: Packed, share: float) -> int:
    """Where texts have to be cut so that about a share of their characters is left."""
    lengths = np.minimum(packed.lengths, packed.limit)
    below, above = SHORTEST_TEXT, packed.limit
    while above - below > 1:
        middle = (below + above) // 2
        if np.minimum(lengths, middle).sum() > share * lengths.sum():
            above = middle
        else:
            below = middle
    return below


def _packed(
    content: Content, places: Sequence[int], limit: int, with_further: frozenset[int] = frozenset()
) -> Packed:
    names, columns = content.names, list(content.labels)
    kinds = {column: sorted(set(content.labels[column])) for column in columns}
    place_of = {column: {value: at for at, value in enumerate(values)} for column, values in kinds.items()}
    rows, cut_off, lengths = [], 0, []
    for place in places:
        row, found = _row(content, place, limit)
        lengths += found
        further = _further(content, place, limit) if place in with_further else []
        labels = [place_of[column][content.labels[column][place]] for column in columns]
        rows.append([*row, labels, *([further] if content.further else [])])
        cut_off += max(found) > limit or any(isinstance(answer, list) for answer, _ in further)
    data = {
        "metrics": [
            {
                "name": name,
                "digits": 1 if (content.metrics[name].best or 1) > 1 else 3,
                "higher": content.ours[name].higher_is_better,
                "beside": any(name in each.scores for each in content.further),
            }
            for name in names
        ],
        "compared": bool(content.compared),
        "columns": [[column, kinds[column]] for column in columns],
        "further": [each.name for each in content.further],
        "total": len(content.samples),
        "limit": limit,
        "rows": rows,
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    # Without a date in it, so that the same samples make the same page.
    return Packed(
        base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode(),
        len(text),
        places,
        limit,
        cut_off,
        np.array(lengths),
        len(places) - len(with_further) if content.further else 0,
    )


def _row(content: Content, place: int, limit: int) -> tuple[list[Any], list[int]]:
    """What a page's script knows of a sample, and how long its texts are. They come first, then its numbers."""
    sample = content.samples[place]
    other = content.baseline[place] if content.compared else {}
    texts: list[str | None] = [
        prompt_text(sample.get("prompt")),
        sample.get("reference"),
        shown_answer(sample["answer"], sample.get("reason")),
        shown_answer(other.get("answer"), other.get("reason")) if content.compared else None,
    ]
    more = [[title, text_of(sample[name])] for name, title in _MORE if sample.get(name)]
    more += [[f"No {name}", str(why)] for name, why in (sample.get("unscored") or {}).items()]
    lengths = [
        len(each) if (each := source.get("answer")) is not None else None for source in (sample, other)
    ]
    all_texts = [text for text in (*texts, *(text for _, text in more)) if text is not None]
    row = [
        sample["row"],
        *(_cut(text, limit) for text in texts),
        [[title, _cut(text, limit)] for title, text in more],
        int(sample["answer"] is None) + 2 * int(sample.get("finish_reason") == "length"),
        lengths,
        [_short(source.get("seconds")) for source in (sample, other)],
        [_short(content.ours[name].values[place]) for name in content.names],
        [_short(each.changes[place]) for each in content.compared.values()],
    ]
    return row, list(map(len, all_texts))


def _further(content: Content, place: int, limit: int) -> list[Any]:
    """Of each further model its answer to a sample, and its scores."""
    found = []
    for each in content.further:
        line = each.given.answers[place]
        scores = [
            _short(each.scores[name].values[place]) if name in each.scores else None for name in content.names
        ]
        found.append([_cut(shown_answer(line["answer"], line.get("reason")), limit), scores])
    return found


def text_of(value: Any) -> str:
    """Contexts or tool calls as text.

    Args:
        value: Of the scores file.
    """
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "\n\n".join(value)
    return json.dumps(value, ensure_ascii=False, indent=1)


def _cut(text: str | None, limit: int) -> Any:
    """A text, or its beginning with the number of characters that it has."""
    return text if text is None or len(text) <= limit else [text[:limit], len(text)]


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
