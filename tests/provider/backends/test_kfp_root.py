"""Which pipeline roots work with which settings: the cases of upstream's ``GetStoreSessionInfo``."""

from __future__ import annotations

import pytest

from airflow_provider_llmops.backends.pipelines.kubeflow.root import check_root

DEFAULT = {"defaultPipelineRoot": "minio://mlpipeline/v2/artifacts"}
SECRET = "{secretRef: {secretName: s, accessKeyKey: a, secretKeyKey: b}}"  # noqa: S105 - names of keys


def with_providers(text: str) -> dict[str, str]:
    return {**DEFAULT, "providers": text}


@pytest.mark.parametrize(
    ("root", "settings"),
    [
        ("minio://mlpipeline/v2/artifacts", DEFAULT),
        ("minio://other", None),
        ("s3://bucket/path", with_providers(f"s3: {{default: {{credentials: {SECRET}}}}}")),
        ("s3://bucket", with_providers("s3: {default: {credentials: {fromEnv: true}}}")),
        ("s3://bucket", with_providers("S3: {Default: {Credentials: {FromEnv: true}}}")),
        ("gs://bucket", with_providers("gs: {default: {credentials: {fromEnv: true}}}")),
        ("minio://bucket", with_providers(f"minio: {{default: {{endpoint: h, credentials: {SECRET}}}}}")),
        ("minio://bucket", with_providers("s3: {default: {}}")),
        (
            "s3://bucket/a/b",
            with_providers(
                "s3: {default: {credentials: {fromEnv: true}}, overrides: [{bucketName: bucket, keyPrefix: x, credentials: null}]}"
            ),
        ),
    ],
)
def test_root_that_works_has_no_problem(root, settings):
    assert check_root(root, settings, "kubeflow") is None


@pytest.mark.parametrize(
    ("root", "settings", "beginning"),
    [
        ("s3://bucket/llmops", DEFAULT, "The steps get no credentials for s3:// from Kubeflow Pipelines: config map"),
        ("s3://bucket/llmops", None, "The steps get no credentials for s3://"),
        ("s3://bucket", with_providers("gs: {default: {credentials: {fromEnv: true}}}"), "The steps get no credentials"),
        ("gs://bucket", DEFAULT, "The steps get no credentials for gs://"),
        ("minio://bucket?endpoint=h", DEFAULT, "The steps get no credentials for minio://"),
        ("file:///mnt/root", DEFAULT, "The steps of a cluster cannot write to file: addresses"),
        ("s3:///bucket", DEFAULT, "The steps of a cluster cannot write to s3: addresses"),
    ],
)  # fmt: skip
def test_root_for_which_pods_need_credentials_of_their_own_is_told(root, settings, beginning):
    problem = check_root(root, settings, "kubeflow")
    assert problem.message.startswith(beginning)
    assert not problem.is_certain


@pytest.mark.parametrize(
    ("root", "providers", "reason"),
    [
        ("s3://bucket", "s3: [", "cannot be read: while parsing"),
        ("s3://bucket", "s3", "cannot be read: it is 's3' and must have fields"),
        ("s3://bucket", "s3: {default: here}", "cannot be read: 'default' is 'here'"),
        ("s3://bucket", "s3: {default: {endpoint: h}}", "default has no credentials"),
        ("s3://bucket", "s3: {overrides: []}", "default has no credentials"),
        ("gs://bucket", "gs: {default: {credentials: {}}}", "default has neither 'fromEnv: true' nor a 'secretRef'"),
        ("minio://bucket", "minio: {default: {endpoint: h}}", "default has no credentials"),
        ("s3://bucket/a/b", "s3: {default: {credentials: {fromEnv: true}}, overrides: [{bucketName: bucket, keyPrefix: a/}]}",
         "the override of bucket bucket has no credentials"),
    ],
)  # fmt: skip
def test_settings_with_which_no_step_can_write_are_certain(root, providers, reason):
    problem = check_root(root, with_providers(providers), "team")
    scheme = root.partition(":")[0]
    assert problem.message.startswith(f"The steps cannot write to {scheme}://: ")
    assert reason in problem.message
    assert (
        f"Set 'providers' in config map kfp-launcher of namespace team to {scheme}: {{default: {{"
        in problem.message
    )
    assert problem.is_certain
