"""Signatures of registered model versions: made once, kept beside the files, and named in the version's tags."""

from __future__ import annotations

import re
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from llmops_components.errors import ModelError, SettingError
from llmops_components.models.directory import PICKLED
from llmops_components.models.signing.files import SIGNATURE_FILE, sign_files, verify_files
from llmops_components.models.signing.keys import SigningKey

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

SIGNED_BY_TAG = "llmops.model.signed_by"
SIGNED_AT_TAG = "llmops.model.signed_at"
_LOGGED_MODEL = re.compile(r"models:/(m-\w+)")  # what a version is made of that `register_model` has made


def check_signable(directory: Path) -> None:
    """Raise :class:`ModelError` if files of a model are not registered, so that a signature would not be of what is fetched.

    Args:
        directory: Model directory.
    """
    if pickled := sorted({file.name for kind in PICKLED for file in directory.rglob(kind)}):
        raise ModelError(
            f"{pickled[0]} is a pickle, or may be one, and is not registered: a signature over it would hold for nothing that is fetched. "
            "Remove it from the model."
        )


def sign_version(
    client: MlflowClient, version: ModelVersion, directory: Path, key: SigningKey, signature: Path | None
) -> None:
    """Sign a version; one that this key has signed already keeps the signature that it has.

    Args:
        client: Of the server.
        version: The version, whose files are those of the directory. Its tags are changed.
        directory: Model directory.
        key: Private key.
        signature: File to write the signature to, besides keeping it with the version.

    Raises:
        SettingError: Nothing can be kept with the version, which is of no logged model.
    """
    name = f"{version.name} version {version.version}"
    logged = _LOGGED_MODEL.fullmatch(version.source or "")
    if logged is None:
        raise SettingError(
            f"{name} cannot be signed: it was registered by its address, without a logged model of MLflow 3, which the signature is kept with. "
            "Register the model under another name."
        )
    with tempfile.TemporaryDirectory() as aside:
        made = Path(aside) / SIGNATURE_FILE  # MLflow keeps the file's own name
        if _is_signed(version, directory, key, made):
            print(f"{name} is signed already, by {key.fingerprint}.", flush=True)
        else:
            sign_files(directory, made, key)
            client.log_model_artifact(logged[1], str(made))
            now = datetime.now(UTC).isoformat(timespec="seconds")
            for tag, value in ((SIGNED_BY_TAG, key.fingerprint), (SIGNED_AT_TAG, now)):
                client.set_model_version_tag(version.name, str(version.version), tag, value)
                version.tags[tag] = value
            print(f"Signed {name} as {key.fingerprint}.", flush=True)
        if signature is not None:
            signature.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(made, signature)


def _is_signed(version: ModelVersion, directory: Path, key: SigningKey, signature: Path) -> bool:
    """Whether a key has signed a version; its signature is then in the file."""
    import mlflow
    from mlflow.exceptions import MlflowException

    if version.tags.get(SIGNED_BY_TAG) != key.fingerprint:
        return False
    kept = f"models:/{version.name}/{version.version}/{SIGNATURE_FILE}"
    try:
        mlflow.artifacts.download_artifacts(artifact_uri=kept, dst_path=str(signature.parent))
    except (MlflowException, OSError):  # the tag is there, and no signature: it is made anew
        return False
    return not verify_files(directory, signature, [key.public]).faults
