"""A registered version is signed once, its signature comes with its files, and its tags say by whom; with a real MLflow server."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
from llmops_components.errors import ModelError, SettingError
from llmops_components.models.checks.check import check_model
from llmops_components.models.signing.keys import KEY_VARIABLE, read_public_keys
from llmops_components.results import digest_of
from llmops_components.tracking.checked import record_checks
from llmops_components.tracking.register import MODEL_DIGEST_TAG, register_model
from llmops_components.tracking.registry import fetch_model
from llmops_components.tracking.signature import SIGNED_AT_TAG, SIGNED_BY_TAG
from signing_keys import make_key, public_of

_numbers = itertools.count()


@pytest.fixture
def name(client) -> str:
    return f"signed-{next(_numbers)}"


@pytest.fixture
def private(monkeypatch) -> str:
    monkeypatch.setenv(KEY_VARIABLE, pem := make_key())
    return pem


def test_version_is_signed_and_what_is_fetched_of_it_is_verified(
    server, client, name, private, tiny_model, tmp_path, capfd
):
    key = read_public_keys(public_of(private))[0]

    def register(**more):
        return register_model(tiny_model, model_name=name, tracking_uri=server, **more)

    done = register(sign=True, signature=tmp_path / "registered.sig", alias="candidate")
    assert done.details["signed_by"] == key.fingerprint and done.details["signed_at"]
    tags = client.get_model_version(name, "1").tags
    assert (tags[SIGNED_BY_TAG], tags[SIGNED_AT_TAG]) == (key.fingerprint, done.details["signed_at"])

    def fetch():
        return fetch_model(
            tmp_path / "out" / "model",
            model_name=name,
            model_version="1",
            tracking_uri=server,
            signature=tmp_path / "fetched" / "model.sig",
        )

    fetched = fetch()
    assert fetched.passed and digest_of(tmp_path / "out" / "model") == digest_of(tiny_model)
    assert [fetched.details[each] for each in ("signed_by", "signed_at")] == [
        done.details["signed_by"],
        done.details["signed_at"],
    ]
    signature = tmp_path / "fetched" / "model.sig"
    assert signature.read_bytes() == (tmp_path / "registered.sig").read_bytes()
    checked = check_model(
        tmp_path / "out" / "model",
        tmp_path / "report.json",
        scan=False,
        signature=signature,
        public_key=key.pem.decode(),
    )
    assert checked.passed and checked.details["signed_by"] == key.fingerprint

    # The same again, by the same key, is signed already; without a signature asked for nothing is lost.
    again = register(sign=True, signature=tmp_path / "again" / "model.sig")
    assert again.details["reused"] and again.details["signed_at"] == done.details["signed_at"]
    assert (tmp_path / "again" / "model.sig").read_bytes() == signature.read_bytes()
    assert register().details["signed_by"] == key.fingerprint
    # Nothing of the private key is anywhere but in the environment.
    lines = [line for line in private.splitlines() if not line.startswith("-----")]
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    run = client.get_run(done.details["run_id"])
    shown = "".join(
        (*capfd.readouterr(), json.dumps(done.details), json.dumps(tags), str(run.to_dictionary()))
    )
    assert not [line for line in lines if line in shown or any(line.encode() in each for each in written)]


def test_version_without_a_signature_is_signed_later_and_anew_by_another_key(
    server, client, name, private, tiny_model, tmp_path, monkeypatch
):
    assert register_model(tiny_model, model_name=name, tracking_uri=server).details["signed_by"] is None
    signature = tmp_path / "model.sig"

    def fetch():
        signature.unlink(missing_ok=True)
        return fetch_model(
            tmp_path / "model", model_name=name, model_version="1", tracking_uri=server, signature=signature
        ).details["signed_by"]

    assert fetch() is None and not signature.exists()
    keys = []
    for pem in (private, make_key("SECP384R1")):
        monkeypatch.setenv(KEY_VARIABLE, pem)
        done = register_model(
            tiny_model, model_name=name, tracking_uri=server, sign=True, signature=tmp_path / "registered.sig"
        )
        keys += read_public_keys(public_of(pem))
        assert (done.details["reused"], done.details["version"]) == (True, "1")
        assert fetch() == done.details["signed_by"] == keys[-1].fingerprint
        checked = check_model(
            tmp_path / "model",
            tmp_path / "report.json",
            scan=False,
            signature=signature,
            public_key=keys[-1].pem.decode(),
        )
        assert checked.passed, checked.findings
    # A signature that somebody has put there does not count as signed.
    monkeypatch.setenv(KEY_VARIABLE, private)
    client.set_model_version_tag(name, "1", SIGNED_BY_TAG, keys[0].fingerprint)
    done = register_model(
        tiny_model, model_name=name, tracking_uri=server, sign=True, signature=tmp_path / "r.sig"
    )
    assert fetch() == done.details["signed_by"] == keys[0].fingerprint
    assert signature.read_bytes() == (tmp_path / "r.sig").read_bytes()


def test_nothing_is_registered_that_cannot_be_signed(
    server, client, name, private, tiny_model, tmp_path, monkeypatch
):
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))

    def register():
        register_model(model, model_name=name, tracking_uri=server, sign=True)

    (model / "optimizer.pt").write_bytes(b"anything")
    with pytest.raises(ModelError, match=r"^optimizer\.pt is a pickle, or may be one, and is not registered"):
        register()
    (model / "optimizer.pt").unlink()
    monkeypatch.setenv(KEY_VARIABLE, "nothing of use")
    with pytest.raises(SettingError, match="cannot be used"):
        register()
    assert client.search_registered_models(f"name = '{name}'") == []
    version = client.create_model_version(
        client.create_registered_model(name).name,
        source="s3://models/nowhere",
        tags={"llmops.model.digest": digest_of(model)[0]},
    )
    monkeypatch.setenv(KEY_VARIABLE, private)
    with pytest.raises(SettingError, match=f"version {version.version} cannot be signed"):
        register()


def test_version_says_what_was_checked_of_it_and_what_came_of_it(
    server, client, name, private, tiny_model, tmp_path
):
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    register_model(model, model_name=name, tracking_uri=server, sign=True, signature=tmp_path / "model.sig")
    public = public_of(private)

    def check(model_version="1", **arguments):
        done = check_model(model, tmp_path / "report.json", scan=False, **arguments)
        done = record_checks(done, model_name=name, model_version=model_version, tracking_uri=server)
        tags = client.get_model_version(name, "1").tags
        assert tags["llmops.checked_at"]
        return done, [tags[f"llmops.check{each}"] for each in ("ed", ".signature", "_signed_by", "_finding")]

    fingerprint = read_public_keys(public)[0].fingerprint
    done, tags = check(signature=tmp_path / "model.sig", public_key=public)
    assert done.passed and tags == ["passed", "passed", fingerprint, "none"]
    (model / "notes.txt").write_text("more")
    done, tags = check(signature=tmp_path / "model.sig", public_key=public)
    assert not done.passed
    assert tags == ["failed", "failed", "nobody", "notes.txt was not signed with the model."]
    # Other files that pass everything are not what the version has.
    done, tags = check()
    assert not done.passed and tags[:3] == ["failed", "not asked for", "nobody"]
    assert done.findings[0].startswith(f"What was checked is not {name} version 1: its digest is sha256:")
    client.delete_model_version_tag(name, "1", MODEL_DIGEST_TAG)
    (model / "notes.txt").unlink()
    done, tags = check(signature=tmp_path / "model.sig", public_key=public)
    assert not done.passed and "was registered without a digest" in done.findings[0]
    with pytest.raises(SettingError, match="There is no version 9"):
        check("9")
    with pytest.raises(SettingError, match="both or neither"):
        check(None)
    assert record_checks(done, model_name=None, model_version=None) is done
