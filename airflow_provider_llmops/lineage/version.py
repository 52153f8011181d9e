"""The answer to "which DAG version, data, code and image made you?", from the tags of a version and its run in MLflow alone.

Two requests: the version, by its number or an alias, and the run that it was registered with. What is not recorded is named as missing;
nothing is concluded from something else.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.delivery.as_of import utc
from airflow_provider_llmops.exceptions import ConfigurationError, shown_value
from airflow_provider_llmops.json_text import parse_json
from airflow_provider_llmops.lineage.made_by import (
    BASE_MODEL,
    BASE_MODEL_DIGEST,
    COMPONENT,
    DATA_URI,
    IMAGE,
    NO_IMAGE,
    PARENT,
    PARENT_DIGEST,
    RUN,
)
from airflow_provider_llmops.redaction import HIDDEN
from airflow_provider_llmops.remote.origin import CONF, CONF_TOO_LARGE

if TYPE_CHECKING:
    from airflow_provider_llmops.hooks.mlflow import MlflowHook

__all__ = ["Lineage", "parse_reference", "read_lineage"]

MAX_METRICS = 50
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,255}")
_DATASET = re.compile(r"llmops\.dataset\.(.+)\.digest")
_PINNED = re.compile(r"@sha256:[0-9a-f]{64}$")


@dataclass(frozen=True)
class Lineage:
    """Where a version came from. Whatever is ``None`` or empty is not recorded, and ``missing`` says so.

    :param model_name: name in the registry
    :param model_version: its number
    :param aliases: aliases that point to it
    :param registered_at: when it was made, in UTC
    :param model_digest: of its files
    :param dag: ``dag_id``, ``run_id``, ``task_id``, ``dag_version``, ``bundle_name``, ``bundle_version``, and place in time
    :param provider_version: release of this provider
    :param components: by the name of each component that made it: ``digest``, ``image``, ``image_digest``, ``run_id``
    :param data: by name of each data set: ``digest`` and ``uri``
    :param base_model: ``source`` and ``digest`` of what was brought in from outside
    :param parent: ``version`` as NAME@NUMBER and ``digest`` of the registered version that it was made from
    :param metrics: numbers of the run, :data:`MAX_METRICS` at most
    :param metrics_left_out: how many there are beyond those
    :param decision: ``outcome``, ``baseline``, ``approved_by``, ``checked`` and ``signed_by``
    :param mlflow_run: id of the run
    :param conf: settings of the DAG's run
    :param missing: sentences on what is not recorded, and why, where that is known
    """

    model_name: str
    model_version: str
    aliases: list[str]
    registered_at: str | None
    model_digest: str | None
    dag: dict[str, str]
    provider_version: str | None
    components: dict[str, dict[str, str | None]]
    data: dict[str, dict[str, str]]
    base_model: dict[str, str]
    parent: dict[str, str]
    metrics: dict[str, float]
    metrics_left_out: int
    decision: dict[str, str]
    mlflow_run: str | None
    conf: dict[str, Any] | None
    missing: list[str] = field(default_factory=list)

    @property
    def rerun(self) -> str | None:
        """The command that runs the DAG again with the same settings; ``None`` where they are not recorded whole."""
        if self.conf is None or "dag_id" not in self.dag or HIDDEN in str(self.conf):
            return None
        conf = f" --conf {shlex.quote(json.dumps(self.conf, sort_keys=True))}" if self.conf else ""
        return f"airflow dags trigger {shlex.quote(self.dag['dag_id'])}{conf}"

    def to_json(self) -> dict[str, Any]:
        """As JSON, with ``rerun``."""
        return {**asdict(self), "rerun": self.rerun}


def parse_reference(reference: str) -> tuple[str, str | None, str | None]:
    """Name, version and alias that MODEL@VERSION or MODEL@ALIAS stands for; one of the last two is ``None``.

    :param reference: the text
    :raises ConfigurationError: it is neither
    """
    name, _, which = reference.partition("@")
    if not _NAME.fullmatch(name) or not _ALIAS.fullmatch(which):
        raise ConfigurationError(
            f"Write MODEL@VERSION or MODEL@ALIAS, such as support-assistant@3, instead of {shown_value(reference)}."
        )
    return (name, which, None) if which.isdigit() else (name, None, which)


def read_lineage(
    hook: MlflowHook, model_name: str, *, model_version: str | None = None, alias: str | None = None
) -> Lineage:
    """The lineage of a registered version.

    :param hook: of MLflow
    :param model_name: name in the registry
    :param model_version: number of the version; or
    :param alias: an alias, whose version is taken
    :raises ConfigurationError: there is no such version, or MLflow refuses the request
    :raises ApiUnavailableError: MLflow does not answer
    """
    version = hook.model_version(model_name, version=model_version, alias=alias)
    run = hook.run(version["run_id"]) if version.get("run_id") else None
    return _Reader(version, run).read()


class _Reader:
    """Sorts the tags of a version, and the run's, and notes what is not among them."""

    def __init__(self, version: Mapping[str, Any], run: Mapping[str, Any] | None) -> None:
        self.version = version
        self.run = run
        self.tags: dict[str, str] = {each["key"]: each.get("value", "") for each in version.get("tags", ())}
        self.missing: list[str] = []

    def read(self) -> Lineage:
        dag = self._dag()
        metrics, left_out = self._metrics()
        return Lineage(
            model_name=self.version["name"],
            model_version=str(self.version["version"]),
            aliases=sorted(self.version.get("aliases", ())),
            registered_at=_time(self.version.get("creation_timestamp")),
            model_digest=self._tag("llmops.model.digest", "the digest of the model"),
            dag=dag,
            provider_version=self._tag("llmops.provider_version", "the release of this provider"),
            components=self._components(),
            data=self._data(),
            base_model=self._pair(BASE_MODEL, BASE_MODEL_DIGEST, "source"),
            parent=self._pair(PARENT, PARENT_DIGEST, "version"),
            metrics=metrics,
            metrics_left_out=left_out,
            decision=self._decision(),
            mlflow_run=self.version.get("run_id") or None,
            conf=self._conf(),
            missing=self._sentences(),
        )

    def _tag(self, name: str, what: str) -> str | None:
        """A tag; what it says is missing where there is none."""
        if found := self.tags.get(name):
            return found
        self.missing.append(f"{what} (tag {name})")
        return None

    def _dag(self) -> dict[str, str]:
        own = {name.removeprefix("airflow."): value for name, value in self.tags.items() if _is_of_dag(name)}
        for name, what in (
            ("dag_id", "the DAG, unless it was registered outside of one"),
            ("dag_version", "the version of the DAG"),
            ("bundle_name", "the bundle of the DAG"),
            (
                "bundle_version",
                "the bundle's version, which a local folder, or a run not held to one, does not have",
            ),
        ):
            self._tag(f"airflow.{name}", what)
        return own

    def _components(self) -> dict[str, dict[str, str | None]]:
        found: dict[str, dict[str, str | None]] = {}
        for tag, digest in sorted(self.tags.items()):
            if not tag.startswith(COMPONENT):
                continue
            name = tag.removeprefix(COMPONENT)
            image = self._tag(f"{IMAGE}{name}", f"the image of {name}")
            pinned = _PINNED.search(image or "")
            if image and image != NO_IMAGE and not pinned:
                self.missing.append(f"the digest of the image of {name}, since {image} does not name one")
            found[name] = {
                "digest": digest,
                "image": image,
                "image_digest": pinned[0][1:] if pinned else None,
                "run_id": self.tags.get(f"{RUN}{name}"),
            }
        if not found:
            self.missing.append("the components that made it: RegisterModelOperator takes them as made_by")
        return found

    def _data(self) -> dict[str, dict[str, str]]:
        found = {
            match[1]: {"digest": value}
            for tag, value in self.tags.items()
            if (match := _DATASET.fullmatch(tag))
        }
        if not found:
            self.missing.append("the data: RegisterModelOperator takes them as dataset")
        elif "train" in found and (uri := self._tag(DATA_URI, "the address of the data")):
            found["train"]["uri"] = uri
        return found

    def _pair(self, tag: str, digest: str, name: str) -> dict[str, str]:
        found = {name: self.tags.get(tag), "digest": self.tags.get(digest)}
        return {key: value for key, value in found.items() if value}

    def _metrics(self) -> tuple[dict[str, float], int]:
        if self.run is None:
            self.missing.append("the run in MLflow, and with it the metrics")
            return {}, 0
        points = sorted(self.run.get("data", {}).get("metrics", ()), key=lambda each: str(each["key"]))
        if not points:
            self.missing.append("the metrics: RegisterModelOperator takes them as model_metrics")
        return {each["key"]: each["value"] for each in points[:MAX_METRICS]}, max(
            0, len(points) - MAX_METRICS
        )

    def _decision(self) -> dict[str, str]:
        self._tag("llmops.decision", "a decision: RegisterModelOperator takes that of QualityGateOperator")
        of = {
            "outcome": "llmops.decision",
            "baseline": "llmops.decision.baseline",
            "approved_by": "llmops.decision.approved_by",
            "checked": "llmops.checked",
            "signed_by": "llmops.model.signed_by",
        }
        return {name: self.tags[tag] for name, tag in of.items() if self.tags.get(tag)}

    def _conf(self) -> dict[str, Any] | None:
        if size := self.tags.get(CONF_TOO_LARGE):
            self.missing.append(
                f"the settings of the DAG's run, since their {size} characters are more than a tag takes"
            )
            return None
        text = self._tag(CONF, "the settings of the DAG's run")
        if text is None:
            return None
        try:
            found = parse_json(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            self.missing.append(f"the settings of the DAG's run, since the tag {CONF} is not a JSON object")
            return None
        if HIDDEN in text:
            self.missing.append(
                f"a secret among the settings of the DAG's run, which has {HIDDEN} in its place"
            )
        return found

    def _sentences(self) -> list[str]:
        if not self.tags.keys() & {BASE_MODEL, PARENT}:
            self.missing.append(
                "the base model or the version that it was made from: RegisterModelOperator takes them by made_by"
            )
        if self.tags.get("airflow.run_type") == "asset_triggered":
            self.missing.append(
                "the event of the asset that started the run, which a trigger by hand does not have"
            )
        return [f"Not recorded: {each}." for each in self.missing]


def _is_of_dag(name: str) -> bool:
    return name.startswith("airflow.") and name not in (CONF, CONF_TOO_LARGE)


def _time(milliseconds: Any) -> str | None:
    return utc(datetime.fromtimestamp(int(milliseconds) / 1000, UTC)) if milliseconds else None
