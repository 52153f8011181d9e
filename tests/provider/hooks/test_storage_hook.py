import json

import pytest

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.hooks.storage import StorageHook
from airflow_provider_llmops.operators.data import FetchDatasetOperator


@pytest.fixture
def connect(monkeypatch):
    def connect(**fields):
        fields = {"conn_type": "aws", "login": "AKIA", "password": "the-secret", **fields}
        monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps(fields))

    return connect


def test_step_has_the_keys_in_its_environment_and_nowhere_else(connect):
    connect(extra={"endpoint_url": "http://minio:9000", "region_name": "eu-central-1", "role_arn": ""})
    operator = FetchDatasetOperator(task_id="fetch", source="s3://bucket/rows/", storage_conn_id="store")
    assert operator.environment() == {
        "AWS_ACCESS_KEY_ID": "AKIA",
        "AWS_SECRET_ACCESS_KEY": "the-secret",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL": "http://minio:9000",
    }
    assert operator.arguments() == {"source": "s3://bucket/rows/"}


def test_keys_may_stand_in_extra(connect):
    connect(login=None, password=None, extra={"aws_access_key_id": "AKIA", "aws_secret_access_key": "secret"})
    assert StorageHook("store").environment() == {
        "AWS_ACCESS_KEY_ID": "AKIA",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"conn_type": "google_cloud_platform"}, "is of the type 'google_cloud_platform'"),
        ({"extra": {"role_arn": "arn:aws:iam::1:role/x"}}, "has role_arn in extra"),
        ({"password": None}, "has no access key"),
        ({"host": "minio"}, "as endpoint_url in extra"),
    ],
)
def test_what_a_step_could_not_honour_is_refused(connect, fields, said):
    connect(**fields)
    with pytest.raises(ConfigurationError, match=said) as raised:
        StorageHook("store").environment()
    assert "the-secret" not in str(raised.value)


def test_without_a_connection_the_step_has_what_its_worker_has():
    assert FetchDatasetOperator(task_id="fetch", source="/rows.jsonl").environment() == {}
