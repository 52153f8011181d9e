"""KFP component: fetch a registered model version."""

from typing import Optional

from kfp import dsl
from kfp.dsl import Artifact, Model, Output, OutputPath

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fetch_model(
    model: Output[Model],
    signature: Output[Artifact],
    result: Output[Artifact],
    passed: OutputPath(bool),
    model_name: str,
    model_version: Optional[str] = None,
    alias: Optional[str] = None,
    tracking_uri: Optional[str] = None,
    required: bool = True,
):
    """Fetch the files of a registered model version, as ``register_model`` has kept them, and compare their digest with the registry's.

    Args:
        model: Directory of the model.
        signature: Its signature, where it was registered with one.
        result: Which version it is, its digests, date and aliases.
        passed: Whether the digest of the files is the registry's, where the version has one.
        model_name: Name in the model registry.
        model_version: Number of the version; or
        alias: an alias, whose version is taken.
        tracking_uri: Address of the MLflow server; ``MLFLOW_TRACKING_URI`` when left out. Credentials belong in the
            environment, never here.
        required: Whether there has to be such a version; otherwise nothing is fetched where there is none.
    """
    from llmops_components.kfp._run import run_step
    from llmops_components.tracking.registry import fetch_model as fetch

    run_step(
        "fetch_model",
        lambda: fetch(
            model.path,
            signature=signature.path,
            model_name=model_name,
            model_version=model_version,
            alias=alias,
            tracking_uri=tracking_uri,
            required=required,
        ),
        outputs={"model": model, "signature": signature},
        result=result,
        passed=passed,
    )
