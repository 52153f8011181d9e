"""KFP component: record a model in MLflow's tracking server and model registry."""

from typing import Optional

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Model, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register_model(
    model: Input[Model],
    registration: Output[Artifact],
    signature: Output[Artifact],
    result: Output[Artifact],
    model_name: str,
    dataset: Input[Dataset] = None,
    report: Input[HTML] = None,
    tracking_uri: Optional[str] = None,
    experiment: str = "llmops",
    run_name: Optional[str] = None,
    parent: Optional[str] = None,
    alias: Optional[str] = None,
    as_of: Optional[str] = None,
    params_to_log: Optional[dict] = None,
    model_metrics: Optional[dict] = None,
    comparison: Optional[dict] = None,
    decision: Optional[dict] = None,
    tags: Optional[dict] = None,
    sign: bool = False,
):
    """Log an MLflow run and make a model version of the same content once.

    Args:
        model: Directory of the model.
        registration: Run id, version and addresses, as JSON.
        signature: The model's signature, where one is asked for.
        result: The same, with digests and resources of this step.
        model_name: Name in the model registry.
        dataset: The data that it was trained on; its digest becomes a tag.
        report: The evaluation's page, stored with the run, with the decision in its place.
        tracking_uri: Address of the MLflow server; ``MLFLOW_TRACKING_URI`` when left out. Credentials belong in the
            environment, never here.
        experiment: MLflow experiment.
        run_name: Name of the MLflow run.
        parent: Key of the DAG's run, ``dag_id/run_id``; the run is nested where the trainings with that key are.
        alias: Alias moved to this version, for example ``candidate`` or ``champion``, unless a version of a newer date has it;
            left out, every alias stays.
        as_of: Date or partition that the model is of, as text that sorts.
        params_to_log: Parameters to log.
        model_metrics: Metrics to log.
        comparison: The comparison of an evaluation, kept with the run as ``comparison.json``.
        decision: What a gate has decided on the model, kept as ``decision.json``; its outcome is the version's tag ``llmops.decision``.
        tags: Tags of run and version, for example the digests of the components that made the model.
        sign: Sign the model, and keep the signature with the version. The private key is in the environment, in ``LLMOPS_SIGNING_KEY`` or
            the file that ``LLMOPS_SIGNING_KEY_FILE`` names, its password in ``LLMOPS_SIGNING_KEY_PASSWORD``; never here.
    """
    import tempfile
    from pathlib import Path

    from llmops_components.evaluation.report.decided import write_with_decision
    from llmops_components.kfp._run import run_step
    from llmops_components.passthrough.declared import whole_numbers
    from llmops_components.results import StepReport
    from llmops_components.state_files import write_json
    from llmops_components.tracking.register import register_model as register

    def register_and_describe(scratch: str) -> StepReport:
        page = report.path if report else None
        if page and decision:
            page = Path(scratch, "evaluation.html")
            write_with_decision(report.path, page, decision)
        done = register(
            model.path,
            model_name=model_name,
            tracking_uri=tracking_uri,
            experiment=experiment,
            run_name=run_name,
            parent=parent,
            alias=alias,
            as_of=as_of,
            params_to_log=whole_numbers(params_to_log),
            model_metrics=model_metrics,
            comparison=whole_numbers(comparison),
            decision=whole_numbers(decision),
            tags=tags,
            datasets={"train": dataset.path} if dataset else None,
            artifacts={"evaluation.html": page} if page else None,
            sign=sign,
            signature=signature.path,
        )
        write_json(registration.path, done.details)
        return done

    with tempfile.TemporaryDirectory() as scratch:
        run_step(
            "register_model",
            lambda: register_and_describe(scratch),
            outputs={"registration": registration, "signature": signature},
            result=result,
        )
