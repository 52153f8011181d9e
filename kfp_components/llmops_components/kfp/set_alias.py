"""KFP component: move an alias of a registered model."""

from typing import Optional

from kfp import dsl
from kfp.dsl import Artifact, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def set_alias(
    result: Output[Artifact],
    model_name: str,
    model_version: str,
    alias: str,
    as_of: Optional[str] = None,
    only_if_newer: bool = True,
    tracking_uri: Optional[str] = None,
):
    """Move an alias to a registered model version, unless a version of a newer date has it.

    Args:
        result: Which version has it now, which had it before, and why.
        model_name: Name in the model registry.
        model_version: Number of the version.
        alias: The alias, for example ``production``.
        as_of: Date or partition that the model is of, as text that sorts; what the version says of itself when left out.
        only_if_newer: Leave the alias where it is if that version is of a newer date; otherwise it moves in any case.
        tracking_uri: Address of the MLflow server; ``MLFLOW_TRACKING_URI`` when left out. Credentials belong in the
            environment, never here.
    """
    from llmops_components.kfp._run import run_step
    from llmops_components.tracking.registry import set_alias as move

    run_step(
        "set_alias",
        lambda: move(
            model_name=model_name,
            model_version=model_version,
            alias=alias,
            as_of=as_of,
            only_if_newer=only_if_newer,
            tracking_uri=tracking_uri,
        ),
        outputs={},
        result=result,
    )
