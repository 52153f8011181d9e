"""What a judge has answered, in a file that an interrupted evaluation leaves and the next one goes on with."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llmops_components.inference.journal import Journal
from llmops_components.step import CHECKPOINTS_VARIABLE
from llmops_components.uris import local_path

JOURNAL_NAME = "judge.answers.jsonl"
_FACTS = {"answers_of": "judge"}  # each answer has the digest of all that it depends on


class Memory:
    """Answers by the digest of what was asked: to be used with ``with``.

    Args:
        path: The file.
        outlives: Whether it outlives the step; otherwise it is removed at a good end.
    """

    def __init__(self, path: Path, *, outlives: bool) -> None:
        self.outlives = outlives
        self._journal = Journal(path, _FACTS)
        self._places: dict[str, int] = {}
        self._tokens: dict[str, tuple[int, int]] = {}

    @classmethod
    def at(cls, checkpoints: str | os.PathLike[str] | None, dataset: str, beside: Path) -> Memory:
        """The memory of an evaluation.

        Args:
            checkpoints: Directory that outlives the step. Left out, the variable ``LLMOPS_CHECKPOINTS`` may name one.
            dataset: Digest of what is judged, by which steps of one pipeline keep apart.
            beside: An output; without such a directory the file lies beside it.
        """
        if checkpoints:
            return cls(local_path(checkpoints, "checkpoints") / JOURNAL_NAME, outlives=True)
        if shared := os.environ.get(CHECKPOINTS_VARIABLE):  # by all steps of a pipeline
            name = hashlib.sha256(dataset.encode()).hexdigest()[:24]
            return cls(Path(shared) / f"judge-{name}" / JOURNAL_NAME, outlives=True)
        return cls(beside.with_name(f"{beside.name}.judge.unfinished"), outlives=False)

    def __enter__(self) -> Self:
        self._journal.__enter__()
        number = 1
        while (record := self._journal.record(number)) is not None:
            self._places[record["key"]] = number
            self._count(record)
            number += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.__exit__(kind, error, trace)
        if kind is None and not self.outlives:
            self._journal.remove()

    def __len__(self) -> int:
        return len(self._places)

    def known(self, key: str) -> dict[str, Any] | None:
        """What was answered; None if that is not known.

        Args:
            key: Digest of what was asked.
        """
        place = self._places.get(key)
        return None if place is None else self._journal.record(place)

    def note(self, key: str, answer: dict[str, Any]) -> None:
        """Write down an answer.

        Args:
            key: Digest of what was asked.
            answer: The answer.
        """
        number = len(self._places) + 1
        self._journal.note(number, {"key": key, **answer})
        self._places[key] = number
        self._count(answer)

    def tokens_of(self, judge: str) -> tuple[int, int]:
        """Tokens that all answers of a judge took: read, and written.

        Args:
            judge: Its digest.
        """
        return self._tokens.get(judge, (0, 0))

    def _count(self, answer: dict[str, Any]) -> None:
        prompt, completion = self.tokens_of(answer["judge"])
        self._tokens[answer["judge"]] = (
            prompt + (answer.get("prompt_tokens") or 0),
            completion + (answer.get("completion_tokens") or 0),
        )


def digest(of: Any) -> str:
    """The digest of something that JSON can hold.

    Args:
        of: What it is.
    """
    return hashlib.sha256(
        json.dumps(of, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ).hexdigest()
