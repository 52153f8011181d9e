"""Which checkpoint a training goes on from, whatever has become of the newest one."""

from __future__ import annotations

import ast
import errno
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from broken_files import BROKEN
from llmops_components.errors import SettingError, UnavailableError
from llmops_components.training.checkpoints import claim, put_all_aside, resume_point
from safetensors.torch import save_file
from transformers import TrainerState

RUN = {"component": "train_sft"}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """Two checkpoints of a run, as the Trainer leaves them."""
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    claim(directory, RUN)
    for step in (8, 16):
        made = directory / f"checkpoint-{step}"
        made.mkdir()
        save_file({"weight": torch.ones(64, 64)}, made / "model.safetensors")
        torch.save({"state": {0: torch.ones(64, 64)}}, made / "optimizer.pt")
        torch.save({"cpu": torch.ones(8)}, made / "rng_state.pth")
        (made / "config.json").write_text("{}")
        log = [{"loss": 1.0, "grad_norm": float("nan")}, {"loss": float("inf")}, {"loss": -float("inf")}]
        TrainerState(global_step=step, max_steps=20, log_history=log, epoch=0.5).save_to_json(
            str(made / "trainer_state.json")
        )
    return directory


def test_newest_is_gone_on_from_whatever_numbers_its_log_holds(checkpoints: Path) -> None:
    assert resume_point(checkpoints) == (str(checkpoints / "checkpoint-16"), [])


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


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
    found, findings = resume_point(checkpoints)
    assert found == str(checkpoints / "checkpoint-8")
    assert len(findings) == 1
    what = "checkpoint-16 has no weights" if how is Path.unlink else f"{name} cannot be read: "
    assert findings[0].startswith(f"checkpoint-16 was left out: {what}")
    assert findings[0].endswith(". It is now left-out-checkpoint-16. The training went on from checkpoint-8")
    assert names(checkpoints) == ["checkpoint-8", "left-out-checkpoint-16", "run.json"]
    assert resume_point(checkpoints) == (found, [])


def test_save_that_was_not_finished_is_removed_without_a_word(checkpoints: Path) -> None:
    (checkpoints / "checkpoint-16" / "trainer_state.json").unlink()
    assert resume_point(checkpoints) == (str(checkpoints / "checkpoint-8"), [])
    assert not (checkpoints / "checkpoint-16").exists()


def test_training_begins_anew_where_none_is_whole(checkpoints: Path) -> None:
    for step in (8, 16):
        zeros(checkpoints / f"checkpoint-{step}" / "optimizer.pt")
    found, findings = resume_point(checkpoints)
    assert found is None
    assert [finding.partition(" ")[0] for finding in findings] == ["checkpoint-16", "checkpoint-8"]
    assert all(finding.endswith(". The training began anew") for finding in findings)


@pytest.mark.parametrize("name", ["vocab.bin", "tokens.pt", "special.json", "values.safetensors"])
def test_files_that_the_trainer_does_not_read_say_nothing(checkpoints: Path, name: str) -> None:
    (checkpoints / "checkpoint-16" / name).write_bytes(b"// the user's own")
    assert resume_point(checkpoints) == (str(checkpoints / "checkpoint-16"), [])


def test_archives_without_checksums_are_whole(checkpoints: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"state": {0: torch.ones(64, 64)}}, checkpoints / "checkpoint-16" / "optimizer.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert resume_point(checkpoints) == (str(checkpoints / "checkpoint-16"), [])


def test_log_of_a_long_training_is_read(checkpoints: Path) -> None:
    log = [{"loss": 1.0, "words": "x" * 1000}] * 20_000
    state = TrainerState(global_step=16, max_steps=20, log_history=log)
    state.save_to_json(str(checkpoints / "checkpoint-16" / "trainer_state.json"))
    assert resume_point(checkpoints) == (str(checkpoints / "checkpoint-16"), [])


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("where", ["archive", "state", "marker"])
def test_what_cannot_be_read_at_this_moment_is_tried_again_and_nothing_is_lost(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch, number: int, where: str
) -> None:
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    before = names(checkpoints)
    with monkeypatch.context() as patched:
        match where:
            case "archive":
                patched.setattr(zipfile.ZipFile, "open", fail)
            case "state":
                patched.setattr(Path, "read_bytes", fail)
            case "marker":
                patched.setattr(os, "open", fail)
        with pytest.raises(UnavailableError, match=f"cannot be read at this moment: {os.strerror(number)}"):
            claim(checkpoints, RUN)
            resume_point(checkpoints)
    assert names(checkpoints) == before
    assert resume_point(checkpoints) == (str(checkpoints / "checkpoint-16"), [])


def test_shard_that_the_index_names_has_to_be_there(checkpoints: Path) -> None:
    newest = checkpoints / "checkpoint-16"
    (newest / "model.safetensors").rename(newest / "model-00001-of-00002.safetensors")
    shards = {"weight": "model-00001-of-00002.safetensors", "other": "model-00002-of-00002.safetensors"}
    (newest / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    found, findings = resume_point(checkpoints)
    assert found == str(checkpoints / "checkpoint-8")
    assert findings[0].startswith(
        "checkpoint-16 was left out: model-00002-of-00002.safetensors cannot be read: it is not there."
    )


@pytest.mark.parametrize("how", ["whole", "cut", "empty", "no contents", "contents cut", "missing"])
def test_shards_of_fsdp_are_as_long_as_their_contents_say(checkpoints: Path, how: str) -> None:
    newest = checkpoints / "checkpoint-16"
    (newest / "model.safetensors").unlink()
    shards = newest / "pytorch_model_fsdp_0"
    torch.distributed.checkpoint.save({"model": {"w": torch.ones(512)}}, checkpoint_id=shards, no_dist=True)
    data = next(shards.glob("*.distcp"))
    match how:
        case "cut":
            cut(data)
        case "empty":
            empty(data)
        case "no contents":
            (shards / ".metadata").unlink()
        case "contents cut":
            cut(shards / ".metadata")
        case "missing":
            data.unlink()
    expected = "checkpoint-16" if how == "whole" else "checkpoint-8"
    assert resume_point(checkpoints)[0] == str(checkpoints / expected)


@pytest.mark.parametrize("how", ["whole", "names nothing", "cut"])
def test_files_of_deepspeed_are_those_that_latest_names(checkpoints: Path, how: str) -> None:
    newest = checkpoints / "checkpoint-16"
    (newest / "model.safetensors").unlink()
    (newest / "global_step16").mkdir()
    weights = newest / "global_step16" / "mp_rank_00_model_states.pt"
    torch.save({"module": torch.ones(64)}, weights)
    (newest / "latest").write_text("global_step24" if how == "names nothing" else "global_step16")
    if how == "cut":
        cut(weights)
    expected = "checkpoint-16" if how == "whole" else "checkpoint-8"
    assert resume_point(checkpoints)[0] == str(checkpoints / expected)


def test_main_process_alone_looks_and_tells_the_others(checkpoints: Path) -> None:
    """Looking beside it, another one would see the files go that it puts aside."""
    cut(checkpoints / "checkpoint-16" / "optimizer.pt")
    script = (
        "import os, sys, torch.distributed as dist\n"
        "from pathlib import Path\n"
        "from llmops_components.processes import decided_by_main\n"
        "from llmops_components.training.checkpoints import resume_point\n"
        "dist.init_process_group('gloo', init_method=f'file://{sys.argv[2]}', rank=int(os.environ['RANK']), world_size=2)\n"
        "looked = []\n"
        "look = lambda: (looked.append(1), resume_point(Path(sys.argv[1])))[1]\n"
        "print((decided_by_main(look), len(looked)))\n"
    )
    command = [sys.executable, "-c", script, str(checkpoints), str(checkpoints.parent / "meeting")]
    processes = [
        subprocess.Popen(command, env=os.environ | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    (decision, looks), (told, others) = (
        ast.literal_eval(process.communicate(timeout=200)[0]) for process in processes
    )
    assert decision == told
    assert decision[0] == str(checkpoints / "checkpoint-8")
    assert [finding.partition(":")[0] for finding in told[1]] == ["checkpoint-16 was left out"]
    assert (looks, others) == (1, 0)


def test_what_is_put_aside_takes_no_name_that_is_taken(checkpoints: Path) -> None:
    (checkpoints / "left-out-checkpoint-16").mkdir()
    put_all_aside(checkpoints)
    assert names(checkpoints) == [
        "left-out-checkpoint-16",
        "left-out-checkpoint-16.2",
        "left-out-checkpoint-8",
        "left-out-run.json",
    ]
    claim(checkpoints, {"component": "train_dpo"})
    assert resume_point(checkpoints) == (None, [])


def test_run_with_numbers_that_are_not_finite_has_checkpoints(tmp_path: Path) -> None:
    for _ in range(2):
        claim(tmp_path, {"training_args": {"max_grad_norm": float("inf")}})


@pytest.mark.parametrize("how", BROKEN)
def test_whose_checkpoints_they_are_has_to_be_known(checkpoints: Path, how: str) -> None:
    BROKEN[how](checkpoints / "run.json")
    with pytest.raises(
        SettingError, match=r"^Nobody can tell whose checkpoints these are: run\.json cannot be read: "
    ):
        claim(checkpoints, RUN)
