"""A component's execution: its library function is called, its outputs are described, its result is written.

This is the one way from a component's inputs to the library function, whoever starts it: Kubeflow Pipelines
(:mod:`llmops_components.kfp`), the launcher of trainings, a test. What is raised comes out as it is; the process that it ends
says so, once.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmops_components.errors import ComponentError
from llmops_components.quiet import quiet_torchao
from llmops_components.redaction import hide_in, redacted
from llmops_components.reporting import report_error
from llmops_components.result_schema import MAX_FINDINGS, check_result
from llmops_components.results import RESULT_SCHEMA_VERSION, StepReport, digest_of
from llmops_components.state_files import naming_full_disk, write_json

CHECKPOINTS_VARIABLE = "LLMOPS_CHECKPOINTS"  # names a directory that all attempts of a step share


@dataclass(frozen=True)
class Output:
    """Where an output is written, and where it will be read.

    Args:
        path: File or directory on this machine.
        uri: Its address.
    """

    path: str
    uri: str


@dataclass(frozen=True)
class Done:
    """What a step leaves behind.

    Args:
        report: What the library function said.
        described: Address, digest and size of each output that was written, by name.
    """

    report: StepReport
    described: Mapping[str, Mapping[str, str | int]]


def carry_out(
    component: str, call: Callable[[], StepReport], *, outputs: Mapping[str, Output], result: str
) -> Done:
    """Call a library function as a step, and write its result.

    Args:
        component: Name of the component.
        call: Calls the library function and returns its report.
        outputs: Its outputs by name; one that it had no reason to write may be missing afterwards.
        result: Where the result is written: the JSON that the Airflow provider reads.

    Raises:
        Exception: Whatever the library raises. It is reported before, see :mod:`~llmops_components.reporting`.
    """
    started = time.monotonic()
    logging.getLogger().setLevel(logging.WARNING)  # KFP's executor switches on what every library has to say
    quiet_torchao()
    try:
        with naming_full_disk(Path(result).parent):
            report = call()
        described: dict[str, dict[str, str | int]] = {}
        for name, output in outputs.items():
            if Path(output.path).exists():
                digest, size = digest_of(output.path)
                described[name] = {"uri": output.uri, "digest": digest, "bytes": size}
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
        if report.comparison is not None:
            written["comparison"] = report.comparison.model_dump()
        check_result(written)
        write_json(result, written)
    except Exception as error:
        if not isinstance(error, ComponentError):
            hide_in(error)  # its traceback goes to the log of the step
        report_error(error)
        raise
    verdict = "finished" if report.passed else "finished, gate not passed"
    print(f"{component} {verdict} in {time.monotonic() - started:.1f} s", flush=True)
    return Done(report, described)


def _shortened(findings: list[str]) -> list[str]:
    """The first findings, as many as a result may have: a step that has done its work does not fail for having more."""
    if len(findings) <= MAX_FINDINGS:
        return findings
    return [*findings[: MAX_FINDINGS - 1], f"and {len(findings) - MAX_FINDINGS + 1} more"]


def _resources(seconds: float) -> dict[str, float | int]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    kib = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_memory_bytes": usage.ru_maxrss * kib,
    }
