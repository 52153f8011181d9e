"""What a component leaves behind when it has finished, and what of that goes to XCom."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from airflow_provider_llmops.comparison import Comparison, Name, first_of
from airflow_provider_llmops.exceptions import ResultError, ResultTooLargeError, shown_value
from airflow_provider_llmops.redaction import redacted
from airflow_provider_llmops.state_files import read_text
from airflow_provider_llmops.xcom import MAX_XCOM_BYTES

SUPPORTED_SCHEMA_VERSION = 1
MAX_RESULT_BYTES = 4 * 1024 * 1024
MAX_FINDINGS_IN_XCOM = 20
_LONG_DETAILS = ("columns", "expectations")  # the first to go where the result is too large for XCom

# Of 64 bits, as everything that stores them has.
Number = Annotated[int, Field(ge=-(2**63), lt=2**63)] | Annotated[float, Field(allow_inf_nan=False)]
Size = Annotated[int, Field(ge=0, lt=2**63)]


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
    findings: Annotated[list[str], Field(max_length=10_000)]
    artifacts: Annotated[dict[Name, ArtifactRecord], Field(max_length=1000)]
    metrics: Annotated[dict[Name, Number], Field(max_length=10_000)]
    details: dict[str, Any]
    resources: dict[Name, Number]
    comparison: Comparison | None = None


@dataclass(frozen=True)
class ArtifactRef:
    """An output of a component: where it lies and what is in it.

    :param uri: address in the artifact store, or an absolute path on the local backend
    :param digest: content digest, ``sha256:<hex>``
    :param bytes: size
    """

    uri: str
    digest: str
    bytes: int


@dataclass(frozen=True)
class StageResult:
    """Outcome of one component run.

    :param component: name of the component
    :param run_id: id of the pipeline run
    :param component_digest: digest of the specification that ran
    :param passed: False when a quality gate in the component was not met
    :param findings: sentences that explain the gate, most important first
    :param artifacts: outputs by name
    :param metrics: numbers by name
    :param details: short facts that are not metrics
    :param resources: seconds, CPU seconds and peak memory of the step
    :param comparison: of an evaluation: both models, metric by metric
    :param image: that the step ran in; ``None`` where there are no containers
    """

    component: str
    run_id: str
    component_digest: str
    passed: bool = True
    findings: list[str] = field(default_factory=list)
    artifacts: dict[str, ArtifactRef] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    resources: dict[str, float] = field(default_factory=dict)
    comparison: Comparison | None = None
    image: str | None = None

    @classmethod
    def parse(
        cls, text: str, *, run_id: str, component_digest: str, where: str, image: str | None = None
    ) -> StageResult:
        """Read a ``result.json``.

        :param text: content of the file
        :param run_id: run that wrote it
        :param component_digest: digest of the specification that ran
        :param where: the file's address, for messages
        :param image: that the step ran in
        :raises ResultError: the text is cut off, or of a schema version that this provider does not know
        """
        places = (f"Run: {run_id}", f"Result: {where}")
        try:
            if len(text) > MAX_RESULT_BYTES:
                raise ValueError(f"it has {len(text)} characters, {MAX_RESULT_BYTES} at most are read")
            value = read_text(text.encode("utf-8", errors="surrogatepass"))
        except (ValueError, RecursionError) as error:
            raise ResultError(
                f"The result cannot be read: {error}. Clear the task to run the component again; if it ends so once more, the "
                "component writes it so.",
                *places,
            ) from error
        version = value.get("schema_version") if isinstance(value, dict) else None
        if version != SUPPORTED_SCHEMA_VERSION:
            raise ResultError(
                f"The result has schema version {shown_value(version)}; this provider reads version {SUPPORTED_SCHEMA_VERSION}. Use "
                "the component image that belongs to the installed provider.",
                *places,
            )
        try:
            known = ResultRecord.model_validate(value)
        except ValidationError as error:
            raise ResultError(
                f"The result lacks or garbles a field ({first_of(error)}). Clear the task to run the component again.",
                *places,
            ) from None  # pydantic's own words repeat what it was given
        return cls(
            component=known.component,
            run_id=run_id,
            component_digest=component_digest,
            passed=known.passed,
            findings=redacted(known.findings),
            artifacts={name: ArtifactRef(**ref.model_dump()) for name, ref in known.artifacts.items()},
            metrics=dict(known.metrics),
            details=redacted(known.details),
            resources=dict(known.resources),
            comparison=known.comparison,
            image=image,
        )

    def to_xcom(self) -> dict[str, Any]:
        """The result as plain JSON of at most 16 KB: URIs and numbers, never payloads.

        Findings beyond the first twenty, and if need be columns and expectations, all findings and details, are left out and counted; the artifacts have them.
        """
        short = self
        if len(self.findings) > MAX_FINDINGS_IN_XCOM:
            left_out = len(self.findings) - MAX_FINDINGS_IN_XCOM
            shown = [*self.findings[:MAX_FINDINGS_IN_XCOM], f"... and {left_out} more"]
            short = replace(self, findings=shown)
        kept = {name: value for name, value in self.details.items() if name not in _LONG_DETAILS}
        lean = replace(short, details=kept)
        shorter = replace(lean, findings=[f"{len(self.findings)} findings, left out"])
        for candidate in (short, lean, shorter, replace(shorter, details={})):
            value = asdict(candidate)
            if self.comparison is None:
                del value["comparison"]
            else:
                value["comparison"] = self.comparison.model_dump()
            if len(json.dumps(value)) <= MAX_XCOM_BYTES:
                return value
        raise ResultTooLargeError(
            f"The result is larger than {MAX_XCOM_BYTES} bytes even without findings and details. A component reports "
            "addresses and numbers; store anything larger as an artifact.",
            f"Run: {self.run_id} ({self.component})",
        )

    def outputs(self) -> Mapping[str, str]:
        """URI of each artifact by name."""
        return {name: ref.uri for name, ref in self.artifacts.items()}


def artifacts_in(text: str) -> dict[str, ArtifactRecord]:
    """The outputs that a ``result.json`` describes.

    :param text: content of the file
    :raises ValueError: it is no result
    """
    return ResultRecord.model_validate(read_text(text.encode("utf-8", errors="surrogatepass"))).artifacts
