"""Evaluate a service: ask it every row, score the answers, compare them with another model's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmops_components.data.files import usable_lines
from llmops_components.data.valid_rows import read_valid_rows
from llmops_components.errors import SettingError, UnavailableError, named
from llmops_components.evaluation.about import About
from llmops_components.evaluation.clock import Clock
from llmops_components.evaluation.comparing import Parts
from llmops_components.evaluation.conclusion import Answered, check_has_baseline, conclude
from llmops_components.evaluation.facts import ServiceFacts
from llmops_components.evaluation.further import FurtherScores
from llmops_components.evaluation.judge.judging import Judging
from llmops_components.evaluation.judge.settings import JudgeSettings
from llmops_components.evaluation.metrics.columns import check_columns, columns_of
from llmops_components.evaluation.metrics.plan import Plan, plan_for_columns, plan_metrics
from llmops_components.evaluation.scored import Given
from llmops_components.evaluation.scores_file import read_baseline, read_further
from llmops_components.inference.batch import batch_inference
from llmops_components.inference.protocols import ProtocolName
from llmops_components.inference.rows import answer_text, check_questions, read_outcomes
from llmops_components.results import StepReport
from llmops_components.tracking.settings import Tracking

_CONTEXTS = "retrieved_contexts"
_TOLD = ("seconds_p50", "seconds_p95", "rows_per_second", "prompt_tokens", "completion_tokens")


def evaluate_service(
    dataset: str | os.PathLike[str],
    scores: str | os.PathLike[str],
    report: str | os.PathLike[str],
    *,
    url: str,
    model_name: str,
    protocol: ProtocolName = "openai_chat",
    request: Mapping[str, Any] | None = None,
    contexts: str | None = None,
    metric_names: Sequence[str] | None = None,
    metric_args: Mapping[str, Any] | None = None,
    baseline_scores: str | os.PathLike[str] | None = None,
    embedding_model: str | None = None,
    reward_model: str | os.PathLike[str] | None = None,
    judge: Mapping[str, Any] | None = None,
    concurrency: int = 16,
    limits: Mapping[str, Any] | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    composites: Mapping[str, Mapping[str, float]] | None = None,
    slices: Sequence[str] | None = None,
    slice_metrics: Sequence[str] | None = None,
    report_json: str | os.PathLike[str] | None = None,
    report_markdown: str | os.PathLike[str] | None = None,
    tracking: Mapping[str, str] | None = None,
    further_scores: FurtherScores | None = None,
) -> StepReport:
    """Ask a service every evaluation row and score the answers, as :func:`~llmops_components.evaluation.evaluate.evaluate_model` does.

    It is asked as :func:`~llmops_components.inference.batch.batch_inference` does it. A row that it does not answer has no score by any
    metric, is counted, and told in a finding. Its API key comes from the environment, as there, and the judge's from its own variables.

    Args:
        dataset: Rows with a ``prompt`` and what else the metrics need.
        scores: Output file, one JSON line a sample, as that of ``evaluate_model``, with the ``seconds`` of the answer and, where there
            is none, the ``reason``.
        report: Output file, an HTML page without external parts.
        url: Address of the service, or the base URL of an OpenAI API, which ends in ``/v1``.
        model_name: Name of the served model.
        protocol: As for ``batch_inference``, as are ``request``, ``concurrency`` and ``limits``.
        request: Further fields of each request.
        contexts: Path in the reply to the texts that the service has looked up, such as ``contexts`` or ``sources.*.text``; they count in
            place of the rows' ``retrieved_contexts``.
        metric_names: As for ``evaluate_model``, as are the arguments up to ``judge``.
        metric_args: Arguments of metrics.
        baseline_scores: The ``scores`` of another evaluation of the same rows.
        embedding_model: Directory or ``package://name`` of the embedding model.
        reward_model: Directory of the reward model.
        judge: Who judges.
        concurrency: Questions at a time.
        limits: How long and how often is asked, by name.
        checkpoints: Directory that outlives the step, where answers and verdicts are kept: nothing is asked twice.
        composites: As for ``evaluate_model``, as are ``slices`` and ``slice_metrics``.
        slices: Columns by whose values rows are compared for themselves.
        slice_metrics: Metrics to compare in slices.
        report_json: Output file, the page's figures as JSON; none when left out.
        report_markdown: Output file, the page as Markdown; none when left out.
        tracking: Where it becomes a run of its own in MLflow, see :class:`~llmops_components.passthrough.training.TrackingSettings`; what the
            environment says when left out. The page names the DAG's run in it in any case.
        further_scores: As for ``evaluate_model``.

    Returns:
        Metrics: each metric's aggregate by name, ``samples``, ``unanswered``, and what the answers took.

    Raises:
        DataError: The dataset or the baseline cannot be used, or they hold different rows.
        SettingError: An argument cannot be meant, or the service or the judge refuses everything.
        ServiceGoneError: The service or the judge stopped to answer, and there is a directory to go on from.
        UnavailableError: The service answers no row at all.
    """
    judges = None if judge is None else JudgeSettings.of(judge)
    Tracking.find(tracking)  # refused before anything is asked
    plan = plan_metrics(metric_names, embedding_model, reward_model, metric_args=metric_args, judge=judges)
    _check_no_perplexity(plan)
    rows, found = read_valid_rows(dataset, ("evaluation", "prompt_only"))
    lines = usable_lines(dataset)
    check_questions(dataset, lines, protocol)
    columns = [*columns_of(rows, found.fields), *([_CONTEXTS] if contexts is not None else [])]
    plan = plan_for_columns(plan, columns, all_of_them=metric_names is not None)
    check_columns(dataset, rows, plan)
    judging = Judging(judges, checkpoints)
    judging.check_labels(plan, rows)
    parts = Parts.of(plan, rows, composites, slices, slice_metrics)
    baseline = read_baseline(baseline_scores, rows)
    check_has_baseline(plan, baseline)
    further = read_further(further_scores, rows)

    clock = Clock()
    place = Path(
        f"{os.fspath(scores)}.answers"
    )  # beside the output, where a second call goes on if this one is killed
    answers, rejected = place / "answers.jsonl", place / "rejected.jsonl"
    said = batch_inference(
        dataset,
        answers,
        rejected,
        url=url,
        model_name=model_name,
        protocol=protocol,
        request=request,
        concurrency=concurrency,
        limits=limits,
        min_answered=0,
        checkpoints=checkpoints,
        keep=None if contexts is None else {_CONTEXTS: contexts},
    )
    clock.lap("ask")
    given = _answered(answers, rejected, [line.number for line in lines])
    missing = [number for number, each in enumerate(given, start=1) if each.given.text is None]
    reason = next((each.given.reason for each in given if each.given.reason), "")
    if len(missing) == len(rows):
        raise UnavailableError(
            f"The service has answered none of {len(rows)} rows: {reason}. Address: {url}."
        )
    about = About.of_service(
        "evaluate_service",
        model_name,
        url,
        dataset,
        settings={**(request or {}), "protocol": protocol},
        baseline_scores=baseline_scores,
        further=further,
        tracking=tracking,
    )
    done = conclude(
        plan,
        rows,
        given,
        baseline,
        scores,
        report,
        facts=ServiceFacts(model_name, url, len(missing), said.metrics.get("seconds_p95")),
        metrics={"unanswered": len(missing)}
        | {name: said.metrics[name] for name in _TOLD if name in said.metrics},
        details={
            name: said.details[name] for name in ("finish_reasons", "reasons", "rows_known_from_before")
        },
        findings=[
            f"The service did not answer {len(missing)} of {len(rows)} rows, which have no score: row {named(missing)}. The first: {reason}"
            if missing
            else None
        ],
        judging=judging,
        clock=clock,
        parts=parts,
        about=about,
        further=further,
        report_json=report_json,
        report_markdown=report_markdown,
    )
    shutil.rmtree(place)
    return done


def _check_no_perplexity(plan: Plan) -> None:
    """What a service says tells how likely its own answer is at best, and not a reference."""
    for name, metric in plan.metrics.items():
        if "model" in metric.needs:
            raise SettingError(
                f"metric_names has {name}, which needs the model itself, and a service is asked here. Leave it out, or evaluate the model."
            )


def _answered(answers: Path, rejected: Path, numbers: Sequence[int]) -> list[Answered]:
    """What became of each row, in their order."""
    found: dict[int, Answered] = {}
    for row in read_outcomes(answers):
        how = row["response"]
        more = {
            "tokens": how.get("completion_tokens"),
            "finish_reason": how.get("finish_reason"),
            "seconds": how["seconds"],
        }
        found[how["line"]] = Answered(
            Given(
                "" if row["answer"] is None else answer_text(row["answer"]),
                tool_calls=how.get("tool_calls"),
                contexts=_texts(how["kept"].get(_CONTEXTS)) if "kept" in how else None,
            ),
            more,
        )
    for row in read_outcomes(rejected):
        nothing = dict.fromkeys(("tokens", "finish_reason", "seconds"))
        found[row["line"]] = Answered(Given(None, row["reasons"][0]), nothing)
    return [found[number] for number in numbers]


def _texts(found: Any) -> list[str]:
    """Contexts as a list of texts; none where they are of another kind."""
    if isinstance(found, str):
        return [found]
    return found if isinstance(found, list) and all(isinstance(each, str) for each in found) else []
