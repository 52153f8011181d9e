"""Files of models that several runs have are on disk once."""

from __future__ import annotations

import os
import stat

import pytest
from kfp.dsl import Artifact, Model
from llmops_components.kfp._run import run_step
from llmops_components.models.store import MIN_BYTES, store_once
from llmops_components.results import StepReport, digest_of

WEIGHTS = b"w" * MIN_BYTES


def model(directory, weights=WEIGHTS):
    (directory / "sub").mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(weights)
    (directory / "sub" / "tokenizer.json").write_bytes(b"t" * MIN_BYTES)
    (directory / "config.json").write_text("{}")
    return directory


def test_same_files_of_two_models_are_one(tmp_path):
    first, second = model(tmp_path / "first"), model(tmp_path / "second")
    digest = digest_of(second)
    assert store_once(first, tmp_path / "store") == 0
    assert store_once(second, tmp_path / "store") == 2 * MIN_BYTES
    for name in ("model.safetensors", "sub/tokenizer.json"):
        assert (first / name).samefile(second / name)
    assert not (first / "config.json").samefile(second / "config.json")
    assert digest_of(second) == digest
    stored = {path.name for path in (tmp_path / "store").iterdir()}
    assert stored == {digest_of(first / name)[0][7:] for name in ("model.safetensors", "sub/tokenizer.json")}
    assert sorted(path.name for path in second.iterdir()) == ["config.json", "model.safetensors", "sub"]


def test_storing_again_changes_nothing(tmp_path):
    first = model(tmp_path / "first")
    for _ in range(2):
        assert store_once(first, tmp_path / "store") == 0
    assert (first / "model.safetensors").stat().st_nlink == 2


def test_what_several_runs_have_cannot_be_written_into(tmp_path):
    first, second = model(tmp_path / "first"), model(tmp_path / "second")
    store_once(first, tmp_path / "store")
    store_once(second, tmp_path / "store")
    mode = stat.S_IMODE((second / "model.safetensors").stat().st_mode)
    assert mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) == 0
    if os.geteuid():
        with pytest.raises(PermissionError):
            (second / "model.safetensors").open("r+b")
    (second / "config.json").write_text("{ }")


def test_stored_file_that_somebody_has_changed_reaches_no_other_run(tmp_path):
    first, second, third = (model(tmp_path / name) for name in ("first", "second", "third"))
    store_once(first, tmp_path / "store")
    (first / "model.safetensors").chmod(0o644)
    (first / "model.safetensors").write_bytes(b"x" * MIN_BYTES)
    store_once(second, tmp_path / "store")
    store_once(third, tmp_path / "store")
    assert (second / "model.safetensors").read_bytes() == WEIGHTS
    assert (third / "model.safetensors").samefile(second / "model.safetensors")
    assert (first / "model.safetensors").read_bytes() == b"x" * MIN_BYTES


def test_files_stay_copies_where_there_are_no_links(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    first, second = model(tmp_path / "first"), model(tmp_path / "second")
    assert store_once(first, tmp_path / "store") == store_once(second, tmp_path / "store") == 0
    assert (second / "model.safetensors").read_bytes() == WEIGHTS
    assert (second / "model.safetensors").stat().st_mode & stat.S_IWUSR
    assert list((tmp_path / "store").iterdir()) == []


def test_links_of_the_caller_are_left_alone(tmp_path):
    (tmp_path / "elsewhere").write_bytes(WEIGHTS)
    first = model(tmp_path / "first")
    (first / "link.safetensors").symlink_to(tmp_path / "elsewhere")
    store_once(first, tmp_path / "store")
    assert (first / "link.safetensors").is_symlink()


def test_steps_of_two_runs_have_one_model_on_disk(tmp_path, monkeypatch):
    paths = []
    for run in ("a", "b"):
        directory = tmp_path / "runs" / run
        monkeypatch.setenv("LLMOPS_RUN_DIR", str(directory))
        output, other = Model(uri=str(directory / "model")), Artifact(uri=str(directory / "report"))
        paths.append(directory / "model" / "model.safetensors")

        def work(directory=directory):
            model(directory / "model")
            (directory / "report").write_bytes(WEIGHTS)
            return StepReport()

        result = Artifact(uri=str(directory / "result"))
        run_step("import_base_model", work, outputs={"model": output, "report": other}, result=result)
    assert paths[0].samefile(paths[1])
    assert paths[0].stat().st_nlink == 3
    assert len(list((tmp_path / "models").iterdir())) == 2
