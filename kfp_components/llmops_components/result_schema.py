"""What a ``result.json`` may hold: checked before it is written, and before anything here believes one.

The Airflow provider declares the same in its ``results.py``; a test compares the two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from llmops_components.comparison import Comparison, Name, first_of
from llmops_components.state_files import StateFileError, read_json, unreadable, why_unusable

# Of 64 bits, as everything that stores them has.
Number = Annotated[int, Field(ge=-(2**63), lt=2**63)] | Annotated[float, Field(allow_inf_nan=False)]
Size = Annotated[int, Field(ge=0, lt=2**63)]


MAX_BYTES = 4 << 20
MAX_FINDINGS = 10_000


class ArtifactRecord(BaseModel):
    """An output: where it lies, and what is in it."""

    model_config = ConfigDict(strict=True)

    uri: Annotated[str, StringConstraints(min_length=1, max_length=8192)]
    digest: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{1,64}$")]
    bytes: Size


class ResultRecord(BaseModel):
    """``result.json``. Keys that it does not declare are left out: nobody reads them, and a later release may add some."""

    model_config = ConfigDict(strict=True)

    schema_version: Literal[1]
    component: Name
    passed: bool
    findings: Annotated[list[str], Field(max_length=MAX_FINDINGS)]
    artifacts: Annotated[dict[Name, ArtifactRecord], Field(max_length=1000)]
    metrics: Annotated[dict[Name, Number], Field(max_length=10_000)]
    details: dict[str, Any]
    resources: dict[Name, Number]
    comparison: Comparison | None = None


def read_result(path: Path) -> ResultRecord:
    """The result in a file.

    Args:
        path: What :func:`llmops_components.step.carry_out` wrote.

    Raises:
        StateFileError: It is missing or no result; the message names the file and the field.
    """
    value = read_json(path)
    if not value:
        raise unreadable(path, "it is not there")
    try:
        return ResultRecord.model_validate(value)
    except ValidationError as error:
        raise unreadable(path, first_of(error)) from None


def check_result(value: dict[str, Any]) -> None:
    """Refuse to write what nobody would read.

    Args:
        value: The whole result.

    Raises:
        StateFileError: A field is of another type, a number is not finite, or it is too large; the message names it.
    """
    try:
        ResultRecord.model_validate(value)
        size = len(json.dumps(value))
        why = why_unusable(value) or (f"it has {size} bytes of {MAX_BYTES}" if size > MAX_BYTES else None)
    except ValidationError as error:
        why = first_of(error)
    except (TypeError, ValueError, RecursionError) as error:
        why = f"details: {error}"
    if why:
        raise StateFileError(f"The result of {value.get('component')} cannot be written: {why}")
