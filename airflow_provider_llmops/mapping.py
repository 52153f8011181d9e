"""What one mapped task hands on to the next.

Airflow maps over a task's ``return_value`` alone: ``.expand(model=train.output["model"])`` is an error of its. The results of
a mapped task can be mapped over, and each of them holds the addresses of its artifacts::

    train = TrainSFTOperator.partial(...).expand(training_args=[{"learning_rate": 1e-4}, {"learning_rate": 1e-3}])
    EvaluateModelOperator.partial(...).expand(model=train.output.map(artifact("model")))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["artifact"]


def artifact(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Take the address of one artifact from the result of a component, of a TrainJob, or of a component of your own.

    :param name: name of the artifact, for example ``model``
    :return: a function for ``task.output.map``
    """

    def address_in(result: Mapping[str, Any]) -> str:
        found = result["artifacts"]
        if name not in found:
            raise KeyError(
                f"There is no artifact {name!r} in the result. It has: {', '.join(found) or 'none'}."
            )
        return str(found[name]["uri"] if isinstance(found[name], Mapping) else found[name])

    return address_in
