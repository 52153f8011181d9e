"""KFP component: ask a service every evaluation row and score the answers."""

from typing import Optional

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Markdown, Metrics, Model, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate_service(
    dataset: Input[Dataset],
    scores: Output[Dataset],
    report: Output[HTML],
    report_json: Output[Artifact],
    report_markdown: Output[Markdown],
    metrics: Output[Metrics],
    result: Output[Artifact],
    url: str,
    model_name: str,
    baseline_scores: Input[Dataset] = None,
    protocol: str = "openai_chat",
    request: Optional[dict] = None,
    contexts: Optional[str] = None,
    metric_names: Optional[list] = None,
    metric_args: Optional[dict] = None,
    embedding_model: Optional[str] = None,
    reward_model: Input[Model] = None,
    judge: Optional[dict] = None,
    concurrency: int = 16,
    limits: Optional[dict] = None,
    checkpoints: Optional[str] = None,
    composites: Optional[dict] = None,
    slices: Optional[list] = None,
    slice_metrics: Optional[list] = None,
    tracking: Optional[dict] = None,
    further_scores_1: Input[Dataset] = None,
    further_scores_2: Input[Dataset] = None,
    further_scores_3: Input[Dataset] = None,
    further_scores_4: Input[Dataset] = None,
    further_names: Optional[list] = None,
):
    """Ask a service every evaluation row and score the answers as ``evaluate_model`` does, with a judge where one is given.

    The API keys of service and judge, where they want one, are in the environment variables ``LLMOPS_SERVICE_KEY`` and
    ``LLMOPS_JUDGE_KEY``, or in files that ``LLMOPS_SERVICE_KEY_FILE`` and ``LLMOPS_JUDGE_KEY_FILE`` name; they are no arguments.

    Args:
        dataset: Rows with a ``prompt``, and what else the metrics need, which is a ``reference`` for most.
        scores: One JSON line a sample: prompt, reference, answer, seconds, every score, and why there is none.
        report: A page with the scores, side by side with the baseline's where one is given.
        report_json: The page's figures, for programs.
        report_markdown: The page in short, for where no page is shown.
        metrics: Means (corpus score for BLEU), rows without an answer, and latencies, for the pipelines UI.
        result: Digests, metrics and resources of this step.
        url: Address of the service, or the base URL of an OpenAI API, which ends in ``/v1``.
        model_name: Name of the served model.
        baseline_scores: The ``scores`` of another evaluation of the same rows, to compare with.
        protocol: ``openai_chat``, ``openai_completions``, ``openai`` (a conversation by the first, a text by the second, as
            ``evaluate_model`` has them read), or KServe's ``v1`` or ``v2``.
        request: Further fields of each request, such as ``max_tokens``; of ``v1`` and ``v2`` the ``parameters``.
        contexts: Path in the reply to the texts that the service has looked up, such as ``sources.*.text``.
        metric_names: Metrics to compute, by name, or functions of allowed packages as ``module:function``; all that look at answer
            and reference alone when left out.
        metric_args: Arguments of metrics, by name; a ``prompt`` makes a metric of a name of its own.
        embedding_model: Directory or ``package://name`` of the sentence-embedding model.
        reward_model: Directory of the reward model behind the metric ``reward``.
        judge: Who judges: ``url`` and ``model_name`` of an OpenAI API, and what else ``evaluate_model`` takes.
        concurrency: Questions at a time.
        limits: ``request_seconds`` (120), ``run_minutes``, ``attempts`` (5), ``outage_seconds`` (300) and
            ``refused_in_a_row`` (100), ``requests_per_minute`` (no limit).
        checkpoints: Directory that outlives the step, on a cluster a mounted volume. A run that was killed goes on with the
            answers and verdicts there; without it, it starts again.
        composites: Weighted sums of metrics row by row, weights by metric by name of the composite.
        slices: Columns by whose values rows are compared for themselves.
        slice_metrics: Metrics to compare in slices; the first when left out.
        tracking: Where it becomes a run of its own in MLflow: ``tracking_uri``, ``experiment``, ``parent``, ``run_name``. Credentials
            belong in the environment, never here.
        further_scores_1: The ``scores`` of a further model on the same rows: the report shows it, and no gate reads it.
        further_scores_2: The ``scores`` of another one.
        further_scores_3: The ``scores`` of another one.
        further_scores_4: The ``scores`` of another one.
        further_names: What the report calls the further models, in their order.
    """
    from llmops_components.evaluation.further import named_scores
    from llmops_components.evaluation.service import evaluate_service as evaluate
    from llmops_components.kfp._run import as_page, run_step
    from llmops_components.passthrough.declared import whole_numbers

    further = (further_scores_1, further_scores_2, further_scores_3, further_scores_4)
    as_page(report)
    run_step(
        "evaluate_service",
        lambda: evaluate(
            dataset.path,
            scores.path,
            report.path,
            url=url,
            model_name=model_name,
            protocol=protocol,
            request=whole_numbers(request),
            contexts=contexts,
            metric_names=metric_names,
            metric_args=whole_numbers(metric_args),
            baseline_scores=baseline_scores.path if baseline_scores else None,
            embedding_model=embedding_model,
            reward_model=reward_model.path if reward_model else None,
            judge=whole_numbers(judge),
            concurrency=concurrency,
            limits=whole_numbers(limits),
            checkpoints=checkpoints,
            composites=composites,
            slices=slices,
            slice_metrics=slice_metrics,
            report_json=report_json.path,
            report_markdown=report_markdown.path,
            tracking=tracking,
            further_scores=named_scores([each and each.path for each in further], further_names),
        ),
        outputs={
            "scores": scores,
            "report": report,
            "report_json": report_json,
            "report_markdown": report_markdown,
        },
        metrics=metrics,
        result=result,
    )
