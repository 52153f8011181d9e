"""KFP component: carry out the manifest of a service, on KServe or as a local predictor."""

from typing import Optional

from kfp import dsl
from kfp.dsl import Artifact, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def deploy_model(
    service: Output[Artifact],
    result: Output[Artifact],
    manifest: dict,
    root: Optional[str] = None,
    timeout_seconds: int = 600,
):
    """Start a new revision and wait until it is ready; then it gets the traffic.

    The revision that served before goes on serving when the new one fails.

    Args:
        service: Name, revision and addresses, as JSON.
        result: The same, with resources of this step.
        manifest: An ``InferenceService`` as a plain object.
        root: Directory of local services; only used when not running in a cluster.
        timeout_seconds: How long the revision may take to become ready.
    """
    from llmops_components.kfp._run import run_step
    from llmops_components.passthrough.declared import whole_numbers
    from llmops_components.serving.deploy import deploy_model as deploy

    run_step(
        "deploy_model",
        lambda: deploy(
            service.path,
            manifest=whole_numbers(manifest),
            root=root,
            timeout_seconds=timeout_seconds,
        ),
        outputs={"service": service},
        result=result,
    )
