"""One real Airflow for all tests of a session that ask for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from airflow_stack import RealAirflow, free_environment


@pytest.fixture(scope="session")
def real_airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealAirflow]:
    """A running Airflow with MLflow; its DAGs folder is empty at first."""
    directory = tmp_path_factory.mktemp("airflow")
    airflow = RealAirflow(
        directory / "stack",
        dags_folder=directory / "dags",
        with_mlflow=True,
        environment=free_environment(),
    )
    airflow.start()
    try:
        yield airflow
    finally:
        airflow.stop()
