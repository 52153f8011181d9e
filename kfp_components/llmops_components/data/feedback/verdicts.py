"""What people say of an answer together: the later word of each of them, and a rule where they differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from llmops_components.data.feedback.log import Exchange, Log
from llmops_components.data.feedback.said import Said

Rule: TypeAlias = Literal["majority", "drop"]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class About:
    """Feedback, and the answer that it is about.

    Args:
        said: What was said.
        exchange: The request.
        answer: Index of the answer.
    """

    said: Said
    exchange: Exchange
    answer: int

    @property
    def text(self) -> str:
        """The answer."""
        return str(self.exchange.answers[self.answer].text)

    @property
    def prompt_key(self) -> str:
        """The same for all requests that ask the same."""
        return json.dumps(self.exchange.prompt, ensure_ascii=False)


@dataclass(frozen=True)
class Verdict:
    """An answer to a prompt, by its text, and what counts of what was said of it.

    Args:
        is_good: Whether it is good.
        about: The feedback that says so.
    """

    is_good: bool
    about: tuple[About, ...]


@dataclass
class Refusals:
    """Why lines of feedback were not used.

    Args:
        reasons: By number of the line.
    """

    reasons: dict[int, tuple[Said, str]] = field(default_factory=dict)

    def add(self, said: Said, reason: str) -> None:
        """Note one.

        Args:
            said: The feedback.
            reason: Why, to go on from the name of the line.
        """
        self.reasons[said.line.number] = said, reason


def matched(given: Iterable[Said], log: Log, name: str, refusals: Refusals) -> list[About]:
    """Find the answer that each feedback is about.

    Args:
        given: The feedback.
        log: What was read of the log.
        name: What the log is called.
        refusals: Gets what is about no answer.
    """
    found = []
    for said in given:
        exchange = log.known.get(said.request_id)
        if exchange is None:
            refusals.add(said, f"is about a request that the log has not: {said.request_id!r:.60}")
        elif second := log.twice.get(said.request_id):
            refusals.add(
                said,
                f"is about an id that stands for two requests: {name}:{exchange.line} and {name}:{second}",
            )
        elif problem := _problem(said, exchange):
            refusals.add(said, problem)
        else:
            found.append(About(said, exchange, said.answer or 0))
    return found


def _problem(said: Said, exchange: Exchange) -> str | None:
    count = len(exchange.answers)
    if said.answer is None and count > 1:
        return f"does not say which of {count} answers it is about: give answer, from 0"
    if (said.answer or 0) >= count:
        return f"is about answer {said.answer} of a request that has {count}"
    text = exchange.answers[said.answer or 0].text
    if not (text or "").strip():
        return "is about an answer without text"
    if said.correction == text:
        return "has a correction that is the answer itself"
    return None


def of_one_kind(given: Sequence[About], refusals: Refusals) -> list[About]:
    """Feedback on chats, or on plain text that a model has gone on with, whichever is more: no training takes both.

    Args:
        given: The feedback.
        refusals: Gets the other kind.
    """
    plain = [each for each in given if isinstance(each.exchange.prompt, str)]
    are_plain = len(plain) * 2 > len(given)
    found = []
    for each in given:
        if isinstance(each.exchange.prompt, str) is are_plain:
            found.append(each)
        else:
            kinds = ("a chat", "plain text") if are_plain else ("plain text", "chats")
            refusals.add(
                each.said, f"is about {kinds[0]}, and most are about {kinds[1]}: no training takes both"
            )
    return found


def latest(given: Sequence[About], refusals: Refusals) -> list[About]:
    """Of several words of one person on one answer the latest one; those whose names are not known count as one person.

    Args:
        given: The feedback.
        refusals: Gets the earlier ones.
    """
    last: dict[tuple[int, int, str | None], About] = {}
    for each in sorted(given, key=lambda about: about.said.order):
        key = each.exchange.line, each.answer, each.said.who
        if before := last.get(key):
            refusals.add(before.said, f"was said again later, in line {each.said.line.number}")
        last[key] = each
    kept = {each.said.line.number for each in last.values()}
    return [each for each in given if each.said.line.number in kept]


def verdicts_on(given: Sequence[About], rule: Rule, refusals: Refusals) -> tuple[list[Verdict], int]:
    """What counts of each answer, and of how many answers people say different things.

    Args:
        given: The feedback.
        rule: ``majority`` lets those count who are more; ``drop`` lets nobody count.
        refusals: Gets what does not count.
    """
    answers: dict[tuple[str, str], list[About]] = {}
    for each in given:
        answers.setdefault((each.prompt_key, each.text), []).append(each)
    found, conflicts = [], 0
    for about in answers.values():
        sides = {good: [each for each in about if each.said.is_good is good] for good in (True, False)}
        up, down = len(sides[True]), len(sides[False])
        conflicts += bool(up and down)
        is_good = None if up == down or (rule == "drop" and up and down) else up > down
        told = f"{up} of {up + down} say that the answer is good"
        for each in about if is_good is None else sides[not is_good]:
            why = (
                "and on_conflict drops it"
                if rule == "drop"
                else "and there is no majority"
                if up == down
                else ""
            )
            reason = (
                f"contradicts what others say: {told}" if why == "" else f"is contradicted: {told}, {why}"
            )
            refusals.add(each.said, reason)
        if is_good is not None:
            found.append(Verdict(is_good, tuple(sides[is_good])))
    return _without_bad_corrections(found, refusals), conflicts


def _without_bad_corrections(verdicts: Sequence[Verdict], refusals: Refusals) -> list[Verdict]:
    """Without corrections that are answers of which people say that they are bad."""
    bad = {(each.about[0].prompt_key, each.about[0].text) for each in verdicts if not each.is_good}

    def is_usable(about: About) -> bool:
        if (about.prompt_key, about.said.correction) not in bad:
            return True
        refusals.add(about.said, "has a correction that is an answer which is called bad itself")
        return False

    left = [Verdict(each.is_good, tuple(filter(is_usable, each.about))) for each in verdicts]
    return [each for each in left if each.about]


def numbers_of(given: Iterable[Said]) -> Mapping[str, str]:
    """A number for each person, in the order in which they come.

    Args:
        given: The feedback.
    """
    names = dict.fromkeys(said.who for said in given if said.who is not None)
    return {name: f"rater {number}" for number, name in enumerate(names, start=1)}
