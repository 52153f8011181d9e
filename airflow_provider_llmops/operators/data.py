"""Operators for datasets: fetch them, make sample data, validate what is given."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.hooks.storage import StorageHook
from airflow_provider_llmops.links import DataDocsLink
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink

__all__ = ["FetchDatasetOperator", "PrepareSampleDataOperator", "ValidateDatasetOperator"]


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
    own_arguments = ("storage_conn_id",)
    addresses = {"source": Address(schemes=("s3", "gs", "hf"), exists=False)}

    def __init__(self, *, source: str, storage_conn_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.storage_conn_id = storage_conn_id

    def environment(self) -> dict[str, str]:
        """Keys of the object store, where a connection has them."""
        return StorageHook(self.storage_conn_id).environment() if self.storage_conn_id else {}


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
