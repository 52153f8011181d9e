"""KFP component: prepare rows by declared steps."""

from typing import List, Optional

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare_dataset(
    dataset: Input[Dataset],
    prepared: Output[Dataset],
    held_out: Output[Dataset],
    ledger: Output[Dataset],
    manifest: Output[Artifact],
    result: Output[Artifact],
    steps: list,
    dataset_2: Input[Dataset] = None,
    dataset_3: Input[Dataset] = None,
    dataset_4: Input[Dataset] = None,
    names: Optional[List[str]] = None,
    sources: Optional[list] = None,
    base_model: Input[Model] = None,
    evaluation_dataset: Input[Dataset] = None,
    processes: Optional[int] = None,
    dataset_name: str = "prepared",
):
    """Prepare rows: clean, filter, deduplicate, split and mix them by declared steps, with a ledger of what was dropped or changed.

    Rows that were read are as many as rows used and rows rejected together; repeats and rows that a step adds are counted apart.
    The same inputs and settings give the same bytes.

    Args:
        dataset: Rows.
        prepared: The rows as JSON Lines, each with its ``row_id``, which names file and line of the row that it comes from.
        held_out: The rows that a step has held out; empty where none does.
        ledger: One JSON line for each row that was dropped, changed or added: step, action, reason, row id, score, of a duplicate the
            row that was kept, and of a dropped row the row itself.
        manifest: Sources, steps and counts, with digests.
        result: Counts, findings, digests and resources of this step.
        steps: The steps in their order, each an object with its name as ``step`` and its settings.
        dataset_2: Further rows, for ``mix`` and for duplicates between files.
        dataset_3: Further rows.
        dataset_4: Further rows.
        names: What the data sets are called in ids of rows, in their order; the last parts of their addresses when left out.
        sources: What the manifest is to say of each data set, in their order: objects with uri, licence (an SPDX expression), owner, date and digest, as
            far as they are known. Its address in the run and its own digest when left out.
        base_model: Directory of the model whose tokens ``filter_length`` counts.
        evaluation_dataset: Evaluation rows that a step compares with.
        processes: How many processes judge rows; one a core, 8 at most, when left out.
        dataset_name: What the data set is called, whatever the version.
    """
    from functools import partial
    from pathlib import Path

    from llmops_components.data.preparation.prepare import named_datasets, origins_of
    from llmops_components.data.preparation.prepare import prepare_dataset as prepare
    from llmops_components.kfp._run import run_step
    from llmops_components.models.loading import load_tokenizer
    from llmops_components.passthrough.declared import whole_numbers

    given = [each for each in (dataset, dataset_2, dataset_3, dataset_4) if each]

    def call():
        datasets = named_datasets([(each.path, each.uri) for each in given], names)
        return prepare(
            datasets,
            prepared.path,
            held_out.path,
            ledger.path,
            manifest.path,
            steps=whole_numbers(steps),
            tokenizer=partial(load_tokenizer, Path(base_model.path)) if base_model else None,
            evaluation_dataset=evaluation_dataset.path if evaluation_dataset else None,
            processes=processes,
            origins=origins_of(datasets, [each.uri for each in given], sources),
            dataset_name=dataset_name,
        )

    run_step(
        "prepare_dataset",
        call,
        outputs={"prepared": prepared, "held_out": held_out, "ledger": ledger, "manifest": manifest},
        result=result,
    )
