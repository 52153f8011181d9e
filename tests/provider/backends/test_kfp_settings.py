"""What a connection to an API server may say, and how what is wrong with it is told."""

from __future__ import annotations

import json

import pytest
from airflow.sdk import Connection

from airflow_provider_llmops.backends.pipelines.kubeflow.settings import DEFAULT_PIPELINE_ROOT, KfpSettings
from airflow_provider_llmops.exceptions import ConfigurationError


def settings(host="https://kubeflow.example.com", extra=None, **fields):
    connection = Connection(
        conn_id="cluster", conn_type="kubeflow", host=host, extra=json.dumps(extra or {}), **fields
    )
    return KfpSettings.of(connection)


@pytest.mark.parametrize(
    ("fields", "endpoint"),
    [
        ({"host": "https://kubeflow.example.com/pipeline/"}, "https://kubeflow.example.com/pipeline"),
        ({"host": "http://ml-pipeline.kubeflow:8888"}, "http://ml-pipeline.kubeflow:8888"),
        ({"host": "ml-pipeline.kubeflow", "port": 8888}, "http://ml-pipeline.kubeflow:8888"),
        ({"host": "kubeflow.example.com", "schema": "https"}, "https://kubeflow.example.com"),
        ({"host": "https://kubeflow.example.com/apis/v2beta1"}, "https://kubeflow.example.com"),
    ],
)
def test_endpoint(fields, endpoint):
    assert settings(**fields).endpoint == endpoint


def test_sane_defaults():
    made = settings()
    assert (made.auth, made.verify_ssl, made.upload_versions) == ("none", True, True)
    assert made.pipeline_root == DEFAULT_PIPELINE_ROOT


@pytest.mark.parametrize(
    ("password", "extra", "auth"),
    [
        ("secret-token", {}, "token"),
        (None, {"token_file": "/var/run/token"}, "token_file"),
        ("session=MTc", {"auth": "cookie"}, "cookie"),
        ("session=MTc; other=2", {"auth": "cookie"}, "cookie"),
        (None, {"auth": "token_file"}, "token_file"),
    ],
)
def test_authentication_follows_from_what_is_given(password, extra, auth):
    made = settings(password=password, extra=extra)
    assert made.auth == auth
    assert (password or "no password") not in repr(made)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"extra": {"namspace": "a"}}, r"unknown field 'namspace' \(did you mean 'namespace'\?\) in extra"),
        ({"extra": {"slots": 2}}, "slots belong to the local backend"),
        ({"extra": {"auth": "tokn"}}, r"'tokn' \(did you mean 'token'\?\)"),
        ({"extra": {"auth": "token"}}, "its password must hold the token"),
        ({"extra": {"auth": "cookie"}, "password": "MTc"}, "as name=value"),
        ({"password": "secret-1\nsecret-2"}, "cannot hold it: it has 2 lines. Give the token alone"),
        ({"password": "secret-1\n"}, "it has a line break at its end"),
        ({"password": "secr\u00e9t"}, r"its character 5 is U\+00E9, and only visible ASCII can be sent"),
        ({"password": "secret 1"}, r"its character 7 is U\+0020"),
        ({"password": "secret\x00"}, r"its character 7 is U\+0000"),
        ({"password": "secret\u2028"}, "it has a line break at its end"),
        ({"extra": {"auth": "cookie"}, "password": "session=secret\x7f"}, r"character 15 is U\+007F"),
        ({"extra": {"pipeline_root": "/artifacts"}}, "'pipeline_root' must be an address like s3://"),
        ({"extra": {"pipeline_root": "s3://key:secret@bucket"}}, "without credentials"),
        ({"extra": {"pipeline_root": "file://relative/path"}}, "'pipeline_root' must be an address"),
        ({"extra": {"pipeline_root": "s3://[bucket"}}, "'pipeline_root' must be an address like s3://"),
        ({"extra": {"ca_file": "/nowhere.pem"}}, "'ca_file' '/nowhere.pem' does not exist"),
        ({"extra": {"verify_ssl": "maybe"}}, "'verify_ssl' in extra must be true or false, got 'maybe'"),
        ({"extra": {"timeout": "soon"}}, "'timeout' in extra must be a number of seconds, got 'soon'"),
        ({"extra": {"patience": -1}}, "'patience' in extra must be a number of seconds"),
        ({"extra": {"ui_url": "kubeflow"}}, "'ui_url' must be an http or https address"),
        ({"host": "http://kubeflow example.com"}, "the host must be an http or https address"),
        ({"host": "http://kube\nflow"}, "the host must be an http or https address"),
        ({"host": "http://kubeflow:99999"}, "the host must be an http or https address"),
        ({"host": "http://kubeflow:port"}, "the host must be an http or https address"),
        ({"host": "http://[::1"}, "the host must be an http or https address"),
        ({"extra": {"namespace": "Team A"}}, "'Team A' is no name of a namespace"),
        ({"extra": {"namespace": 7}}, "'namespace' in extra must be text on one line, got 7"),
        (
            {"extra": {"service_account": "a\nb"}},
            r"'service_account' in extra must be text on one line, got 'a\\nb'",
        ),
        (
            {"extra": {"experiment": "\u00e9" * 65}},
            "the name of the experiment is too long: 130 of 128 bytes",
        ),
        ({"host": "ftp://kubeflow"}, "the host must be an http or https address"),
        ({"host": "https://user:secret@kubeflow"}, "without credentials"),
    ],
)
def test_what_cannot_work_is_explained(fields, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        settings(**fields)
    assert "cluster" in str(caught.value)
    assert "secret" not in str(caught.value)
