"""What was evaluated, on what, and as part of what: by which a report can be found again and told from others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmops_components.models.directory import read_settings
from llmops_components.models.provenance import PROVENANCE_FILE, lineage_of
from llmops_components.redaction import redact, redacted, without_paths
from llmops_components.results import digest_of
from llmops_components.tracking.settings import Tracking
from llmops_components.uris import is_http, split_login


@dataclass(frozen=True, kw_only=True)
class About:
    """The identity of an evaluation; what is not known is None.

    Args:
        component: Name of the component.
        model: Name of the model, or of the served model.
        model_digest: Digest of its files; of a service None, which does not tell them.
        address: Address of the service.
        base: What the model was made from.
        dataset: Name of the dataset's file.
        dataset_digest: Digest of it.
        baseline_digest: Digest of the scores that it is compared with.
        further_digests: Digests of the scores of further models, by name.
        settings: How answers were asked for: arguments of the generation, or fields of the request.
        dag_run: The run of the DAG that it belongs to, as ``dag_id/run_id``.
        task: The task.
        tracking: Where it is kept in MLflow; None for nowhere.
        date: When it was evaluated, in UTC.
    """

    component: str
    model: str | None = None
    model_digest: str | None = None
    address: str | None = None
    base: str | None = None
    dataset: str | None = None
    dataset_digest: str | None = None
    baseline_digest: str | None = None
    further_digests: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    dag_run: str | None = None
    task: str | None = None
    tracking: Tracking | None = None
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @classmethod
    def of_model(
        cls,
        component: str,
        model: str | os.PathLike[str],
        dataset: str | os.PathLike[str] | None,
        **more: Any,
    ) -> About:
        """The identity of an evaluation of a model's files.

        Args:
            component: Name of the component.
            model: Directory of the model.
            dataset: The rows; None where they belong to what was run.
            more: Other fields: ``settings``, ``baseline_scores``, ``further`` models, and ``tracking`` as the caller gives it.
        """
        return cls(
            component=component,
            model=Path(model).name,
            model_digest=digest_of(model)[0],
            base=_base_of(Path(model)),
            **_of_dataset(dataset),
            **_clean(more),
        )

    @classmethod
    def of_service(
        cls, component: str, model_name: str, url: str, dataset: str | os.PathLike[str], **more: Any
    ) -> About:
        """The identity of an evaluation of a service.

        Args:
            component: Name of the component.
            model_name: Name of the served model.
            url: Its address.
            dataset: The rows.
            more: As for :meth:`of_model`.
        """
        address = split_login(url, "url")[0] if is_http(url) else url
        return cls(
            component=component,
            model=redact(model_name),
            address=redact(address),
            **_of_dataset(dataset),
            **_clean(more),
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What makes the evaluation what it is, but for when it was made."""
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.name not in ("tracking", "date")
        }

    @property
    def facts(self) -> dict[str, str]:
        """What a reader is shown, by name."""
        named = {
            "Model": self.model,
            "Model digest": self.model_digest,
            "Address": self.address,
            "Made from": self.base,
            "Dataset": self.dataset,
            "Dataset digest": self.dataset_digest,
            "Digest of the baseline's scores": self.baseline_digest,
            **{f"Digest of the scores of {name}": each for name, each in self.further_digests.items()},
            "Run of the DAG": self.dag_run,
            "Task": self.task,
            "Date": self.date,
        }
        return {name: value for name, value in named.items() if value}


def _of_dataset(dataset: str | os.PathLike[str] | None) -> dict[str, str]:
    if dataset is None:
        return {}
    return {"dataset": Path(dataset).name, "dataset_digest": digest_of(dataset)[0]}


def _clean(more: Mapping[str, Any]) -> dict[str, Any]:
    scores = more.get("baseline_scores")
    found = {name: value for name, value in more.items() if name not in ("baseline_scores", "further")}
    found["further_digests"] = {each.name: each.digest for each in more.get("further", ())}
    found["baseline_digest"] = None if scores is None else digest_of(scores)[0]
    found["settings"] = redacted(dict(found.get("settings") or {}))
    tracked = found.get("tracking")
    found["tracking"] = Tracking.find(tracked)
    return {"dag_run": (tracked or {}).get("parent"), "task": (tracked or {}).get("run_name"), **found}


def _base_of(model: Path) -> str | None:
    """What a model was made from, as the step that made it has recorded it."""
    provenance = read_settings(model / PROVENANCE_FILE) or {}
    source = next((each["source"] for each in lineage_of(provenance) if each.get("source")), None)
    return None if source is None else redact(without_paths(str(source)))
