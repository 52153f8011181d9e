"""What is to be said of a component's run: from its arguments, and from the result that it has left."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_llmops.openlineage.lineage import Check, TaskLineage, Touched

if TYPE_CHECKING:
    from airflow_provider_llmops.results import StageResult
    from airflow_provider_llmops.specs.pipeline import PipelineSpec
    from airflow_provider_llmops.uris import Address

__all__ = ["ComponentFacts", "component_lineage", "expectation_checks", "joined_lineage", "passed_checks"]

_HUB = "hf://"
_TEMPLATE = "{{"
_MODEL = "system.Model"
_SHA256 = "sha256:"


@dataclass(frozen=True)
class ComponentFacts:
    """What a component's operator knows of its inputs and artifacts.

    :param services: inputs that are addresses of services
    :param rows: of inputs and artifacts that hold rows, the metric that counts them
    :param columns: inputs and artifacts whose columns are in the result's details
    :param checks: gives what an input was held against, by the result
    """

    services: Collection[str] = ()
    rows: Mapping[str, str] = field(default_factory=dict)
    columns: Collection[str] = ()
    checks: Callable[[StageResult], Mapping[str, tuple[Check, ...]]] = lambda result: {}


def component_lineage(
    spec: PipelineSpec,
    given: Mapping[str, Any],
    addresses: Mapping[str, Address],
    facts: ComponentFacts,
    result: StageResult | None,
    digest_at: Callable[[str], str | None],
) -> TaskLineage:
    """The lineage of one component.

    :param spec: the component
    :param given: its arguments
    :param addresses: inputs that name places
    :param facts: of its operator
    :param result: what it has left; ``None`` before, or where it has failed
    :param digest_at: gives the digest of what lies at an address, and is asked once there is a result
    """
    inputs = [*_read(spec, given, addresses, facts)]
    run = {"component": spec.name, "componentDigest": spec.digest}
    if result is None:
        return TaskLineage(inputs=tuple(touched for _, touched in inputs), run=run)
    checks = facts.checks(result)
    return TaskLineage(
        inputs=tuple(
            replace(
                _counted(name, touched, facts, result),
                digest=_content_digest(digest_at(touched.address)),
                checks=checks.get(name, ()),
            )
            for name, touched in inputs
        ),
        outputs=tuple(_made(spec, facts, result)),
        run=run | {"image": result.image, "runId": result.run_id, "passed": result.passed},
        metrics=result.metrics,
        resources=result.resources,
    )


def joined_lineage(steps: Mapping[str, TaskLineage], run: Mapping[str, Any]) -> TaskLineage:
    """The lineage of several components that ran together; their numbers have the step's name before them.

    :param steps: of each step, in order
    :param run: facts about their run
    """
    made = {touched.address for each in steps.values() for touched in each.outputs}
    taken: dict[str, Touched] = {}
    for each in steps.values():
        taken |= {touched.address: touched for touched in each.inputs if touched.address not in made}
    return TaskLineage(
        inputs=tuple(taken.values()),
        outputs=tuple(touched for each in steps.values() for touched in each.outputs),
        run={**run, "details": {"steps": {name: _step(each) for name, each in steps.items()}}},
        metrics=_prefixed((name, each.metrics) for name, each in steps.items()),
        resources=_prefixed((name, each.resources) for name, each in steps.items()),
    )


def passed_checks(told: Any, *, blocks: bool = True) -> tuple[Check, ...]:
    """Checks of which a result tells the outcome by name; one that is undecided has not passed.

    :param told: the outcomes by name
    :param blocks: whether the task fails where one does
    """
    outcomes = told.items() if isinstance(told, Mapping) else ()
    return tuple(
        Check(str(name), outcome in ("pass", "passed", "warn", True), blocks=blocks, actual=str(outcome))
        for name, outcome in outcomes
    )


def expectation_checks(told: Any) -> tuple[Check, ...]:
    """Checks of a validation, as its result tells of expectations.

    :param told: of each ``type``, ``column``, ``severity``, ``success`` and how many values are ``unexpected``
    """
    return tuple(
        Check(
            str(each.get("type")),
            each.get("success") is True,
            column=each.get("column"),
            blocks=each.get("severity") == "critical",
            actual=f"{each['unexpected']} unexpected values" if "unexpected" in each else None,
        )
        for each in told or ()
    )


def _read(
    spec: PipelineSpec, given: Mapping[str, Any], addresses: Mapping[str, Address], facts: ComponentFacts
) -> Iterable[tuple[str, Touched]]:
    for name, declared in spec.inputs.items():
        value, address = given.get(name), addresses.get(name)
        if not isinstance(value, str) or not value or _TEMPLATE in value:
            continue  # not given, or not rendered
        if name in facts.services:
            yield name, Touched(value, kind="SERVICE")
        elif "artifactType" in declared:
            yield name, Touched(value, kind=_kind(declared["artifactType"]))
        elif address is not None and not (address.kind == "directory" and not address.exists):
            # A directory that need not be there is the component's own, such as one for checkpoints.
            is_on_hub = address.names and not value.startswith(("/", "~", ".")) and "://" not in value
            yield name, Touched(f"{_HUB}{value}" if is_on_hub else value)


def _made(spec: PipelineSpec, facts: ComponentFacts, result: StageResult) -> Iterable[Touched]:
    task = next(iter(spec.ir["root"]["dag"]["tasks"].values()))
    component = spec.ir["components"][task["componentRef"]["name"]]
    declared = component.get("outputDefinitions", {}).get("artifacts", {})
    for name, artifact in result.artifacts.items():
        kind = _kind((declared.get(name) or {}).get("artifactType") or {})
        touched = Touched(artifact.uri, kind=kind, digest=artifact.digest, bytes=artifact.bytes)
        yield _counted(name, touched, facts, result)


def _counted(name: str, touched: Touched, facts: ComponentFacts, result: StageResult) -> Touched:
    rows = result.metrics.get(facts.rows.get(name, ""))
    columns = result.details.get("columns") if name in facts.columns else None
    return replace(
        touched,
        rows=None if rows is None else int(rows),
        columns={str(each): str(kind) for each, kind in columns.items()}
        if isinstance(columns, Mapping)
        else {},
    )


def _kind(declared: Mapping[str, Any]) -> Literal["FILE", "MODEL"]:
    return "MODEL" if declared.get("schemaTitle") == _MODEL else "FILE"


def _content_digest(found: str | None) -> str | None:
    return found if found is not None and found.startswith(_SHA256) else None


def _step(lineage: TaskLineage) -> dict[str, Any]:
    return {
        name: value for name, value in lineage.run.items() if name not in ("runId",) and value is not None
    }


def _prefixed(named: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, float]:
    return {f"{name}.{each}": value for name, values in named for each, value in values.items()}
