"""Rows to train with, each with where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

from llmops_components.data.feedback.times import written
from llmops_components.data.feedback.verdicts import About, Verdict


@dataclass
class Text:
    """An answer or a correction, and the feedback that speaks of it.

    Args:
        prompt: What it answers.
        text: What it says.
        is_good: Whether it is good.
        is_correction: Whether a person has written it.
        about: The feedback.
    """

    prompt: str | list[dict[str, str]]
    text: str
    is_good: bool
    is_correction: bool
    about: list[About] = field(default_factory=list)


@dataclass(frozen=True)
class Names:
    """What sources and people are called.

    Args:
        requests: The log.
        feedback: The feedback.
        raters: People by their names; None for the names themselves.
    """

    requests: str
    feedback: str
    raters: Mapping[str, str] | None


def texts_of_verdicts(verdicts: Sequence[Verdict]) -> list[Text]:
    """Every text of which something is known, once: the answers, and the corrections, which are good.

    Args:
        verdicts: What people say together.
    """
    found: dict[tuple[str, str], Text] = {}
    for verdict in verdicts:
        first = verdict.about[0]
        answer = Text(first.exchange.prompt, first.text, verdict.is_good, False)
        answer = found.setdefault((first.prompt_key, first.text), answer)
        answer.about += verdict.about
    for about in _corrections(verdicts):
        correction = str(about.said.correction)
        text = Text(about.exchange.prompt, correction, True, True)
        found.setdefault((about.prompt_key, correction), text).about.append(about)
    return list(found.values())


def _corrections(verdicts: Sequence[Verdict]) -> Iterator[About]:
    return (about for verdict in verdicts for about in verdict.about if about.said.correction is not None)


def pairs_of_verdicts(verdicts: Sequence[Verdict]) -> list[tuple[Text, Text]]:
    """A better and a worse text each: a correction and what it corrects; a good and a bad answer to the same prompt.

    Of several answers to a prompt each is in a pair, and no more pairs are made than that takes: the first good one with the first bad one and
    so on, those that are fewer again from the first.

    Args:
        verdicts: What people say together.
    """
    found: dict[tuple[str, str, str], tuple[Text, Text]] = {}
    for about in _corrections(verdicts):
        prompt, correction = about.exchange.prompt, str(about.said.correction)
        pair = Text(prompt, correction, True, True), Text(prompt, about.text, False, False)
        for side in found.setdefault((about.prompt_key, correction, about.text), pair):
            side.about.append(about)
    prompts: dict[str, dict[bool, list[Verdict]]] = {}
    for verdict in verdicts:
        sides = prompts.setdefault(verdict.about[0].prompt_key, {True: [], False: []})
        sides[verdict.is_good].append(verdict)
    for key, sides in prompts.items():
        good, bad = sides[True], sides[False]
        if good and bad:
            count = max(len(good), len(bad))
            for better, worse in zip(islice(cycle(good), count), islice(cycle(bad), count), strict=True):
                pair = _of(better), _of(worse)
                found.setdefault((key, pair[0].text, pair[1].text), pair)
    return list(found.values())


def _of(verdict: Verdict) -> Text:
    first = verdict.about[0]
    return Text(first.exchange.prompt, first.text, verdict.is_good, False, list(verdict.about))


def preference_row(better: Text, worse: Text, names: Names) -> dict[str, Any]:
    """A row with ``prompt``, ``chosen`` and ``rejected``.

    Args:
        better: What is chosen.
        worse: What is not.
        names: What sources and people are called.
    """
    return {
        "prompt": better.prompt,
        "chosen": _said_by_model(better),
        "rejected": _said_by_model(worse),
        "provenance": {"chosen": _provenance(better, names), "rejected": _provenance(worse, names)},
    }


def unpaired_row(text: Text, names: Names) -> dict[str, Any]:
    """A row with ``prompt``, ``completion`` and ``label``.

    Args:
        text: The answer.
        names: What sources and people are called.
    """
    row = demonstration_row(text, names)
    provenance = row.pop("provenance")
    return {**row, "label": text.is_good, "provenance": provenance}


def demonstration_row(text: Text, names: Names) -> dict[str, Any]:
    """A row with ``prompt`` and ``completion``.

    Args:
        text: The answer.
        names: What sources and people are called.
    """
    return {
        "prompt": text.prompt,
        "completion": _said_by_model(text),
        "provenance": _provenance(text, names),
    }


def _said_by_model(text: Text) -> str | list[dict[str, str]]:
    return text.text if isinstance(text.prompt, str) else [{"role": "assistant", "content": text.text}]


def _provenance(text: Text, names: Names) -> dict[str, Any]:
    asked = {(about.exchange.line, about.answer): about for about in text.about}
    return {
        "written_by": "person" if text.is_correction else "model",
        "requests": [_request(about, names) for about in asked.values()],
        "feedback": [_feedback(about, names) for about in text.about],
    }


def _request(about: About, names: Names) -> dict[str, Any]:
    exchange = about.exchange
    return {
        "row_id": f"{names.requests}:{exchange.line}",
        "id": exchange.ids[0],
        "answer": about.answer,
        "model": exchange.model,
        "model_version": exchange.model_version,
        "time": written(exchange.time),
        "finish_reason": exchange.answers[about.answer].finish_reason,
    }


def _feedback(about: About, names: Names) -> dict[str, Any]:
    said = about.said
    who = said.who if names.raters is None or said.who is None else names.raters[said.who]
    return {
        "row_id": f"{names.feedback}:{said.line.number}",
        "id": said.id,
        "who": who,
        "at": written(said.at),
        "comment": said.comment,
    }
