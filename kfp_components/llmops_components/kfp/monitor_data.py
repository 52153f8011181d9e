"""KFP component: whether new rows are like those that came before."""

from typing import List, Optional

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Markdown, Metrics, Output, OutputPath

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def monitor_data(
    dataset: Input[Dataset],
    reference: Input[Dataset],
    drift: Output[Markdown],
    drift_json: Output[Artifact],
    metrics: Output[Metrics],
    result: Output[Artifact],
    passed: OutputPath(bool),
    categories: Optional[List[str]] = None,
    thresholds: Optional[dict] = None,
    min_rows: int = 200,
    sample_rows: int = 2000,
    embedding_model: Optional[str] = None,
    on_drift: str = "fail",
    seed: int = 0,
):
    """Compare new rows with a reference: lengths, words, categories, embeddings, and whether a classifier tells them apart.

    The step succeeds whatever it finds; whether the outcome was ``pass`` or ``warn`` is ``passed``. Too few rows are ``undecided``, which is
    not passed.

    Args:
        dataset: New rows.
        reference: Rows that they are compared with.
        drift: What was found, to read.
        drift_json: The same for programs.
        metrics: The effect of each check, for the pipelines UI.
        result: Outcome, findings and resources of this step.
        passed: Whether the outcome was ``pass`` or ``warn``.
        categories: Columns whose values are compared as categories.
        thresholds: By kind of check ``warn`` and ``fail``, effects from 0 to 1: ``{"length": {"fail": 0.3}}``.
        min_rows: Rows that each side has to have for a check, 50 or more.
        sample_rows: Rows of each side whose words and embeddings are compared.
        embedding_model: Directory or ``package://name`` of a sentence-embedding model; embeddings are not compared without one.
        on_drift: ``fail``, or ``report`` for ``passed`` whatever was found.
        seed: Chooses the sample.
    """
    from functools import partial

    from llmops_components.data.drift.monitor import monitor_data as monitor
    from llmops_components.kfp._run import run_step
    from llmops_components.models.embeddings import embed, find_embedding_model
    from llmops_components.passthrough.declared import whole_numbers

    def call():
        directory = find_embedding_model(embedding_model) if embedding_model else None
        return monitor(
            dataset.path,
            reference.path,
            drift.path,
            drift_json=drift_json.path,
            categories=categories or (),
            thresholds=whole_numbers(thresholds),
            min_rows=min_rows,
            sample_rows=sample_rows,
            embed=partial(embed, directory=directory) if directory else None,
            on_drift=on_drift,
            seed=seed,
        )

    run_step(
        "monitor_data",
        call,
        outputs={"drift": drift, "drift_json": drift_json},
        metrics=metrics,
        result=result,
        passed=passed,
    )
