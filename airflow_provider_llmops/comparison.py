"""Two models on the same rows, metric by metric: what an evaluation writes into its result and a gate decides by.

The components declare the same in their ``comparison.py``; a test compares the two.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from airflow_provider_llmops.exceptions import ConfigurationError, shortened

SCHEMA_VERSION = 1
MAX_METRICS = 50
_SLACK = 1e-5  # numbers are rounded to six decimals

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Difference(BaseModel):
    """Candidate minus baseline, and the interval that the difference lies in."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    value: Finite
    low: Finite
    high: Finite

    @model_validator(mode="after")
    def _check(self) -> Difference:
        if self.low > self.high:
            raise PydanticCustomError("interval", "the interval ends before it begins")
        return self


class MetricComparison(BaseModel):
    """Both models on the rows that both have a score for; nothing but counts where there is no such row."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    candidate: Finite | None
    baseline: Finite | None
    difference: Difference | None
    rows_scored: Count
    rows_unscored: Count

    @model_validator(mode="after")
    def _check(self) -> MetricComparison:
        if self.candidate is None or self.baseline is None or self.difference is None:
            if self.rows_scored or (self.candidate, self.baseline, self.difference) != (None, None, None):
                raise PydanticCustomError("numbers", "some of its numbers are missing")
        elif not self.rows_scored:
            raise PydanticCustomError("numbers", "it has numbers, and no row that has a score")
        elif abs(self.candidate - self.baseline - self.difference.value) > _SLACK * max(
            1.0, abs(self.candidate), abs(self.baseline)
        ):
            raise PydanticCustomError("numbers", "its difference is not that of candidate and baseline")
        return self


class Comparison(BaseModel):
    """By metric. Without metrics: the evaluation had no baseline."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    schema_version: Literal[1]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    metrics: Annotated[dict[Name, MetricComparison], Field(max_length=MAX_METRICS)]

    @model_validator(mode="before")
    @classmethod
    def _check_version(cls, value: Any) -> Any:
        version = value.get("schema_version") if isinstance(value, dict) else SCHEMA_VERSION
        if type(version) is not int or version != SCHEMA_VERSION:
            raise PydanticCustomError(
                "schema_version",
                "it has schema version {version}; version {known} is read here",
                {"version": f"{version!r:.40}", "known": SCHEMA_VERSION},
            )
        return value

    @model_validator(mode="after")
    def _check_rows(self) -> Comparison:
        if len({each.rows_scored + each.rows_unscored for each in self.metrics.values()}) > 1:
            raise PydanticCustomError("rows", "its metrics are of different numbers of rows")
        return self


def read_comparison(value: Any) -> Comparison:
    """A comparison that another task has pushed to XCom.

    :param value: the JSON that the evaluation wrote
    :raises ConfigurationError: it is none, or of a schema version that this provider does not know
    """
    try:
        return Comparison.model_validate(value)
    except ValidationError as error:
        raise ConfigurationError(
            f'The comparison is not one of an evaluation ({first_of(error)}). Give the evaluation\'s output "comparison", by '
            "XComArg or by a template of a DAG with render_template_as_native_obj=True, and use the component image that belongs "
            "to the installed provider."
        ) from None


def first_of(error: ValidationError) -> str:
    """The first of the faults that were found, with the field that has it.

    :param error: what pydantic has found
    """
    first = error.errors(include_url=False, include_input=False)[0]
    return shortened(": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]])), 200)
