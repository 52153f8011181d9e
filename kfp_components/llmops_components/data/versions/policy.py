"""A policy for data: which sources, licences, owners, ages and sizes are allowed, and whether a data set keeps to it."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from llmops_components.comparison import Finite, Name, Strict
from llmops_components.data.versions.licences import allows, canonical_licence
from llmops_components.data.versions.yaml_lines import read_yaml
from llmops_components.dataset_manifest import (
    Manifest,
    Outcome,
    PolicyCheck,
    PolicyVerdict,
    Source,
    read_manifest,
    worst_of,
)
from llmops_components.errors import DataError, SettingError

_SHOWN_CHECKS = 5


def _licence(text: str) -> str:
    found = canonical_licence(text)
    if found is None or " " in found:
        raise PydanticCustomError("licence", "it is no SPDX identifier of a licence, such as Apache-2.0")
    return found


Pattern = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Licence = Annotated[Name, AfterValidator(_licence)]
Days = Annotated[int, Field(ge=0, le=36_500)]
Rows = Annotated[int, Field(ge=1, lt=2**63)]


class Policy(Strict):
    """What a policy file says. What it leaves out is not checked; it has one rule at least.

    ``sources`` are patterns of addresses in which ``*`` stands for anything, ``licences`` SPDX identifiers, ``max_age_days``
    counts from the day that a source is of, ``min_quality`` has the least value of measures by name.
    """

    schema_version: Literal[1]
    name: Name
    sources: Annotated[list[Pattern], Field(min_length=1)] | None = None
    licences: Annotated[list[Licence], Field(min_length=1)] | None = None
    owners: Annotated[list[Name], Field(min_length=1)] | None = None
    max_age_days: Days | None = None
    min_rows: Rows | None = None
    min_quality: Annotated[dict[Name, Finite], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _check_rules(self) -> Policy:
        if all(value is None for name, value in self if name not in ("schema_version", "name")):
            raise PydanticCustomError("rules", "it has no rule, so everything would pass")
        return self

    @property
    def digest(self) -> str:
        """Digest of what it says, however it is written."""
        text = json.dumps(self.model_dump(), ensure_ascii=False, sort_keys=True)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Read a policy file.

    Args:
        path: YAML or JSON.

    Raises:
        SettingError: It cannot be read, or has a field or a value that it must not have; names the line.
    """
    file = Path(path)
    value, lines = read_yaml(file)
    try:
        return Policy.model_validate(value)
    except ValidationError as error:
        problems = "; ".join(_problem(each, lines) for each in error.errors(include_url=False))
        raise SettingError(f"The policy is not valid: {problems}. Policy: {file}.") from None


def _problem(error: Any, lines: dict[tuple[str | int, ...], int]) -> str:
    place = tuple(error["loc"])
    near = next((place[:length] for length in range(len(place), -1, -1) if place[:length] in lines), ())
    line = f"line {lines[near]}: " if near in lines else ""
    words = "this field is unknown" if error["type"] == "extra_forbidden" else error["msg"]
    return f"{line}{'.'.join(map(str, place)) or 'the policy'}: {words}"


def check_policy(manifest: Manifest, policy: Policy, now: datetime.date | datetime.datetime) -> PolicyVerdict:
    """What a policy says of a data set. Where the manifest does not say what a rule asks for, its check is undecided.

    Args:
        manifest: Of the data set.
        policy: The policy.
        now: The day to count ages from, in UTC where it is a time.
    """
    today = now.date() if isinstance(now, datetime.datetime) else now
    checks = [*_of_sources(manifest, policy, today), *_of_the_whole(manifest, policy)]
    return PolicyVerdict(
        policy=policy.name,
        digest=policy.digest,
        outcome=worst_of([each.outcome for each in checks]),
        checks=checks,
    )


def with_verdict(manifest: Manifest, verdict: PolicyVerdict) -> Manifest:
    """The manifest with the verdict in it.

    Args:
        manifest: The manifest.
        verdict: Of :func:`check_policy`.
    """
    return read_manifest({**manifest.model_dump(), "policy": verdict.model_dump()})


def refuse_unless_allowed(manifest: Manifest, policy: Policy | None = None) -> None:
    """Raise unless the verdict in a manifest has passed. To be called before the data is used.

    Args:
        manifest: The manifest.
        policy: The policy that has to have been checked; None for whichever was.

    Raises:
        DataError: There is no verdict, it is of another policy, or it has not passed; says which rule.
    """
    verdict = manifest.policy
    if verdict is None:
        raise DataError(
            f"The data set {manifest.name!r} has not been checked by a policy, and is not used before it has. Check it first."
        )
    if policy is not None and verdict.digest != policy.digest:
        raise DataError(
            f"The data set {manifest.name!r} was checked by another policy ({verdict.policy}) than the one that holds "
            f"({policy.name}), or by an earlier state of it. Check it again."
        )
    wrong = [each for each in verdict.checks if each.outcome != "pass"]
    if wrong:
        shown = " ".join(f"{each.field}: {each.reason}" for each in wrong[:_SHOWN_CHECKS])
        more = f" And {len(wrong) - _SHOWN_CHECKS} more." if len(wrong) > _SHOWN_CHECKS else ""
        raise DataError(
            f"The policy {verdict.policy!r} does not allow the data set {manifest.name!r} ({verdict.outcome}). {shown}{more}"
        )


def _of_sources(manifest: Manifest, policy: Policy, today: datetime.date) -> Iterator[PolicyCheck]:
    rules = {
        "sources": (policy.sources, _address),
        "licences": (policy.licences, _licence_of),
        "owners": (policy.owners, _owner),
        "max_age_days": (policy.max_age_days, partial(_age, today)),
    }
    for field, (rule, check) in rules.items():
        if rule is None:
            continue
        if not manifest.sources:
            yield PolicyCheck(
                field=field, outcome="undecided", reason="The manifest names no source of the rows."
            )
        for source in manifest.sources:
            outcome, reason = check(source, rule)  # type: ignore[operator]
            yield PolicyCheck(field=field, outcome=outcome, reason=reason)


def _address(source: Source, patterns: list[str]) -> tuple[Outcome, str]:
    if source.uri is None:
        return "undecided", f"Nothing says where the {_named(source)} came from."
    # `..` would lead from an allowed folder to any other, also where its slashes are encoded.
    parts = re.split(r"[/\\]|%2f|%5c", source.uri.lower().replace("%2e", "."))
    is_allowed = ".." not in parts and any(_fits(source.uri, pattern) for pattern in patterns)
    told = f"The {_named(source)} came from {source.uri:.500}"
    return (
        ("pass", f"{told}.") if is_allowed else ("fail", f"{told}, which is not among the allowed sources.")
    )


def _fits(address: str, pattern: str) -> bool:
    """Whether an address is what a pattern says, in which only ``*`` stands for something else."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), address, re.DOTALL) is not None


def _licence_of(source: Source, allowed: list[str]) -> tuple[Outcome, str]:
    if source.licence is None:
        return "undecided", f"Nothing says under which licence the {_named(source)} is."
    told = f"The {_named(source)} is under {source.licence}"
    expression = canonical_licence(source.licence)
    if expression is None:
        return "fail", f"{told}, which is no SPDX expression."
    if allows(expression, allowed):
        return "pass", f"{told}."
    return "fail", f"{told}, which is not among the allowed licences."


def _owner(source: Source, allowed: list[str]) -> tuple[Outcome, str]:
    if source.owner is None:
        return "undecided", f"Nothing says who owns the {_named(source)}."
    told = f"The {_named(source)} is owned by {source.owner}"
    if source.owner in allowed:
        return "pass", f"{told}."
    return "fail", f"{told}, who is not among the allowed owners."


def _age(today: datetime.date, source: Source, most: int) -> tuple[Outcome, str]:
    if source.date is None:
        return "undecided", f"Nothing says of which day the {_named(source)} is."
    try:
        days = (today - datetime.date.fromisoformat(source.date)).days
    except ValueError:
        return "undecided", f"The {_named(source)} is of {source.date}, which is no day."
    told = f"The {_named(source)} is of {source.date}"
    if days < -1:  # a day begins earlier in other time zones
        return "fail", f"{told}, which is yet to come."
    if days > most:
        return "fail", f"{told}, and may be {most} days old."
    return "pass", f"{told}."


def _of_the_whole(manifest: Manifest, policy: Policy) -> Iterator[PolicyCheck]:
    if policy.min_rows is not None:
        enough = manifest.rows >= policy.min_rows
        yield PolicyCheck(
            field="min_rows",
            outcome="pass" if enough else "fail",
            reason=f"There are {manifest.rows} rows, and have to be {policy.min_rows}.",
        )
    for name, least in (policy.min_quality or {}).items():
        value = manifest.quality.get(name)
        if value is None:
            outcome: Outcome = "undecided"
            reason = f"Nothing says what {name} is."
        else:
            outcome = "pass" if value >= least else "fail"
            reason = f"{name} is {value:g}, and has to be {least:g}."
        yield PolicyCheck(field=f"min_quality.{name}"[:256], outcome=outcome, reason=reason)


def _named(source: Source) -> str:
    return f"source {source.name!r:.300}"
