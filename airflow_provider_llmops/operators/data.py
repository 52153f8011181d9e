"""Operators for datasets: fetch them, make sample data, validate and prepare what is given."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.hooks.storage import StorageHook
from airflow_provider_llmops.links import DataDocsLink
from airflow_provider_llmops.openlineage.components import ComponentFacts, expectation_checks
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink

__all__ = [
    "FetchDatasetOperator",
    "PrepareDatasetOperator",
    "PrepareSampleDataOperator",
    "ValidateDatasetOperator",
]


class FetchDatasetOperator(ComponentOperator):
    """Bring a dataset from a disk, a bucket or the hub into the run, and say exactly what was brought.

    One file is copied as it is; several become one of JSON Lines, in the order of their names. Artifacts: ``dataset``, and ``sources``: each
    file's address, digest, size and rows, or the commit on the hub. ``return_value["details"]`` holds ``source`` and, of the hub, ``revision``.

    :param source: path, ``file:///path``, ``s3://bucket/key``, ``gs://bucket/key`` or
        ``hf://datasets/org/name@revision?config=...&split=train``. An address that ends with a slash names all files of a directory, and one
        with ``*`` in its last part those whose names fit
    :param storage_conn_id: connection of type ``aws``, whose keys reach the step through its environment only; without it the step has those of its
        pod, or of the worker
    """

    component = "fetch_dataset"
    lineage_facts = ComponentFacts(rows={"dataset": "rows"})
    own_arguments = ("storage_conn_id",)
    addresses = {"source": Address(schemes=("s3", "gs", "hf"), exists=False)}

    def __init__(self, *, source: str, storage_conn_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.storage_conn_id = storage_conn_id

    def environment(self) -> dict[str, str]:
        """Keys of the object store, where a connection has them."""
        return StorageHook(self.storage_conn_id).environment() if self.storage_conn_id else {}


class PrepareDatasetOperator(ComponentOperator):
    """Clean, filter, deduplicate, split and mix rows by declared steps, with a ledger of what was dropped or changed.

    Artifacts: ``prepared`` (JSON Lines, each row with its ``row_id``), ``held_out`` (what ``split`` has held out), ``ledger`` (a line for each row
    that was dropped, changed or added, with step and reason), ``manifest`` (sources, steps, counts). Metrics: ``rows``, which are as many as
    ``used`` and ``rejected`` together, ``changed``, ``repeated``, ``added``, ``prepared_rows``, ``held_out_rows``; by step in
    ``return_value["details"]``.

    :param dataset: URI of rows
    :param steps: the steps in their order, each a dict with its name as ``step`` and its settings, as
        ``{"step": "filter_length", "max_words": 500}``
    :param dataset_2: URI of further rows, to mix or to compare with
    :param dataset_3: URI of further rows
    :param dataset_4: URI of further rows
    :param names: what the data sets are called in ids of rows, in their order; by default the last parts of their URIs
    :param sources: what the manifest is to say of each data set, in their order: dicts with ``uri``, ``licence`` (an SPDX expression), ``owner``,
        ``date`` and ``digest``, as far as they are known; by default its URI in the run and its own digest
    :param base_model: URI of the model whose tokens ``filter_length`` counts
    :param evaluation_dataset: URI of evaluation rows that a step compares with
    :param processes: how many processes judge rows; by default one a core, 8 at most
    :param dataset_name: what the data set is called in its manifest, whatever the version
    """

    component = "prepare_dataset"
    lineage_facts = ComponentFacts(rows={"prepared": "prepared_rows", "held_out": "held_out_rows"})
    addresses = {
        "dataset": Address(kind="file"),
        "dataset_2": Address(kind="file"),
        "dataset_3": Address(kind="file"),
        "dataset_4": Address(kind="file"),
        "base_model": Address(kind="directory"),
        "evaluation_dataset": Address(kind="file"),
    }

    def __init__(
        self,
        *,
        dataset: str,
        steps: Sequence[Mapping[str, Any]] | str,
        dataset_2: str | None = None,
        dataset_3: str | None = None,
        dataset_4: str | None = None,
        names: Sequence[str] | str | None = None,
        sources: Sequence[Mapping[str, Any]] | str | None = None,
        base_model: str | None = None,
        evaluation_dataset: str | None = None,
        processes: int | str | None = None,
        dataset_name: str = "prepared",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.steps = steps
        self.dataset_2 = dataset_2
        self.dataset_3 = dataset_3
        self.dataset_4 = dataset_4
        self.names = names
        self.sources = sources
        self.base_model = base_model
        self.evaluation_dataset = evaluation_dataset
        self.processes = processes
        self.dataset_name = dataset_name


class PrepareSampleDataOperator(ComponentOperator):
    """Make real training, preference and evaluation rows from the docstrings of Python's standard library.

    Artifacts: ``train``, ``preferences``, ``evaluation``.

    :param train_rows: number of prompt/completion rows
    :param preference_rows: number of prompt/chosen/rejected rows
    :param evaluation_rows: number of prompt/reference/contexts rows
    :param seed: chooses the rows
    :param only: data sets that are wanted, of ``train``, ``preferences`` and ``evaluation``; the others stay empty
    """

    component = "prepare_sample_data"
    lineage_facts = ComponentFacts(
        rows={"train": "train_rows", "preferences": "preference_rows", "evaluation": "evaluation_rows"}
    )

    def __init__(
        self,
        *,
        train_rows: int | str = 400,
        preference_rows: int | str = 200,
        evaluation_rows: int | str = 48,
        seed: int | str = 0,
        only: Sequence[str] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.train_rows = train_rows
        self.preference_rows = preference_rows
        self.evaluation_rows = evaluation_rows
        self.seed = seed
        self.only = only


class ValidateDatasetOperator(ComponentOperator):
    """Check a dataset with Great Expectations; fails when the gate is not passed.

    Artifacts: ``validated`` (accepted rows), ``rejected`` (rows with line number, id and reasons), ``validation_result``
    (JSON), ``data_docs`` (page). They are pushed before the task fails.

    :param dataset: URI of rows in one of TRL's formats, or of evaluation rows
    :param base_model: URI of the model that the rows are for: rows that its chat template refuses are rejected, and those
        of which it leaves something out are named
    :param suite: URI of a suite of yours, as Great Expectations 1 writes it as JSON
    :param evaluation_dataset: URI of rows that a model is evaluated on: rows that ask the same are rejected
    :param dataset_format: format to insist on, or several with commas between them; ``auto`` takes what it finds
    :param min_rows: fewest accepted rows
    :param max_rejected_fraction: largest fraction of rejected rows, 0 to 1; what your own expectations reject does not
        count, of which ``mostly`` says how many may be
    :param expectations: more expectations of yours, each a dict with ``type``, ``kwargs`` and ``severity``
        (``critical``, or ``warning``, which is told and fails nothing)
    """

    component = "validate_dataset"
    lineage_facts = ComponentFacts(
        rows={"dataset": "rows", "validated": "accepted_rows", "rejected": "rejected_rows"},
        columns=("dataset", "validated"),
        checks=lambda result: {"dataset": expectation_checks(result.details.get("expectations"))},
    )
    addresses = {
        "dataset": Address(kind="file"),
        "base_model": Address(kind="directory"),
        "suite": Address(kind="file"),
        "evaluation_dataset": Address(kind="file"),
    }
    operator_extra_links: Collection[BaseOperatorLink] = (
        *ComponentOperator.operator_extra_links,
        DataDocsLink(),
    )

    def __init__(
        self,
        *,
        dataset: str,
        base_model: str | None = None,
        suite: str | None = None,
        evaluation_dataset: str | None = None,
        dataset_format: str = "auto",
        min_rows: int | str = 1,
        max_rejected_fraction: float | str = 0.0,
        expectations: Sequence[Mapping[str, Any]] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.base_model = base_model
        self.suite = suite
        self.evaluation_dataset = evaluation_dataset
        self.dataset_format = dataset_format
        self.min_rows = min_rows
        self.max_rejected_fraction = max_rejected_fraction
        self.expectations = expectations
