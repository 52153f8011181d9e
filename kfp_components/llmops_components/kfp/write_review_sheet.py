"""KFP component: write a page on which people compare two models' answers."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def write_review_sheet(
    scores: Input[Dataset],
    sheet: Output[HTML],
    key: Output[Artifact],
    metrics: Output[Metrics],
    result: Output[Artifact],
    baseline_scores: Input[Dataset] = None,
    pairs: int = 50,
    question: str = "Which answer is better?",
    show_reference: bool = True,
    seed: int = 0,
):
    """Write a page on which people say which of two answers is better, without knowing whose is whose.

    Args:
        scores: ``scores`` of an evaluation of the model, or of a comparison of two revisions, which has both answers.
        sheet: The page. It works from a file, without network, and gives the judgements back as JSON Lines.
        key: Whose answer is whose. Whoever judges should not see it.
        metrics: Counts, for the pipelines UI.
        result: Digests, metrics and resources of this step.
        baseline_scores: ``scores`` of the model that it is compared with, on the same rows; left out where the first has both
            answers.
        pairs: How many pairs of answers, 1 to 1000.
        question: What is asked of each pair.
        show_reference: Whether the right answer can be looked at, where one is known.
        seed: Chooses the pairs, their order and their sides.
    """
    from llmops_components.evaluation.human.sheet import write_review_sheet as write
    from llmops_components.kfp._run import as_page, run_step

    as_page(sheet)
    run_step(
        "write_review_sheet",
        lambda: write(
            scores.path,
            sheet.path,
            key.path,
            baseline_scores=baseline_scores.path if baseline_scores else None,
            pairs=pairs,
            question=question,
            show_reference=show_reference,
            seed=seed,
        ),
        outputs={"sheet": sheet, "key": key},
        metrics=metrics,
        result=result,
    )
