"""An MLflow whose files lie in a bucket, where every client reads and writes them itself."""

from __future__ import annotations

import boto3
import pytest
from llmops_components.errors import SettingError, UnavailableError
from llmops_components.results import digest_of
from llmops_components.tracking.register import register_model
from llmops_components.tracking.registry import fetch_model
from mlflow.store.artifact import s3_artifact_repo
from object_store import (
    ACCESS_KEY,
    DENIED,
    OTHER_REGION,
    SECRET_KEY,
    SLOW_DOWN,
    UNKNOWN_KEY,
    Cut,
    object_store,
)


@pytest.fixture(scope="module")
def store():
    with object_store() as store:
        store.make_bucket("mlflow")
        yield store


def forget_clients(monkeypatch):
    """A step is a process of its own: what an earlier one has read of its environment is not kept."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    s3_artifact_repo._cached_get_s3_client.cache_clear()


@pytest.fixture
def mlflow_uri(store, tmp_path, monkeypatch):
    """Address of an MLflow with an experiment in the bucket, and one in a bucket that is not there."""
    from mlflow import MlflowClient

    for name, value in {**store.environment(), "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    forget_clients(monkeypatch)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri, uri)
    client.create_experiment("kept", "s3://mlflow/files")
    client.create_experiment("lost", "s3://nobody/files")
    return uri


def register(model, uri, experiment="kept"):
    return register_model(model, model_name="helper", tracking_uri=uri, experiment=experiment)


def fetch(uri, target):
    return fetch_model(target, model_name="helper", model_version="1", tracking_uri=uri)


def test_model_is_registered_into_a_bucket_and_fetched_from_it(mlflow_uri, store, tiny_model, tmp_path):
    report = register(tiny_model, mlflow_uri)
    held = [each["Key"] for each in store.client().list_objects_v2(Bucket="mlflow")["Contents"]]
    (weights,) = [key for key in held if key.endswith("/model/model.safetensors")]
    assert weights.startswith("files/models/")
    fetched = fetch(mlflow_uri, tmp_path / "fetched")
    assert fetched.passed and fetched.details["model_digest"] == report.details["model_digest"]
    assert digest_of(tmp_path / "fetched") == digest_of(tiny_model)


FINAL = r"^MLflow's bucket cannot be used: %s.*AWS_ACCESS_KEY_ID"


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (DENIED, SettingError, FINAL % "AccessDenied: Access Denied"),
        (
            UNKNOWN_KEY,
            SettingError,
            FINAL % "InvalidAccessKeyId: The AWS Access Key Id you provided does not",
        ),
        (OTHER_REGION, SettingError, FINAL % "PermanentRedirect: "),
        (SLOW_DOWN, UnavailableError, r"^MLflow's bucket did not answer: SlowDown: "),
    ],
    ids=["denied", "unknown key", "other region", "slow down"],
)
def test_refusal_of_the_bucket_is_not_blamed_on_the_server(
    mlflow_uri, store, tiny_model, tmp_path, fault, kind, said
):
    register(tiny_model, mlflow_uri)
    for work in (
        lambda: register_model(tiny_model, model_name="other", tracking_uri=mlflow_uri, experiment="kept"),
        lambda: fetch(mlflow_uri, tmp_path / "fetched"),
    ):
        with store.failing(fault), pytest.raises(kind, match=said) as caught:
            work()
        assert ACCESS_KEY not in str(caught.value) and SECRET_KEY not in str(caught.value)
    assert not (tmp_path / "fetched").exists()


@pytest.mark.parametrize(("fault", "kind"), [(DENIED, SettingError), (Cut(), UnavailableError)])
def test_model_of_which_some_files_do_not_come_is_not_fetched(
    mlflow_uri, store, tiny_model, tmp_path, fault, kind
):
    register(tiny_model, mlflow_uri)
    with store.failing(fault, r"model\.safetensors"), pytest.raises(kind, match=r"^MLflow's bucket "):
        fetch(mlflow_uri, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


def test_missing_bucket_and_missing_keys_are_named(mlflow_uri, tiny_model, monkeypatch):
    with pytest.raises(SettingError, match=FINAL % "NoSuchBucket: The specified bucket does not exist"):
        register(tiny_model, mlflow_uri, "lost")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    forget_clients(monkeypatch)
    with pytest.raises(SettingError, match=FINAL % "Unable to locate credentials"):
        register(tiny_model, mlflow_uri)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    forget_clients(monkeypatch)
    with pytest.raises(UnavailableError, match=r"^MLflow's bucket did not answer: Could not connect"):
        register(tiny_model, mlflow_uri)
