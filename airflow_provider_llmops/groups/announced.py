"""The assets that the tasks of a group read and tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow.sdk import Asset

from airflow_provider_llmops.assets import dataset_asset, evaluation_asset, model_asset, service_asset

if TYPE_CHECKING:
    from airflow.sdk import Context

SAMPLES = "stdlib-docstrings"
"""Name of the data set that `prepare_data` makes."""
IS_DELIVERED = "is_delivered"


@dataclass(frozen=True)
class Announced:
    """Assets as operators take them: lists, empty where there is nothing to tell.

    :param samples: the sample data
    :param data: what the trainings read
    :param evaluation: of the tuned model
    :param model: the registered model
    :param service: what serves it
    """

    samples: list[Asset] = field(default_factory=list)
    data: list[Asset] = field(default_factory=list)
    evaluation: list[Asset] = field(default_factory=list)
    model: list[Asset] = field(default_factory=list)
    service: list[Asset] = field(default_factory=list)

    @classmethod
    def of(
        cls, model_name: str | None, namespace: str, dataset: Asset | None, *, has_rows: bool = False
    ) -> Announced:
        """The assets of one model.

        :param model_name: name of model, evaluation and service; without it nothing is told of them
        :param namespace: of the service
        :param dataset: what the trainings read
        :param has_rows: whether the rows are those of other tasks, so that they are no sample where no ``dataset`` is given
        """
        data = [dataset] if dataset is not None else []
        if model_name is None:
            return cls(data=data)
        samples = [dataset_asset(SAMPLES)]
        return cls(
            samples=samples,
            data=data or ([] if has_rows else samples),
            evaluation=[evaluation_asset(model_name)],
            model=[model_asset(model_name)],
            service=[service_asset(model_name, namespace)],
        )


def delivered_by_this_run(context: Context) -> None:
    """A hook that lets the events of assets say that nobody else has to deliver the version: a later task of the same run does."""
    for asset in context["task"].outlets:
        if isinstance(asset, Asset):
            context["outlet_events"][asset].extra[IS_DELIVERED] = True
