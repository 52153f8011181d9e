"""Results, outputs, logs and specifications in a bucket: read over HTTP with an Airflow connection, by Airflow's own libraries."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from airflow.sdk.io.store import _STORE_CACHE
from object_store import (
    ACCESS_KEY,
    DENIED,
    OTHER_REGION,
    SECRET_KEY,
    SLOW_DOWN,
    UNKNOWN_KEY,
    Cut,
    Hang,
    Refusal,
    object_store,
)
from pipelines import two_steps
from planes import DATA_PYTHON

from airflow_provider_llmops import object_store as reading
from airflow_provider_llmops.backends.pipelines.base import RunRequest
from airflow_provider_llmops.backends.pipelines.kubeflow.backend import KubeflowPipelineBackend
from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, ResultError
from airflow_provider_llmops.specs.files import read_source
from airflow_provider_llmops.specs.pipeline import PipelineSpec

PLACE = "llmops/two-steps/r1"


@pytest.fixture(scope="module")
def store():
    with object_store(DATA_PYTHON) as store:
        store.make_bucket("artifacts")
        yield store


@pytest.fixture
def put(store):
    """Writes an object below the pipeline root."""
    return lambda key, text="{}": store.client().put_object(Bucket="artifacts", Key=key, Body=text.encode())


@pytest.fixture
def settings(api, store, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    _STORE_CACHE.clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AIRFLOW_CONN_STORE", store.connection())
    return KfpSettings(
        conn_id="kubeflow_default",
        endpoint=api.url,
        pipeline_root="s3://artifacts/llmops",
        storage_conn_id="store",
        patience=5.0,
    )


@pytest.fixture
def backend(settings):
    return KubeflowPipelineBackend(settings)


def read(settings, **fields):
    """Reads a result by other settings."""
    return KubeflowPipelineBackend(dataclasses.replace(settings, **fields)).read_result(
        "r1", "two-steps", "train"
    )


@pytest.mark.parametrize("scheme", ["s3", "minio"])
def test_outputs_are_read_by_the_address_that_the_steps_know(settings, put, scheme):
    put(f"{PLACE}/train/salt/result", "the result")
    put(f"{PLACE}/train/salt/model/config.json")
    root = f"{scheme}://artifacts/llmops"
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, pipeline_root=root))
    attempt = f"{scheme}://artifacts/{PLACE}/train/salt"
    assert backend.read_result("r1", "two-steps", "train") == ("the result", f"{attempt}/result")
    assert backend.list_outputs("r1", "two-steps", "train") == {
        "result": f"{attempt}/result",
        "model": f"{attempt}/model",
    }


def test_attempt_that_came_after_the_last_look_is_seen(backend, put):
    """The library keeps what it has listed for as long as the process lives."""
    place = "llmops/two-steps/r2/train"
    with pytest.raises(ResultError, match="left no result"):
        backend.read_result("r2", "two-steps", "train")
    put(f"{place}/salt-1/result", "first")
    assert backend.read_result("r2", "two-steps", "train")[0] == "first"
    put(f"{place}/salt-1/model")
    assert set(backend.list_outputs("r2", "two-steps", "train")) == {"result", "model"}


def test_object_that_is_written_anew_has_another_digest(backend, put):
    put("data/train.jsonl", "1")
    before = backend.input_digest("s3://artifacts/data/train.jsonl")
    assert before and before == backend.input_digest("s3://artifacts/data/train.jsonl")
    put("data/train.jsonl", "22")
    after = backend.input_digest("s3://artifacts/data/train.jsonl")
    assert after and after != before
    assert backend.input_digest("s3://artifacts/data/none.jsonl") is None
    uri = f"s3://artifacts/{PLACE}/make/salt/model"
    artifacts = {"model": {"uri": uri, "digest": "sha256:1", "bytes": 2}}
    result = {"schema_version": 1, "component": "train_sft", "passed": True, "artifacts": artifacts}
    others = {"findings": [], "metrics": {}, "details": {}, "resources": {}}
    put(f"{PLACE}/make/salt/result", json.dumps(result | others))
    assert backend.input_digest(uri) == "sha256:1"


def failed_run(api, backend):
    run_id = backend.submit(
        RunRequest("dag.task 1", PipelineSpec("two-steps", two_steps(), "sha256:x").bind({"steps": 3}))
    )
    api.advance(run_id, "FAILED", tasks={"train": "FAILED"})
    return backend.get(run_id)


def test_failed_step_is_explained_by_its_output_in_the_bucket(api, backend, put):
    run = failed_run(api, backend)
    key = f"llmops/two-steps/{run.run_id}/train/salt/executor-logs-0"
    put(key, "Traceback (most recent call last):\nValueError: row 3\n")
    explained = backend.explain_failure(run)
    assert (explained.reason, explained.output) == ("ValueError: row 3", f"s3://artifacts/{key}")


def test_store_that_refuses_does_not_hide_the_failure(api, backend, store):
    run = failed_run(api, backend)
    with store.failing(DENIED):
        reason = backend.explain_failure(run).reason
    assert reason.startswith(
        "Step 'train' failed, and nothing says why. Artifacts may not be read: Access Denied. Na"
    )


ELSEWHERE = (
    r"^Artifacts are not to be had there: %s.* Check the address, and region_name, endpoint_url .*'store'\."
)
BAD_REGION = Refusal(400, "AuthorizationHeaderMalformed", "the region 'eu-central-1' is wrong")


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (
            DENIED,
            ConfigurationError,
            "^Artifacts may not be read: Forbidden. Name a connection whose account",
        ),
        (
            UNKNOWN_KEY,
            ConfigurationError,
            "^Artifacts may not be read: Forbidden. Name a connection whose acc",
        ),
        (OTHER_REGION, ConfigurationError, ELSEWHERE % r"\[Errno \d+\] Moved Permanently"),
        (BAD_REGION, ConfigurationError, ELSEWHERE % r"\[Errno 22\] Bad Request"),
        (SLOW_DOWN, ApiUnavailableError, "^The artifact store did not answer: .*Service Unavailable"),
        (Cut(), ApiUnavailableError, "^The artifact store did not answer: "),
        (Hang(), ApiUnavailableError, r"^The artifact store did not answer: no answer within 1\.5 s\."),
    ],
    ids=["denied", "unknown key", "other region", "bad region", "slow down", "cut", "hang"],
)
def test_what_a_store_answers_is_said_first_and_without_keys(
    settings, store, put, monkeypatch, fault, kind, said
):
    put(f"{PLACE}/train/salt/result", "x" * 5000)
    monkeypatch.setattr(reading, "STORE_SECONDS", 1.5 if isinstance(fault, Hang) else 30.0)
    with store.failing(fault, "result" if isinstance(fault, Cut) else ""), pytest.raises(kind) as caught:
        read(settings)
    message = str(caught.value)
    assert re.search(said, message), message
    assert ACCESS_KEY not in message and SECRET_KEY not in message
    monkeypatch.setattr(reading, "STORE_SECONDS", 30.0)  # a busy machine may take longer than a second
    assert read(settings)[0] == "x" * 5000


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"pipeline_root": "s3://nobody/llmops"},
            "Artifacts are not to be had there: The specified bucket does",
        ),
        (
            {"storage_conn_id": None},
            "Artifacts may not be read: ",
        ),
        (
            {"storage_conn_id": "nosuch"},
            "Artifacts cannot be read: The conn_id `nosuch` isn't defined. Install",
        ),
        (
            {"storage_conn_id": "web"},
            "Connection 'web' is of the type 'http', and s3:// needs one of the type",
        ),
        (
            {"storage_conn_id": "host"},
            "Connection 'host' has a host, which clients of S3 do not look at: give",
        ),
        (
            {"storage_conn_id": "login"},
            "Connection 'login' has an endpoint_url in extra that is no http:// or",
        ),
        (
            {"storage_conn_id": "bare"},
            "Connection 'bare' has an endpoint_url in extra that is no http:// or h",
        ),
    ],
)
def test_wrong_setting_is_named(settings, monkeypatch, fields, said):
    aws = {"conn_type": "aws", "login": ACCESS_KEY, "password": SECRET_KEY}
    for name, connection in {
        "WEB": {"conn_type": "http", "host": "store", "password": SECRET_KEY},
        "HOST": {**aws, "host": "127.0.0.1"},
        "LOGIN": {**aws, "extra": {"endpoint_url": "http://me:hunter2hunter2@127.0.0.1:9"}},
        "BARE": {**aws, "extra": {"endpoint_url": "127.0.0.1:9"}},
    }.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps(connection))
    with pytest.raises(ConfigurationError) as caught:
        read(settings, **fields)
    message = str(caught.value)
    assert message.startswith(said)
    assert not [secret for secret in (ACCESS_KEY, SECRET_KEY, "hunter2") if secret in message]


def test_specification_is_read_from_a_bucket(settings, store, put):
    put("specs/pipeline.yaml", "a: 1")
    source = "s3://store@artifacts/specs/pipeline.yaml"
    assert read_source(source) == b"a: 1"
    put("specs/pipeline.yaml", "b: 2345678")
    assert read_source(source) == b"b: 2345678"
    for fault, kind, said in (
        (
            DENIED,
            ConfigurationError,
            r"^\.\.\./pipeline\.yaml may not be read: Forbidden\. Check",
        ),
        (
            OTHER_REGION,
            ConfigurationError,
            r"^\.\.\./pipeline\.yaml is not to be had there: \[Errno",
        ),
        (
            Cut(),
            ApiUnavailableError,
            r"^\.\.\./pipeline\.yaml cannot be read: .* Is the store up\?",
        ),
    ):
        with store.failing(fault), pytest.raises(kind, match=said):
            read_source(source)
    for address, said in (
        ("s3://store@artifacts/specs/none.yaml", r"^There is no object \.\.\./none\.yaml: "),
        ("s3://nosuch@artifacts/x.yaml", "cannot be opened: The conn_id `nosuch` isn't defined"),
        ("s3://artifacts/specs/pipeline.yaml", "may not be read: "),
    ):
        with pytest.raises(ConfigurationError, match=said):
            read_source(address)
