"""A model's signature holds for its files as they were, all of them, and for nothing else; the other side is model-signing itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from llmops_components.errors import ModelError, SettingError
from llmops_components.models.checks.check import check_model
from llmops_components.models.signing.files import sign_files, verify_files
from llmops_components.models.signing.keys import (
    KEY_FILE_VARIABLE,
    KEY_PASSWORD_VARIABLE,
    KEY_VARIABLE,
    SigningKey,
    read_public_keys,
)
from signing_keys import make_key, public_of

CLI = [sys.executable, "-m", "model_signing"]


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def key(monkeypatch) -> SigningKey:
    monkeypatch.setenv(KEY_VARIABLE, make_key())
    return SigningKey.from_environment()


@pytest.fixture
def signature(model, key, tmp_path) -> Path:
    sign_files(model, tmp_path / "out" / "model.sig", key)
    return tmp_path / "out" / "model.sig"


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("curve", ["SECP256R1", "SECP384R1", "SECP521R1"])
def test_signature_holds_until_a_file_is_other_more_or_less(model, monkeypatch, tmp_path, curve):
    (model / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    monkeypatch.setenv(KEY_VARIABLE, pem := make_key(curve))
    signature, keys = tmp_path / "model.sig", read_public_keys(public_of(pem))
    sign_files(model, signature, SigningKey.from_environment())
    names = [file for file in model.rglob("*") if file.is_file()]
    good = verify_files(model, signature, keys)
    assert (good.signed_by, good.files, good.faults) == (keys[0].fingerprint, len(names), ())

    def faults():
        return list(verify_files(model, signature, keys).faults)

    weights = model / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert faults() == ["model.safetensors was changed after the model was signed."]
    weights.write_bytes(content)
    weights.rename(model / "other.safetensors")
    assert faults() == ["model.safetensors was renamed to other.safetensors after the model was signed."]
    (model / "other.safetensors").rename(weights)
    # What the library leaves out by itself counts here as everything does.
    (model / ".gitattributes").unlink()
    (model / ".git").mkdir()
    (model / ".git" / "config").write_text("[core]")
    (model / "deeper").mkdir()
    (model / "deeper" / "notes.txt").write_text("new")
    assert faults() == [
        ".gitattributes was signed, and is not there.",
        ".git/config was not signed with the model.",
        "deeper/notes.txt was not signed with the model.",
    ]


def test_a_model_signed_by_the_librarys_own_command_is_verified_here(model, tmp_path):
    pem = make_key()
    (tmp_path / "key.pem").write_text(pem)
    signature = tmp_path / "model.sig"
    done = cli("sign", "key", model, "--signature", signature, "--private_key", tmp_path / "key.pem")
    assert done.returncode == 0, done.stderr
    keys = read_public_keys(public_of(pem))
    assert verify_files(model, signature, keys).faults == ()
    # That command signs nothing of git's.
    (model / ".gitattributes").write_text("")
    assert verify_files(model, signature, keys).faults == (".gitattributes was not signed with the model.",)


def test_a_model_signed_here_is_verified_by_the_librarys_own_command(model, signature, key, tmp_path):
    (tmp_path / "key.pub").write_bytes(key.public.pem)

    def verify():
        return cli("verify", "key", model, "--signature", signature, "--public_key", tmp_path / "key.pub")

    done = verify()
    assert done.returncode == 0, done.stderr
    (model / "config.json").write_text("{}")
    assert "Hash mismatch for 'config.json'" in "".join((verify().stdout, verify().stderr))


def test_a_signature_by_another_key_and_a_forged_one_are_told_apart(model, signature, key):
    other = read_public_keys(public_of(make_key()))
    seen = verify_files(model, signature, other)
    assert seen.faults == (
        f"The model is signed by another key: {key.fingerprint}, and not {other[0].fingerprint}.",
    )
    assert verify_files(model, signature, [*other, key.public]).faults == ()
    bundle = json.loads(signature.read_text())
    bundle["verificationMaterial"]["publicKey"]["hint"] = other[0].fingerprint.removeprefix("sha256:")
    signature.write_text(json.dumps(bundle))
    [fault] = verify_files(model, signature, other).faults
    assert fault.startswith("The signature was not made with the private key of")
    del bundle["verificationMaterial"]["publicKey"]["hint"]  # as older versions of the library write it
    signature.write_text(json.dumps(bundle))
    assert verify_files(model, signature, [*other, key.public]).faults == ()
    [fault] = verify_files(model, signature, other).faults
    assert fault.startswith("The signature was not made with the private key of")


def test_what_is_no_signature_of_a_key_is_refused_by_name(model, signature, key, tmp_path):
    bundle = json.loads(signature.read_text())

    def fault(changed) -> str:
        signature.write_text(changed if isinstance(changed, str) else json.dumps(changed))
        [found] = verify_files(model, signature, [key.public]).faults
        return found

    assert fault("").startswith("The model is not signed.")
    assert fault("no JSON").startswith("The signature is no Sigstore bundle")
    assert fault("[1]").startswith("The signature is no Sigstore bundle")
    assert fault({**bundle, "dsseEnvelope": {"payload": "e30="}}).startswith(
        "The signature is no Sigstore bundle"
    )
    keyless = {**bundle, "verificationMaterial": {"certificate": {"rawBytes": ""}, "tlogEntries": []}}
    assert "made with a certificate, or keyless" in fault(keyless)
    assert fault({**bundle, "mediaType": "text/plain"}).startswith("The signature was not made with")
    assert fault({**bundle, "dsseEnvelope": {**bundle["dsseEnvelope"], "signatures": []}}).startswith(
        "The signature was not made with"
    )
    from model_signing import hashing, signing

    (tmp_path / "key.pem").write_bytes(key.pem)
    by_parts = hashing.Config().use_shard_serialization()
    config = signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key.pem")
    config.set_hashing_config(by_parts).sign(model, signature)
    assert "of a kind that is not looked at here: " in verify_files(model, signature, [key.public]).faults[0]


def test_a_link_is_signed_as_the_file_that_it_leads_to_and_one_to_a_directory_is_refused(
    model, key, tmp_path
):
    (model / "vocab.txt").write_text("a\nb\n")
    (model / "same.txt").symlink_to("vocab.txt")
    sign_files(model, tmp_path / "model.sig", key)
    assert verify_files(model, tmp_path / "model.sig", [key.public]).faults == ()
    (model / "vocab.txt").write_text("other")
    assert [each.split()[0] for each in verify_files(model, tmp_path / "model.sig", [key.public]).faults] == [
        "same.txt",
        "vocab.txt",
    ]
    (model / "folder").symlink_to(tmp_path)
    [fault] = verify_files(model, tmp_path / "model.sig", [key.public]).faults
    assert fault.startswith("folder is a link to a directory")
    with pytest.raises(ModelError, match="folder is a link to a directory"):
        sign_files(model, tmp_path / "again.sig", key)


def test_a_key_is_taken_from_the_environment_with_its_password(monkeypatch, tmp_path, model):
    pem = make_key(password="correct horse")  # noqa: S106  of the test's own key
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    (tmp_path / "key.pem").write_text(pem)
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(tmp_path / "key.pem"))
    monkeypatch.setenv(KEY_PASSWORD_VARIABLE, "correct horse")
    key = SigningKey.from_environment()
    assert "horse" not in repr(key) and "BEGIN" not in repr(key).replace("BEGIN PUBLIC", "")
    sign_files(model, tmp_path / "model.sig", key)
    assert verify_files(model, tmp_path / "model.sig", [key.public]).faults == ()

    def refused() -> str:
        with pytest.raises(SettingError) as failure:
            SigningKey.from_environment()
        assert failure.value.__suppress_context__ or failure.value.__context__ is None
        return str(failure.value)

    monkeypatch.setenv(KEY_PASSWORD_VARIABLE, "wrong")
    assert "its password is another one" in refused() and "wrong" not in refused()
    monkeypatch.delenv(KEY_PASSWORD_VARIABLE)
    assert f"it is encrypted, and {KEY_PASSWORD_VARIABLE} is not set" in refused()
    monkeypatch.setenv(KEY_VARIABLE, make_key())
    monkeypatch.setenv(KEY_PASSWORD_VARIABLE, "a password")
    assert "it is not encrypted" in refused()
    monkeypatch.delenv(KEY_PASSWORD_VARIABLE)
    for text, why in (
        (public_of(make_key()), "it is no private key in PEM"),
        ("secret-of-ours", "it is no private key in PEM"),
        (make_key("SECP256K1"), "of the curve secp256k1"),
        (make_key("ed25519"), "of another kind"),
        ("x" * 20_000, "too large"),
    ):
        monkeypatch.setenv(KEY_VARIABLE, text)
        assert why in (message := refused())
        assert text not in message
    monkeypatch.delenv(KEY_VARIABLE)
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(tmp_path / "none"))
    assert "No such file" in refused()
    monkeypatch.delenv(KEY_FILE_VARIABLE)
    assert refused().startswith("There is no private key to sign with")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no public key in PEM"),
        ("sha256:0", "no public key in PEM"),
        (make_key(), "is a private key"),
        (public_of(make_key("ed25519")), "of another kind"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "cannot be read"),
        (public_of(make_key()) + "and more", "no public key in PEM"),
    ],
)
def test_what_is_no_public_key_is_refused(text, message):
    with pytest.raises(SettingError, match=message):
        read_public_keys(text)


def test_check_fails_for_a_model_that_is_not_signed_and_says_by_whom_it_is(model, signature, key, tmp_path):
    def check(**arguments):
        done = check_model(model, tmp_path / "report.json", scan=False, **arguments)
        return done, json.loads((tmp_path / "report.json").read_text())

    public = key.public.pem.decode()
    done, report = check(signature=signature, public_key=public)
    assert done.passed and done.details["signed_by"] == key.fingerprint
    assert done.details["checks"]["signature"] == "passed"
    assert report["checks"]["signature"] == {
        "outcome": "passed",
        "signed_by": key.fingerprint,
        "signed_files": len([*model.iterdir()]),
        "accepted": [key.fingerprint],
        "faults": [],
    }
    done, report = check(public_key=public)
    assert not done.passed and done.findings[0].startswith("The model is not signed.")
    assert done.details["signed_by"] is None
    (model / "notes.txt").write_text("more")
    done, _ = check(signature=signature, public_key=public)
    assert done.findings == ["notes.txt was not signed with the model."]
    assert done.details["checks"]["signature"] == "failed"
    done, _ = check()
    assert done.passed and done.details["checks"]["signature"] == "not asked for"
    with pytest.raises(SettingError, match="says nothing without a key"):
        check(signature=signature)
