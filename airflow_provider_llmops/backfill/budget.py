"""What a backfill may cost: known of the runs that have ended, and expected of the others by former runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from airflow_provider_llmops.backfill.api import AirflowApi
from airflow_provider_llmops.backfill.plan import Spending
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.spending import cost_of, spent_by


def expected_costs(spending: Mapping[str, Spending], price_per_hour: float) -> dict[str, float]:
    """What one run of each DAG costs, by former ones; nothing where none is known.

    :param spending: of each DAG
    :param price_per_hour: of a step
    """
    return {dag_id: cost_of(each.each, price_per_hour) for dag_id, each in spending.items()}


@dataclass
class Budget:
    """What the runs of one call may cost together.

    :param price_per_hour: of a step
    :param most: what all of them may cost; ``None`` for any amount
    :param expected: what one run of each DAG is expected to cost
    :param spent: what runs that have ended have cost
    """

    price_per_hour: float
    most: float | None
    expected: Mapping[str, float]
    spent: float = 0.0
    _running: set[tuple[str, str]] = field(default_factory=set)  # ids of DAG and run

    def begin(self, dag_id: str, run_id: str) -> None:
        """Count a run that goes on by what is expected of it.

        :param dag_id: its DAG
        :param run_id: the run
        """
        self._running.add((dag_id, run_id))

    def refusal(self, dag_id: str) -> str | None:
        """Why another run of a DAG is not to be started; ``None`` where it is within the budget.

        :param dag_id: the DAG
        """
        if self.most is None:
            return None
        going_on = sum(self.expected.get(each, 0.0) for each, _ in self._running)
        another = self.expected.get(dag_id, 0.0)
        if self.spent + going_on + another <= self.most and self.spent < self.most:
            return None
        running = f", what goes on is expected to cost {going_on:.4g}" if going_on else ""
        return (
            f"it was not started: {self.spent:.4g} of {self.most:.4g} is spent{running}, and a run of it is expected to "
            f"cost {another:.4g}. Raise --max-cost."
        )

    def end(self, api: AirflowApi, dag_id: str, run_id: str) -> None:
        """Count what a run has cost.

        :param api: Airflow
        :param dag_id: its DAG
        :param run_id: the run
        :raises ConfigurationError: it may not be read, so that the budget cannot be kept
        """
        self._running.discard((dag_id, run_id))
        try:
            self.spent += cost_of(spent_by(api.results_of(dag_id, run_id, most=None)), self.price_per_hour)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"What the run {run_id} of {dag_id} took cannot be read, so that no budget can be kept: {error} Let the login "
                "read XCom, or leave --max-cost and --price-per-hour out."
            ) from error
