"""Rows and what a model answered to them, scored with every metric: each row has a score, or a reason why not."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llmops_components.errors import ComponentError
from llmops_components.evaluation.judge.memory import Memory
from llmops_components.evaluation.judge.settings import JudgeSettings
from llmops_components.evaluation.likelihoods import perplexity_of
from llmops_components.evaluation.metrics.functions import call_function
from llmops_components.evaluation.metrics.plan import Plan
from llmops_components.evaluation.metrics.registry import BASELINE_RESPONSE
from llmops_components.evaluation.metrics.scoring import score_answers
from llmops_components.evaluation.statistics import Scores
from llmops_components.evaluation.tasks.table import judge_task
from llmops_components.evaluation.tasks.verdicts import Verdict
from llmops_components.json_text import parse_json

if TYPE_CHECKING:
    from llmops_components.evaluation.judge.ragas import Judged

NO_NUMBER = "What scores them gave no finite number"
_FROM_ROWS = (
    "reference",
    "retrieved_contexts",
    "reference_contexts",
    "reference_topics",
    "reference_tool_calls",
    "rubrics",
)


@dataclass(frozen=True)
class Given:
    """What a model answered to a row.

    Args:
        text: Its answer; None where there is none.
        reason: Why there is none.
        tool_calls: Functions that it wants called, as OpenAI's API has them.
        contexts: What it says that it has looked up.
        likelihood: Logarithm of how likely it takes the row's reference to be, and the reference's tokens, where that is known.
    """

    text: str | None
    reason: str | None = None
    tool_calls: list[Any] | None = None
    contexts: list[str] | None = None
    likelihood: tuple[float, int] | None = None


@dataclass(frozen=True)
class Scored:
    """The score of each row, or why there is none.

    Args:
        scores: By metric.
        reasons: Why rows have none, by metric and place.
        kinds: What kind of reason that was, by metric, of those that a judge scores.
        judge: What the judge was asked with, and what that took.
        prompts: The judge's questions, by metric.
        stopped: Why the judge was given up, if it was.
    """

    scores: Mapping[str, Scores]
    reasons: Mapping[str, Mapping[int, str]]
    kinds: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    judge: Mapping[str, Any] | None = None
    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    stopped: ComponentError | None = None

    def reasons_of(self, place: int) -> dict[str, str]:
        """Why a row has no score, by metric.

        Args:
            place: The row's place.
        """
        return {name: found[place] for name, found in self.reasons.items() if place in found}


def score_rows(
    plan: Plan,
    rows: Sequence[Mapping[str, Any]],
    given: Sequence[Given],
    *,
    of_each: int | None = None,
    together: int | None = None,
    judge: JudgeSettings | None = None,
    memory: Memory | None = None,
) -> Scored:
    """Score every row with every metric.

    Args:
        plan: The metrics.
        rows: The rows.
        given: What was answered to each.
        of_each: How many rows are of one model, where those of several follow each other: functions see one model's at a time. All,
            when left out.
        together: How many rows are of the models that a gate compares, which come first. Rows after them are judged after them and
            scored for themselves, so that they change nothing in those scores. All, when left out.
        judge: Who judges.
        memory: What the judge has answered before, open.

    Raises:
        SettingError: A function of the user's fails, or the judge refuses everything.
    """
    of_each, together = of_each or len(rows), together or len(rows)
    starts = range(together, len(rows), of_each)
    parts = [slice(0, together), *(slice(start, start + of_each) for start in starts)]
    found = [_score_answers(plan, rows[part], given[part], of_each) for part in parts]
    scores = {
        name: _joined([each.get(name) for each, _ in found], [len(rows[part]) for part in parts])
        for name in dict.fromkeys(name for each, _ in found for name in each)
    }
    unsaid = {
        name: {
            part.start + place: why
            for part, (_, reasons) in zip(parts, found, strict=True)
            for place, why in reasons.get(name, {}).items()
        }
        for name in dict.fromkeys(name for _, reasons in found for name in reasons)
    }
    if "perplexity" in plan.names:
        likelihoods = [each.likelihood for each in given]
        scores["perplexity"], unsaid["perplexity"] = perplexity_of(likelihoods, of_each)
    judged = _judged(plan, rows, given, of_each, together, judge, memory)
    if judged is not None:
        scores |= {name: Scores.mean_of(values) for name, values in judged.values.items()}
    scores = {name: scores.get(name) or nothing(len(rows)) for name in plan.names}
    known = unsaid if judged is None else unsaid | judged.reasons
    reasons = {
        name: {
            place: known.get(name, {}).get(place) or given[place].reason or NO_NUMBER
            for place in np.flatnonzero(~each.are_there).tolist()
        }
        for name, each in scores.items()
    }
    if judged is None:
        return Scored(scores, reasons)
    return Scored(scores, reasons, judged.kinds, judged.judge, judged.prompts, judged.stopped)


def _score_answers(
    plan: Plan, rows: Sequence[Mapping[str, Any]], given: Sequence[Given], of_each: int
) -> tuple[dict[str, Scores], dict[str, dict[int, str]]]:
    """Scores by what looks at the answers themselves, and why rows have none, by metric and place; nothing where nobody has answered."""
    answered = [place for place, each in enumerate(given) if each.text is not None]
    if not answered:
        return {}, {}
    texts = [str(given[place].text) for place in answered]
    theirs = [rows[place] for place in answered]
    references, prompts = ([row.get(key, "") for row in theirs] for key in ("reference", "prompt"))
    parts = score_answers(plan, texts, references, prompts)
    for name, metric in plan.metrics.items():
        if metric.function is not None:
            values = np.full(len(rows), np.nan)
            for start in range(0, len(rows), of_each):
                mine = [place for place in answered if start <= place < start + of_each]
                if mine:
                    of_model = [rows[place] for place in mine], [str(given[place].text) for place in mine]
                    values[mine] = call_function(name, metric, *of_model)
            parts[name] = Scores.mean_of(values[answered])
    verdicts = {
        name: judge_task(name, plan.args.get(name, {}), theirs, texts)
        for name, metric in plan.metrics.items()
        if metric.is_task
    }
    parts |= {
        name: Scores.mean_of([math.nan if one.is_right is None else float(one.is_right) for one in each])
        for name, each in verdicts.items()
    }
    unsaid = {name: _reasons(each, answered) for name, each in verdicts.items()}
    return {name: spread(part, answered, len(rows)) for name, part in parts.items()}, unsaid


def _joined(found: Sequence[Scores | None], counts: Sequence[int]) -> Scores:
    """Scores of models that follow each other, all combined as those of the first: a corpus is not scored in two ways."""
    first = next(each for each in found if each is not None)
    if len(found) == 1:
        return first
    empty = replace(first, values=np.full(1, np.nan), statistics=np.zeros((1, first.statistics.shape[1])))
    whole = [each or empty[np.zeros(count, int)] for each, count in zip(found, counts, strict=True)]
    return replace(
        first,
        values=np.concatenate([each.values for each in whole]),
        statistics=np.concatenate([each.statistics for each in whole]),
    )


def _reasons(verdicts: Sequence[Verdict], places: Sequence[int]) -> dict[int, str]:
    """Why rows have no verdict, by place."""
    return {place: each.reason for place, each in zip(places, verdicts, strict=True) if each.is_right is None}


def _judged(
    plan: Plan,
    rows: Sequence[Mapping[str, Any]],
    given: Sequence[Given],
    of_each: int,
    together: int,
    judge: JudgeSettings | None,
    memory: Memory | None,
) -> Judged | None:
    metrics = {name: metric for name, metric in plan.metrics.items() if metric.takes}
    if not metrics:
        return None
    from llmops_components.evaluation.judge.ragas import Job, judge_rows

    others: list[Given | None] = [None] * len(given)
    if together == 2 * of_each:
        others[:together] = [*given[of_each:together], *given[:of_each]]
    arguments = [
        arguments_of(row, each) | ({} if other is None else {BASELINE_RESPONSE: other.text})
        for row, each, other in zip(rows, given, others, strict=True)
    ]
    return judge_rows(Job(metrics, plan.args, plan.embedding_model), arguments, judge, memory)


def arguments_of(row: Mapping[str, Any], given: Given) -> dict[str, Any]:
    """A row by the names that RAGAS's metrics take it with.

    Args:
        row: The row.
        given: What was answered to it.
    """
    if given.text is None:
        return {"reason": given.reason or "it has no answer"}
    found = {name: row[name] for name in _FROM_ROWS if name in row}
    if given.contexts is not None:
        found["retrieved_contexts"] = given.contexts
    question = row.get("user_input")
    found["user_input"] = question if isinstance(question, str) else text_of(row.get("prompt", ""))
    found["response"] = given.text
    found["messages"] = messages_of(row.get("prompt", ""), given)
    if isinstance(calls := found.get("reference_tool_calls"), list):
        found["reference_tool_calls"] = [_tool_call(each) for each in calls]
    return found


def text_of(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """What is asked, as text: of a conversation the user's message, or all of it where there are several.

    Args:
        prompt: Text, or messages.
    """
    if isinstance(prompt, str):
        return prompt
    said = [each for each in prompt if each["role"] in ("user", "assistant") and each.get("content")]
    if len(said) == 1:
        return str(said[0]["content"])
    return "\n".join(f"{each['role']}: {each['content']}" for each in said)


def messages_of(prompt: str | Sequence[Mapping[str, Any]], given: Given) -> list[Any]:
    """The conversation with the answer at its end, as RAGAS has it, which knows no message of the system.

    Args:
        prompt: Text, or messages.
        given: The answer.
    """
    os.environ.setdefault("RAGAS_DO_NOT_TRACK", "true")
    from ragas.messages import AIMessage, HumanMessage, ToolMessage

    found: list[Any] = []
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    for message in [
        *messages,
        {"role": "assistant", "content": given.text, "tool_calls": given.tool_calls},
    ]:
        text = message.get("content") or ""
        if message["role"] == "user":
            found.append(HumanMessage(content=text))
        elif message["role"] == "tool":
            found.append(ToolMessage(content=text))
        elif message["role"] == "assistant":
            calls = [_tool_call(each) for each in message.get("tool_calls") or []]
            found.append(AIMessage(content=text, tool_calls=calls or None))
    return found


def _tool_call(call: Any) -> Any:
    from ragas.messages import ToolCall

    called = call.get("function", call) if isinstance(call, dict) else {"name": call}
    args = called.get("arguments", called.get("args"))
    if isinstance(args, str):
        with suppress(ValueError):  # what is no JSON is other than any that is expected
            args = parse_json(args) if args.strip() else {}
    if not isinstance(args, dict):
        args = {} if args is None else {"arguments": args}
    return ToolCall(name=str(called.get("name")), args=args)


def spread(part: Scores, places: Sequence[int], count: int) -> Scores:
    """Scores of some rows as scores of all, of which the others have none.

    Args:
        part: Scores of some rows.
        places: Their places.
        count: How many rows there are.
    """
    whole = np.full(count, np.nan)
    statistics = np.zeros((count, part.statistics.shape[1]))
    whole[list(places)], statistics[list(places)] = part.values, part.statistics
    return Scores(whole, statistics, part.combine)


def nothing(count: int) -> Scores:
    """Scores of rows of which none has one.

    Args:
        count: How many rows there are.
    """
    return Scores.mean_of(np.full(count, np.nan))


def shown_answer(answer: str | None, reason: str | None) -> str:
    """An answer as a page shows it.

    Args:
        answer: The answer; None where there is none.
        reason: Why there is none.
    """
    return f"[not answered: {reason}]" if answer is None else answer
