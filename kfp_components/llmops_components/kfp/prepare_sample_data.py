"""KFP component: sample datasets made from the docstrings of Python's standard library."""

from typing import List, Optional

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare_sample_data(
    train: Output[Dataset],
    preferences: Output[Dataset],
    evaluation: Output[Dataset],
    result: Output[Artifact],
    train_rows: int = 400,
    preference_rows: int = 200,
    evaluation_rows: int = 48,
    seed: int = 0,
    only: Optional[List[str]] = None,
):
    """Make real training, preference and evaluation rows without network access.

    Args:
        train: Prompt/completion rows in TRL's conversational format, as JSON lines.
        preferences: Prompt/chosen/rejected rows, as JSON lines.
        evaluation: Prompt/reference/contexts rows, as JSON lines.
        result: Digests, counts and resources of this step.
        train_rows: Number of training rows.
        preference_rows: Number of preference rows.
        evaluation_rows: Number of evaluation rows; none of their functions occurs in the other two datasets.
        seed: Chooses the rows; the same seed on the same Python version gives the same bytes.
        only: Datasets that are wanted (``train``, ``preferences``, ``evaluation``); the files of the others are empty.
    """
    from llmops_components.data.sample import prepare_sample_data as prepare
    from llmops_components.kfp._run import run_step

    run_step(
        "prepare_sample_data",
        lambda: prepare(
            train.path,
            preferences.path,
            evaluation.path,
            train_rows=train_rows,
            preference_rows=preference_rows,
            evaluation_rows=evaluation_rows,
            seed=seed,
            only=only,
        ),
        outputs={"train": train, "preferences": preferences, "evaluation": evaluation},
        result=result,
    )
