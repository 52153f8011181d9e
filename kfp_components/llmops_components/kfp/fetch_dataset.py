"""KFP component: bring a dataset from a disk, a bucket or the hub into the run."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fetch_dataset(
    dataset: Output[Dataset],
    sources: Output[Artifact],
    result: Output[Artifact],
    source: str,
):
    """Fetch a dataset: what comes after reads this copy, and not what the source may hold by then.

    Args:
        dataset: The rows: one file as it is, several as JSON Lines in the order of their names.
        sources: JSON with each file's address, digest, size and rows, or the commit on the hub.
        result: Counts, digests and resources of this step.
        source: Path, file:///path, s3://bucket/key, gs://bucket/key or hf://datasets/org/name@revision?config=...&split=train. An address that
            ends with a slash names all files of a directory, and one with * in its last part those whose names fit. Credentials belong in the
            environment, never here.
    """
    from llmops_components.data.fetching import fetch_dataset as fetch
    from llmops_components.kfp._run import run_step

    run_step(
        "fetch_dataset",
        lambda: fetch(source, dataset.path, sources.path),
        outputs={"dataset": dataset, "sources": sources},
        result=result,
    )
