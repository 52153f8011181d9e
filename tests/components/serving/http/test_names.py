"""Names of a service and origins of pages, as people write them and as they are met in requests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from llmops_components.errors import SettingError
from llmops_components.hosts import is_loopback
from llmops_components.serving.http.door import policy_of
from llmops_components.serving.http.names import hosts_in, origins_in
from llmops_components.serving.local.manifest import read_manifest
from running_services import manifest_for


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("Chat.Example.org", "chat.example.org"),
        ("chat.example.org:8443", "chat.example.org:8443"),
        ("chat.example.org:8443", "chat.example.org"),
        ("https://chat.example.org", "chat.example.org:443"),
        ("https://chat.example.org:8443/", "chat.example.org"),
        ("chat.example.org.", "CHAT.example.org."),
        ("a_b.ns.svc", "a_b.ns.svc:80"),
        ("fd00::5", "[fd00::5]:8080"),
        ("[fd00::5]", "[FD00:0::5]"),
        ("[fd00::5]:8080", "[fd00::5]"),
        ("http://[fd00::5]:8080", "[fd00::5]"),
        ("[fd00::5], chat.example.org", "chat.example.org"),
        ('["fd00::5", "chat.example.org"]', "[fd00::5]"),
        ("10.0.0.7:8080", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("10.0.0.7", "[::ffff:10.0.0.7]"),
        ("", "[::ffff:127.0.0.1]:80"),
        ("", "[::1]"),
        ("*", "whatever.example"),
    ],
)
def test_a_name_is_met_however_it_is_written(written: str, sent: str) -> None:
    policy = policy_of(written, "", "127.0.0.1")
    assert policy.is_ours(sent)
    assert not policy_of("", "", "127.0.0.1").is_ours("other.example")
    assert policy.is_ours("other.example") == (written == "*")


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("*.example.org", "has a wildcard: write each name, or * alone for any"),
        ("a.example,.example.org", "'.example.org' is no name of a host"),
        ("https://chat.example.org/path", "is no name of a host"),
        ("ftp://chat.example.org", "is no name of a host"),
        ("user@chat.example.org", "is no name of a host"),
        ("chat example.org", "is no name of a host"),
        ("[a.example, b.example]", "'[a.example' is no name of a host"),
        ('["a.example"', "is no JSON list of names"),
        ("[1]", "'[1]' is no name of a host"),
        ('["a", 1]', "is not a list of names"),
        ("bücher.example", "write its Punycode"),
    ],
)
def test_a_name_that_no_request_has_is_refused(written: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        hosts_in(written)


@pytest.mark.parametrize(
    ("written", "origins"),
    [
        ("https://Chat.example.org/", ["https://chat.example.org"]),
        (
            "https://a.example:443, http://b.example:80, http://c.example:8080",
            ["https://a.example", "http://b.example", "http://c.example:8080"],
        ),
        ('["http://[::1]:3000", "*"]', ["http://[::1]:3000", "*"]),
        ("vscode-webview://abc, null", ["vscode-webview://abc", "null"]),
    ],
)
def test_an_origin_is_written_as_browsers_send_it(written: str, origins: list[str]) -> None:
    assert origins_in(written) == origins


@pytest.mark.parametrize(
    "written", ["chat.example.org", "https://*.example.org", "https://a.example/chat", "https://"]
)
def test_an_origin_that_no_page_has_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="is no origin of a page: write it as in https://"):
        origins_in(written)


def test_loopback_is_known_in_all_its_forms() -> None:
    assert all(
        map(
            is_loopback,
            ("localhost", "LOCALHOST.", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "::ffff:127.0.0.1"),
        )
    )
    assert not any(map(is_loopback, ("", "localhost.example", "10.0.0.1", "::", "::ffff:10.0.0.1")))


@pytest.mark.parametrize(
    "argument", ["--allowed_hosts=*.example.org", "--allowed_origins=https://*.example.org"]
)
def test_a_service_whose_names_would_match_nothing_does_not_start(
    tmp_path: Path, tiny_model: Path, argument: str
) -> None:
    name = argument.partition("=")[2]
    with pytest.raises(SettingError) as refused:
        read_manifest(manifest_for(tiny_model, args=[argument]))
    assert str(refused.value).startswith(f"'{name}' ")
    command = [sys.executable, "-m", "llmops_components.serving.predictor", "--model_name=m", "--http_port=0"]
    run = subprocess.run(
        [*command, f"--model_dir={tiny_model}", argument], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 1
    assert run.stderr.startswith(f"The predictor failed: '{name}' ")
