"""Metrics whose question somebody wrote: the judge gives a number within bounds, or one of some values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ragas.metrics import DiscreteMetric, NumericMetric
from ragas.metrics.result import MetricResult


class AuthoredMetric:
    """A metric by a question to the judge, computed by RAGAS's ``NumericMetric`` or ``DiscreteMetric``.

    Args:
        llm: The judge.
        prompt: The question, with the row's fields in braces.
        bounds: Lowest and highest number that the judge may give.
        values: In place of bounds: what the judge may say, and the number that it counts.
    """

    def __init__(
        self,
        llm: Any,
        prompt: str,
        bounds: Sequence[float] | None = None,
        values: Mapping[str, float] | None = None,
    ) -> None:
        self._llm = llm
        self._values = values
        self._low, self._high = map(float, bounds or (0.0, 1.0))
        self.questions = [prompt]
        if values is not None:
            self._metric = DiscreteMetric(name="authored", prompt=prompt, allowed_values=list(values))
        else:
            self._metric = NumericMetric(name="authored", prompt=prompt)

    async def ascore(self, **row: Any) -> MetricResult:
        """The judge's number for a row.

        Args:
            row: What the question names.
        """
        result = await self._metric.ascore(llm=self._llm, **row)
        value = float(result.value if self._values is None else self._values[result.value])
        if self._values is None and not self._low <= value <= self._high:  # RAGAS lets it pass
            raise ValueError(f"the judge gave {value:g}, and the bounds are {self._low:g} and {self._high:g}")
        return MetricResult(value=value)
