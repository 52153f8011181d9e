"""Specifications come from the hosts that whoever runs Airflow names."""

from __future__ import annotations

import http.server
import threading

import pytest
import yaml
from pipelines import two_steps

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.specs.hosts import check_host
from airflow_provider_llmops.specs.pipeline import PipelineSpec

OPTION = "AIRFLOW__LLMOPS__SPECIFICATION_HOSTS"
TEXT = yaml.safe_dump(two_steps()).encode()


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("", "https://anywhere.example.org/p.yaml"),
        ("specs.example.com", "https://specs.example.com/p.yaml"),
        ("other, SPECS.example.com", "http://Specs.Example.Com.:8080/p.yaml"),
        ("*.example.com", "https://a.b.example.com/p.yaml"),
        ("specs:8443", "https://specs:8443/p.yaml"),
        ("specs:443", "https://specs/p.yaml"),
        ("[::1]", "http://[::1]:8080/p.yaml"),
        ("[::1]:8080", "http://[::1]:8080/p.yaml"),
        ("s3://bucket", "s3://aws_default@bucket/p.yaml"),
        ("https://specs", "https://specs/p.yaml"),
        ("s3://bucket", "s3://bucket/p.yaml"),
    ],
)
def test_host_that_is_named_is_allowed(allowed, url, monkeypatch):
    monkeypatch.setenv(OPTION, allowed)
    check_host(url, url)


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("none", "https://specs.example.com/p.yaml"),
        ("specs.example.com", "https://specs.example.com.evil.org/p.yaml"),
        ("specs.example.com", "https://evilspecs.example.com/p.yaml"),
        ("none", "http://none/p.yaml"),
        ("[::1]:8443", "http://[::1]:8080/p.yaml"),
        ("*.example.com", "https://example.com/p.yaml"),
        ("*.example.com", "https://evilexample.com/p.yaml"),
        ("specs:8443", "https://specs/p.yaml"),
        ("https://specs", "http://specs/p.yaml"),
        ("bucket", "s3://bucket/p.yaml"),
        ("s3://bucket", "gs://bucket/p.yaml"),
    ],
)
def test_other_hosts_are_refused_by_name(allowed, url, monkeypatch):
    monkeypatch.setenv(OPTION, allowed)
    with pytest.raises(
        ConfigurationError, match=r"^Specifications are not taken from .*'specification_hosts'"
    ):
        PipelineSpec.load(url)


class Redirects(http.server.BaseHTTPRequestHandler):
    """Leads from /leads to the address that ``target`` has, and answers with a specification elsewhere."""

    target = ""

    def do_GET(self) -> None:
        leads = self.path == "/leads"
        self.send_response(302 if leads else 200)
        if leads:
            self.send_header("Location", self.target)
        self.send_header("Content-Length", "0" if leads else str(len(TEXT)))
        self.end_headers()
        if not leads:
            self.wfile.write(TEXT)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def port():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirects) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running.server_port
        running.shutdown()
        thread.join()


def test_redirect_is_followed_to_a_host_that_is_named_and_to_no_other(port, monkeypatch):
    monkeypatch.setenv(OPTION, "127.0.0.1")
    Redirects.target = f"http://127.0.0.1:{port}/p.yaml"
    assert PipelineSpec.load(f"http://127.0.0.1:{port}/leads").ir == two_steps()
    Redirects.target = f"http://localhost:{port}/p.yaml"
    with pytest.raises(ConfigurationError, match=r"^Specifications are not taken from localhost") as refused:
        PipelineSpec.load(f"http://127.0.0.1:{port}/leads")
    assert f"to which http://127.0.0.1:{port}/leads leads" in str(refused.value)


def test_redirect_leads_to_no_other_kind_of_address(port):
    Redirects.target = "ftp://127.0.0.1/p.yaml"
    with pytest.raises(ConfigurationError, match="which is no http or https address"):
        PipelineSpec.load(f"http://127.0.0.1:{port}/leads")
