"""A model is checked before it is served: files are what they say, it is the model that was asked for, a policy allows it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from llmops_components.errors import SettingError
from llmops_components.models.checks.check import check_model
from llmops_components.models.checks.scan import scan_files
from llmops_components.models.importing import import_base_model
from llmops_components.results import digest_of
from safetensors.torch import load_file, save_file


class Runs:
    """What a hostile pickle does: it runs something when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch /tmp/this-was-unpickled",)


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def check(model, tmp_path):
    def checked(**arguments):
        done = check_model(model, tmp_path / "report.json", **arguments)
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["passed"] == done.passed == (not done.findings)
        assert (tmp_path / "report.json").exists()
        return done, report

    return checked


def test_good_model_passes_and_says_what_was_looked_at(model, check):
    digest, _ = digest_of(model)
    done, report = check(model_digest=digest, max_parameters=10**9, max_bytes=10**9)
    weights = load_file(model / "model.safetensors")
    assert done.metrics["parameters"] == sum(tensor.numel() for tensor in weights.values())
    assert done.metrics["weight_bytes"] == (model / "model.safetensors").stat().st_size
    assert done.details["digest"] == report["digest"] == digest
    assert done.details["checks"] == {
        **dict.fromkeys(("directory", "files", "weights", "digest", "size", "scan"), "passed"),
        **dict.fromkeys(("license", "signature"), "not asked for"),
    }
    assert report["checks"]["scan"]["scanner"].startswith("modelscan ")


def hostile(name: str, content: bytes):
    return pytest.param(name, content, id=name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        hostile("pytorch_model.bin", pickle.dumps(Runs())),
        hostile("optimizer.pt", b"anything"),
        hostile("deeper/training_args.bin", pickle.dumps(Runs())),
        hostile("modeling_mine.py", b"import os"),
        hostile("weights.gguf", b"GGUF...."),
        hostile("model.onnx", b"...."),
        hostile("tf_model.h5", b"\x89HDF\r\n"),
        hostile("tokenizer.model", pickle.dumps(Runs())),
        hostile("added_tokens.json", pickle.dumps(Runs(), protocol=4)),
        hostile("notes.txt", b"\x7fELF........"),
        hostile("special_tokens_map.json", b"{not JSON"),
        hostile("merges.txt", b"\xff\xfe\xfa"),
        hostile("curves.png", b"no picture"),
        hostile("mystery", b"?"),
        hostile("archive.safetensors.zip", b"PK\x03\x04"),
    ],
)
def test_file_that_a_model_does_not_need_is_refused_by_name(model, check, name, content):
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(content)
    done, report = check(scan=False)
    assert not done.passed
    assert [finding for finding in done.findings if finding.startswith(f"{name} is ")]
    assert report["checks"]["files"]["outcome"] == "failed"
    assert not Path("/tmp/this-was-unpickled").exists()  # noqa: S108


def test_links_out_of_the_directory_are_refused_and_links_within_it_are_not(model, check, tmp_path):
    (tmp_path / "elsewhere.json").write_text("{}")
    (model / "within.json").symlink_to(model / "config.json")
    assert check(scan=False)[0].passed
    (model / "out.json").symlink_to(tmp_path / "elsewhere.json")
    (model / "nothing.json").symlink_to(model / "gone.json")
    assert check(scan=False)[0].findings == [
        "nothing.json is a link to nothing.",
        "out.json is a link that leads out of the model's directory.",
    ]


def test_link_is_held_to_its_own_name_too(model, check):
    (model / "notes.txt").write_bytes(pickle.dumps(os.getcwd, protocol=0))  # which is text
    for name in ("pytorch_model.bin", "modeling_mine.py", "settings.json"):
        (model / name).symlink_to(model / "notes.txt")
    findings = check(scan=False)[0].findings
    assert [finding.partition(" is ")[0] for finding in findings] == [
        "modeling_mine.py",
        "pytorch_model.bin",
        "settings.json",
    ]


@pytest.mark.parametrize("name", ["deeper/model.safetensors", "MODEL.SafeTensors"])
def test_weights_are_read_wherever_they_lie_and_however_they_are_written(model, check, name):
    own = check(scan=False)[0].metrics
    (model / name).parent.mkdir(exist_ok=True)
    save_file({"more": torch.zeros(1000)}, model / name)
    done, _ = check(scan=False, max_parameters=own["parameters"] + 999, max_bytes=own["weight_bytes"] + 999)
    assert done.metrics["parameters"] == own["parameters"] + 1000
    assert len(done.findings) == 2
    (model / name).write_bytes(pickle.dumps(Runs()))
    assert check(scan=False)[0].findings[0].startswith(f"{name} is no safetensors file")


@pytest.mark.parametrize("cut", [4, 100, -10])
def test_damaged_weights_do_not_pass(model, check, cut):
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    done, report = check(scan=False, max_parameters=10**9)
    assert not done.passed
    assert "model.safetensors is no safetensors file" in done.findings[0]
    assert report["checks"]["size"]["outcome"] == "failed"  # what could not be measured is not small enough


def test_index_has_to_speak_of_the_files_that_are_there(model, check):
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    first, second = list(tensors)[::2], list(tensors)[1::2]
    shards = {"model-00001-of-00002.safetensors": first, "model-00002-of-00002.safetensors": second}
    for shard, names in shards.items():
        save_file({name: tensors[name] for name in names}, model / shard, metadata={"format": "pt"})
    where = {name: shard for shard, names in shards.items() for name in names}
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert check(scan=False)[0].passed
    moved = {**where, first[0]: "model-00002-of-00002.safetensors"}
    index.write_text(json.dumps({"metadata": {}, "weight_map": moved}))
    done, _ = check(scan=False)
    assert f"1 weights are elsewhere, for example {first[0]}" in done.findings[0]
    extra = model / "extra.safetensors"  # weights that nobody lists
    save_file({"backdoor": torch.zeros(2)}, extra)
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert "for example backdoor, listed in no file" in check(scan=False)[0].findings[0]


def test_model_that_is_another_one_than_was_asked_for_does_not_pass(model, check):
    digest, _ = digest_of(model)
    (model / "generation_config.json").write_text('{"temperature": 2.0}')
    done, _ = check(model_digest=digest, scan=False)
    assert done.findings == [
        f"The model is not the one that was asked for: its digest is {digest_of(model)[0]}, asked for was {digest}."
    ]


@pytest.mark.parametrize(
    ("card", "allowed", "passes"),
    [
        ("license: apache-2.0", ["Apache-2.0"], True),
        ("license: mit", ["apache-2.0"], False),
        ("license: other\nlicense_name: llama3.2", ["llama3.2"], True),
        ("license: other\nlicense_name: llama3.2", ["apache-2.0"], False),
        ("license: other", ["other"], False),
        ("license: unknown", ["unknown"], False),
        ("language: en", ["mit"], False),
        ("license: [mit, apache-2.0]", ["mit"], False),
        ("license: [", ["mit"], False),
    ],
)
def test_license_is_that_of_the_card(model, check, card, allowed, passes):
    (model / "README.md").write_text(f"---\n{card}\n---\n\nA model.\n")
    done, report = check(allowed_licenses=allowed, scan=False)
    assert done.passed == passes
    assert report["checks"]["license"]["allowed"] == allowed


def test_license_of_the_origin_counts_beside_that_of_the_card(tiny_model, tmp_path):
    source = Path(shutil.copytree(tiny_model, tmp_path / "source"))
    (source / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    import_base_model(tmp_path / "base", source=f"file://{source}")
    (tmp_path / "base" / "README.md").write_text("---\nlicense: mit\n---\n")  # a card that was written anew
    done = check_model(tmp_path / "base", tmp_path / "report.json", allowed_licenses=["mit"], scan=False)
    assert done.details["licenses"] == ["mit", "cc-by-nc-4.0"]
    assert "under the licence 'cc-by-nc-4.0'" in done.findings[0]


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ({"source": "hub", "license": "mit"}, "under the licence 'other', which is not among those allowed"),
        ({"base_model": "hub"}, "under the licence 'other'"),
        ({"base_model": {"provenance": "hub"}}, "under the licence 'other'"),
    ],
)
def test_licence_that_the_card_does_not_name_is_not_made_good_by_the_origin(model, check, origin, said):
    (model / "README.md").write_text("---\nlicense: other\n---\n")
    (model / "provenance.json").write_text(json.dumps(origin))
    assert said in check(allowed_licenses=["mit", "other"], scan=False)[0].findings[0]


def test_size_is_held_to_its_limits(check):
    done, _ = check(max_parameters=10, max_bytes=20, scan=False)
    parameters, size = done.findings
    assert "at most 10 are allowed" in parameters
    assert "at most 20 are allowed" in size
    assert check(max_parameters=10**9, scan=False)[0].passed


def test_scanner_finds_what_would_run(tmp_path):
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(Runs()))
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Runs()))
    seen = scan_files(tmp_path)
    assert seen.scanned == 2
    assert all("'system'" in fault and "critical" in fault for fault in seen.faults)
    assert len(seen.faults) == 2


def test_nothing_that_is_no_model_passes(tmp_path):
    for place in ("missing", "empty"):
        if place == "empty":
            (tmp_path / place).mkdir()
        done = check_model(tmp_path / place, tmp_path / "report.json")
        assert not done.passed
        assert done.details["checks"]["directory"] == "failed"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("model_digest", "abc"),
        ("model_digest", "sha256:12"),
        ("allowed_licenses", "mit"),
        ("allowed_licenses", []),
        ("allowed_licenses", [""]),
        ("max_parameters", 0),
        ("max_bytes", True),
        ("max_bytes", 1.5),
    ],
)
def test_arguments_are_checked(check, argument, value):
    with pytest.raises(SettingError, match=argument):
        check(**{argument: value})
