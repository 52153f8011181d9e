"""KFP component: read what people have said of a review sheet."""

from typing import Optional

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Output, OutputPath

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def collect_human_labels(
    human_labels: Input[Artifact],
    key: Input[Artifact],
    judgements: Output[Dataset],
    preferences: Output[Dataset],
    rejected: Output[Dataset],
    metrics: Output[Metrics],
    result: Output[Artifact],
    passed: OutputPath(bool),
    scores: Input[Dataset] = None,
    baseline_scores: Input[Dataset] = None,
    min_judged: float = 1.0,
    composites: Optional[dict] = None,
):
    """Read what people have said of a review sheet, as a comparison and as preferences to train with.

    Args:
        human_labels: The file that the sheet has given back, or a directory of several.
        key: ``key`` of the sheet, which says whose answer is whose.
        judgements: One JSON line a judgement: both answers, who has judged, and whose answer is preferred.
        preferences: Rows with ``prompt``, ``chosen`` and ``rejected``, as trainings take them.
        rejected: Lines that were not used, with their reasons.
        metrics: Share of pairs in which the model is preferred, and counts, for the pipelines UI.
        result: Digests, metrics and resources of this step.
        passed: Whether enough pairs are judged.
        scores: ``scores`` of the evaluation that the sheet was made from; only composites need them.
        baseline_scores: Those of the model that it is compared with.
        min_judged: Share of the sheet's pairs, 0 to 1, that must be judged.
        composites: Weighted sums of ``human_preference`` and of metrics, weights by metric by name of the composite.
    """
    from llmops_components.evaluation.human.labels import collect_human_labels as collect
    from llmops_components.kfp._run import run_step

    run_step(
        "collect_human_labels",
        lambda: collect(
            human_labels.path,
            key.path,
            judgements.path,
            preferences.path,
            rejected.path,
            min_judged=min_judged,
            composites=composites,
            scores=scores.path if scores else None,
            baseline_scores=baseline_scores.path if baseline_scores else None,
        ),
        outputs={"judgements": judgements, "preferences": preferences, "rejected": rejected},
        metrics=metrics,
        result=result,
        passed=passed,
    )
