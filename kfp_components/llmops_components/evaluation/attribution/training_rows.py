"""Which rows of the training data are closest to an answer and its question, by sentence embeddings.

Closeness is no proof that a row has made the model answer so; it is where to look first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmops_components.models.embeddings import Encoder

_EMBEDDED_TOGETHER = 1024


@dataclass(frozen=True)
class Said:
    """A question and its answer.

    Args:
        question: What was asked; empty where nothing was.
        answer: What was answered; empty where nothing was.
        is_wanted: Whether it was taught as an answer to give; otherwise as one not to give.
    """

    question: str
    answer: str
    is_wanted: bool = True


@dataclass(frozen=True)
class Near:
    """A row that is close to an answer.

    Args:
        row: Its number, from 1.
        said: What it says; of a preference the answer that is close.
        similarity: Mean of the cosines of both questions and of both answers, -1 to 1; that of the answers where one has no question, and that
            of the questions where one has no answer.
        of_questions: Cosine of the questions; None where one has none.
        of_answers: Cosine of the answers; None where one has none.
    """

    row: int
    said: Said
    similarity: float
    of_questions: float | None
    of_answers: float | None


def said_in(row: Mapping[str, Any]) -> list[Said]:
    """What a row of any format says: the last message, completion, chosen answer or text, and what went before it; of a row that asks alone
    the reference, if it has one. A preference has a rejected answer as well.

    Args:
        row: The row.
    """
    asked = _texts(row.get("prompt"))
    found = []
    for field in ("messages", "completion", "chosen", "rejected", "text"):
        if texts := _texts(row.get(field)):
            is_wanted = field != "rejected" and row.get("label") is not False
            found.append(Said("\n".join([*asked, *texts[:-1]]).strip(), texts[-1].strip(), is_wanted))
    if found or not asked:
        return found
    reference = row.get("reference")
    return [Said("\n".join(asked).strip(), reference.strip() if isinstance(reference, str) else "")]


def _texts(value: Any) -> list[str]:
    if isinstance(value, list):
        return [str(each.get("content") or "") for each in value if each.get("role") != "system"]
    return [value] if isinstance(value, str) else []


def nearest_rows(
    answers: Sequence[Said], rows: Sequence[Mapping[str, Any]], count: int, embedding_model: Path
) -> list[list[Near]]:
    """The rows that are closest to each answer.

    Args:
        answers: Answers with their questions.
        rows: Rows of the training data.
        count: How many rows an answer.
        embedding_model: Directory of the embedding model.

    Returns:
        For each answer its rows, the closest first.
    """
    encoder = Encoder(embedding_model)
    asked = encoder.embed([each.question for each in answers])
    answered = encoder.embed([each.answer for each in answers])
    places = [(number, said) for number, row in enumerate(rows, start=1) for said in said_in(row)]
    said = [each for _, each in places]
    of_questions = np.empty((len(answers), len(said)), dtype=np.float32)
    of_answers = np.empty_like(of_questions)
    for start in range(0, len(said), _EMBEDDED_TOGETHER):
        part = said[start : start + _EMBEDDED_TOGETHER]
        place = slice(start, start + len(part))
        of_questions[:, place] = asked @ encoder.embed([each.question for each in part]).T
        of_answers[:, place] = answered @ encoder.embed([each.answer for each in part]).T
        print(f"compared with {start + len(part)}/{len(said)} answers of the training data", flush=True)
    have_questions = _have("question", answers)[:, None] & _have("question", said)[None, :]
    have_answers = _have("answer", answers)[:, None] & _have("answer", said)[None, :]
    one_of_both = np.where(have_answers, of_answers, np.where(have_questions, of_questions, -np.inf))
    similarity = np.where(have_questions & have_answers, (of_questions + of_answers) / 2, one_of_both)
    found = []
    for line in range(len(answers)):
        order = np.argsort(-similarity[line], kind="stable")[:count]
        found.append(
            [
                Near(
                    row=places[place][0],
                    said=said[place],
                    similarity=float(similarity[line, place]),
                    of_questions=float(of_questions[line, place]) if have_questions[line, place] else None,
                    of_answers=float(of_answers[line, place]) if have_answers[line, place] else None,
                )
                for place in order
                if np.isfinite(similarity[line, place])
            ]
        )
    return found


def _have(what: str, said: Sequence[Said]) -> np.ndarray:
    return np.array([bool(getattr(each, what)) for each in said], dtype=bool)
