"""KFP component: check a dataset with Great Expectations before anything is trained on it."""

from typing import Optional

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Model, Output, OutputPath

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def validate_dataset(
    dataset: Input[Dataset],
    validated: Output[Dataset],
    rejected: Output[Dataset],
    validation_result: Output[Artifact],
    data_docs: Output[HTML],
    result: Output[Artifact],
    passed: OutputPath(bool),
    base_model: Input[Model] = None,
    suite: Input[Artifact] = None,
    evaluation_dataset: Input[Dataset] = None,
    dataset_format: str = "auto",
    min_rows: int = 1,
    max_rejected_fraction: float = 0.0,
    expectations: Optional[list] = None,
):
    """Validate rows against the TRL dataset format that they are in.

    The step succeeds whatever it finds; whether the gate was passed is ``passed``, so that a pipeline keeps the accepted
    rows, the rejected rows with their reasons, and the report, and goes on with ``dsl.If(task.outputs["passed"] == True)``.

    Args:
        dataset: Rows in one of TRL's formats, or evaluation rows.
        validated: The rows that were accepted, unchanged.
        rejected: The rows that were not, each with its line number, its id and its reasons.
        validation_result: Great Expectations' validation result as JSON.
        data_docs: The same as a page to read.
        result: Verdict, findings, counts and resources of this step.
        passed: Whether the gate was passed.
        base_model: Directory of the model that the rows are for. Conversations that its chat template refuses are
            rejected, and those of which it leaves something out are named in the findings.
        suite: Expectations of yours, as Great Expectations 1 writes a suite as JSON.
        evaluation_dataset: Rows that a model is evaluated on. Rows that ask the same are rejected.
        dataset_format: Format to insist on, or several with commas between them; ``auto`` takes the one of most rows.
        min_rows: Fewest accepted rows for the gate to pass.
        max_rejected_fraction: Largest fraction of rejected rows, 0 to 1, for the gate to pass. What your own
            expectations reject does not count: their ``mostly`` says how many may be.
        expectations: More expectations of yours, each an object with ``type``, ``kwargs`` and ``severity``. A critical one
            rejects rows and decides with the gate; a ``warning`` is told in the findings.
    """
    from functools import partial

    from llmops_components.data.validation import validate_dataset as validate
    from llmops_components.kfp._run import as_page, run_step
    from llmops_components.models.loading import load_chat_tokenizer

    as_page(data_docs)
    run_step(
        "validate_dataset",
        lambda: validate(
            dataset.path,
            validated.path,
            rejected.path,
            validation_result.path,
            data_docs.path,
            dataset_format=dataset_format,
            min_rows=min_rows,
            max_rejected_fraction=max_rejected_fraction,
            tokenizer=partial(load_chat_tokenizer, base_model.path) if base_model else None,
            suite=suite.path if suite else None,
            expectations=expectations or [],
            evaluation=evaluation_dataset.path if evaluation_dataset else None,
        ),
        outputs={
            "validated": validated,
            "rejected": rejected,
            "validation_result": validation_result,
            "data_docs": data_docs,
        },
        result=result,
        passed=passed,
    )
