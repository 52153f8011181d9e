"""Contract tests look across the wall: control plane here, official SDKs in the data plane's environment."""

from __future__ import annotations

import os
import tempfile

import pytest
from fresh_kfp_api import fresh_kfp_api

os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-home-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"


@pytest.fixture
def api():
    """A fake API server of Kubeflow Pipelines."""
    with fresh_kfp_api() as api:
        yield api
