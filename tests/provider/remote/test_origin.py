"""Which code a task is of, and with which settings: as far as Airflow has told the worker, and no further."""

from __future__ import annotations

import json
from types import SimpleNamespace

from airflow.sdk.definitions.param import ParamsDict

from airflow_provider_llmops.remote.intent import origin_of
from airflow_provider_llmops.remote.origin import (
    CONF,
    CONF_TOO_LARGE,
    MAX_CONF_CHARACTERS,
    code_of,
    conf_of,
    provider_version,
    tags_of,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = {
    "dag_version": "0192-7f",
    "bundle_name": "team",
    "bundle_version": COMMIT,
    "provider_version": provider_version(),
}


def in_a_bundle(context, version=COMMIT):
    context["ti"].dag_version_id = "0192-7f"
    context["ti"].bundle_instance = SimpleNamespace(name="team", version=version)
    return context


def test_a_run_is_labelled_with_the_code_that_it_is_of(context):
    assert code_of(in_a_bundle(context)) == CODE
    assert CODE.items() <= origin_of(context).items()


def test_what_a_worker_has_not_been_told_is_left_out(context):
    assert code_of(context) == {"provider_version": provider_version()}
    local = in_a_bundle(context, version=None)  # a local folder has no versions
    assert "bundle_version" not in code_of(local) and code_of(local)["bundle_name"] == "team"


def test_settings_are_those_of_the_dags_run_with_the_defaults_and_without_secrets(context):
    dag = SimpleNamespace(params=ParamsDict({"max_steps": 20, "token": "", "method": "sft"}))
    run = SimpleNamespace(conf={"max_steps": 3, "token": "hf_abcdefghijklmnopqrstuvwx", "unknown": 1})
    params = {"max_steps": 3, "method": "sft", "token": "hf_abcdefghijklmnopqrstuvwx", "of_the_task": 1}
    found = conf_of(context | {"dag": dag, "dag_run": run, "params": params})
    assert found == {"max_steps": 3, "method": "sft", "token": "***", "unknown": 1}


def test_settings_too_large_for_a_tag_are_counted_and_not_cut(context):
    dag = SimpleNamespace(params=ParamsDict({"text": ""}))
    run = SimpleNamespace(conf={})
    fits, too_large = ({"text": "x" * (MAX_CONF_CHARACTERS - len('{"text": ""}') + more)} for more in (0, 1))
    tags = tags_of(in_a_bundle(context) | {"dag": dag, "dag_run": run, "params": fits})
    assert tags == {
        "airflow.dag_version": "0192-7f",
        "airflow.bundle_name": "team",
        "airflow.bundle_version": COMMIT,
        "llmops.provider_version": provider_version(),
        CONF: json.dumps(fits),
    }
    tags = tags_of(context | {"dag": dag, "dag_run": run, "params": too_large})
    assert CONF not in tags and tags[CONF_TOO_LARGE] == str(MAX_CONF_CHARACTERS + 1)
