"""Keys of the tests' own, to sign models with."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519


def make_key(curve: str = "SECP256R1", password: str | None = None, form: str = "PKCS8") -> str:
    """A private key in PEM.

    Args:
        curve: Name of the curve, or ``ed25519``.
        password: What it is encrypted with.
        form: ``PKCS8``, or ``TraditionalOpenSSL``, which says in heads how it is encrypted.
    """
    key = (
        ed25519.Ed25519PrivateKey.generate()
        if curve == "ed25519"
        else ec.generate_private_key(getattr(ec, curve)())
    )
    how = (
        serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), how
    ).decode()


def public_of(pem: str, password: str | None = None) -> str:
    """The public key of a private one, in PEM."""
    key = serialization.load_pem_private_key(pem.encode(), password.encode() if password else None)
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )
