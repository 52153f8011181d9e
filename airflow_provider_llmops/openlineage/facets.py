"""The lineage of a task in OpenLineage's classes. Imported by those alone who have its client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from airflow.providers.openlineage.extractors import OperatorLineage
from airflow.providers.openlineage.extractors.manager import ExtractorManager
from attrs import define, field
from openlineage.client.event_v2 import Dataset, InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    DatasetFacet,
    InputDatasetFacet,
    OutputDatasetFacet,
    RunFacet,
    data_quality_assertions_dataset,
    data_quality_metrics_input_dataset,
    dataset_type_dataset,
    dataset_version_dataset,
    input_statistics_input_dataset,
    output_statistics_output_dataset,
    schema_dataset,
    test_run,
)

from airflow_provider_llmops.openlineage.lineage import Check, TaskLineage, Touched
from airflow_provider_llmops.redaction import redact, redacted
from airflow_provider_llmops.uris import dataset_at

__all__ = ["LlmopsMetricsRunFacet", "LlmopsRunFacet", "LlmopsVersionDatasetFacet", "told"]

MAX_METRICS = 500
_SCHEMA = "urn:airflow-provider-llmops:openlineage:1"


@define
class LlmopsRunFacet(RunFacet):
    """What ran: the component and its digest, its run and image, whether its gate was passed, and the code of the task.

    :param facts: of what ran
    """

    component: str | None = None
    componentDigest: str | None = None
    image: str | None = None
    runId: str | None = None
    passed: bool | None = None
    dagVersion: str | None = None
    bundleName: str | None = None
    bundleVersion: str | None = None
    providerVersion: str | None = None
    details: dict[str, Any] | None = None

    @staticmethod
    def _get_schema() -> str:
        return f"{_SCHEMA}:run"


@define
class LlmopsMetricsRunFacet(RunFacet):
    """Numbers that came of it, and what it took."""

    metrics: dict[str, float] = field(factory=dict)
    resources: dict[str, float] = field(factory=dict)
    leftOut: int = 0

    @staticmethod
    def _get_schema() -> str:
        return f"{_SCHEMA}:metrics"


@define
class LlmopsVersionDatasetFacet(DatasetFacet):
    """A version of a registered model or of a published data set, and the digest of its content."""

    name: str
    version: str | None = None
    digest: str | None = None
    alias: str | None = None
    partition: str | None = None

    @staticmethod
    def _get_schema() -> str:
        return f"{_SCHEMA}:version"


def told(
    lineage: TaskLineage, code: Mapping[str, Any], declared: tuple[Iterable[Any], Iterable[Any]]
) -> OperatorLineage[Any, Any]:
    """The lineage of a task as Airflow's provider for OpenLineage takes it.

    :param lineage: of the task
    :param code: of :func:`~airflow_provider_llmops.remote.origin.code_of`
    :param declared: the task's inlets and outlets, which are told besides
    """
    facets: dict[str, RunFacet] = {"llmops_run": _run(lineage.run, code)}
    if lineage.metrics or lineage.resources:
        shown = dict(list(lineage.metrics.items())[:MAX_METRICS])
        facets["llmops_metrics"] = LlmopsMetricsRunFacet(
            metrics=shown, resources=dict(lineage.resources), leftOut=len(lineage.metrics) - len(shown)
        )
    if lineage.checks:
        facets["test"] = test_run.TestRunFacet(tests=[_test(each) for each in lineage.checks])
    inputs = [found for each in lineage.inputs if (found := _input(each))]
    outputs = [made for each in lineage.outputs if (made := _output(each))]
    return OperatorLineage(
        inputs=[*inputs, *_others(declared[0], inputs)],
        outputs=[*outputs, *_others(declared[1], outputs)],
        run_facets=facets,
    )


def _run(facts: Mapping[str, Any], code: Mapping[str, Any]) -> LlmopsRunFacet:
    own = {_camel(name): value for name, value in code.items()} | dict(facts)
    return LlmopsRunFacet(**redacted(own))


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _place(touched: Touched) -> tuple[str, str] | None:
    place = dataset_at(touched.address)
    return (place[0], redact(touched.name)) if place and touched.name else place


def _input(touched: Touched) -> InputDataset | None:
    if (place := _place(touched)) is None:
        return None
    facets: dict[str, InputDatasetFacet] = {}
    if touched.rows is not None or touched.bytes is not None:
        facets["inputStatistics"] = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
            rowCount=touched.rows, size=touched.bytes
        )
    if touched.rows is not None:
        facets["dataQualityMetrics"] = data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet(
            columnMetrics={}, rowCount=touched.rows, bytes=touched.bytes
        )
    if touched.checks:
        facets["dataQualityAssertions"] = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(
            assertions=[_assertion(each) for each in touched.checks]
        )
    return InputDataset(*place, facets=_about(touched), inputFacets=facets)


def _output(touched: Touched) -> OutputDataset | None:
    if (place := _place(touched)) is None:
        return None
    facets: dict[str, OutputDatasetFacet] = {}
    if touched.rows is not None or touched.bytes is not None:
        facets["outputStatistics"] = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=touched.rows, size=touched.bytes
        )
    return OutputDataset(*place, facets=_about(touched), outputFacets=facets)


def _about(touched: Touched) -> dict[str, DatasetFacet]:
    facets: dict[str, DatasetFacet] = {}
    if touched.kind:
        facets["datasetType"] = dataset_type_dataset.DatasetTypeDatasetFacet(datasetType=touched.kind)
    if version := touched.known_as.get("version") or touched.digest:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=str(version))
    if touched.columns:
        fields = [
            schema_dataset.SchemaDatasetFacetFields(name=redact(name), type=kind)
            for name, kind in touched.columns.items()
        ]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(fields=fields)
    if touched.known_as:
        facets["llmops_version"] = LlmopsVersionDatasetFacet(
            digest=touched.digest, **redacted(touched.known_as)
        )
    return facets


def _assertion(check: Check) -> data_quality_assertions_dataset.Assertion:
    return data_quality_assertions_dataset.Assertion(
        assertion=redact(check.name),
        success=check.passed,
        column=check.column,
        severity="error" if check.blocks else "warn",
        expected=_words(check.expected),
        actual=_words(check.actual),
    )


def _test(check: Check) -> test_run.TestExecution:
    return test_run.TestExecution(
        name=redact(check.name),
        status="pass" if check.passed else "fail",
        severity="error" if check.blocks else "warn",
        expected=_words(check.expected),
        actual=_words(check.actual),
    )


def _words(text: str | None) -> str | None:
    return None if text is None else redact(text)


def _others(declared: Iterable[Any], known: Iterable[Dataset]) -> list[Dataset]:
    """What a DAG's author has declared, as far as OpenLineage has a name for it, and it is not among what is told already."""
    names = {(each.namespace, each.name) for each in known}
    found = (ExtractorManager.convert_to_ol_dataset(each) for each in declared)
    return [each for each in found if each is not None and (each.namespace, each.name) not in names]
