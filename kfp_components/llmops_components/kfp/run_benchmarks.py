"""KFP component: run benchmark tasks of lm-evaluation-harness on a model."""

from typing import Optional

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Markdown, Metrics, Model, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def run_benchmarks(
    model: Input[Model],
    task_names: list,
    scores: Output[Dataset],
    report: Output[HTML],
    report_json: Output[Artifact],
    report_markdown: Output[Markdown],
    harness_results: Output[Artifact],
    metrics: Output[Metrics],
    result: Output[Artifact],
    task_files: Input[Dataset] = None,
    baseline_scores: Input[Dataset] = None,
    metric_names: Optional[list] = None,
    num_fewshot: Optional[int] = None,
    limit: Optional[int] = None,
    batch_size: int = 16,
    chat_template: bool = False,
    seed: int = 1234,
    download: bool = False,
    tracking: Optional[dict] = None,
    further_scores_1: Input[Dataset] = None,
    further_scores_2: Input[Dataset] = None,
    further_scores_3: Input[Dataset] = None,
    further_scores_4: Input[Dataset] = None,
    further_names: Optional[list] = None,
):
    """Run benchmark tasks by name, and compare a model with another one on the same samples.

    The image needs the extra ``harness`` of llmops-components.

    Args:
        model: Directory of the model to evaluate.
        task_names: Tasks, groups or tags of lm-evaluation-harness, or of the task files.
        scores: One JSON line a sample: task, prompt, reference, answer and every score.
        report: A page with the scores, side by side with the baseline's where one is given.
        report_json: The page's figures, for programs.
        report_markdown: The page in short, for where no page is shown.
        harness_results: The results as lm-evaluation-harness writes them.
        metrics: Each task's aggregates, for the pipelines UI.
        result: Digests, metrics and resources of this step.
        task_files: Directory of YAML files with tasks of yours, and the rows that they name. Nothing in them is run.
        baseline_scores: The ``scores`` of another model on the same tasks, asked in the same way.
        metric_names: Metrics to compare, such as ``acc``; all when left out.
        num_fewshot: Examples before each question; what each task says when left out.
        limit: Most rows of each task, its first ones; all when left out.
        batch_size: Prompts asked together.
        chat_template: Whether prompts are messages, written by the tokenizer's chat template.
        seed: Seed of the choice of examples, and of what is sampled.
        download: Whether rows may come from the network, as those of most tasks that lm-evaluation-harness has.
        tracking: Where it becomes a run of its own in MLflow: ``tracking_uri``, ``experiment``, ``parent``, ``run_name``. Credentials
            belong in the environment, never here.
        further_scores_1: The ``scores`` of a further model on the same tasks, asked in the same way: the report shows it, and no gate reads it.
        further_scores_2: The ``scores`` of another one.
        further_scores_3: The ``scores`` of another one.
        further_scores_4: The ``scores`` of another one.
        further_names: What the report calls the further models, in their order.
    """
    from llmops_components.evaluation.benchmarks.run import run_benchmarks as run
    from llmops_components.evaluation.further import named_scores
    from llmops_components.kfp._run import as_page, run_step

    further = (further_scores_1, further_scores_2, further_scores_3, further_scores_4)
    as_page(report)
    run_step(
        "run_benchmarks",
        lambda: run(
            model.path,
            scores.path,
            report.path,
            task_names=task_names,
            task_files=task_files.path if task_files else None,
            baseline_scores=baseline_scores.path if baseline_scores else None,
            metric_names=metric_names,
            num_fewshot=num_fewshot,
            limit=limit,
            batch_size=batch_size,
            chat_template=chat_template,
            seed=seed,
            download=download,
            report_json=report_json.path,
            report_markdown=report_markdown.path,
            harness_results=harness_results.path,
            tracking=tracking,
            further_scores=named_scores([each and each.path for each in further], further_names),
        ),
        outputs={
            "scores": scores,
            "report": report,
            "report_json": report_json,
            "report_markdown": report_markdown,
            "harness_results": harness_results,
        },
        metrics=metrics,
        result=result,
    )
