"""What there is to say of a task: data sets, models and services, numbers and checks, in plain words and without OpenLineage's classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Check", "TaskLineage", "Touched"]


@dataclass(frozen=True)
class Check:
    """Something that was held against a rule.

    :param name: of the rule
    :param passed: whether it holds
    :param column: column that it is about; ``None`` for all of the rows
    :param blocks: whether the task does not go on where it does not hold
    :param expected: what should be, in words
    :param actual: what is, in words
    """

    name: str
    passed: bool
    column: str | None = None
    blocks: bool = True
    expected: str | None = None
    actual: str | None = None


@dataclass(frozen=True)
class Touched:
    """A data set, model or service that a task reads or makes.

    :param address: where it is
    :param name: its name in the namespace of the address, where that is not the path
    :param kind: what it is, where that is known
    :param digest: of its content
    :param bytes: its size
    :param rows: how many rows it has
    :param columns: type of each column
    :param checks: what its rows were held against
    :param known_as: of a registered model and a published data set: ``name``, ``version``, ``alias``, ``partition``, as far as there are
    """

    address: str
    name: str | None = None
    kind: Literal["FILE", "MODEL", "SERVICE"] | None = None
    digest: str | None = None
    bytes: int | None = None
    rows: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    known_as: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskLineage:
    """A task as far as it has got.

    :param inputs: what it reads
    :param outputs: what it has made
    :param run: facts about what ran, such as ``component``, ``runId`` and ``image``
    :param metrics: numbers by name
    :param resources: what it took, by name
    :param checks: what was decided, where that is not about rows
    """

    inputs: tuple[Touched, ...] = ()
    outputs: tuple[Touched, ...] = ()
    run: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
