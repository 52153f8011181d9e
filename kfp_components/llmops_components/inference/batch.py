"""A dataset in, a served model's answers out: every row is answered, or listed with the reason why not."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops_components.data.files import no_rows, read_lines
from llmops_components.data.lines import Line
from llmops_components.errors import ComponentError, SettingError, UnavailableError
from llmops_components.inference.client import Client
from llmops_components.inference.journal import Journal
from llmops_components.inference.pool import Limits, Outcome, ServiceGoneError, ask_all, check_concurrency
from llmops_components.inference.protocols import ProtocolName, Question
from llmops_components.inference.rows import ANSWER, RESPONSE, RowError, question_of
from llmops_components.inference.service import Access, Service
from llmops_components.results import StepReport, digest_of
from llmops_components.step import CHECKPOINTS_VARIABLE
from llmops_components.uris import local_path

JOURNAL_NAME = "batch_inference.answers.jsonl"
_PROGRESS_SECONDS = 10.0
_ROWS_NAMED = 20
_MAX_GROUPS = 20
_PERCENTILES = (50, 95, 99)


def batch_inference(
    dataset: str | os.PathLike[str],
    answers: str | os.PathLike[str],
    rejected: str | os.PathLike[str],
    *,
    url: str,
    model_name: str,
    protocol: ProtocolName = "openai_chat",
    request: Mapping[str, Any] | None = None,
    concurrency: int = 16,
    limits: Mapping[str, Any] | None = None,
    min_answered: float = 1.0,
    retry_failed: bool = False,
    checkpoints: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    keep: Mapping[str, str] | None = None,
) -> StepReport:
    """Ask a served model every row of a dataset.

    An interrupted run goes on where it stopped: what was answered is kept beside ``answers``, or in ``checkpoints``, and asked
    once. Questions that failed for a reason that may pass are asked again then. The API key comes from the environment
    variable ``LLMOPS_SERVICE_KEY``, or from the file that ``LLMOPS_SERVICE_KEY_FILE`` names.

    Args:
        dataset: Rows with a ``prompt``, which is text or a conversation, or ``messages`` that end with a question.
        answers: Output, the answered rows in the order of the dataset: each with its ``answer``, and as ``response`` the
            number of its line, tokens, seconds, finish reason and what else is known of how it came.
        rejected: Output, a JSON line for each row without an answer: number of its line, reasons, and the ``row`` (or the
            ``raw`` line).
        url: Address of the service, or for OpenAI's protocols the base URL of an API, which ends in ``/v1``.
        model_name: Name of the served model.
        protocol: ``openai_chat`` (a prompt that is text is a user's message), ``openai_completions``, ``openai`` (a conversation by the
            first, a text by the second, as ``evaluate_model`` has them read), KServe's ``v1`` or ``v2``.
        request: Further fields of each request, such as ``max_tokens``; of ``v1`` and ``v2`` the ``parameters``.
        concurrency: Questions at a time.
        limits: Of :class:`~llmops_components.inference.pool.Limits`, by name.
        min_answered: Share of the rows, from 0 to 1, that must be answered for the gate to pass.
        retry_failed: Ask also those rows again that an earlier run was refused for good.
        checkpoints: Directory that outlives the step. Left out, the variable ``LLMOPS_CHECKPOINTS`` may name one.
        revision: The revision that is to answer, behind the gateway of services on this machine.
        keep: What else of a reply is kept in ``response``: a path in it by name.

    Returns:
        Counts, tokens, rates and percentiles of the latency. ``passed`` is False where too few rows are answered; findings
        say why.

    Raises:
        DataError: The dataset cannot be read, or has no rows.
        SettingError: An argument cannot be meant, or the service refuses everything.
        ServiceGoneError: The service stopped to answer, and there is a directory to go on from.
        UnavailableError: Too few rows are answered, a retry may bring the others, and there is a directory to go on from.

    What is known of each row is written before the last three.
    """
    service = Service(url, model_name, protocol, dict(request or {}), revision, dict(keep or {}))
    checked = Limits.of(limits)
    check_concurrency(concurrency)
    _check_share(min_answered)
    access = Access.from_environment()
    source = local_path(dataset, "dataset")
    first = next(read_lines(source), None)
    if first is None:
        raise no_rows(source)
    facts = _facts(source, service)
    place, outlives = _place(checkpoints, facts, Path(answers))
    with Journal(place, facts) as journal:
        run = _Run(service, access, journal, retry_failed=retry_failed)
        stopped = run.ask(source, concurrency, checked)
        run.write(source, Path(answers), Path(rejected), stopped)
        if not outlives and stopped is None:
            journal.remove()
    if stopped is not None and (outlives or not isinstance(stopped, ServiceGoneError)):
        raise stopped
    if outlives:
        run.raise_if_a_retry_may_help(min_answered)
    return run.report(min_answered, stopped)


def _place(
    checkpoints: str | os.PathLike[str] | None, facts: Mapping[str, Any], answers: Path
) -> tuple[Path, bool]:
    """The file in which answers are kept, and whether it outlives the step."""
    if checkpoints:
        return local_path(checkpoints, "checkpoints") / JOURNAL_NAME, True
    if shared := os.environ.get(CHECKPOINTS_VARIABLE):  # by all steps of a pipeline
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
        return Path(shared) / f"batch_inference-{name}" / JOURNAL_NAME, True
    return answers.with_name(f"{answers.name}.unfinished"), False


def _facts(source: Path, service: Service) -> dict[str, Any]:
    """What answers depend on."""
    return {
        "dataset": digest_of(source)[0],
        "url": service.url.rstrip("/"),
        "model_name": service.model_name,
        "protocol": service.protocol,
        "request": dict(service.request),
        **({} if service.revision is None else {"revision": service.revision}),
        **({"keep": dict(service.keep)} if service.keep else {}),
    }


def _check_share(share: float) -> None:
    is_number = isinstance(share, int | float) and not isinstance(share, bool)
    if not is_number or not 0 <= share <= 1:
        raise SettingError(f"min_answered is {share!r:.60}; give a number from 0 to 1.")


@dataclass
class _Counts:
    """What there is to say of rows."""

    answered: int = 0
    failed: int = 0
    may_pass: int = 0  # of those that failed
    why_open: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    has_tokens: bool = False
    revisions: Counter[str] = field(default_factory=Counter)
    finish_reasons: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: array[float] = field(default_factory=lambda: array("f"))
    named: list[str] = field(default_factory=list)

    def add_answer(self, record: Mapping[str, Any]) -> None:
        self.answered += 1
        self.seconds.append(record["seconds"])
        self.prompt_tokens += record.get("prompt_tokens") or 0
        if (tokens := record.get("completion_tokens")) is not None:
            self.completion_tokens += tokens
            self.has_tokens = True
        for counter, name in ((self.revisions, "revision"), (self.finish_reasons, "finish_reason")):
            if record.get(name) is not None:
                counter[record[name]] += 1

    def add_failure(self, line: int, reason: str) -> None:
        self.failed += 1
        if len(self.reasons) < 1000 or reason in self.reasons:
            self.reasons[reason] += 1
        if len(self.named) < _ROWS_NAMED:
            self.named.append(f"line {line}: {reason}")


class _Run:
    """Asks what has no answer yet, then writes what became of every row."""

    def __init__(self, service: Service, access: Access, journal: Journal, *, retry_failed: bool) -> None:
        self._service = service
        self._access = access
        self._journal = journal
        self._retry_failed = retry_failed
        self._began = self._ended = time.monotonic()
        self._now = _Counts()  # of this attempt
        self._total = _Counts()
        self._resumed = 0

    def ask(self, source: Path, concurrency: int, limits: Limits) -> ComponentError | None:
        """Ask; returns why that stopped before its end."""
        try:
            asyncio.run(self._ask(source, concurrency, limits))
        except (ServiceGoneError, SettingError) as error:
            return error
        finally:
            self._ended = time.monotonic()
            self._say()
        return None

    async def _ask(self, source: Path, concurrency: int, limits: Limits) -> None:
        telling = asyncio.create_task(self._tell())
        try:
            async with Client(
                self._service, self._access, connections=concurrency, request_seconds=limits.request_seconds
            ) as client:
                await ask_all(
                    client,
                    self._questions(source),
                    self._settle,
                    concurrency=concurrency,
                    limits=limits,
                    has_answered=self._journal.has_answers,
                )
        finally:
            telling.cancel()
            with suppress(asyncio.CancelledError):
                await telling

    def _questions(self, source: Path) -> Iterator[tuple[int, Question]]:
        for line in read_lines(source):
            if self._is_settled(line.number):
                self._resumed += 1
                continue
            with suppress(RowError):  # it is listed in the end
                yield line.number, self._question(line)

    def _is_settled(self, number: int) -> bool:
        known = self._journal.record(number)
        if known is None:
            return False
        return "failed" not in known or not (known["may_pass"] or self._retry_failed)

    def _question(self, line: Line) -> Question:
        if line.row is None:
            raise RowError(str(line.problem))
        return question_of(line.row, self._service.protocol)

    def _settle(self, outcome: Outcome) -> None:
        record = _record(outcome)
        self._journal.note(outcome.number, record)
        if outcome.reply is not None:
            self._now.add_answer(record)
        else:
            self._now.add_failure(outcome.number, record["failed"])

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            self._say()

    def _say(self) -> None:
        seconds = max(time.monotonic() - self._began, 1e-9)
        now = self._now
        parts = [f"{now.answered} answered", f"{now.failed} failed", f"{now.answered / seconds:.1f} rows/s"]
        if now.has_tokens:
            parts.append(f"{now.completion_tokens / seconds:.0f} tokens/s")
        if self._resumed:
            parts.append(f"{self._resumed} known from before")
        print(f"batch_inference: {', '.join(parts)}", flush=True)

    def write(self, source: Path, answers: Path, rejected: Path, stopped: ComponentError | None) -> None:
        """Write what became of every row, in the order of the dataset."""
        for target in (answers, rejected):
            target.parent.mkdir(parents=True, exist_ok=True)
        with (
            answers.open("w", encoding="utf-8", newline="\n") as answered,
            rejected.open("w", encoding="utf-8", newline="\n") as refused,
        ):
            for line in read_lines(source):
                reason, record = self._outcome(line, stopped)
                if reason is None:
                    assert line.row is not None and record is not None
                    self._total.add_answer(record)
                    print(_json(_answered_row(line, record)), file=answered)
                else:
                    self._total.add_failure(line.number, reason)
                    if record is not None and record["may_pass"]:
                        self._total.may_pass += 1
                        self._total.why_open = self._total.why_open or reason
                    print(_json(_rejected_row(line, reason, record)), file=refused)

    def _outcome(
        self, line: Line, stopped: ComponentError | None
    ) -> tuple[str | None, dict[str, Any] | None]:
        """Why a row has no answer, and what is known of it."""
        try:
            self._question(line)
        except RowError as error:
            return str(error), None
        record = self._journal.record(line.number)
        if record is not None:
            return record.get("failed"), record
        return f"was not answered before the run stopped: {stopped}", None

    def raise_if_a_retry_may_help(self, min_answered: float) -> None:
        """Raise :class:`UnavailableError` where too few rows are answered, and those that may be yet would be enough."""
        total = self._total
        rows = total.answered + total.failed
        if total.answered / rows < min_answered <= (total.answered + total.may_pass) / rows:
            raise UnavailableError(
                f"{total.may_pass} of {rows} rows have no answer yet for reasons that may pass: {total.why_open}. Look at the service's log; "
                "run again to ask them again."
            )

    def report(self, min_answered: float, stopped: ComponentError | None) -> StepReport:
        """What the step says of itself."""
        total = self._total
        rows, seconds = total.answered + total.failed, max(self._ended - self._began, 1e-9)
        is_enough = total.answered / rows >= min_answered
        metrics: dict[str, float | int] = {"rows": rows, "answered": total.answered, "failed": total.failed}
        metrics["rows_per_second"] = round(self._now.answered / seconds, 3)
        if total.has_tokens:
            metrics |= {"prompt_tokens": total.prompt_tokens, "completion_tokens": total.completion_tokens}
            metrics["tokens_per_second"] = round(self._now.completion_tokens / seconds, 3)
        if total.seconds:
            metrics |= {
                f"seconds_p{each}": round(value, 4)
                for each, value in zip(_PERCENTILES, _percentiles(total.seconds), strict=True)
            }
        findings = []
        if not is_enough:
            findings.append(
                f"{total.answered} of {rows} rows are answered, and {min_answered:.6g} of them must be"
            )
        if stopped is not None:
            findings.append(str(stopped))
        findings += total.named
        if total.failed > len(total.named):
            findings.append(
                f"{total.failed - len(total.named)} more rows without an answer are in the artifact `rejected`"
            )
        return StepReport(
            metrics=metrics,
            details={
                "revisions": dict(total.revisions.most_common(_MAX_GROUPS)),
                "finish_reasons": dict(total.finish_reasons.most_common(_MAX_GROUPS)),
                "reasons": dict(total.reasons.most_common(_MAX_GROUPS)),
                "rows_known_from_before": self._resumed,
            },
            passed=is_enough,
            findings=findings,
        )


def _record(outcome: Outcome) -> dict[str, Any]:
    """What the journal keeps of a row."""
    if outcome.reply is None:
        assert outcome.failure is not None
        failure = outcome.failure
        known = {"failed": failure.reason, "status": failure.status, "may_pass": failure.may_pass}
        return known | {"attempts": outcome.attempts}
    reply, answer = outcome.reply, outcome.reply.answer
    found = {
        "answer": answer.value,
        "tool_calls": answer.tool_calls,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "revision": reply.revision,
        "kept": None if answer.kept is None else dict(answer.kept),
    }
    known = {name: value for name, value in found.items() if value is not None or name == "answer"}
    return known | {"seconds": round(reply.seconds, 4), "attempts": outcome.attempts}


def _answered_row(line: Line, record: Mapping[str, Any]) -> dict[str, Any]:
    how = {name: value for name, value in record.items() if name not in ("answer", "row")}
    return {**(line.row or {}), ANSWER: record["answer"], RESPONSE: {"line": line.number, **how}}


def _rejected_row(line: Line, reason: str, record: Mapping[str, Any] | None) -> dict[str, Any]:
    how = {name: record[name] for name in ("status", "attempts") if record and record.get(name) is not None}
    original = {"raw": line.raw} if line.row is None else {"row": line.row}
    return {"line": line.number, "reasons": [reason], **how, **original}


def _json(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def _percentiles(values: array[float]) -> list[float]:
    """By the nearest rank: each is the time of a row."""
    ordered = sorted(values)
    return [ordered[max(math.ceil(each / 100 * len(ordered)) - 1, 0)] for each in _PERCENTILES]
