"""Registered models with the versions that two aliases point to, read with few requests, however many models there are.

A page of models is one request, and with it come aliases and the newest versions. Older versions are searched by their number, one request
for all models that need the same; metrics of all versions are two requests. What could not be read is said in ``notes``.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.exceptions import LLMOpsError

if TYPE_CHECKING:
    from airflow_provider_llmops.hooks.mlflow import MlflowHook

BUDGET_SECONDS = 15.0  # after which nothing further is asked
TIMEOUT_SECONDS = 4.0  # for each part of an answer
MAX_NUMBERS = 20  # different numbers of older versions that are searched
_QUOTABLE = re.compile(r"[^'\"`\\\x00-\x1f]+")
_RUN_ID = re.compile(r"[0-9a-zA-Z-]{1,64}")


@dataclass(frozen=True)
class Version:
    """A version that an alias points to.

    :param number: its number
    :param made_at: when it was registered
    :param tags: its tags; ``None`` where they could not be read
    :param run_id: the run that it was registered with
    :param experiment_id: that run's experiment; ``None`` where the run could not be read
    :param metrics: that run's metrics
    """

    number: str
    made_at: datetime | None = None
    tags: Mapping[str, str] | None = None
    run_id: str | None = None
    experiment_id: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A registered model.

    :param name: its name
    :param champion: the version that serves, by its alias
    :param candidate: the version that is to become champion, by its alias
    :param newest: number of the newest version
    """

    name: str
    champion: Version | None
    candidate: Version | None
    newest: str | None = None


@dataclass(frozen=True)
class Registry:
    """A page of registered models.

    :param models: those changed last come first
    :param next_page: token of the next page
    :param notes: what could not be read, and why
    """

    models: list[Model]
    next_page: str | None
    notes: list[str]


def read_registry(
    hook: MlflowHook,
    *,
    champion: str,
    candidate: str,
    name_contains: str | None = None,
    page_token: str | None = None,
) -> Registry:
    """A page of registered models.

    :param hook: of MLflow
    :param champion: alias of the champion
    :param candidate: alias of the candidate
    :param name_contains: a part of the names
    :param page_token: the page; the first one when ``None``
    :raises ConfigurationError: MLflow refuses to list models, or the connection is none
    :raises ApiUnavailableError: MLflow does not answer
    """
    until = time.monotonic() + BUDGET_SECONDS
    found, next_page = hook.registered_models(
        name_contains=name_contains, page_token=page_token, timeout=TIMEOUT_SECONDS
    )
    reader = _Reader(hook, until)
    wanted: dict[tuple[str, str], str] = {}
    for model in found:
        aliases = {each["alias"]: str(each["version"]) for each in model.get("aliases") or ()}
        wanted |= {
            (model["name"], alias): aliases[alias] for alias in (champion, candidate) if alias in aliases
        }
    versions = reader.with_metrics(reader.versions(found, wanted))
    models = [
        Model(
            name := model["name"],
            versions.get((name, wanted.get((name, champion), ""))),
            versions.get((name, wanted.get((name, candidate), ""))),
            max((str(each["version"]) for each in model.get("latest_versions") or ()), key=int, default=None),
        )
        for model in found
    ]
    return Registry(models, next_page, reader.notes)


class _Reader:
    def __init__(self, hook: MlflowHook, until: float) -> None:
        self.hook = hook
        self.until = until
        self.notes: list[str] = []

    def versions(
        self, models: list[dict[str, Any]], wanted: Mapping[tuple[str, str], str]
    ) -> dict[tuple[str, str], Version]:
        """What is known of each version that is wanted, by name and number."""
        pairs = {(name, number) for (name, _), number in wanted.items()}
        known = {
            (model["name"], str(each["version"])): _version(each)
            for model in models
            for each in model.get("latest_versions") or ()
        }
        by_number: dict[str, list[str]] = defaultdict(list)
        for name, number in sorted(pairs - known.keys()):
            by_number[number].append(name)
        most = sorted(by_number.items(), key=lambda each: -len(each[1]))
        for number, names in most[:MAX_NUMBERS]:
            known |= self._search(number, [name for name in names if _QUOTABLE.fullmatch(name)])
        if unread := sorted(f"{name} {number}" for name, number in pairs - known.keys()):
            self.notes.append(
                f"What is known of {len(unread)} older version{'s' * (len(unread) > 1)} is not shown, to keep the requests few "
                f"or because MLflow does not tell: {', '.join(unread[:3])}{' and others' if len(unread) > 3 else ''}."
            )
        return {pair: known.get(pair, Version(pair[1])) for pair in pairs}

    def _search(self, number: str, names: list[str]) -> dict[tuple[str, str], Version]:
        if not names or self._is_late:
            return {}
        try:
            found = self.hook.model_versions_of(names, number, timeout=TIMEOUT_SECONDS)
        except LLMOpsError as error:
            self._note("Older versions", error)
            return {}
        return {(each["name"], str(each["version"])): _version(each) for each in found}

    def with_metrics(self, versions: dict[tuple[str, str], Version]) -> dict[tuple[str, str], Version]:
        """The same with what their runs have recorded."""
        ids = sorted(
            {each.run_id for each in versions.values() if each.run_id and _RUN_ID.fullmatch(each.run_id)}
        )
        if not ids or self._is_late:
            return versions
        try:
            runs = {run["info"]["run_id"]: run for run in self.hook.runs(ids, timeout=TIMEOUT_SECONDS)}
        except LLMOpsError as error:
            self._note("Metrics and cost", error)
            return versions
        return {
            pair: _with_run(version, runs[version.run_id]) if version.run_id in runs else version
            for pair, version in versions.items()
        }

    @property
    def _is_late(self) -> bool:
        if time.monotonic() < self.until:
            return False
        said = f"MLflow is slow: after {BUDGET_SECONDS:g} s nothing further was asked."
        if said not in self.notes:
            self.notes.append(said)
        return True

    def _note(self, what: str, error: LLMOpsError) -> None:
        said = f"{what} are not shown: {str(error).splitlines()[0]}"
        if said not in self.notes:
            self.notes.append(said)


def _version(found: Mapping[str, Any]) -> Version:
    made = found.get("creation_timestamp")
    return Version(
        str(found["version"]),
        datetime.fromtimestamp(int(made) / 1000, UTC) if made else None,
        {each["key"]: each.get("value", "") for each in found.get("tags") or ()},
        found.get("run_id") or None,
    )


def _with_run(version: Version, run: Mapping[str, Any]) -> Version:
    metrics = {each["key"]: float(each["value"]) for each in run.get("data", {}).get("metrics") or ()}
    return replace(version, experiment_id=str(run["info"]["experiment_id"]), metrics=metrics)
