"""What dev/check says of the packages' licences and known vulnerabilities."""

from __future__ import annotations

import json
import subprocess
import tomllib

import _supply
import pytest
from planes import DATA_PYTHON

RULES = {
    "allowed": ["MIT", "Apache-2.0", "License :: OSI Approved :: BSD License"],
    "exceptions": [{"package": "nvidia-*", "licence": "proprietary", "reason": "CUDA"}],
}


def component(name: str, *licences: str, version: str = "1.0") -> dict[str, object]:
    entries = [
        {"expression": text} if " " in text and "::" not in text else {"license": {"name": text}}
        for text in licences
    ]
    return {"name": name, "version": version, "bom-ref": name, "licenses": entries}


@pytest.mark.parametrize(
    "licences",
    [
        ("MIT",),
        ("MIT OR GPL-3.0-only",),
        ("MIT AND (Apache-2.0 OR GPL-3.0-only)",),
        ("License :: OSI Approved :: BSD License", "MIT"),
    ],
)
def test_allowed_licences_are_no_trouble(licences: tuple[str, ...]) -> None:
    assert _supply.licence_problems([component("new", *licences)], RULES) == []


@pytest.mark.parametrize(
    ("licences", "shown"),
    [
        ((), "an unknown licence"),
        (("CC-BY-NC-4.0",), "CC-BY-NC-4.0"),
        (("MIT AND CC-BY-NC-4.0",), "MIT AND CC-BY-NC-4.0"),
        (("MIT", "License :: Free for non-commercial use"), "MIT, License :: Free for non-commercial use"),
        (("Ask the author (really",), "Ask the author (really"),
    ],
)
def test_package_under_another_licence_is_named(licences: tuple[str, ...], shown: str) -> None:
    assert _supply.licence_problems([component("new", *licences)], RULES) == [
        f"new 1.0 is under {shown}, which dev/supply-chain.toml does not allow: leave the package out, or add it there with "
        "the reason."
    ]


def test_exception_lets_a_package_pass() -> None:
    assert _supply.licence_problems([component("nvidia_cublas", "secret")], RULES) == []


def test_known_vulnerability_is_answered_for_one_version() -> None:
    known = [
        {
            "id": "CVE-1",
            "package": "cache",
            "version": "1.0",
            "justification": "code_not_reachable",
            "detail": "never imported",
        }
    ]
    assert _supply.answers([component("cache")], known) == [
        {
            "id": "CVE-1",
            "affects": [{"ref": "cache"}],
            "analysis": {
                "state": "not_affected",
                "justification": "code_not_reachable",
                "detail": "never imported",
            },
        }
    ]
    assert _supply.stale_answers([component("cache")], known) == []
    assert _supply.stale_answers([component("cache", version="1.1")], known) == [
        "CVE-1 is answered for cache 1.0, which is not installed: answer it anew in dev/supply-chain.toml, or delete it."
    ]


def test_evaluating_and_serving_import_no_diskcache() -> None:
    """The answer to CVE-2025-69872: its directory of pickles is never opened, because nothing imports it."""
    code = (
        "import sys, json, llmops_components.evaluation.metrics.scoring, llmops_components.evaluation.evaluate, ragas, "
        "ragas.metrics.collections; json.dump('diskcache' in sys.modules, sys.stdout)"
    )
    answer = subprocess.run([DATA_PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout.splitlines()[-1]) is False


@pytest.mark.slow  # a minute
@pytest.mark.parametrize("plane", ["control", "data"])
def test_bill_of_materials_is_valid(plane: str) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert _supply.main() == 0
    text = (_supply.OUTPUT / f"{plane}.cdx.json").read_text("utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_security_page_names_every_known_vulnerability() -> None:
    page = (_supply.REPOSITORY / "SECURITY.md").read_text("utf-8")
    known = tomllib.loads(_supply.RULES.read_text("utf-8"))["vulnerabilities"]
    assert [
        entry["id"] for entry in known if f"{entry['id']}, {entry['package']} {entry['version']}" not in page
    ] == []
