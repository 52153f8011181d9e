"""A lineage as text for a terminal or a task's log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from airflow_provider_llmops.xcom import table_of

if TYPE_CHECKING:
    from airflow_provider_llmops.lineage.version import Lineage

__all__ = ["lines_of"]


def lines_of(lineage: Lineage) -> list[str]:
    """One fact a line; what is not recorded, and how to run it again, at the end.

    :param lineage: of a version
    """
    aliases = f", {', '.join(lineage.aliases)}" if lineage.aliases else ""
    head = f"{lineage.model_name} version {lineage.model_version}{aliases}"
    facts = [*_facts(lineage)]
    width = max((len(name) for name, _ in facts), default=0)
    return [head, *(f"{name:<{width}}  {value}" for name, value in facts), *_rest(lineage)]


def _facts(lineage: Lineage) -> Iterator[tuple[str, str]]:
    yield from _given(("registered", lineage.registered_at), ("model", lineage.model_digest))
    for name, value in lineage.dag.items():
        yield name, value
    yield from _given(("provider", lineage.provider_version), ("mlflow run", lineage.mlflow_run))
    for name, each in lineage.data.items():
        yield "data", f"{name}: {' '.join(each.values())}"
    for name, of in (("base model", lineage.base_model), ("made from", lineage.parent)):
        yield from _given((name, " ".join(of.values())))
    for name, component in lineage.components.items():
        image = f", image {component['image']}" if component["image"] else ""
        run = f", run {component['run_id']}" if component["run_id"] else ""
        yield "component", f"{name}: {component['digest']}{image}{run}"
    for name, value in lineage.decision.items():
        yield name, value


def _rest(lineage: Lineage) -> Iterator[str]:
    if lineage.metrics:
        yield ""
        yield table_of(lineage.metrics)
    if lineage.metrics_left_out:
        yield f"and {lineage.metrics_left_out} more"
    if lineage.missing:
        yield ""
        yield from lineage.missing
    yield ""
    if lineage.rerun is None:
        yield "It cannot be run again from what is recorded."
        return
    yield f"Run it again, with the DAG as it is now: {lineage.rerun}"
    yield from _as_it_was(lineage.dag)


def _as_it_was(dag: Mapping[str, str]) -> Iterator[str]:
    if "bundle_version" in dag and "run_id" in dag:
        yield (
            f"Or with the version that it ran with, {dag['bundle_version']}: clear the run {dag['run_id']} in the UI, which keeps it unless "
            "told otherwise."
        )


def _given(*pairs: tuple[str, str | None]) -> Iterator[tuple[str, str]]:
    for name, value in pairs:
        if value:
            yield name, value
