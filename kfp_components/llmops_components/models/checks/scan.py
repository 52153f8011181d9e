"""Look for code in the files of a model with modelscan, which knows pickles, archives and the formats of other libraries."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from llmops_components.errors import SettingError

_SEVERITY_SHOWN = 5


@dataclass(frozen=True)
class Scan:
    """What a scanner has found.

    Args:
        scanner: Its name and version.
        scanned: How many files it could look into; of safetensors and JSON it knows that there is no code in them, and passes them by.
        faults: What it found, or could not read, a sentence each.
    """

    scanner: str
    scanned: int
    faults: tuple[str, ...]


def scan_files(directory: Path) -> Scan:
    """Have modelscan look at a directory.

    Args:
        directory: Model directory.

    Raises:
        SettingError: modelscan is not installed here.
    """
    try:
        from modelscan.modelscan import ModelScan
    except ImportError:
        raise SettingError(
            "The scanner of files, modelscan, is not installed: it needs a Python below 3.13. Run the step with one, or give scan=False: "
            "files that are not safetensors, JSON, text or pictures are refused in any case."
        ) from None
    logging.getLogger("modelscan").setLevel(logging.ERROR)
    seen = ModelScan().scan(str(directory))
    issues = [
        f"{issue['source']}: {issue['description']} ({issue['severity'].lower()}, modelscan)."
        for issue in seen["issues"]
    ]
    errors = [
        f"{error.get('source', directory.name)}: modelscan could not read it: {error.get('description')}."
        for error in seen["errors"]
    ]
    summary = seen["summary"]
    return Scan(
        scanner=f"modelscan {summary['modelscan_version']}",
        scanned=summary["scanned"]["total_scanned"],
        faults=(*issues, *errors),
    )
