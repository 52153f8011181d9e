"""Check a model before it is served. What is found stands in a report; who serves it decides by ``passed``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from llmops_components.errors import ComponentError, SettingError
from llmops_components.models.checks.files import Weights, faults_of_files, read_weights
from llmops_components.models.checks.licence import licence_faults, licences_of
from llmops_components.models.checks.scan import scan_files
from llmops_components.models.directory import check_model_directory
from llmops_components.models.signing.files import verify_files
from llmops_components.models.signing.keys import read_public_keys
from llmops_components.results import StepReport, digest_of
from llmops_components.state_files import write_json

REPORT_SCHEMA_VERSION = 1
T = TypeVar("T")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def check_model(
    model: str | os.PathLike[str],
    report: str | os.PathLike[str],
    *,
    model_digest: str | None = None,
    allowed_licenses: Sequence[str] | None = None,
    max_parameters: int | None = None,
    max_bytes: int | None = None,
    scan: bool = True,
    signature: str | os.PathLike[str] | None = None,
    public_key: str | None = None,
) -> StepReport:
    """Check a model's files, and what else is asked for, before anything loads it.

    In any case: config, tokenizer and weights are there; the weights are safetensors files whose headers hold, and those that the index
    lists; every other file is JSON, text, a tokenizer or a picture, and what its name says. Everything else is refused by name: pickles,
    code, weights in other formats, links that lead out of the directory. Nothing is loaded or unpickled.

    Args:
        model: Directory of the model.
        report: Output file, JSON: each check with what it looked at and what it found.
        model_digest: ``sha256:...`` that the model has to have, as a step's result or the registry states it.
        allowed_licenses: Identifiers as the hub writes them, such as ``apache-2.0``. What the card says and what the record of the
            origin says have to be among them; a model of which nothing is known does not pass.
        max_parameters: Most parameters.
        max_bytes: Most bytes of the weight files.
        scan: Have modelscan look for code in the files.
        signature: The model's signature, as ``register_model`` and ``model-signing`` write it.
        public_key: Public key in PEM of who has to have signed the model; several, one below the other, where any of them will do. A model
            without a signature does not pass then, nor one with a file more, less or other than was signed.

    Returns:
        ``passed``, and a finding for each fault. Metrics: ``parameters``, ``weight_bytes``, ``files``, ``faults``. Details: ``digest``,
        ``licenses``, ``signed_by`` (fingerprint of the key by which the signature holds), ``checks`` (what came of each: ``passed``,
        ``failed`` or ``not asked for``).

    Raises:
        SettingError: An argument has a wrong value, or the scanner is not installed.
    """
    _check_settings(model_digest, allowed_licenses, max_parameters, max_bytes)
    if signature is not None and public_key is None:
        raise SettingError("A signature says nothing without a key: give public_key, or leave signature out.")
    keys = None if public_key is None else read_public_keys(public_key)
    directory = Path(model)
    digest = digest_of(directory)[0] if directory.exists() else "none"
    checks: dict[str, dict[str, Any]] = {}

    def note(check: str, faults: Sequence[str], **looked_at: Any) -> None:
        checks[check] = {"outcome": "failed" if faults else "passed", **looked_at, "faults": list(faults)}

    faults, _ = _tried(lambda: check_model_directory(directory))
    note("directory", faults)
    present = directory.is_dir()
    note("files", faults_of_files(directory) if present else faults, files=_count(directory))
    faults, weights = _tried(lambda: read_weights(directory))
    note(
        "weights",
        faults,
        **({} if weights is None else {"parameters": weights.parameters, "bytes": weights.bytes}),
    )
    if model_digest is not None:
        other = f"The model is not the one that was asked for: its digest is {digest}, asked for was {model_digest}."
        note("digest", [] if digest == model_digest else [other], digest=digest, expected=model_digest)
    licences = licences_of(directory) if present else []
    if allowed_licenses is not None:
        note(
            "license",
            licence_faults(licences, allowed_licenses),
            licenses=licences,
            allowed=list(allowed_licenses),
        )
    if max_parameters is not None or max_bytes is not None:
        note(
            "size",
            _size_faults(weights, max_parameters, max_bytes),
            max_parameters=max_parameters,
            max_bytes=max_bytes,
        )
    signed_by = None
    if keys is not None:
        verified = verify_files(directory, None if signature is None else Path(signature), keys)
        signed_by = None if verified.faults else verified.signed_by
        note(
            "signature",
            verified.faults,
            signed_by=verified.signed_by,
            signed_files=verified.files,
            accepted=[key.fingerprint for key in keys],
        )
    if scan and present:
        seen = scan_files(directory)
        note("scan", seen.faults, scanner=seen.scanner, scanned=seen.scanned)

    outcomes = {check: found["outcome"] for check, found in checks.items()}
    asked = {
        "digest": model_digest,
        "license": allowed_licenses,
        "size": max_parameters or max_bytes,
        "scan": scan or None,
        "signature": keys,
    }
    outcomes |= {check: "not asked for" for check, wanted in asked.items() if wanted is None}
    findings = list(dict.fromkeys(fault for found in checks.values() for fault in found["faults"]))
    write_json(
        report,
        {"schema_version": REPORT_SCHEMA_VERSION, "digest": digest, "passed": not findings, "checks": checks},
    )
    for check, outcome in outcomes.items():
        print(f"{check}: {outcome}", flush=True)
    return StepReport(
        metrics={
            "faults": len(findings),
            "files": _count(directory),
            **({} if weights is None else {"parameters": weights.parameters, "weight_bytes": weights.bytes}),
        },
        details={"digest": digest, "licenses": licences, "signed_by": signed_by, "checks": outcomes},
        passed=not findings,
        findings=findings,
    )


def _tried(look: Callable[[], T]) -> tuple[list[str], T | None]:
    """What was seen, or why it could not be."""
    try:
        return [], look()
    except ComponentError as error:
        return [str(error)], None


def _count(directory: Path) -> int:
    return sum(1 for file in directory.rglob("*") if file.is_file())


def _size_faults(weights: Weights | None, max_parameters: int | None, max_bytes: int | None) -> list[str]:
    if weights is None:
        return ["The size of the model is not known: its weights could not be read."]
    found = []
    if max_parameters is not None and weights.parameters > max_parameters:
        found.append(
            f"The model has {weights.parameters:,} parameters; at most {max_parameters:,} are allowed."
        )
    if max_bytes is not None and weights.bytes > max_bytes:
        found.append(f"The model's weights have {weights.bytes:,} bytes; at most {max_bytes:,} are allowed.")
    return found


def _check_settings(
    model_digest: str | None,
    allowed_licenses: Sequence[str] | None,
    max_parameters: int | None,
    max_bytes: int | None,
) -> None:
    if model_digest is not None and not _DIGEST.fullmatch(model_digest):
        raise SettingError(
            f"model_digest is {model_digest!r:.80}, and no digest. Give sha256: and 64 hexadecimal digits, as the step that wrote the "
            "model states it."
        )
    if allowed_licenses is not None and (
        isinstance(allowed_licenses, str)
        or not allowed_licenses
        or not all(isinstance(each, str) and each.strip() for each in allowed_licenses)
    ):
        raise SettingError(
            f"allowed_licenses is {allowed_licenses!r:.80}; it is a list of licences as the hub names them, such as ['apache-2.0', 'mit']."
        )
    for name, value in (("max_parameters", max_parameters), ("max_bytes", max_bytes)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise SettingError(f"{name} is {value!r:.80}; it is a number from 1 on.")
