"""Feedback on the answers of a service becomes rows to train with."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

from llmops_components.data.feedback.log import Log, read_log
from llmops_components.data.feedback.rows import (
    Names,
    demonstration_row,
    pairs_of_verdicts,
    preference_row,
    texts_of_verdicts,
    unpaired_row,
)
from llmops_components.data.feedback.said import FIELDS, Said, Scale, UnreadableFeedbackError, read_said
from llmops_components.data.feedback.verdicts import (
    RULES,
    About,
    Refusals,
    Rule,
    latest,
    matched,
    numbers_of,
    of_one_kind,
    verdicts_on,
)
from llmops_components.data.files import no_rows, read_lines, write_rows
from llmops_components.data.lines import rejected_findings, rejected_line
from llmops_components.errors import SettingError, check_known, named
from llmops_components.results import StepReport
from llmops_components.uris import last_part

Raters: TypeAlias = Literal["numbered", "named"]
RATERS: tuple[Raters, ...] = get_args(Raters)


def collect_feedback(
    requests: str | os.PathLike[str],
    feedback: str | os.PathLike[str],
    preferences: str | os.PathLike[str],
    unpaired: str | os.PathLike[str],
    demonstrations: str | os.PathLike[str],
    rejected: str | os.PathLike[str],
    *,
    on_conflict: Rule = "majority",
    raters: Raters = "numbered",
    up_from: float | None = None,
    down_to: float | None = None,
    names: Sequence[str] | None = None,
) -> StepReport:
    """Make rows to train with of what people have said of a service's answers.

    Every line of feedback is used, or is in ``rejected`` with its reason, and so is every line of the log that is no answered request. Each row
    says of which requests, which model and which feedback it comes. The same files and arguments give the same bytes.

    Args:
        requests: The log of a service with OpenAI's API, see :mod:`~llmops_components.data.feedback.log`.
        feedback: Rows with the ``id`` of a request (or ``request_id``), ``rating`` (``up``, ``down``, true, false or a number), ``correction`` (a
            better answer), and, where they are known, ``answer`` (which one, from 0), ``who``, ``at`` and ``comment``.
        preferences: Output, rows with ``prompt``, ``chosen`` and ``rejected``: of a correction and the answer that it corrects, and of a good
            and a bad answer to the same prompt.
        unpaired: Output, rows with ``prompt``, ``completion`` and ``label``: every answer of which something was said, and every correction.
        demonstrations: Output, rows with ``prompt`` and ``completion``: good answers and corrections.
        rejected: Output, a JSON line for each line that was not used: file, row id, line, reasons, and the line as it was.
        on_conflict: What counts where people say different things of the same answer: ``majority``, those who are more, and nobody where they
            are as many; ``drop``, nobody.
        raters: What people are called in provenance: ``numbered`` in the order in which they come, or ``named``.
        up_from: The lowest number as rating that says that an answer is good; numbers are refused without it.
        down_to: The highest number that says that it is bad. What is between them says neither, and is refused.
        names: What both files are called in ids of rows, the log first; the last parts of their paths when left out.

    Returns:
        Counts, of lines and of rows; ``details`` has how many lines were refused for which reason. Not passed where no feedback could be used.

    Raises:
        DataError: A file cannot be read, or has no rows.
        SettingError: An argument cannot be meant.
    """
    check_known([on_conflict], RULES, "on_conflict")
    check_known([raters], RATERS, "raters")
    scale = Scale(up_from, down_to)
    scale.check()
    called = _names(names, requests, feedback)
    refused: list[dict[str, Any]] = []
    said, columns = _read(feedback, called[1], scale, refused)
    total = len(said) + len(refused)
    if not total:
        raise no_rows(feedback)
    log = read_log(requests, called[0], {each.request_id for each in said})
    if not log.requests and not log.rejected:
        raise no_rows(requests)
    refusals = Refusals()
    about = of_one_kind(matched(said, log, called[0], refusals), refusals)
    verdicts, conflicts = verdicts_on(latest(about, refusals), on_conflict, refusals)
    refused += [
        rejected_line(each.line, why, file="feedback", row_id=f"{called[1]}:{each.line.number}")
        for each, why in refusals.reasons.values()
    ]
    refused.sort(key=lambda each: each["line"])
    used = [each for verdict in verdicts for each in verdict.about]
    if len(used) + len(refused) != total:
        raise RuntimeError(
            f"{len(used)} lines of feedback are used, {len(refused)} refused, and {total} there."
        )
    shown = Names(*called, None if raters == "named" else numbers_of(said))
    texts, pairs = texts_of_verdicts(verdicts), pairs_of_verdicts(verdicts)
    good = [each for each in texts if each.is_good]
    write_rows(preferences, (preference_row(*pair, shown) for pair in pairs))
    write_rows(unpaired, (unpaired_row(each, shown) for each in texts))
    write_rows(demonstrations, (demonstration_row(each, shown) for each in good))
    write_rows(rejected, [*refused, *log.rejected])
    rows = {"preferences": len(pairs), "unpaired": len(texts), "demonstrations": len(good)}
    return _report(log, total, used, refused, conflicts, rows, columns, on_conflict)


def _names(
    names: Sequence[str] | None, requests: str | os.PathLike[str], feedback: str | os.PathLike[str]
) -> tuple[str, str]:
    given = [last_part(os.fspath(each)) for each in (requests, feedback)] if names is None else list(names)
    if len(given) != 2 or not all(isinstance(each, str) and each for each in given) or given[0] == given[1]:
        raise SettingError(
            f"names must be two different names, of the log and of the feedback, got {given!r:.80}."
        )
    return given[0], given[1]


def _read(
    path: str | os.PathLike[str], name: str, scale: Scale, refused: list[dict[str, Any]]
) -> tuple[list[Said], Counter[str]]:
    """The feedback, and how many rows have a column that is not read."""
    said, columns = [], Counter[str]()
    for line in read_lines(path):
        try:
            said.append(read_said(line, scale))
        except UnreadableFeedbackError as error:
            refused.append(rejected_line(line, str(error), file="feedback", row_id=f"{name}:{line.number}"))
        columns.update(set(line.row or ()) - set(FIELDS) - {"feedback_id"})
    return said, columns


def _report(
    log: Log,
    total: int,
    used: Sequence[About],
    refused: Sequence[dict[str, Any]],
    conflicts: int,
    rows: dict[str, int],
    columns: Counter[str],
    on_conflict: str,
) -> StepReport:
    answered = {(each.exchange.line, each.answer) for each in used}
    metrics: dict[str, float | int] = {
        "requests": log.requests,
        "rejected_requests": len(log.rejected),
        "feedback": total,
        "used_feedback": len(used),
        "rejected_feedback": len(refused),
        "answers": len(answered),
        "raters": len({each.said.who for each in used if each.said.who is not None}),
        "corrections": sum(each.said.correction is not None for each in used),
        "conflicts": conflicts,
        **{f"{name}_rows": count for name, count in rows.items()},
    }
    findings = []
    if not used:
        findings.append(f"No feedback of {total} could be used.")
    if conflicts:
        findings.append(f"Of {conflicts} answers people say different things; on_conflict is {on_conflict}.")
    if columns:
        findings.append(f"Columns of the feedback that nothing reads: {named(sorted(columns))}.")
    findings += rejected_findings(
        [*refused, *log.rejected], lambda each: f"{each['row_id']} was not used: it {each['reasons'][0]}."
    )
    return StepReport(
        metrics=metrics, details={"on_conflict": on_conflict}, passed=bool(used), findings=findings
    )
