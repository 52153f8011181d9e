"""A component as a step of Kubeflow Pipelines: artifacts become paths, what is raised ends the process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from kfp.dsl import Artifact, Metrics, Model

from llmops_components.errors import ComponentError
from llmops_components.models.store import MODELS, store_once
from llmops_components.reporting import message_of
from llmops_components.results import StepReport
from llmops_components.step import Output, carry_out


def run_step(
    component: str,
    call: Callable[[], StepReport],
    *,
    outputs: Mapping[str, Artifact],
    result: Artifact,
    metrics: Metrics | None = None,
    passed: str | None = None,
) -> None:
    """Run a library function as a step of a pipeline.

    Besides the result, the digest and size of each output go into its metadata. On the local backend, files of models that
    other runs have too are on disk once. An error that the library raises on purpose ends the process with its message as
    the last line instead of a traceback.

    Args:
        component: Name of the component.
        call: Calls the library function and returns its report.
        outputs: Output artifacts by name.
        result: Output artifact for the result.
        metrics: Output artifact that shows the report's metrics in the pipelines UI.
        passed: File of the output parameter that says whether the gate was passed, of a component that has one.
    """

    def called() -> StepReport:
        report = call()
        if run := os.environ.get("LLMOPS_RUN_DIR"):
            for artifact in outputs.values():
                if isinstance(artifact, Model):
                    store_once(artifact.path, Path(run).parent.parent / MODELS)
        return report

    try:
        done = carry_out(
            component,
            called,
            outputs={name: Output(artifact.path, artifact.uri) for name, artifact in outputs.items()},
            result=result.path,
        )
    except ComponentError as error:
        raise SystemExit(f"{type(error).__name__}: {message_of(error)}") from None
    for name, described in done.described.items():
        outputs[name].metadata |= {"digest": described["digest"], "bytes": described["bytes"]}
    if metrics is not None:
        for name, value in done.report.metrics.items():
            metrics.log_metric(name, value)
    if passed is not None:
        Path(passed).write_text(json.dumps(done.report.passed), encoding="utf-8")


def as_page(artifact: Artifact) -> None:
    """Give an output that is a page the suffix of one: by its address a browser tells what it is.

    Args:
        artifact: The output, before anything is written to it. KFP takes its address over from the step.
    """
    if not artifact.uri.endswith(".html"):
        artifact.uri += ".html"
