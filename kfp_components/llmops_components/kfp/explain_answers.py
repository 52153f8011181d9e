"""KFP component: say what speaks for a model's worst answers."""

from typing import Optional

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def explain_answers(
    model: Input[Model],
    dataset: Input[Dataset],
    scores: Input[Dataset],
    explanations: Output[Dataset],
    report: Output[HTML],
    metrics: Output[Metrics],
    result: Output[Artifact],
    training_data: Input[Dataset] = None,
    metric_name: Optional[str] = None,
    higher_is_better: Optional[bool] = None,
    samples: int = 10,
    training_rows: int = 3,
    embedding_model: Optional[str] = None,
    batch_size: int = 16,
):
    """Say of the worst answers of an evaluation which contexts, and which training rows, speak for them.

    Args:
        model: Directory of the model that was evaluated.
        dataset: Rows that it was evaluated on.
        scores: ``scores`` of that evaluation.
        explanations: A JSON line an answer: by context how much less likely the answer is without it, and the closest training rows.
        report: The same as a page.
        metrics: Counts, for the pipelines UI.
        result: Digests, metrics and resources of this step.
        training_data: Rows that the model was trained on; left out, contexts alone are looked at.
        metric_name: Metric by which the answers are the worst; the first of the scores by default.
        higher_is_better: Whether a higher score of it is the better one. Needed where the metric is a function or a composite.
        samples: How many answers, 1 to 200.
        training_rows: How many training rows an answer, 1 to 50.
        embedding_model: Directory or ``package://name`` of the model that compares texts with each other.
        batch_size: Answers that the model looks at together.
    """
    from llmops_components.evaluation.attribution.explain import explain_answers as explain
    from llmops_components.kfp._run import as_page, run_step

    as_page(report)
    run_step(
        "explain_answers",
        lambda: explain(
            model.path,
            dataset.path,
            scores.path,
            explanations.path,
            report.path,
            training_data=training_data.path if training_data else None,
            metric_name=metric_name,
            higher_is_better=higher_is_better,
            samples=samples,
            training_rows=training_rows,
            embedding_model=embedding_model,
            batch_size=batch_size,
        ),
        outputs={"explanations": explanations, "report": report},
        metrics=metrics,
        result=result,
    )
