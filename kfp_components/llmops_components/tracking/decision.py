"""What a gate has decided on a model, kept with its version: the record with the run, outcome and baseline as tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmops_components.errors import SettingError
from llmops_components.redaction import redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

DECISION_FILE = "decision.json"
DECISION_TAG = "llmops.decision"
BASELINE_TAG = "llmops.decision.baseline"
_OUTCOMES = ("pass", "fail", "undecided")
_FIELDS = ("findings", "rules", "evidence")
_MAX_CHARACTERS = 500


def check_decision(decision: Mapping[str, Any]) -> dict[str, Any]:
    """The decision, without secrets.

    Args:
        decision: What ``QualityGateOperator`` returns.

    Raises:
        SettingError: It is none.
    """
    missing = [name for name in _FIELDS if not isinstance(decision, Mapping) or name not in decision]
    outcome = decision.get("outcome") if isinstance(decision, Mapping) else None
    if missing or outcome not in _OUTCOMES:
        raise SettingError(
            f"decision is none of a gate (outcome {outcome!r:.60}{', without ' + ' and '.join(missing) if missing else ''}). Pass on what "
            "QualityGateOperator returns."
        )
    baseline = decision.get("baseline")
    if baseline is not None and not (isinstance(baseline, str) and 0 < len(baseline) <= _MAX_CHARACTERS):
        raise SettingError(
            f"decision says what the model was compared with as {baseline!r:.60}. Give QualityGateOperator a baseline of 1 to "
            f"{_MAX_CHARACTERS} characters, or none."
        )
    found: dict[str, Any] = redacted(dict(decision))
    return found


def keep_decision(client: MlflowClient, version: ModelVersion, decision: Mapping[str, Any]) -> None:
    """Keep a decision with a version and its run; a later one on the same version takes its place.

    Args:
        client: Client of MLflow.
        version: The version.
        decision: Of :func:`check_decision`.
    """
    if version.run_id:
        client.log_dict(version.run_id, dict(decision), DECISION_FILE)
        client.set_tag(version.run_id, DECISION_TAG, decision["outcome"])
    client.set_model_version_tag(version.name, version.version, DECISION_TAG, decision["outcome"])
    if baseline := decision.get("baseline"):
        client.set_model_version_tag(version.name, version.version, BASELINE_TAG, baseline)
    elif BASELINE_TAG in version.tags:
        client.delete_model_version_tag(version.name, version.version, BASELINE_TAG)
