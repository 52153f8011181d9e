"""Where a training is tracked: what the caller says, else MLflow's own variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmops_components.errors import SettingError, check_known
from llmops_components.passthrough.training import TrackingSettings
from llmops_components.redaction import redacted
from llmops_components.tracking.client import MAX_TAG_CHARACTERS, check_parent

_KEYS = tuple(TrackingSettings.__annotations__)


@dataclass(frozen=True)
class Tracking:
    """Where a training is tracked: :class:`~llmops_components.passthrough.training.TrackingSettings`, all of them."""

    tracking_uri: str
    experiment: str = "llmops"
    parent: str | None = None
    run_name: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def find(cls, given: Mapping[str, Any] | None = None) -> Tracking | None:
        """What the caller gives, else MLflow's own variables.

        Returns:
            None when nothing says where to track.
        """
        given = {key: value for key, value in (given or {}).items() if value is not None}
        check_known(given, _KEYS, "tracking")
        tags = given.pop("tags", {})
        if not isinstance(tags, Mapping) or not all(
            isinstance(each, str) for each in (*tags, *tags.values())
        ):
            raise SettingError("tracking: tags is not a dict of texts.")
        if wrong := [key for key, value in given.items() if not isinstance(value, str) or not value]:
            raise SettingError(f"tracking: {', '.join(wrong)} is not a text.")
        uri = given.pop("tracking_uri", None) or os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            return None
        if "parent" in given:
            check_parent("tracking: parent", given["parent"])
        if "experiment" not in given and (name := os.environ.get("MLFLOW_EXPERIMENT_NAME")):
            given["experiment"] = name
        shown = {name: value[:MAX_TAG_CHARACTERS] for name, value in redacted(dict(tags)).items()}
        return cls(uri, **given, tags=shown)
