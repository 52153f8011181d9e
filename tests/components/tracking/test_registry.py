"""Versions of a registered model fetched, and aliases moved to them, with a real MLflow server."""

from __future__ import annotations

import itertools

import pytest
from llmops_components.errors import InputError, SettingError, UnavailableError
from llmops_components.results import digest_of
from llmops_components.tracking.register import MODEL_DIGEST_TAG, register_model
from llmops_components.tracking.registry import fetch_model, set_alias

_numbers = itertools.count()


@pytest.fixture
def name(client) -> str:
    return f"registry-{next(_numbers)}"


def test_what_was_registered_is_fetched_by_number_and_by_alias(server, client, name, tiny_model, tmp_path):
    register_model(tiny_model, model_name=name, tracking_uri=server, alias="candidate", as_of="2026-11-25")
    target = tmp_path / "out" / "model"
    by_number = fetch_model(target, model_name=name, model_version="1", tracking_uri=server)
    assert digest_of(target) == digest_of(tiny_model)
    assert [each.name for each in target.parent.iterdir()] == ["model"]
    assert (by_number.passed, by_number.findings) == (True, [])
    assert by_number.details == {
        "name": name,
        "version": "1",
        "registered_digest": digest_of(tiny_model)[0],
        "model_digest": digest_of(tiny_model)[0],
        "as_of": "2026-11-25",
        "aliases": ["candidate"],
        "signed_by": None,
        "signed_at": None,
    }
    again = fetch_model(target, model_name=name, alias="candidate", tracking_uri=server)
    assert again.details == by_number.details

    client.set_model_version_tag(name, "1", MODEL_DIGEST_TAG, "sha256:" + "0" * 64)
    other = fetch_model(target, model_name=name, model_version="1", tracking_uri=server)
    assert not other.passed and "are not those that were registered" in other.findings[0]
    client.delete_model_version_tag(name, "1", MODEL_DIGEST_TAG)
    unknown = fetch_model(target, model_name=name, model_version="1", tracking_uri=server)
    assert unknown.passed and "was registered without a digest" in unknown.findings[0]


def test_version_that_need_not_be_there_is_not_fetched_and_told(server, client, name, tiny_model, tmp_path):
    target = tmp_path / "model"

    def fetch(alias: str, address: str = server):
        return fetch_model(target, model_name=name, alias=alias, tracking_uri=address, required=False)

    told = [fetch("champion")]
    client.create_registered_model(name)
    told.append(fetch("champion"))
    for done in told:
        assert (done.passed, done.details, done.metrics) == (True, {"name": name, "version": None}, {})
        assert done.findings == [f"There is no alias 'champion' of a registered model '{name}'."]
        assert not target.exists()
    with pytest.raises(UnavailableError):
        fetch("champion", "http://127.0.0.1:1")
    register_model(tiny_model, model_name=name, tracking_uri=server, alias="champion")
    assert fetch("champion").details["version"] == "1"
    assert digest_of(target) == digest_of(tiny_model)


def test_what_is_no_version_or_no_checkpoint_is_refused_by_name(server, client, name, tmp_path):
    def fetch(**which):
        return fetch_model(tmp_path / "model", model_name=name, tracking_uri=server, **which)

    client.create_registered_model(name)
    for which in ({"model_version": "7"}, {"alias": "candidate"}):
        with pytest.raises(SettingError, match=f"There is no .* of a registered model '{name}'"):
            fetch(**which)
    for which in ({}, {"model_version": "1", "alias": "a"}):
        with pytest.raises(SettingError, match="one of the two"):
            fetch(**which)
    for which, message in (
        ({"model_version": "latest"}, "number of a version"),
        ({"alias": "v1"}, "alias is"),
    ):
        with pytest.raises(SettingError, match=message):
            fetch(**which)
    run = client.create_run("0").info
    (tmp_path / "notes.txt").write_text("no model")
    client.log_artifact(run.run_id, str(tmp_path / "notes.txt"), "files")
    client.create_model_version(name, source=f"{run.artifact_uri}/files", run_id=run.run_id)
    with pytest.raises(InputError, match=r"holds no checkpoint .* model/config\.json is missing"):
        fetch(model_version="1")


def test_alias_is_moved_once_tells_what_had_it_and_never_goes_back(server, client, name):
    client.create_registered_model(name)
    for _ in range(3):
        client.create_model_version(name, source="s3://models/nowhere")

    def move(version: str, as_of: str | None, **more):
        return set_alias(
            model_name=name,
            model_version=version,
            alias="production",
            as_of=as_of,
            tracking_uri=server,
            **more,
        ).details

    def holder() -> str:
        return str(client.get_registered_model(name).aliases["production"])

    first = move("2", "2030-01-01")
    assert (first["former_version"], first["version"], first["moved"]) == (None, "2", True)
    again = move("2", "2030-01-01")
    assert (again["former_version"], again["version"], again["moved"]) == ("2", "2", False)
    # A person delivers an older version in a later run: what counts is when it was delivered.
    back = move("1", "2030-01-03")
    assert (back["former_version"], back["version"], back["moved"]) == ("2", "1", True)
    # The earlier run is cleared, or comes late, also to the version that has the alias.
    move("1", "2030-01-02")
    late = move("2", "2030-01-01")
    assert (late["version"], late["moved"], holder()) == ("1", False, "1")
    assert late["note"].startswith("Alias 'production' stays at version 1, which is newer: of 2030-01-03")
    assert move("3", "2030-01-02")["moved"] is False
    assert move("3", None)["moved"] is False  # made before, by its own date
    assert move("3", "2030-01-02", only_if_newer=False)["moved"] and holder() == "3"
    # An earlier run that comes late does not undo what somebody has forced since.
    assert move("2", "2030-01-01")["moved"] is False and holder() == "3"
    with pytest.raises(SettingError, match="There is no version 9"):
        move("9", None)
    with pytest.raises(SettingError, match="as_of is"):
        move("1", "")
