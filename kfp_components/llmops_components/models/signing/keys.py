"""Keys that models are signed with, and keys that signatures are checked with: elliptic curves, in PEM."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops_components.errors import SettingError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

# A private key is no argument: those are kept and shown. The first wins.
KEY_VARIABLE = "LLMOPS_SIGNING_KEY"
KEY_FILE_VARIABLE = "LLMOPS_SIGNING_KEY_FILE"
KEY_PASSWORD_VARIABLE = "LLMOPS_SIGNING_KEY_PASSWORD"  # noqa: S105  the name of a variable
CURVES = ("secp256r1", "secp384r1", "secp521r1")
_HOW = "Make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`."
_MAX_BYTES = 16 * 1024  # far more than a key has, and less than a pipe takes at once
_PUBLIC = re.compile(r"-----BEGIN PUBLIC KEY-----[^-]*-----END PUBLIC KEY-----")


@dataclass(frozen=True)
class PublicKey:
    """A public key.

    Args:
        pem: The key.
    """

    pem: bytes

    @classmethod
    def of(cls, public: EllipticCurvePublicKey) -> PublicKey:
        """A key of the library's."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return cls(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    @property
    def fingerprint(self) -> str:
        """Its fingerprint as signatures have it: of the PEM, so that ``sha256sum`` of a file with it gives the same digits."""
        return f"sha256:{hashlib.sha256(self.pem).hexdigest()}"


@dataclass(frozen=True)
class SigningKey:
    """A private key.

    Args:
        pem: The key.
        password: What it is encrypted with; None where it is not.
        public: Its public key.
    """

    pem: bytes = field(repr=False)
    password: bytes | None = field(repr=False)
    public: PublicKey

    @property
    def fingerprint(self) -> str:
        """Fingerprint of its public key."""
        return self.public.fingerprint

    @classmethod
    def from_environment(cls) -> SigningKey:
        """The key in ``LLMOPS_SIGNING_KEY``, or in the file that ``LLMOPS_SIGNING_KEY_FILE`` names; its password, where it has one, is in
        ``LLMOPS_SIGNING_KEY_PASSWORD``.

        Raises:
            SettingError: There is none, or it is of no use; the message does not repeat it.
        """
        where, pem = _pem_of_environment()
        password = os.environ.get(KEY_PASSWORD_VARIABLE, "").encode() or None
        return cls(pem, password, PublicKey.of(_public_key_of(pem, password, where)))


def read_public_keys(text: str) -> tuple[PublicKey, ...]:
    """The public keys in a text, one below the other.

    Args:
        text: Keys in PEM.

    Raises:
        SettingError: There is none, a private one, or one of another kind.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if not isinstance(text, str) or "PRIVATE KEY" in text:
        raise SettingError(
            "public_key is a private key, or no text. Give the public key alone, as `openssl pkey -pubout` writes it, and let nobody see the "
            "other one."
        )
    found = _PUBLIC.findall(text)
    if not found or _PUBLIC.sub("", text).strip():
        raise SettingError(
            "public_key is no public key in PEM, which begins with -----BEGIN PUBLIC KEY----- and ends with -----END PUBLIC KEY-----. "
            "`openssl pkey -pubout` writes the one of a private key."
        )
    keys = []
    for pem in found:
        try:
            keys.append(PublicKey.of(_checked(load_pem_public_key(pem.encode()), "public_key")))
        except (ValueError, UnsupportedAlgorithm):
            raise SettingError("public_key cannot be read: it is not what a public key in PEM is.") from None
    return tuple(keys)


@contextmanager
def as_file(content: bytes) -> Iterator[Path]:
    """A path that can be read once: the library takes keys from files, and this one is on no disk.

    Args:
        content: A key.
    """
    read, write = os.pipe()
    try:
        try:
            os.write(write, content)
        finally:
            os.close(write)
        yield Path(f"/dev/fd/{read}")
    finally:
        os.close(read)


def _pem_of_environment() -> tuple[str, bytes]:
    """Name of the variable that the key is from, and the key."""
    if text := os.environ.get(KEY_VARIABLE):
        where, pem = KEY_VARIABLE, text.encode(errors="replace")
    elif file := os.environ.get(KEY_FILE_VARIABLE):
        try:
            where, pem = KEY_FILE_VARIABLE, Path(file).read_bytes()
        except OSError as error:
            raise SettingError(
                f"The private key in {KEY_FILE_VARIABLE} cannot be read: {error.strerror}. File: {file}."
            ) from None
    else:
        raise SettingError(
            f"There is no private key to sign with: neither {KEY_VARIABLE} nor {KEY_FILE_VARIABLE} is set where this step runs. Give "
            "RegisterModelOperator a signing_conn_id, or the step a secret as environment; or leave sign out."
        )
    if len(pem) > _MAX_BYTES:
        raise SettingError(f"What is in {where} is too large for a private key: {len(pem):,} bytes. {_HOW}")
    return where, pem


def _public_key_of(pem: bytes, password: bytes | None, where: str) -> EllipticCurvePublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return _checked(load_pem_private_key(pem, password), where).public_key()  # type: ignore[no-any-return]
    except TypeError:  # by its type alone the library tells these two
        why = (
            f"it is encrypted, and {KEY_PASSWORD_VARIABLE} is not set"
            if password is None
            else f"it is not encrypted, and {KEY_PASSWORD_VARIABLE} is set"
        )
    except (ValueError, UnsupportedAlgorithm):
        why = "it is no private key in PEM" + (", or its password is another one" if password else "")
    raise SettingError(f"The private key in {where} cannot be used: {why}. {_HOW}")


def _checked(key: Any, where: str) -> Any:
    """A key, if it is of a curve that the format knows."""
    curve = getattr(getattr(key, "curve", None), "name", None)
    if curve not in CURVES:
        kind = f"of the curve {curve}" if curve else f"of another kind ({type(key).__name__.strip('_')})"
        raise SettingError(
            f"The key in {where} is {kind}. Models are signed with elliptic curves: {', '.join(CURVES)}. {_HOW}"
        )
    return key
