"""Which steps run only if gates were passed, and the groups that they are put into.

A step after gates (components with the output parameter ``passed``) runs if those were passed that it needs itself or through
others: the steps behind the same gates are put into a conditional group, as the KFP compiler does with ``dsl.If``. A condition
at the steps themselves is not enough: Kubeflow Pipelines looks for a step's inputs before it looks at its condition, and fails
for those that were not made. A group that waits for one that was skipped does not begin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from airflow_provider_llmops.specs.ir import unused_name
from airflow_provider_llmops.specs.joining.steps import PASSED, JoinedStep

Gates = frozenset[str]
NO_GATES: Gates = frozenset()


class Groups:
    """The groups of a pipeline's steps; those that need no gate are in none, but in the pipeline itself.

    :param steps: the steps by name
    :param order: their names, each after those that it waits for
    """

    def __init__(self, steps: Mapping[str, JoinedStep], order: Sequence[str]) -> None:
        self._order = order
        self.gates = gates_of(steps, order)
        self._tasks: dict[Gates, str] = {NO_GATES: ""}
        for name in order:
            if (gates := self.gates[name]) not in self._tasks:
                named = "-".join(self.in_order(gates))
                taken = dict.fromkeys((*steps, *self._tasks.values()))
                self._tasks[gates] = unused_name(f"{named}-{PASSED}", taken)

    def __iter__(self) -> Iterator[Gates]:
        """The gates of each group, in the order in which the groups run; first the pipeline itself, which has none."""
        return iter(self._tasks)

    def in_order(self, gates: Gates) -> list[str]:
        """Names of gates in the order in which they run.

        :param gates: the gates
        """
        return [name for name in self._order if name in gates]

    def members(self, gates: Gates) -> list[str]:
        """Names of the steps behind exactly these gates, in the order in which they run.

        :param gates: the gates
        """
        return [name for name in self._order if self.gates[name] == gates]

    def task(self, gates: Gates) -> str:
        """Name of the task that is the group behind these gates; empty for the pipeline itself.

        :param gates: the gates
        """
        return self._tasks[gates]

    def path(self, name: str) -> str:
        """Path of a step's task in the pipeline.

        :param name: name of the step
        """
        group = self._tasks[self.gates[name]]
        return f"{group}/{name}" if group else name


def gates_of(steps: Mapping[str, JoinedStep], order: Iterable[str]) -> dict[str, Gates]:
    """The gates that each step needs, directly or through others.

    :param steps: the steps by name
    :param order: their names, each after those that it waits for
    """
    gates: dict[str, Gates] = {}
    for name in order:
        needs = steps[name].needs
        own = frozenset(need for need in needs if steps[need].is_gate)
        gates[name] = own.union(*(gates[need] for need in needs))
    return gates
