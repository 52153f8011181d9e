"""The key of a review sheet: what the people who fill it in do not know."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from llmops_components.errors import DataError
from llmops_components.evaluation.human.pairs import Pair
from llmops_components.json_text import parse_json
from llmops_components.state_files import write_json

SCHEMA_VERSION = 1
Side: TypeAlias = Literal["candidate", "baseline"]
_SHEET = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Item:
    """A pair on the sheet.

    Args:
        pair: Both answers.
        left: Whose answer stands on the left.
    """

    pair: Pair
    left: Side

    @property
    def sides(self) -> tuple[str, str]:
        """The answers, from left to right."""
        both = str(self.pair.candidate), str(self.pair.baseline)
        return both if self.left == "candidate" else (both[1], both[0])


@dataclass(frozen=True)
class Key:
    """What stands on a sheet, and whose answer is whose.

    Args:
        sheet: Name of the sheet: the same pairs in the same order have the same one.
        items: The pairs by the names that the sheet has for them, in the sheet's order.
    """

    sheet: str
    items: Mapping[str, Item]

    @classmethod
    def drawn(cls, pairs: Sequence[Pair], count: int, seed: int) -> Key:
        """Draw pairs at random, put them in random order, and each of them in a random one.

        Args:
            pairs: Both answers each, which differ.
            count: How many to draw; all if there are no more.
            seed: Chooses pairs, order and sides.
        """
        chance = random.Random(f"review sheet {seed}")  # noqa: S311 - no secret, and the same again next time
        drawn = chance.sample(list(pairs), min(count, len(pairs)))
        items: list[Item] = [Item(pair, chance.choice(("candidate", "baseline"))) for pair in drawn]
        text = json.dumps([seed, *([*each.sides, each.pair.prompt, each.left] for each in items)])
        digest = hashlib.sha256(text.encode()).hexdigest()
        names = (hashlib.sha256(f"{digest} {at}".encode()).hexdigest()[:8] for at in range(len(items)))
        return cls(digest[:16], dict(zip(names, items, strict=True)))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON.

        Args:
            path: The file.
        """
        items = {name: {**vars(item.pair), "left": item.left} for name, item in self.items.items()}
        write_json(Path(path), {"schema_version": SCHEMA_VERSION, "sheet": self.sheet, "items": items})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Key:
        """Read one.

        Args:
            path: The file.

        Raises:
            DataError: It is none.
        """
        try:
            value = parse_json(Path(path).read_text(encoding="utf-8"))
            if value["schema_version"] != SCHEMA_VERSION or not _SHEET.fullmatch(value["sheet"]):
                raise ValueError("its version or its sheet is none that is known here")
            return cls(value["sheet"], {str(name): _item(each) for name, each in value["items"].items()})
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(
                f"The key of the review sheet cannot be read ({error}). Give the artifact `key` of write_review_sheet. Key: {os.fspath(path)}."
            ) from None


def _item(value: Mapping[str, Any]) -> Item:
    left = value["left"]
    if left not in ("candidate", "baseline"):
        raise ValueError(f"left is {left!r}")
    pair = Pair(**{name: value[name] for name in Pair.__dataclass_fields__})
    if not isinstance(pair.candidate, str) or not isinstance(pair.baseline, str):
        raise ValueError(f"row {pair.row} has no two answers")
    return Item(pair, left)
