"""What was checked of a model before it is served, in the tags of its registered version."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from llmops_components.errors import SettingError
from llmops_components.redaction import redact
from llmops_components.results import StepReport
from llmops_components.tracking.register import MODEL_DIGEST_TAG
from llmops_components.tracking.registry import find_version
from llmops_components.tracking.server import check_model_name, connection

CHECK_TAG = "llmops.check."  # followed by the name of a check
CHECKED_TAG = "llmops.checked"
CHECKED_AT_TAG = "llmops.checked_at"
FINDING_TAG = "llmops.check_finding"
SIGNATURE_HOLDS_TAG = "llmops.check_signed_by"
_MAX_CHARACTERS = 500


def record_checks(
    report: StepReport,
    *,
    model_name: str | None,
    model_version: str | None,
    tracking_uri: str | None = None,
) -> StepReport:
    """Note with a registered version what came of each check, whether they were passed, when, and by whose signature.

    Args:
        report: Of ``check_model``.
        model_name: Name in the registry; None to note nothing.
        model_version: Number of the version.
        tracking_uri: Address of MLflow; None for the variable ``MLFLOW_TRACKING_URI``.

    Returns:
        The report; it is not passed where the version's files are others than those that were checked.

    Raises:
        SettingError: A setting has a wrong value, or there is no such version.
        UnavailableError: MLflow could not be reached.
    """
    if (model_name is None) != (model_version is None):
        raise SettingError(
            "Give model_name and model_version, both or neither: what was checked is noted with that version."
        )
    if model_name is None or model_version is None:
        return report
    check_model_name(model_name)
    with connection(tracking_uri) as (client, _):
        version = find_version(client, model_name, model_version, None)
        registered = version.tags.get(MODEL_DIGEST_TAG)
        if report.passed and registered is None:
            unknown = (
                f"{model_name} version {model_version} was registered without a digest, so that nobody knows whether these are its files. "
                "Register it with register_model, or leave model_name and model_version out."
            )
            report = replace(report, passed=False, findings=[unknown])
        elif report.passed and registered != report.details["digest"]:
            other = (
                f"What was checked is not {model_name} version {model_version}: its digest is {report.details['digest']}, and the version's "
                f"{registered}."
            )
            report = replace(report, passed=False, findings=[other])
        tags = {f"{CHECK_TAG}{check}": outcome for check, outcome in report.details["checks"].items()}
        tags |= {
            CHECKED_TAG: "passed" if report.passed else "failed",
            CHECKED_AT_TAG: datetime.now(UTC).isoformat(timespec="seconds"),
            SIGNATURE_HOLDS_TAG: report.details["signed_by"] or "nobody",
            FINDING_TAG: redact(report.findings[0])[:_MAX_CHARACTERS] if report.findings else "none",
        }
        for tag, value in tags.items():
            client.set_model_version_tag(model_name, model_version, tag, value)
    return report
