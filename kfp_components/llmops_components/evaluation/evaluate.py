"""Evaluate a model: answer every prompt, score the answers, compare them with another model's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmops_components.data.rendering import loss_finding, losses
from llmops_components.data.valid_rows import read_valid_rows
from llmops_components.errors import SettingError
from llmops_components.evaluation import likelihoods
from llmops_components.evaluation.clock import Clock
from llmops_components.evaluation.conclusion import Answered, check_has_baseline, conclude
from llmops_components.evaluation.further import FurtherScores
from llmops_components.evaluation.judge.judging import Judging
from llmops_components.evaluation.judge.settings import JudgeSettings
from llmops_components.evaluation.scored import Given
from llmops_components.evaluation.scores_file import read_baseline, read_further
from llmops_components.moved import old_names
from llmops_components.results import StepReport
from llmops_components.tracking.settings import Tracking

if TYPE_CHECKING:
    from llmops_components.evaluation.metrics.plan import Plan
    from llmops_components.models.generation import Answer
    from llmops_components.models.likelihood import Likelihood


@old_names(metrics="metric_names")
def evaluate_model(
    model: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    scores: str | os.PathLike[str],
    report: str | os.PathLike[str],
    *,
    metric_names: Sequence[str] | None = None,
    baseline_scores: str | os.PathLike[str] | None = None,
    generation_args: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    embedding_model: str | None = None,
    reward_model: str | os.PathLike[str] | None = None,
    metric_args: Mapping[str, Any] | None = None,
    judge: Mapping[str, Any] | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    composites: Mapping[str, Mapping[str, float]] | None = None,
    slices: Sequence[str] | None = None,
    slice_metrics: Sequence[str] | None = None,
    report_json: str | os.PathLike[str] | None = None,
    report_markdown: str | os.PathLike[str] | None = None,
    tracking: Mapping[str, str] | None = None,
    further_scores: FurtherScores | None = None,
) -> StepReport:
    """Answer every evaluation prompt and score the answers against the references.

    Args:
        model: Directory of the model, weights as safetensors.
        dataset: Rows with a ``prompt`` and what else the metrics need, which is a ``reference`` for most.
        scores: Output file, one JSON line a sample: row number, prompt, reference, answer, tokens, finish reason,
            every score, and as ``unscored`` by metric why there is none.
        report: Output file, an HTML page without external parts.
        metric_names: Names from ``llmops_components.evaluation.metrics.registry.METRICS`` or ``metric_args``, and functions of
            allowed packages as ``module:function``; all that look at answer and reference alone by default. The first orders the
            samples in the report.
        baseline_scores: The ``scores`` of another model on the same rows. Its answers are scored again, so that
            both models are measured in the same way.
        generation_args: Arguments of ``transformers.GenerationConfig``; greedy with 64 new tokens by default.
        batch_size: Prompts answered together.
        embedding_model: Directory or ``package://name`` of the model behind ``semantic_similarity``, and behind metrics that a
            judge without embeddings scores.
        reward_model: Directory of the model behind ``reward``.
        metric_args: Arguments of metrics, see :func:`~llmops_components.evaluation.metrics.arguments.check_arguments`.
        judge: Who judges, see :class:`~llmops_components.evaluation.judge.settings.JudgeSettings`. Its API key comes from the
            environment variable ``LLMOPS_JUDGE_KEY``, or from the file that ``LLMOPS_JUDGE_KEY_FILE`` names.
        checkpoints: Directory that outlives the step, where the judge's answers are kept: an evaluation that was killed asks no
            question twice. Left out, the variable ``LLMOPS_CHECKPOINTS`` may name one.
        composites: Weighted sums of metrics row by row, such as ``{"quality": {"rougeL": 0.5, "chrf": 0.005}}``: each is a metric like the
            others, and higher is better. A row that lacks one of its parts has no score.
        slices: Names of columns: each value's rows are compared for themselves. Numbers of many kinds are cut in quarters, as is
            ``prompt_length``, the characters of the prompt, which needs no column. Small slices are put together where the result has no
            room for them, and named in a finding.
        slice_metrics: Metrics to compare in slices; the first by default.
        report_json: Output file, the page's figures as JSON; none when left out.
        report_markdown: Output file, the page as Markdown; none when left out.
        tracking: Where it becomes a run of its own in MLflow, see :class:`~llmops_components.passthrough.training.TrackingSettings`; what the
            environment says when left out. The page names the DAG's run in it in any case.
        further_scores: The ``scores`` of further models on the same rows, by name: the report shows them beside the model, and no
            comparison has them. Their answers are scored again; a row that one lacks counts as not scored for it.

    Returns:
        Metrics: each metric's aggregate by name, ``tokens_per_second`` and ``samples``. The comparison has for each metric
        what model and baseline reach and how they differ; without a baseline what the model reaches. A sample whose score is no
        finite number is ``null`` in ``scores``, left out of the aggregate, counted, and told in a finding.

    Raises:
        DataError: The dataset or the baseline cannot be used, or they hold different rows.
        SettingError: A metric or argument is unknown or not valid.
        ModelError: The model or the embedding model cannot be loaded.
        ServiceGoneError: The judge stopped to answer, and there is a directory to go on from.
    """
    from llmops_components.evaluation.about import About
    from llmops_components.evaluation.comparing import Parts
    from llmops_components.evaluation.facts import Facts
    from llmops_components.evaluation.metrics.columns import check_columns, columns_of
    from llmops_components.evaluation.metrics.plan import plan_for_columns, plan_metrics
    from llmops_components.models.generation import DEFAULT_NEW_TOKENS, generate_answers
    from llmops_components.models.likelihood import answer_likelihoods
    from llmops_components.models.loading import load_to_answer

    # Everything that can be wrong with the inputs is found before the long part.
    judges = None if judge is None else JudgeSettings.of(judge)
    Tracking.find(tracking)
    plan = plan_metrics(metric_names, embedding_model, reward_model, metric_args=metric_args, judge=judges)
    _check_no_tool_calls(plan)
    rows, found = read_valid_rows(dataset, ("evaluation", "prompt_only"))
    plan = plan_for_columns(plan, columns_of(rows, found.fields), all_of_them=metric_names is not None)
    check_columns(dataset, rows, plan)
    parts = Parts.of(plan, rows, composites, slices, slice_metrics)
    judging = Judging(judges, checkpoints)
    judging.check_labels(plan, rows)
    baseline = read_baseline(baseline_scores, rows)
    check_has_baseline(plan, baseline)
    further = read_further(further_scores, rows)

    clock = Clock()
    network, tokenizer = load_to_answer(model)
    parameters = network.num_parameters()
    print(f"loaded {parameters / 1e6:,.0f}M parameters, {network.dtype} on {network.device}", flush=True)
    clock.lap("load")
    known = None
    if "perplexity" in plan.names:
        references = [row["reference"] for row in rows]
        known = answer_likelihoods(network, tokenizer, rows, references, batch_size=batch_size)
        clock.lap("likelihoods")
    answers = generate_answers(
        network,
        tokenizer,
        rows,
        generation_args=generation_args,
        batch_size=batch_size,
    )
    clock.lap("generate")

    findings = []
    if found.conversational:
        named = ((f"row {number}", row) for number, row in enumerate(rows, start=1))
        findings = [loss_finding(losses(tokenizer, named, found), len(rows))]
    tokens = sum(answer.tokens for answer in answers)
    facts = Facts(
        architecture=type(network).__name__,
        parameters=parameters,
        tokens=tokens,
        tokens_per_second=tokens / clock.seconds["generate"],
        cut_off=sum(answer.finish_reason == "length" for answer in answers),
    )
    del network, tokenizer  # what scores may need the memory
    about = About.of_model(
        "evaluate_model",
        model,
        dataset,
        settings={
            "do_sample": False,
            "max_new_tokens": DEFAULT_NEW_TOKENS,
            **(generation_args or {}),
            "batch_size": batch_size,
        },
        baseline_scores=baseline_scores,
        further=further,
        tracking=tracking,
    )
    return conclude(
        plan,
        rows,
        [_answered(answer, None if known is None else known[place]) for place, answer in enumerate(answers)],
        baseline,
        scores,
        report,
        facts=facts,
        metrics={"tokens_per_second": facts.tokens_per_second},
        details={"answers_cut_off": facts.cut_off},
        findings=findings,
        judging=judging,
        clock=clock,
        parts=parts,
        about=about,
        further=further,
        report_json=report_json,
        report_markdown=report_markdown,
    )


def _answered(answer: Answer, likelihood: Likelihood | None) -> Answered:
    more: dict[str, Any] = {"tokens": answer.tokens, "finish_reason": answer.finish_reason}
    if likelihood is None:
        return Answered(Given(answer.text), more)
    given = Given(answer.text, likelihood=(likelihood.log_probability, likelihood.tokens))
    return Answered(given, more | likelihoods.told(likelihood))


def _check_no_tool_calls(plan: Plan) -> None:
    """A model's own text is no call that could be compared."""
    for name, metric in plan.metrics.items():
        if "reference_tool_calls" in metric.takes:
            raise SettingError(
                f"metric_names has {name}, which compares tool calls, and a model that is asked here answers with text. Leave it out, or "
                "deploy the model and evaluate the service."
            )
