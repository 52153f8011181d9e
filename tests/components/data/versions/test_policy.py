"""Policies: each field allows and refuses, and what nobody said is never taken for good."""

from __future__ import annotations

import datetime
import json

import pytest
from llmops_components.data.versions.policy import (
    Policy,
    check_policy,
    load_policy,
    refuse_unless_allowed,
    with_verdict,
)
from llmops_components.dataset_manifest import read_manifest
from llmops_components.errors import DataError, SettingError
from manifests import changed, manifest

TODAY = datetime.date(2026, 11, 28)


def outcomes(value, **rule):
    """The outcome as a whole, and the reasons."""
    policy = Policy(schema_version=1, name="ours", **rule)
    verdict = check_policy(read_manifest(value), policy, TODAY)
    (field,) = rule
    assert all(each.field.partition(".")[0] == field for each in verdict.checks)
    return verdict.outcome, [each.reason for each in verdict.checks]


def of_source(field, value):
    return changed("sources", 0, field, value=value)


@pytest.mark.parametrize(
    ("uri", "patterns", "outcome"),
    [
        ("s3://data/qa/a.jsonl", ["s3://data/qa/*"], "pass"),
        ("s3://data/qa/a.jsonl", ["hf://*", "s3://data/*.jsonl"], "pass"),
        ("s3://data/qa/a.jsonl", ["s3://data/Q*"], "fail"),
        ("s3://other/s3://data/qa/a", ["s3://data/*"], "fail"),
        ("s3://data/qa/../secret/a", ["s3://data/qa/*"], "fail"),
        ("s3://data/qa/%2e%2E/secret/a", ["s3://data/qa/*"], "fail"),
        ("file:///data/qa/..%2f..%2fsecret/a", ["file:///data/qa/*"], "fail"),
        (
            "s3://data/[qa]/a?b",
            ["s3://data/[qa]/*?b"],
            "pass",
        ),  # of the pattern, * alone is no sign of the address
        ("s3://data/q/a", ["s3://data/[qa]/?"], "fail"),
        (None, ["*"], "undecided"),
    ],
)
def test_sources(uri, patterns, outcome):
    assert outcomes(of_source("uri", uri), sources=patterns)[0] == outcome


@pytest.mark.parametrize(
    ("licence", "outcome"),
    [
        ("mit", "pass"),
        ("GPL-3.0-only OR MIT", "pass"),
        ("MIT AND Apache-2.0", "pass"),
        ("MIT AND GPL-3.0-only", "fail"),
        ("GPL-3.0-only AND (MIT OR Apache-2.0)", "fail"),
        ("GPL-3.0-only OR MIT AND Apache-2.0", "pass"),
        ("Apache-2.0 WITH LLVM-exception", "pass"),
        ("CC-BY-NC-4.0", "fail"),
        ("free for all", "fail"),
        (None, "undecided"),
    ],
)
def test_licences(licence, outcome):
    assert outcomes(of_source("licence", licence), licences=["MIT", "apache-2.0"])[0] == outcome


@pytest.mark.parametrize(("owner", "outcome"), [("data", "pass"), ("Data", "fail"), (None, "undecided")])
def test_owners(owner, outcome):
    assert outcomes(of_source("owner", owner), owners=["data", "search"])[0] == outcome


@pytest.mark.parametrize(
    ("date", "outcome"),
    [
        ("2026-11-28", "pass"),
        ("2026-08-30", "pass"),  # 90 days
        ("2026-08-29", "fail"),
        ("2026-11-29", "pass"),
        ("2026-11-30", "fail"),
        ("2026-02-31", "undecided"),
        (None, "undecided"),
    ],
)
def test_max_age_days(date, outcome):
    assert outcomes(of_source("date", date), max_age_days=90)[0] == outcome


@pytest.mark.parametrize(("least", "outcome"), [(12, "pass"), (13, "fail")])
def test_min_rows(least, outcome):
    assert outcomes(manifest(), min_rows=least) == (
        outcome,
        [f"There are 12 rows, and have to be {least}."],
    )


@pytest.mark.parametrize(
    ("least", "outcome"),
    [
        ({"accepted_share": 0.8}, "pass"),
        ({"accepted_share": 0.81}, "fail"),
        ({"accepted_share": 0.8, "other": 0.0}, "undecided"),
        ({"accepted_share": 0.81, "other": 0.0}, "fail"),
    ],
)
def test_min_quality(least, outcome):
    assert outcomes(manifest(), min_quality=least)[0] == outcome


@pytest.mark.parametrize("rule", [{"sources": ["*"]}, {"licences": ["MIT"]}, {"owners": ["me"]}, {"max_age_days": 1}])  # fmt: skip
def test_data_set_that_names_no_source_passes_no_rule_about_sources(rule):
    assert outcomes(manifest(sources=[]), **rule) == (
        "undecided",
        ["The manifest names no source of the rows."],
    )


def test_every_source_has_to_keep_to_the_policy():
    first = manifest()["sources"][0]
    both = manifest(sources=[first, {**first, "name": "other", "licence": "CC-BY-NC-4.0"}])
    assert outcomes(both, licences=["MIT"]) == (
        "fail",
        [
            "The source 'gsm8k' is under MIT.",
            "The source 'other' is under CC-BY-NC-4.0, which is not among the allowed licences.",
        ],
    )


def test_verdict_is_kept_in_the_manifest_and_what_has_not_passed_is_refused():
    policy = Policy(schema_version=1, name="ours", licences=["MIT"], owners=["data"])
    checked = read_manifest(manifest(policy=None))
    with pytest.raises(DataError, match="has not been checked by a policy"):
        refuse_unless_allowed(checked)
    undecided = with_verdict(checked, check_policy(checked, policy, TODAY))
    with pytest.raises(
        DataError, match=r"\(undecided\)\. owners: Nothing says who owns the source 'gsm8k'\.$"
    ):
        refuse_unless_allowed(undecided, policy)
    assert read_manifest(json.loads(json.dumps(undecided.model_dump()))) == undecided
    owned = read_manifest(of_source("owner", "data"))
    passed = with_verdict(owned, check_policy(owned, policy, datetime.datetime(2026, 11, 28, 3)))
    refuse_unless_allowed(passed, policy)
    with pytest.raises(DataError, match="was checked by another policy"):
        refuse_unless_allowed(passed, policy.model_copy(update={"owners": ["data", "search"]}))


def test_policy_is_read_from_yaml_and_from_json(tmp_path):
    (tmp_path / "policy.yaml").write_text(
        "# ours\nschema_version: 1\nname: ours\nsources: ['hf://datasets/openai/*']\nlicences:\n  - mit\n  - Apache-2.0\n"
        "owners: [data]\nmax_age_days: 90\nmin_rows: 10\nmin_quality: {accepted_share: 0.5}\n"
    )
    policy = load_policy(tmp_path / "policy.yaml")
    assert (policy.licences, policy.max_age_days) == (["MIT", "Apache-2.0"], 90)
    (tmp_path / "policy.json").write_text(json.dumps(policy.model_dump(), indent="\t"))
    assert load_policy(tmp_path / "policy.json") == policy
    assert load_policy(tmp_path / "policy.json").digest == policy.digest


HEAD = "schema_version: 1\nname: ours\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (HEAD, "line 1: the policy: it has no rule, so everything would pass"),
        (HEAD + "licenses: [MIT]\n", "line 3: licenses: this field is unknown"),
        (HEAD + "licences:\n- MIT\n- NO\n", "line 5: licences.1: Input should be a valid string"),
        (HEAD + "licences:\n- MIT\n- Fair use\n", "line 5: licences.1: it is no SPDX identifier"),
        (HEAD + "licences: []\n", "line 3: licences: List should have at least 1 item"),
        (HEAD + "max_age_days: 1.5\n", "line 3: max_age_days: Input should be a valid integer"),
        (HEAD + "max_age_days: '90'\n", "line 3: max_age_days: Input should be a valid integer"),
        (HEAD + "min_rows: 0\n", "line 3: min_rows: Input should be greater than or equal to 1"),
        (HEAD + "min_quality: {a: .nan}\n", "line 3: min_quality.a: Input should be a finite number"),
        (HEAD + "min_rows: 1\nmin_rows: 2\n", "line 4: min_rows is there twice"),
        (HEAD + "owners: &all [a]\nsources: *all\n", "line 4: aliases (*name) are not read"),
        (HEAD + "owners: [a\n", "line 4: "),
        (HEAD + "owners: !!python/object/apply:os.system ['x']\n", "line 3: could not determine a constructor"),
        ("name: ours\nmin_rows: 1\n", "line 1: schema_version: Field required"),
        ("schema_version: 2\nname: ours\nmin_rows: 1\n", "line 1: schema_version: Input should be 1"),
        ("[1]", "line 1: the policy: Input should be a valid dictionary"),
        ("", "the policy: Input should be a valid dictionary"),
        ("[" * 3000, ""),
    ],
)  # fmt: skip
def test_file_that_is_no_policy_is_refused_with_the_line(tmp_path, text, why):
    (tmp_path / "policy").write_text(text)
    with pytest.raises(SettingError, match=r"^The policy is n.*Policy: ") as raised:
        load_policy(tmp_path / "policy")
    assert why in str(raised.value)


def test_file_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(SettingError, match=r"^The policy does not exist: "):
        load_policy(tmp_path / "policy")
    (tmp_path / "policy").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingError, match=r"^The policy cannot be read: "):
        load_policy(tmp_path / "policy")
