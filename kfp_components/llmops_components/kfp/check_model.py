"""KFP component: check a model before it is served."""

from typing import List, Optional

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Model, Output, OutputPath

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check_model(
    model: Input[Model],
    report: Output[Artifact],
    metrics: Output[Metrics],
    result: Output[Artifact],
    passed: OutputPath(bool),
    signature: Input[Artifact] = None,
    model_digest: Optional[str] = None,
    allowed_licenses: Optional[List[str]] = None,
    max_parameters: Optional[int] = None,
    max_bytes: Optional[int] = None,
    scan: bool = True,
    public_key: Optional[str] = None,
    model_name: Optional[str] = None,
    model_version: Optional[str] = None,
    tracking_uri: Optional[str] = None,
):
    """Check a model's files, and what else is asked for, before anything loads it.

    The step succeeds whatever it finds; whether the gate was passed is ``passed``, so that a pipeline keeps the report, and goes
    on with ``dsl.If(task.outputs["passed"] == True)``.

    Args:
        model: Directory of the model.
        report: Each check with what it looked at and what it found, as JSON.
        metrics: Parameters, bytes, files and faults, for the pipelines UI.
        result: Verdict, findings and resources of this step.
        passed: Whether every check was passed.
        signature: The model's signature, as ``register_model`` and ``fetch_model`` give it.
        model_digest: Digest that the model has to have, as a step's result or the registry states it.
        allowed_licenses: Licences as the hub names them, such as ``apache-2.0``; a model of which nothing is known does not pass.
        max_parameters: Most parameters.
        max_bytes: Most bytes of the weight files.
        scan: Have modelscan look for code in the files; it needs a Python below 3.13.
        public_key: Public key in PEM of who has to have signed the model; several, one below the other, where any of them will do.
        model_name: Name in the model registry, with
        model_version: the number of a version, in whose tags it is noted what was checked, and what came of it.
        tracking_uri: Address of the MLflow server; ``MLFLOW_TRACKING_URI`` when left out. Credentials belong in the
            environment, never here.
    """
    from llmops_components.kfp._run import run_step
    from llmops_components.models.checks.check import check_model as check
    from llmops_components.results import StepReport
    from llmops_components.tracking.checked import record_checks

    def check_and_record() -> StepReport:
        done = check(
            model.path,
            report.path,
            model_digest=model_digest,
            allowed_licenses=allowed_licenses,
            max_parameters=max_parameters,
            max_bytes=max_bytes,
            scan=scan,
            signature=signature.path if signature else None,
            public_key=public_key,
        )
        return record_checks(
            done, model_name=model_name, model_version=model_version, tracking_uri=tracking_uri
        )

    run_step(
        "check_model",
        check_and_record,
        outputs={"report": report},
        metrics=metrics,
        result=result,
        passed=passed,
    )
