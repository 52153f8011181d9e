"""RAGAS's metrics of rows, with our judge: a score for each row, or the reason why there is none."""

from __future__ import annotations

import asyncio
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llmops_components.errors import ComponentError, SettingError, shortened
from llmops_components.evaluation.judge.asking import NO_SCORE, Case, Judge, NoVerdictError
from llmops_components.evaluation.judge.memory import Memory, digest
from llmops_components.evaluation.judge.settings import JudgeSettings
from llmops_components.evaluation.metrics.registry import BASELINE_RESPONSE, Metric

MISSING, FAILED = "missing", "failed"
_SAID_OF = {"response": "answer", "baseline_response": "answer of the other model to compare with"}
_CASE: ContextVar[Case] = ContextVar("case")
_MAX_REASON = 300
_SLACK = 1e-6


@dataclass(frozen=True)
class Job:
    """What is computed.

    Args:
        metrics: The metrics, by name.
        args: Arguments of their classes, by metric.
        embedding_model: Directory of the local embedding model.
    """

    metrics: Mapping[str, Metric]
    args: Mapping[str, Mapping[str, Any]]
    embedding_model: Path | None


@dataclass
class Judged:
    """What became of each row.

    Args:
        values: The score of each row, by metric; NaN where there is none.
        reasons: Why there is none, by metric and place of the row.
        kinds: How often each kind of reason there was, by metric.
        judge: What the judge was asked with, and what that took; None without a judge.
        prompts: The texts of the questions, by metric.
        stopped: Why the judge was given up, if it was.
    """

    values: dict[str, list[float]]
    reasons: dict[str, dict[int, str]] = field(default_factory=dict)
    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    judge: dict[str, Any] | None = None
    prompts: dict[str, list[str]] = field(default_factory=dict)
    stopped: ComponentError | None = None


def judge_rows(
    job: Job,
    rows: Sequence[Mapping[str, Any]],
    settings: JudgeSettings | None = None,
    memory: Memory | None = None,
) -> Judged:
    """Score rows with metrics that look at more of them than answer and reference.

    Args:
        job: The metrics.
        rows: Of each row the arguments of the metrics by name, ``messages`` for those that take the conversation, and as
            ``reason`` why it has no answer.
        settings: Who judges.
        memory: What it has answered before, open.

    Raises:
        SettingError: The judge refuses everything, or arguments of a metric are not valid.
    """
    # One event loop for everything, in a thread of its own because a notebook's thread already runs one.
    with ThreadPoolExecutor(max_workers=1) as executor, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RAGAS warns of calls that differ, which the score says
        return executor.submit(asyncio.run, _judge_rows(job, rows, settings, memory)).result()


async def _judge_rows(
    job: Job, rows: Sequence[Mapping[str, Any]], settings: JudgeSettings | None, memory: Memory | None
) -> Judged:
    found = Judged({name: [math.nan] * len(rows) for name in job.metrics})
    async with AsyncExitStack() as stack:
        judge = None
        if settings is not None and memory is not None:
            judge = await stack.enter_async_context(Judge(settings, memory))
        metrics = _build(job, judge)
        found.prompts = {name: _prompts_of(metric) for name, metric in metrics.items()}
        # By row, so that a limit leaves whole rows. Of a row that nobody is compared with in pairs, none is missing.
        places = (
            (name, place)
            for place in range(len(rows))
            for name in metrics
            if not job.metrics[name].is_pairwise or BASELINE_RESPONSE in rows[place]
        )
        workers = 2 * settings.concurrency if settings is not None else 1
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(workers):
                    tasks.create_task(_work(places, job, metrics, rows, judge, found))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        if judge is not None:
            judge.check_has_answered()
            found.stopped, found.judge = judge.gone, _record(judge, found)
            pairwise = {name: metrics[name].places for name, each in job.metrics.items() if each.is_pairwise}
            if pairwise:
                found.judge["places"] = {name: each.record() for name, each in pairwise.items()}
    return found


async def _work(
    places: Iterator[tuple[str, int]],
    job: Job,
    metrics: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    judge: Judge | None,
    found: Judged,
) -> None:
    for name, place in places:
        case = Case()
        _CASE.set(case)
        try:
            value = await _score(name, job.metrics[name], metrics[name], rows[place], case)
        except NoVerdictError as error:
            found.reasons.setdefault(name, {})[place] = error.reason
            found.kinds.setdefault(name, Counter())[error.kind] += 1
        else:
            found.values[name][place] = value
        if judge is not None and judge.fatal is not None:
            raise judge.fatal


async def _score(name: str, metric: Metric, scorer: Any, row: Mapping[str, Any], case: Case) -> float:
    if row.get("reason"):
        raise NoVerdictError(MISSING, str(row["reason"]))
    arguments = {}
    for taken in metric.takes:
        value = row.get("messages" if metric.takes_messages and taken == "user_input" else taken)
        if value is None or (value in ("", []) and taken != "reference_tool_calls"):
            what = _SAID_OF.get(taken, taken)
            raise NoVerdictError(MISSING, f"the row has no {what}")
        arguments[taken] = value
    try:
        result = await scorer.ascore(**arguments)
    except Exception as error:
        if case.failure is None:
            why = shortened(f"{type(error).__name__}: {error}", _MAX_REASON)
            raise NoVerdictError(FAILED, f"{name} failed: {why}") from None
        result = None
    # RAGAS swallows errors of some judges, and scores by the others.
    if case.failure is not None:
        raise case.failure
    assert result is not None
    value = float(result.value)
    if not math.isfinite(value):
        raise NoVerdictError(NO_SCORE, "RAGAS gave no finite number, as where there is nothing to count")
    low, high = metric.worst, metric.best
    if (low is not None and value < low - _SLACK) or (high is not None and value > high + _SLACK):
        raise NoVerdictError(
            NO_SCORE,
            f"the score is {value:g} and ends at {low:g} and {high:g}: the judge gave numbers that it was not asked for",
        )
    return value


def _build(job: Job, judge: Judge | None) -> dict[str, Any]:
    # Read when RAGAS is imported. Otherwise it reports every use to its makers, and blocks where it cannot.
    os.environ.setdefault("RAGAS_DO_NOT_TRACK", "true")
    from ragas.metrics import collections

    from llmops_components.evaluation.judge.authored import AuthoredMetric
    from llmops_components.evaluation.judge.pairwise import PairwiseMetric

    parts: dict[str, Any] = {} if judge is None else {"judge": _llm(judge)}
    if any("embeddings" in metric.needs for metric in job.metrics.values()):
        parts["embeddings"] = _embeddings(judge, job.embedding_model)
    built = {}
    for name, metric in job.metrics.items():
        needed = {{"judge": "llm"}.get(need, need): parts[need] for need in metric.needs}
        args = dict(job.args.get(name, {}))
        try:
            if metric.is_pairwise:
                maker: Any = PairwiseMetric
            else:
                maker = AuthoredMetric if metric.ragas is None else getattr(collections, metric.ragas)
            _refuse_unknown(maker, name, args)
            built[name] = maker(**needed, **args)
            for prompt in _prompts_in(built[name]):
                prompt.output_model = _KnownSchema(prompt.output_model)
        except (TypeError, ValueError) as error:
            raise SettingError(f"metric_args of {name} are not valid: {error}. Correct them.") from None
    return built


def _refuse_unknown(maker: Any, name: str, args: Mapping[str, Any]) -> None:
    import inspect

    from llmops_components.errors import check_known

    ours = ("self", "llm", "embeddings", "kwargs", "base_kwargs", "name", "allowed_values")
    known = [each for each in inspect.signature(maker.__init__).parameters if each not in ours]
    check_known(args, known, f"argument in metric_args[{name!r}]")


def _llm(judge: Judge) -> Any:
    from ragas.llms.base import InstructorBaseRagasLLM

    class JudgeLLM(InstructorBaseRagasLLM):
        """The judge, as RAGAS's metrics ask it."""

        def generate(self, prompt: str, response_model: Any) -> Any:
            raise NotImplementedError("The judge is asked asynchronously; call agenerate.")

        async def agenerate(self, prompt: str, response_model: Any) -> Any:
            return await judge.verdict(prompt, response_model, _CASE.get())

    return JudgeLLM()


def _embeddings(judge: Judge | None, directory: Path | None) -> Any:
    from ragas.embeddings.base import BaseRagasEmbedding

    from llmops_components.models.embeddings import Encoder

    class Embeddings(BaseRagasEmbedding):
        """The judge's endpoint for embeddings, or a local model."""

        @cached_property
        def _encoder(self) -> Encoder:
            assert directory is not None
            return Encoder(directory)

        def embed_text(self, text: str, **_: Any) -> Any:
            return self._encoder.embed([text])[0]

        async def aembed_text(self, text: str, **_: Any) -> Any:
            if judge is not None and judge.settings.embeddings is not None:
                return await judge.embedding(text, _CASE.get())
            return self.embed_text(text)

    return Embeddings()


def _prompts_of(metric: Any) -> list[str]:
    """The questions of a metric, with the names of a row's fields in place of what they hold."""
    return [_unfilled(each) for each in _prompts_in(metric)] + list(getattr(metric, "questions", []))


def _prompts_in(metric: Any) -> list[Any]:
    from ragas.prompt.metrics.base_prompt import BasePrompt

    return [each for each in vars(metric).values() if isinstance(each, BasePrompt)]


class _KnownSchema:
    """The model of a prompt's answer, whose schema RAGAS makes anew for each question: half of what a question takes."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._schema = model.model_json_schema()

    def model_json_schema(self) -> dict[str, Any]:
        """The schema of the answer."""
        found: dict[str, Any] = self._schema
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _unfilled(prompt: Any) -> str:
    fields = prompt.input_model.model_fields
    names = {
        name: f"{{{name}}}" if field.annotation is str else [f"{{{name}}}"] for name, field in fields.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name where it expects a thing
        return str(prompt.to_string(prompt.input_model.model_construct(**names)))


def _record(judge: Judge, found: Judged) -> dict[str, Any]:
    spent = judge.spent
    tokens = {"prompt_tokens": spent.prompt_tokens, "completion_tokens": spent.completion_tokens}
    cost = judge.settings.cost(**tokens)
    return {
        "settings": judge.settings.record(),
        "prompts": {name: f"sha256:{digest(texts)}" for name, texts in found.prompts.items() if texts},
        "questions": spent.questions,
        "answers_known_from_before": spent.remembered,
        "asked_again": spent.again,
        **tokens,
        "answers_without_usage": spent.without_usage,
        **({} if cost is None else {"cost": round(cost, 6)}),
    }
