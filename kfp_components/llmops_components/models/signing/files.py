"""Sign the files of a model, and look whether they are those that were signed: all of them, and no others."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops_components.errors import ModelError
from llmops_components.json_text import parse_json
from llmops_components.models.signing.keys import PublicKey, SigningKey, as_file

SIGNATURE_FILE = "model.sig"
DIGESTS = "sha256"
_PREDICATE = "https://model_signing/signature/v1.0"
_MAX_BYTES = 16 << 20
_UNSIGNED = (
    "The model is not signed. Register it with a signature (RegisterModelOperator with signing_conn_id, register_model with sign), or give "
    "the signature that it has."
)


@dataclass(frozen=True)
class Verified:
    """What came of looking at a signature.

    Args:
        signed_by: Fingerprint of the key that the signature says it was made with.
        files: How many files it covers.
        faults: Why it does not hold, or how the files differ from those that were signed, a sentence each.
    """

    signed_by: str | None
    files: int
    faults: tuple[str, ...]


def sign_files(directory: Path, signature: Path, key: SigningKey) -> None:
    """Sign every file of a model, whatever its name.

    Args:
        directory: Model directory.
        signature: File to write: a Sigstore bundle, as the OpenSSF Model Signing specification has it.
        key: Private key.

    Raises:
        ModelError: It has a link to a directory, or something that is no file.
    """
    from model_signing.signing import Config

    signature.parent.mkdir(parents=True, exist_ok=True)
    with as_file(key.pem) as private:
        # The library says that a password is text, and takes bytes alone.
        config = Config().use_elliptic_key_signer(private_key=private, password=key.password)
    found = _Found(directory)
    config.set_hashing_config(found).sign(directory, signature)


def verify_files(directory: Path, signature: Path | None, keys: Sequence[PublicKey]) -> Verified:
    """Look whether the files of a model are those that somebody has signed who has one of the keys.

    Args:
        directory: Model directory.
        signature: Its signature; a file that is not there, and an empty one, are none.
        keys: Public keys of those who may have signed it.
    """
    if signature is None or not signature.is_file() or not signature.stat().st_size:
        return Verified(None, 0, (_UNSIGNED,))
    try:
        signed = _Signed.read(signature)
        found = _Found(directory)
    except ModelError as error:
        return Verified(None, 0, (str(error),))
    wanted = " or ".join(key.fingerprint for key in keys)
    fitting = [key for key in keys if signed.key in (None, key.fingerprint)]
    if not fitting:
        other = f"The model is signed by another key: {signed.key}, and not {wanted}."
        return Verified(signed.key, len(signed.files), (other,))
    for key in fitting:
        why = _why_not(directory, signature, key, found)
        if found.is_asked_for:  # the signature holds; what is left is whether the files are those
            differences = tuple(_differences(signed.files, found.files))
            return Verified(key.fingerprint, len(signed.files), differences or ((why,) if why else ()))
    return Verified(
        signed.key,
        len(signed.files),
        (f"The signature was not made with the private key of {wanted}, or somebody has changed it since.",),
    )


class _Found:
    """The files that are there, in the place of the library's configuration of digests: nothing is ignored, whatever a signature says."""

    def __init__(self, directory: Path) -> None:
        from model_signing.hashing import Config

        if folder := next(
            (each for each in directory.rglob("*") if each.is_symlink() and each.is_dir()), None
        ):
            name = folder.relative_to(directory).as_posix()
            raise ModelError(
                f"{name} is a link to a directory, which no signature covers. Put the files there."
            )
        config = Config().set_ignored_paths(paths=(), ignore_git_paths=False).set_allow_symlinks(True)
        try:
            self._manifest = config.hash(directory)
        except (ValueError, OSError) as error:
            raise ModelError(f"The files of the model cannot be read for its signature: {error}.") from None
        self.is_asked_for = False

    @property
    def files(self) -> dict[str, str]:
        """Digest of each file, by its name."""
        return {each.identifier: each.digest.digest_hex for each in self._manifest.resource_descriptors()}

    def hash(self, *_: Any, **__: Any) -> Any:
        """What the library calls for the digests, once the signature holds."""
        self.is_asked_for = True
        return self._manifest

    def add_ignored_paths(self, **_: Any) -> None:
        """What the library calls with the files that a signature leaves out: here they count as not signed."""


@dataclass(frozen=True)
class _Signed:
    """What a signature says, before anybody has looked whether it holds.

    Args:
        key: Fingerprint of its key; older ones have none.
        files: Digest of each file, by its name.
    """

    key: str | None
    files: Mapping[str, str]

    @classmethod
    def read(cls, signature: Path) -> _Signed:
        if signature.stat().st_size > _MAX_BYTES:
            raise ModelError(
                f"The signature is larger than {_MAX_BYTES:,} bytes, and none that is taken here."
            )
        try:
            bundle = parse_json(signature.read_bytes())
            material = bundle["verificationMaterial"]
            payload = parse_json(base64.b64decode(bundle["dsseEnvelope"]["payload"], validate=True))
            predicate = payload["predicateType"]
            if predicate == _PREDICATE:
                serialization = payload["predicate"]["serialization"]
                resources = payload["predicate"]["resources"]
                files = {str(each["name"]): str(each["digest"]) for each in resources}
                digests = {serialization["method"], *(each["algorithm"] for each in resources)}
            hint = material["publicKey"].get("hint") if "publicKey" in material else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"The signature is no Sigstore bundle of a signed model: {type(error).__name__}, {error!s:.100}."
            ) from None
        if "publicKey" not in material:
            raise ModelError(
                "The signature was made with a certificate, or keyless by Sigstore. Those are not looked at here: sign the model with a key."
            )
        if predicate != _PREDICATE or digests - {"files", DIGESTS}:
            how = predicate if predicate != _PREDICATE else ", ".join(sorted(map(str, digests)))
            raise ModelError(
                f"The signature is of a kind that is not looked at here: {how:.100}. Sign whole files with {DIGESTS}, as model-signing 1.1 "
                "does when nothing else is asked for."
            )
        return cls(f"sha256:{hint}" if hint else None, files)


def _why_not(directory: Path, signature: Path, key: PublicKey, found: _Found) -> str | None:
    """What the library has against a signature."""
    from cryptography.exceptions import InvalidSignature
    from model_signing.verifying import Config

    with as_file(key.pem) as public:
        config = Config().use_elliptic_key_verifier(public_key=public).set_hashing_config(found)
    try:
        config.verify(os.fspath(directory), os.fspath(signature))
    except (InvalidSignature, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return f"The signature does not hold: {error or type(error).__name__}."
    return None


def _differences(signed: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    """How files differ from those that were signed, a sentence for each."""
    gone = {name: digest for name, digest in signed.items() if name not in found}
    new = {name: digest for name, digest in found.items() if name not in signed}
    for name in sorted(gone):
        now = next((other for other, digest in sorted(new.items()) if digest == gone[name]), None)
        if now is not None:
            del new[now]
            yield f"{name} was renamed to {now} after the model was signed."
        else:
            yield f"{name} was signed, and is not there."
    for name in sorted(new):
        yield f"{name} was not signed with the model."
    for name in sorted(signed.keys() & found.keys()):
        if signed[name] != found[name]:
            yield f"{name} was changed after the model was signed."
