"""What every component does around its library function: time it, describe its outputs, write the result."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kfp.dsl import Artifact, Metrics, Model

from llmops_components.errors import ComponentError
from llmops_components.models.store import MODELS, store_once
from llmops_components.redaction import hide_in, redacted
from llmops_components.reporting import message_of, report_error
from llmops_components.result_schema import MAX_FINDINGS, check_result
from llmops_components.results import RESULT_SCHEMA_VERSION, StageReport, digest_of
from llmops_components.state_files import naming_full_disk, write_json


def run_stage(
    component: str,
    call: Callable[[], StageReport],
    *,
    outputs: Mapping[str, Artifact],
    result: Artifact,
    metrics: Metrics | None = None,
    passed: str | None = None,
) -> None:
    """Run a library function as a pipeline step.

    Writes ``result`` (the JSON that the Airflow provider reads), and puts the digest and size of each output into
    its metadata. On the local backend, files of models that other runs have too are on disk once. An error that the library raises on purpose ends the process with its message as the last line
    instead of a traceback. It is reported as well, see :mod:`~llmops_components.reporting`.

    Args:
        component: Name of the component.
        call: Calls the library function and returns its report.
        outputs: Output artifacts by name.
        result: Output artifact for the result.
        metrics: Output artifact that shows the report's metrics in the pipelines UI.
        passed: File of the output parameter that says whether the gate was passed, of a component that has one.
    """
    started = time.monotonic()
    logging.getLogger().setLevel(logging.WARNING)  # KFP's executor switches on what every library has to say
    try:
        with naming_full_disk(Path(result.path).parent):
            report = call()
    except ComponentError as error:
        report_error(error)
        raise SystemExit(f"{type(error).__name__}: {message_of(error)}") from None
    except Exception as error:
        hide_in(error)  # its traceback goes to the log of the step
        report_error(error)
        raise

    described = {}
    for name, artifact in outputs.items():
        if not Path(artifact.path).exists():
            continue  # an optional output that this run had no reason to write
        if isinstance(artifact, Model) and (run := os.environ.get("LLMOPS_RUN_DIR")):
            store_once(artifact.path, Path(run).parent.parent / MODELS)
        digest, size = digest_of(artifact.path)
        artifact.metadata |= {"digest": digest, "bytes": size}
        described[name] = {"uri": artifact.uri, "digest": digest, "bytes": size}
    if metrics is not None:
        for name, value in report.metrics.items():
            metrics.log_metric(name, value)
    written = {
        "schema_version": RESULT_SCHEMA_VERSION,
        "component": component,
        "passed": report.passed,
        "findings": redacted(_shortened(report.findings)),
        "artifacts": described,
        "metrics": report.metrics,
        "details": redacted(report.details),
        "resources": _resources(time.monotonic() - started),
    }
    try:
        check_result(written)
        write_json(result.path, written)
    except ComponentError as error:
        report_error(error)
        raise SystemExit(f"{type(error).__name__}: {message_of(error)}") from None
    if passed is not None:
        Path(passed).write_text(json.dumps(report.passed), encoding="utf-8")
    verdict = "finished" if report.passed else "finished, gate not passed"
    print(f"{component} {verdict} in {time.monotonic() - started:.1f} s", flush=True)


def _shortened(findings: list[str]) -> list[str]:
    """As many as a result may have: more of them must not make a failure of a step that has done its work."""
    if len(findings) <= MAX_FINDINGS:
        return findings
    return [*findings[: MAX_FINDINGS - 1], f"and {len(findings) - MAX_FINDINGS + 1} more"]


def as_page(artifact: Artifact) -> None:
    """Give an output that is a page the suffix of one: by its address a browser tells what it is.

    Args:
        artifact: The output, before anything is written to it. KFP takes its address over from the step.
    """
    if not artifact.uri.endswith(".html"):
        artifact.uri += ".html"


def whole_numbers(value: Any) -> Any:
    """Give integers back that lost their type on the way here.

    KFP hands an object over as protobuf's ``Struct``, whose only number is the double: 40 arrives as 40.0, which
    ``range(40.0)`` and most libraries refuse. Where a library declares a float, it is made one again in
    :mod:`~llmops_components.passthrough.declared`.

    Args:
        value: A parameter of type object or list; anything else is returned as it is.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    return value


def _resources(seconds: float) -> dict[str, float | int]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    kib = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_memory_bytes": usage.ru_maxrss * kib,
    }
