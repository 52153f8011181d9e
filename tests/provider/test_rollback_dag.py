"""The DAG of one click back without a run: what its form takes, and what reaches the operator."""

from __future__ import annotations

import importlib.util

import pytest
from airflow.sdk.definitions.param import process_params
from airflow.sdk.exceptions import ParamValidationError
from planes import REPO


@pytest.fixture
def rendered():
    """The task as it is in a run with given parameters."""
    spec = importlib.util.spec_from_file_location("rollback", REPO / "dags" / "rollback.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def render(**conf):
        task = module.dag.get_task("roll_back").prepare_for_execution()
        params = process_params(module.dag, task, conf, suppress_exception=False)
        task.render_template_fields({"task": task, "params": params})
        return task

    return render


@pytest.mark.parametrize(("revision", "expected"), [(None, None), ("00001", "00001"), ("1e5", "1e5")])
def test_form_says_what_goes_back_and_where(rendered, revision, expected):
    task = rendered(service="e5", namespace="team", connection="kserve_team", revision=revision)
    assert (task.service_name, task.namespace, task.kserve_conn_id) == ("e5", "team", "kserve_team")
    assert (task.to_revision or None) == expected


@pytest.mark.parametrize(
    "conf", [{"service": "A"}, {"service": "a" * 49}, {"namespace": ""}, {"connection": ""}, {"revision": ""}]
)
def test_form_refuses_what_names_no_service(rendered, conf):
    with pytest.raises(ParamValidationError):
        rendered(**conf)
