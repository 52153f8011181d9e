"""What Airflow makes of the provider's metadata."""

from __future__ import annotations

import dataclasses
import json

import jsonschema
import pytest
from airflow._shared.module_loading import import_string
from airflow.providers_manager import ProvidersManager
from planes import REPO

from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.connections import (
    KUBEFLOW_FIELDS,
    LOCAL_FIELDS,
    PROMETHEUS_FIELDS,
    RUNS_FIELDS,
    SERVICES_FIELDS,
    SIGNING_FIELDS,
)
from airflow_provider_llmops.get_provider_info import get_provider_info


def test_metadata_is_valid_against_airflows_schema():
    from importlib import resources

    schema = json.loads((resources.files("airflow") / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


@pytest.mark.parametrize(
    "entry", get_provider_info()["connection-types"], ids=lambda entry: entry["connection-type"]
)
def test_connection_type_belongs_to_its_hook(entry):
    hook = import_string(entry["hook-class-name"])
    assert (hook.conn_type, hook.hook_name) == (entry["connection-type"], entry["hook-name"])
    assert hook.default_conn_name == f"{entry['connection-type']}_default"


def test_airflow_shows_the_connection_forms():
    manager = ProvidersManager()
    expected = {"kubeflow", "kserve", "mlflow", "prometheus", "openai_endpoint", "model_signing"}
    assert expected <= set(manager.field_behaviours)
    widgets = manager.connection_form_widgets
    shown = {
        name.removeprefix("extra__kubeflow__") for name in widgets if name.startswith("extra__kubeflow__")
    }
    assert shown == {*KUBEFLOW_FIELDS, *LOCAL_FIELDS, *RUNS_FIELDS}
    assert manager.field_behaviours["mlflow"]["relabeling"]["host"] == "Tracking server"


@pytest.mark.parametrize("path", get_provider_info()["extra-links"])
def test_extra_links_can_be_imported(path):
    assert import_string(path)().name


def test_every_field_of_a_connection_is_documented():
    page = (REPO / "airflow_provider_llmops" / "README.md").read_text()
    fields = {
        *KUBEFLOW_FIELDS,
        *LOCAL_FIELDS,
        *RUNS_FIELDS,
        *SERVICES_FIELDS,
        *PROMETHEUS_FIELDS,
        *SIGNING_FIELDS,
    }
    assert [name for name in sorted(fields) if f"`{name}`" not in page] == []


def test_settings_of_a_server_have_a_value_for_each_of_its_fields():
    assert set(KUBEFLOW_FIELDS) <= {field.name for field in dataclasses.fields(KfpSettings)}
