"""Connection to the keys that models are signed with, and that signatures are checked with."""

from __future__ import annotations

import hashlib
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from airflow_provider_llmops.exceptions import ConfigurationError, LLMOpsError

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["SigningHook"]

# By which a step of the data plane knows the key, see its `models.signing.keys`.
KEY_VARIABLE = "LLMOPS_SIGNING_KEY"
KEY_PASSWORD_VARIABLE = "LLMOPS_SIGNING_KEY_PASSWORD"  # noqa: S105  the name of a variable
CURVES = ("secp256r1", "secp384r1", "secp521r1")
_PEM = re.compile(r"-----BEGIN ([A-Z ]{1,40})-----(.{0,16000}?)-----END \1-----", re.DOTALL)
_ENCRYPTED = re.compile(
    r"\s*(Proc-Type: \S+)\s+(DEK-Info: \S+)\s(.*)", re.DOTALL
)  # the heads of openssl's former format
_HOW = "`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` makes a private key, and `openssl pkey -pubout` writes its public one."


class SigningHook(BaseHook):
    """A private key to sign models with, a public key to check signatures with, or both; elliptic curves in PEM.

    :param signing_conn_id: connection of type ``model_signing``
    """

    conn_name_attr = "signing_conn_id"
    default_conn_name = "model_signing_default"
    conn_type = "model_signing"
    hook_name = "Model signing"

    def __init__(self, signing_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.signing_conn_id = signing_conn_id

    def get_conn(self) -> Connection:
        """The connection."""
        return self.get_connection(self.signing_conn_id)

    def environment(self) -> dict[str, str]:
        """The private key, and its password where it has one, for a step that signs.

        :raises ConfigurationError: there is none, or it is of no use; the message does not repeat it
        """
        connection = self.get_conn()
        private = self._private_key(connection)
        if private is None:
            raise self._error(
                "has no private key: give it one as password, or name a file in 'key_file' in extra"
            )
        password = self._password(connection)
        self._load_private(private, password)  # so that a key of no use fails here, and not in the step
        return {KEY_VARIABLE: private} | ({KEY_PASSWORD_VARIABLE: password} if password else {})

    def public_key(self) -> str:
        """The public key that signatures are checked with: the connection's, else that of its private key.

        :raises ConfigurationError: there is none, or it is of no use
        """
        connection = self.get_conn()
        if given := connection.extra_dejson.get("public_key"):
            public = _in_lines(str(given))
            self._load_public(public)
            return public
        private = self._private_key(connection)
        if private is None:
            raise self._error("has neither 'public_key' in extra nor a private key")
        return _pem_of(self._load_private(private, self._password(connection)).public_key())

    def test_connection(self) -> tuple[bool, str]:
        """Whether the keys can be used, and belong together; says the fingerprint that signatures have."""
        try:
            public = self.public_key()
            connection = self.get_conn()
            says = ", ".join(
                f"sha256:{hashlib.sha256(key.encode()).hexdigest()}" for key in self._load_public(public)
            )
            private = self._private_key(connection)
            if private is None:
                return True, f"Signatures by {says} can be checked; there is no private key to sign with"
            own = _pem_of(self._load_private(private, self._password(connection)).public_key())
            if own not in self._load_public(public):
                return False, str(self._error("has a private key that belongs to none of its public keys"))
            own_digest = hashlib.sha256(own.encode()).hexdigest()
        except LLMOpsError as error:
            return False, str(error)
        return True, f"Models can be signed as sha256:{own_digest}, and signatures by {says} be checked"

    def _private_key(self, connection: Connection) -> str | None:
        text, file = connection.password or None, connection.extra_dejson.get("key_file")
        if text and file:
            raise self._error(
                "has a password and 'key_file' in extra: which of them is the private key? Leave one out"
            )
        if file:
            try:
                text = Path(str(file)).expanduser().read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is not text"
                raise self._error(
                    f"has 'key_file' in extra, which cannot be read: {why}", f"File: {file}"
                ) from None
        if not text or not text.strip():
            return None
        found = _in_lines(text)
        _mask(found)
        return found

    def _password(self, connection: Connection) -> str | None:
        password = connection.extra_dejson.get("key_password") or None
        return None if password is None else str(password)

    def _load_private(self, pem: str, password: str | None) -> Any:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(pem.encode(), password.encode() if password else None)
        except TypeError:  # by its type alone the library tells these two
            given = "it is not encrypted, and there is" if password else "it is encrypted, and there is no"
            raise self._error(
                f"has a private key that cannot be used: {given} 'key_password' in extra"
            ) from None
        except (ValueError, UnsupportedAlgorithm):
            other = ", or 'key_password' in extra is another one" if password else ""
            raise self._error(
                f"has a private key that cannot be used: it is no private key in PEM{other}"
            ) from None
        return self._checked(key)

    def _load_public(self, text: str) -> list[str]:
        """The keys in a text, one by one."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            keys = [load_pem_public_key(found.group().encode()) for found in _PEM.finditer(text)]
        except (ValueError, UnsupportedAlgorithm):
            keys = []
        if not keys or _PEM.sub("", text).strip():
            raise self._error("has a 'public_key' in extra that is no public key in PEM")
        return [_pem_of(self._checked(key)) for key in keys]

    def _checked(self, key: Any) -> Any:
        curve = getattr(getattr(key, "curve", None), "name", None)
        if curve not in CURVES:
            kind = f"of the curve {curve}" if curve else "of another kind"
            raise self._error(
                f"has a key {kind}; models are signed with elliptic curves: {', '.join(CURVES)}"
            )
        return key

    def _error(self, fault: str, *places: str) -> ConfigurationError:
        return ConfigurationError(f"Connection {self.signing_conn_id!r} {fault}. {_HOW}", *places)


def _in_lines(text: str) -> str:
    """Keys with the line breaks that PEM wants: a form's field of one line, and an environment variable, lose them."""

    def broken(found: re.Match[str]) -> str:
        kind, body = found.groups()
        heads: tuple[str, ...] = ()
        if encrypted := _ENCRYPTED.fullmatch(body):
            heads, body = (*encrypted.groups()[:2], ""), encrypted[3]
        lines = textwrap.wrap("".join(body.split()), 64)
        return "\n".join((f"-----BEGIN {kind}-----", *heads, *lines, f"-----END {kind}-----"))

    return _PEM.sub(broken, text.replace("\\n", "\n")).strip() + "\n"


def _pem_of(public: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return str(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def _mask(pem: str) -> None:
    """Hide a private key in logs, in one piece and line by line."""
    from airflow.sdk.log import mask_secret

    mask_secret(pem)
    for line in pem.splitlines():
        if line and not line.startswith("-----"):
            mask_secret(line)
