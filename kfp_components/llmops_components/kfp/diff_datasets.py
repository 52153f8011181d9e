"""KFP component: what two versions of a data set differ in."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Markdown, Metrics, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def diff_datasets(
    before: Input[Dataset],
    after: Input[Dataset],
    difference: Output[Markdown],
    difference_json: Output[Artifact],
    metrics: Output[Metrics],
    result: Output[Artifact],
    examples: int = 20,
):
    """Tell which rows were added, removed and changed between two versions, and how columns and lengths have shifted.

    Rows are matched by their column ``row_id`` where every row of both has one of its own, else by their content.

    Args:
        before: Rows of the one version.
        after: Rows of the other.
        difference: The differences to read.
        difference_json: The same for programs.
        metrics: Counts of rows, for the pipelines UI.
        result: Counts, digests and resources of this step.
        examples: How many rows of each kind are shown, 0 to 200.
    """
    from llmops_components.data.versions.diff import diff_datasets as diff
    from llmops_components.kfp._run import run_step

    run_step(
        "diff_datasets",
        lambda: diff(
            before.path, after.path, difference.path, difference_json=difference_json.path, examples=examples
        ),
        outputs={"difference": difference, "difference_json": difference_json},
        metrics=metrics,
        result=result,
    )
