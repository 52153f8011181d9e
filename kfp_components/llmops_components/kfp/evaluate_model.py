"""KFP component: generate answers and score them against references."""

from typing import Optional

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Markdown, Metrics, Model, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate_model(
    model: Input[Model],
    dataset: Input[Dataset],
    scores: Output[Dataset],
    report: Output[HTML],
    report_json: Output[Artifact],
    report_markdown: Output[Markdown],
    metrics: Output[Metrics],
    result: Output[Artifact],
    baseline_scores: Input[Dataset] = None,
    metric_names: Optional[list] = None,
    generation_args: Optional[dict] = None,
    batch_size: int = 16,
    embedding_model: Optional[str] = None,
    reward_model: Input[Model] = None,
    metric_args: Optional[dict] = None,
    judge: Optional[dict] = None,
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
    """Answer every evaluation prompt and score the answers with ROUGE, BLEU, RAGAS, embedding similarity and a judge.

    The judge's API key, where it wants one, is in the environment variable ``LLMOPS_JUDGE_KEY``, or in a file that
    ``LLMOPS_JUDGE_KEY_FILE`` names; it is no argument.

    Args:
        model: Directory of the model to evaluate.
        dataset: Rows with a ``prompt``, and what else the metrics need, which is a ``reference`` for most.
        scores: One JSON line a sample: prompt, reference, answer and every score.
        report: A page with the scores, side by side with the baseline's where one is given.
        report_json: The page's figures, for programs.
        report_markdown: The page in short, for where no page is shown.
        metrics: Means (corpus score for BLEU), for the pipelines UI.
        result: Digests, metrics and resources of this step.
        baseline_scores: The ``scores`` of another model on the same rows, to compare with.
        metric_names: Metrics to compute, by name, or functions of allowed packages as ``module:function``; all that look at answer
            and reference alone when left out.
        generation_args: Passed to ``transformers.GenerationConfig``; unknown names are errors.
        batch_size: Prompts generated together.
        embedding_model: Directory or ``package://name`` of the sentence-embedding model.
        reward_model: Directory of the reward model behind the metric ``reward``.
        metric_args: Arguments of metrics, by name; a ``prompt`` makes a metric of a name of its own.
        judge: Who judges: ``url`` and ``model_name`` of an OpenAI API, and ``request``, ``response_format``, ``asks``, ``embeddings``,
            ``concurrency``, ``limits``, ``price``, ``max_tokens_total``, ``max_cost``, ``labels``.
        checkpoints: Directory that outlives the step, on a cluster a mounted volume. An evaluation that was killed asks the judge
            no question twice that is answered there.
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
    from llmops_components.evaluation.evaluate import evaluate_model as evaluate
    from llmops_components.evaluation.further import named_scores
    from llmops_components.kfp._run import as_page, run_step
    from llmops_components.passthrough.declared import whole_numbers

    further = (further_scores_1, further_scores_2, further_scores_3, further_scores_4)
    as_page(report)
    run_step(
        "evaluate_model",
        lambda: evaluate(
            model.path,
            dataset.path,
            scores.path,
            report.path,
            metric_names=metric_names,
            baseline_scores=baseline_scores.path if baseline_scores else None,
            generation_args=whole_numbers(generation_args),
            batch_size=batch_size,
            embedding_model=embedding_model,
            reward_model=reward_model.path if reward_model else None,
            metric_args=whole_numbers(metric_args),
            judge=whole_numbers(judge),
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
