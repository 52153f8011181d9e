"""Keys of a connection: which step gets which of them, and what is said of one that cannot be used."""

from __future__ import annotations

import hashlib
import json

import pytest
from signing_keys import make_key, public_of

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.hooks.signing import SigningHook


@pytest.fixture
def connect(monkeypatch):
    def connected(password: str | None = None, **extra: str) -> SigningHook:
        connection = {"conn_type": "model_signing", "password": password, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_MODEL_SIGNING_DEFAULT", json.dumps(connection))
        return SigningHook()

    return connected


def digest(pem: str) -> str:
    return f"sha256:{hashlib.sha256(pem.encode()).hexdigest()}"


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
@pytest.mark.parametrize("password", [None, "correct horse"])
@pytest.mark.parametrize("line_break", ["\n", " ", "\\n", "\r\n"])
def test_key_reaches_a_step_whatever_a_form_has_made_of_its_lines(connect, line_break, password, form):
    private = make_key(password=password, form=form)
    public = public_of(private, password)
    extra = {"key_password": password} if password else {}
    hook = connect(private.strip().replace("\n", line_break), **extra)
    assert hook.environment()["LLMOPS_SIGNING_KEY"] == private
    assert hook.public_key() == public
    assert connect(public_key=public.strip().replace("\n", line_break)).public_key() == public


def test_who_checks_signatures_needs_no_private_key(connect):
    keys = [public_of(make_key()), public_of(make_key("SECP384R1"))]
    hook = connect(public_key="".join(keys))
    assert hook.public_key() == "".join(keys)
    done, says = hook.test_connection()
    assert done and all(digest(key) in says for key in keys) and "no private key" in says
    with pytest.raises(ConfigurationError, match="has no private key"):
        hook.environment()


def test_encrypted_key_goes_with_its_password_and_may_lie_in_a_file(connect, tmp_path):
    private = make_key(password="correct horse")  # noqa: S106  of the test's own key
    (tmp_path / "key.pem").write_text(private)
    hook = connect(key_file=str(tmp_path / "key.pem"), key_password="correct horse")  # noqa: S106
    assert hook.environment() == {
        "LLMOPS_SIGNING_KEY": private,
        "LLMOPS_SIGNING_KEY_PASSWORD": "correct horse",
    }
    public = public_of(private, "correct horse")
    assert hook.test_connection() == (
        True,
        f"Models can be signed as {digest(public)}, and signatures by {digest(public)} be checked",
    )


def test_fingerprint_is_the_one_that_the_data_plane_has(connect):
    """That of the file which openssl writes; see the same in tests/components/models/test_signing.py."""
    private = make_key()
    assert digest(public_of(private)) in connect(private).test_connection()[1]


@pytest.mark.parametrize(
    ("password", "extra", "message"),
    [
        (None, {}, "has neither 'public_key' in extra nor a private key"),
        ("hunter-2-secret", {}, "no private key in PEM"),
        (public_of(make_key()), {}, "no private key in PEM"),
        (make_key("SECP256K1"), {}, "of the curve secp256k1"),
        (make_key("ed25519"), {}, "of another kind"),
        (make_key(password="a"), {}, "there is no 'key_password'"),  # noqa: S106
        (make_key(password="a"), {"key_password": "wrong-one"}, "'key_password' in extra is another one"),  # noqa: S106
        (make_key(), {"key_password": "wrong-one"}, "is not encrypted, and there is 'key_password'"),
        (make_key(), {"key_file": "/nowhere"}, "which of them is the private key"),
        (None, {"key_file": "/nowhere"}, "cannot be read: No such file"),
        (None, {"public_key": "nonsense"}, "no public key in PEM"),
        (None, {"public_key": make_key()}, "no public key in PEM"),
        (make_key(), {"public_key": public_of(make_key())}, "belongs to none of its public keys"),
    ],
)
def test_key_of_no_use_is_refused_and_not_repeated(connect, password, extra, message):
    hook = connect(password, **extra)
    done, says = hook.test_connection()
    assert not done and message in says
    secrets = [each for each in (password, extra.get("key_password")) if each]
    assert not [secret for secret in secrets if secret in says or secret.splitlines()[-2:][0] in says]
