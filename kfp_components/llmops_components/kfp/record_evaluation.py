"""KFP component: record the evaluation of a partition, and draw the trend."""

from typing import Optional

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def record_evaluation(
    scores: Input[Dataset],
    trend: Output[HTML],
    metrics: Output[Metrics],
    result: Output[Artifact],
    history: str,
    partition: str,
    comparison: dict,
    settings: Optional[dict] = None,
    title: str = "Evaluation by partition",
    tracking_uri: Optional[str] = None,
    experiment: str = "llmops",
):
    """Record the evaluation of a partition in a history, compare it with the partition before, and draw the trend of all.

    Args:
        scores: ``scores`` of the evaluation.
        trend: A page with a line for each metric, by partition.
        metrics: What the partition has reached, for the pipelines UI.
        result: The comparison with the partition before, digests and resources of this step.
        history: Directory that outlives the step, on a cluster a mounted volume, with a record for each partition.
        partition: Key of the partition; keys are put in order as text.
        comparison: Output ``comparison`` of the evaluation.
        settings: How it was measured, such as the judge's model: partitions with other settings are not compared.
        title: Title of the page, and name of the run in MLflow.
        tracking_uri: Address of an MLflow server, whose run of this history gets the metrics, with the partition's date as the step; nothing is
            logged when left out. Credentials belong in the environment, never here.
        experiment: Experiment of that run.
    """
    from llmops_components.evaluation.history.record import record_evaluation as record
    from llmops_components.kfp._run import as_page, run_step
    from llmops_components.passthrough.declared import whole_numbers

    as_page(trend)
    run_step(
        "record_evaluation",
        lambda: record(
            scores.path,
            trend.path,
            history=history,
            partition=partition,
            comparison=whole_numbers(comparison),
            settings=whole_numbers(settings),
            title=title,
            tracking_uri=tracking_uri,
            experiment=experiment,
        ),
        outputs={"trend": trend},
        metrics=metrics,
        result=result,
    )
