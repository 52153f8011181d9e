"""KFP component: publish a version of a data set in a catalog."""

from typing import Optional

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def publish_dataset(
    prepared: Input[Dataset],
    manifest: Input[Artifact],
    publication: Output[Artifact],
    result: Output[Artifact],
    passed: dsl.OutputPath(bool),
    catalog: str,
    held_out: Input[Dataset] = None,
    policy: Input[Artifact] = None,
    name: Optional[str] = None,
    partition: Optional[str] = None,
):
    """Keep a version of a data set in a catalog, once it is known to be what its manifest says.

    Args:
        prepared: Rows of the version.
        manifest: Its manifest.
        publication: JSON with the version, its directory and files, and what the partition had before.
        result: Counts, digests and resources of this step.
        passed: Whether the policy that the manifest names lets it be used; otherwise nothing is published.
        catalog: Directory that outlives the step, on a cluster a mounted volume.
        held_out: Rows that were held out.
        policy: A policy as YAML or JSON, which the manifest has to pass; when left out, the verdict that the manifest has, if it has one.
        name: Name of the data set; that of the manifest when left out.
        partition: Key of the partition that the version is of; that of the manifest when left out.
    """
    from llmops_components.data.versions.publish import publish_dataset as publish
    from llmops_components.kfp._run import run_step

    run_step(
        "publish_dataset",
        lambda: publish(
            prepared.path,
            manifest.path,
            publication.path,
            catalog=catalog,
            held_out=held_out.path if held_out else None,
            name=name,
            partition=partition,
            policy=policy.path if policy else None,
        ),
        outputs={"publication": publication},
        result=result,
        passed=passed,
    )
