"""Which checkpoint a training goes on from, whatever has become of the newest one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from broken_files import BROKEN
from llmops_components.errors import SettingError
from llmops_components.training.checkpoints import resume_point
from safetensors.torch import save_file

RUN = {"component": "train_sft"}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """Two checkpoints of a run, as the Trainer leaves them."""
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    resume_point(directory, RUN)
    for step in (8, 16):
        made = directory / f"checkpoint-{step}"
        made.mkdir()
        save_file({"weight": torch.ones(64, 64)}, made / "model.safetensors")
        torch.save({"state": {0: torch.ones(64, 64)}}, made / "optimizer.pt")
        torch.save({"cpu": torch.ones(8)}, made / "rng_state.pth")
        (made / "config.json").write_text("{}")
        state = {"global_step": step, "max_steps": 20, "log_history": [{"loss": 1.0}], "epoch": 0.5}
        (made / "trainer_state.json").write_text(json.dumps(state))
    return directory


def test_newest_is_gone_on_from(checkpoints: Path) -> None:
    assert resume_point(checkpoints, RUN) == (str(checkpoints / "checkpoint-16"), [])


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def zeros(file: Path) -> None:
    file.write_bytes(b"\0" * file.stat().st_size)


def change(file: Path) -> None:
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *(
            (name, how)
            for name in ("model.safetensors", "optimizer.pt", "rng_state.pth")
            for how in (cut, zeros, empty)
        ),
        ("optimizer.pt", change),
        ("trainer_state.json", cut),
        ("trainer_state.json", zeros),
        ("config.json", zeros),
        ("model.safetensors", Path.unlink),
    ],
)
def test_newest_that_is_not_whole_is_left_out_with_a_finding(checkpoints: Path, name: str, how) -> None:
    how(checkpoints / "checkpoint-16" / name)
    found, findings = resume_point(checkpoints, RUN)
    assert found == str(checkpoints / "checkpoint-8")
    assert len(findings) == 1
    what = "checkpoint-16 has no weights" if how is Path.unlink else f"{name} cannot be read: "
    assert findings[0].startswith(f"checkpoint-16 was left out: {what}")
    assert findings[0].endswith(". The training went on from checkpoint-8")
    assert not (checkpoints / "checkpoint-16").exists()
    assert resume_point(checkpoints, RUN) == (found, [])


def test_save_that_was_not_finished_is_removed_without_a_word(checkpoints: Path) -> None:
    (checkpoints / "checkpoint-16" / "trainer_state.json").unlink()
    assert resume_point(checkpoints, RUN) == (str(checkpoints / "checkpoint-8"), [])
    assert not (checkpoints / "checkpoint-16").exists()


def test_training_begins_anew_where_none_is_whole(checkpoints: Path) -> None:
    for step in (8, 16):
        zeros(checkpoints / f"checkpoint-{step}" / "optimizer.pt")
    found, findings = resume_point(checkpoints, RUN)
    assert found is None
    assert [finding.partition(" ")[0] for finding in findings] == ["checkpoint-16", "checkpoint-8"]
    assert all(finding.endswith(". The training began anew") for finding in findings)


@pytest.mark.parametrize("how", BROKEN)
def test_whose_checkpoints_they_are_has_to_be_known(checkpoints: Path, how: str) -> None:
    BROKEN[how](checkpoints / "run.json")
    with pytest.raises(
        SettingError, match=r"^Nobody can tell whose checkpoints these are: run\.json cannot be read: "
    ):
        resume_point(checkpoints, RUN)
