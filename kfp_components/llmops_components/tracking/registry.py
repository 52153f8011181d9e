"""Registered model versions: fetch one's files, move an alias to one."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops_components.errors import InputError, SettingError
from llmops_components.models.signing.files import SIGNATURE_FILE
from llmops_components.results import StepReport, digest_of
from llmops_components.tracking.alias import AS_OF_TAG, date_of, move_alias
from llmops_components.tracking.register import MODEL_DIGEST_TAG
from llmops_components.tracking.server import check_alias, check_as_of, check_model_name, connection
from llmops_components.tracking.signature import SIGNED_AT_TAG, SIGNED_BY_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_FILES = "model"  # where register_model keeps the checkpoint, below the MLflow model


def fetch_model(
    model: str | os.PathLike[str],
    *,
    model_name: str,
    model_version: str | None = None,
    alias: str | None = None,
    tracking_uri: str | None = None,
    signature: str | os.PathLike[str] | None = None,
    required: bool = True,
) -> StepReport:
    """Fetch the files of a registered model version, as ``register_model`` has kept them.

    Args:
        model: Output directory, the checkpoint.
        model_name: Name in the registry.
        model_version: Number of the version; or
        alias: an alias, whose version is taken.
        tracking_uri: Address of MLflow; None for the variable ``MLFLOW_TRACKING_URI``.
        signature: Output file, the signature of the model, where it was registered with one. Whether it holds says ``check_model``.
        required: Whether there has to be such a version. Otherwise nothing is fetched where there is none, and a finding says so.

    Returns:
        Details: ``name``, ``version``, ``registered_digest`` (None where the version has none), ``model_digest`` of the files, ``as_of``,
        ``aliases`` that point to the version, ``signed_by`` and ``signed_at`` as the version says (None where it has no signature).
        ``passed`` is False where the digests differ. Where there is no such version, and there need be none, ``version`` is None.

    Raises:
        SettingError: A setting has a wrong value, or there is no such version.
        InputError: The version holds no checkpoint of ``register_model``.
        UnavailableError: MLflow could not be reached.
    """
    check_model_name(model_name)
    if (model_version is None) == (alias is None):
        raise SettingError("Give model_version or alias, one of the two.")
    if alias is not None:
        check_alias(alias)
    target = Path(model)
    with connection(tracking_uri) as (client, _):
        find = find_version if required else look_up_version
        found = find(client, model_name, model_version, alias)
        if found is None:
            missing = _missing(model_name, model_version, alias)
            print(missing, flush=True)
            return StepReport(details={"name": model_name, "version": None}, findings=[missing])
        number = str(found.version)
        with tempfile.TemporaryDirectory(dir=_beside(target)) as aside:
            _download(f"models:/{model_name}/{number}", Path(aside))
            files = Path(aside) / _FILES
            if not (files / "config.json").is_file():
                raise InputError(
                    f"{model_name} version {number} holds no checkpoint as register_model keeps it: {_FILES}/config.json is missing. Register the "
                    "model with it."
                )
            if target.exists():
                shutil.rmtree(target)
            shutil.move(files, target)
            if signature is not None and (signed := Path(aside) / SIGNATURE_FILE).is_file():
                shutil.move(signed, _beside(Path(signature)) / Path(signature).name)
        aliases = sorted(found.aliases or ())
    digest, size = digest_of(target)
    registered = found.tags.get(MODEL_DIGEST_TAG)
    findings = []
    if registered is None:
        findings = [
            f"{model_name} version {number} was registered without a digest: whether these are its files is not known."
        ]
    elif registered != digest:
        findings = [
            f"The files of {model_name} version {number} are not those that were registered: {digest} is not {registered}."
        ]
    return StepReport(
        metrics={"model_bytes": size},
        details={
            "name": model_name,
            "version": number,
            "registered_digest": registered,
            "model_digest": digest,
            "as_of": found.tags.get(AS_OF_TAG),
            "aliases": aliases,
            "signed_by": found.tags.get(SIGNED_BY_TAG),
            "signed_at": found.tags.get(SIGNED_AT_TAG),
        },
        passed=registered in (None, digest),
        findings=findings,
    )


def set_alias(
    *,
    model_name: str,
    model_version: str,
    alias: str,
    as_of: str | None = None,
    only_if_newer: bool = True,
    tracking_uri: str | None = None,
) -> StepReport:
    """Move an alias to a registered model version, unless a version of a newer date has it.

    Which is newer is told by the date that a version is of, or by when it was made. The same again moves nothing, and one that comes late
    never moves it back.

    Args:
        model_name: Name in the registry.
        model_version: Number of the version.
        alias: The alias, for example ``production``.
        as_of: Date or partition that the model is of, as text that sorts; what the version says of itself when left out.
        only_if_newer: Leave the alias where it is if that version is of a newer date; otherwise it moves in any case.
        tracking_uri: Address of MLflow; None for the variable ``MLFLOW_TRACKING_URI``.

    Returns:
        Details: ``former_version`` (None where nothing had the alias), ``version`` that has it now, ``moved``, ``note``.

    Raises:
        SettingError: A setting has a wrong value, or there is no such version.
        UnavailableError: MLflow could not be reached.
    """
    check_model_name(model_name)
    check_alias(alias)
    check_as_of(as_of)
    with connection(tracking_uri) as (client, _):
        found = find_version(client, model_name, model_version, None)
        former = client.get_registered_model(model_name).aliases.get(alias)
        move = move_alias(client, found, alias, as_of or date_of(found), only_if_newer=only_if_newer)
    print(move.note, flush=True)
    details: dict[str, Any] = {
        "name": model_name,
        "alias": alias,
        "asked_for": str(found.version),
        "version": move.version,
        "former_version": None if former is None else str(former),
        "moved": move.moved,
        "note": move.note,
    }
    return StepReport(details=details)


def find_version(client: MlflowClient, name: str, version: str | None, alias: str | None) -> ModelVersion:
    """A registered version, by its number or by an alias.

    Args:
        client: Of the server.
        name: Name in the registry.
        version: Number of the version; or
        alias: an alias.

    Raises:
        SettingError: There is no such version.
    """
    found = look_up_version(client, name, version, alias)
    if found is None:
        raise SettingError(f"{_missing(name, version, alias)} Look at its page in MLflow.")
    return found


def look_up_version(
    client: MlflowClient, name: str, version: str | None, alias: str | None
) -> ModelVersion | None:
    """The same, or None where there is no such version, or no such model.

    Args:
        client: Of the server.
        name: Name in the registry.
        version: Number of the version; or
        alias: an alias.

    Raises:
        SettingError: The number is none.
    """
    from mlflow.exceptions import MlflowException

    if alias is None and not str(version).isdecimal():
        raise SettingError(f"model_version is {version!r:.40}; give the number of a version of {name}.")
    try:
        if alias is not None:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, str(version))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def _missing(name: str, version: str | None, alias: str | None) -> str:
    what = f"version {version}" if alias is None else f"alias {alias!r}"
    return f"There is no {what} of a registered model {name!r}."


def _beside(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.parent


def _download(uri: str, target: Path) -> None:
    import mlflow

    mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(target))
