"""Two models on the same rows, metric by metric: what an evaluation writes into its result and a gate decides by.

The Airflow provider declares the same in its ``comparison.py``; a test compares the two.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from llmops_components.errors import SettingError

MAX_METRICS = 50
MAX_SLICES = 100
_SLACK = 1e-5  # numbers are rounded to six decimals

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(gt=0, lt=1)]
Ends = Annotated[list[Finite], Field(max_length=20)]


class Strict(BaseModel):
    """A record that takes nothing but what it declares."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Versioned(Strict):
    """A record that says by ``schema_version`` how it is to be read: another version is refused by its number, whatever else it holds."""

    @model_validator(mode="before")
    @classmethod
    def _check_version(cls, value: Any) -> Any:
        (known,) = get_args(cls.model_fields["schema_version"].annotation)
        version = value.get("schema_version") if isinstance(value, dict) else known
        if type(version) is not int or version != known:
            raise PydanticCustomError(
                "schema_version",
                "it has schema version {version}; version {known} is read here",
                {"version": f"{version!r:.40}", "known": known},
            )
        return value


class Estimated(Strict):
    """A number, and the interval that it lies in."""

    value: Finite
    low: Finite
    high: Finite

    @model_validator(mode="after")
    def _check_interval(self) -> Estimated:
        if self.low > self.high:
            raise PydanticCustomError("interval", "the interval ends before it begins")
        return self


class Bounded(Estimated):
    """The same, with what it is not below and not above: one bound for each of the comparison's levels, none where none is known."""

    lower: Ends
    upper: Ends


class MetricComparison(Strict):
    """Both models by one metric; nothing but counts of a model that no row has a score of.

    Each model has what it reaches on the rows that it has a score for itself. The candidate's bounds count its other rows as failed, as
    ``worst_case`` does; there are none where nobody knows what a failed row gets. The difference is that of the rows that both have a
    score for.
    """

    higher_is_better: bool
    candidate: Bounded | None
    baseline: Estimated | None
    difference: Bounded | None
    worst_case: Finite | None
    rows_scored: Count
    rows_unscored: Count
    pairs_scored: Count

    @model_validator(mode="after")
    def _check(self) -> MetricComparison:
        if (self.candidate is None) != (not self.rows_scored) or (self.difference is None) != (
            not self.pairs_scored
        ):
            raise PydanticCustomError("numbers", "its numbers are not those of as many rows")
        if self.pairs_scored > self.rows_scored or (self.difference is not None and self.baseline is None):
            raise PydanticCustomError("numbers", "some of its numbers are missing")
        if self.worst_case is not None and not self.rows_unscored:
            raise PydanticCustomError("numbers", "it has a worst case, and no row without a score")
        return self


class Comparison(Versioned):
    """By metric, and by value of a column and metric for slices of the rows. A metric may be of a part of the rows, as those of one task."""

    schema_version: Literal[2]
    confidence: Share
    levels: Annotated[list[Share], Field(max_length=20)]
    has_baseline: bool
    metrics: Annotated[dict[Name, MetricComparison], Field(max_length=MAX_METRICS)]
    slices: dict[Name, Annotated[dict[Name, dict[Name, MetricComparison]], Field(max_length=MAX_SLICES)]]

    @model_validator(mode="after")
    def _check_metrics(self) -> Comparison:
        slices = [each for values in self.slices.values() for each in values.values()]
        for name, each in [*self.metrics.items(), *(pair for metrics in slices for pair in metrics.items())]:
            if not self.has_baseline and (each.baseline is not None or each.difference is not None):
                raise PydanticCustomError(
                    "baseline", "{name} has a baseline, and there is none", {"name": name}
                )
            for bounded in filter(None, (each.candidate, each.difference)):
                if {len(bounded.lower), len(bounded.upper)} not in ({0}, {len(self.levels)}):
                    raise PydanticCustomError(
                        "bounds", "{name} has not one bound for each level", {"name": name}
                    )
        return self


def read_comparison(value: Any) -> Comparison:
    """A comparison that came back from the control plane.

    Args:
        value: The JSON that an evaluation wrote.

    Raises:
        SettingError: It is none, or of a schema version that this release does not know.
    """
    try:
        return Comparison.model_validate(value)
    except ValidationError as error:
        raise SettingError(
            f"comparison is not one of evaluate_model ({first_of(error)}). Pass it on as the evaluation wrote it, with the same "
            "release on both sides."
        ) from None


def first_of(error: ValidationError) -> str:
    """The first of the faults that were found, with the field that has it.

    Args:
        error: What pydantic has found.
    """
    first = error.errors(include_url=False, include_input=False)[0]
    return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))[:300]
