"""Which checkpoint a training goes on from: the newest one of this very run whose files are whole."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops_components.errors import SettingError
from llmops_components.processes import is_main_process
from llmops_components.state_files import StateFileError, read_json, unreadable, write_json

RUN_FILE = "run.json"
TRAINER_STATE = "trainer_state.json"
TRAINER_STATE_SHAPE = {"global_step": int, "max_steps": int, "log_history": [dict], "epoch": (int, float)}
_WEIGHTS = ("*.safetensors", "pytorch_model*", "global_step*")  # of one process, of FSDP, of DeepSpeed
_PICKLE = b"\x80"  # files of torch before they were zip archives


def resume_point(checkpoints: Path, run: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """The newest whole checkpoint of this very run, or None, and what there is to say of those that are not whole.

    Half-written ones are removed. So are those that cannot be read: the training comes to their step again and writes them anew.

    Args:
        checkpoints: Directory of the checkpoints; made when it does not exist.
        run: What makes the run what it is. It is kept beside the checkpoints and has to be the same on resume, or
            two different runs would be mixed silently.

    Raises:
        SettingError: They are another run's, or nobody can tell whose they are.
    """
    run = json.loads(json.dumps(run, default=str))
    marker = checkpoints / RUN_FILE
    try:
        before = read_json(marker)
    except StateFileError as error:
        raise SettingError(
            f"Nobody can tell whose checkpoints these are: {error}. Use another directory for the checkpoints, or empty this one."
        ) from None
    changed = sorted(key for key in run.keys() | before.keys() if run.get(key) != before.get(key))
    if before and changed:
        raise SettingError(
            f"{checkpoints} holds checkpoints of another run (different: {', '.join(changed)}). "
            "Use another directory for the checkpoints, or empty this one."
        )
    if is_main_process() and not before:
        write_json(marker, run)
    whole, findings = [], []
    found = [path for path in checkpoints.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for directory in sorted(found, key=_step_of, reverse=True):
        try:
            check_checkpoint(directory)
            whole.append(directory)
        except StateFileError as error:
            if (
                directory / TRAINER_STATE
            ).exists():  # the last file of a save: without it, it was not finished
                findings.append(f"{directory.name} was left out: {error}")
            if is_main_process():
                _remove(directory)
        if whole:
            break  # older ones are looked at when they are needed
    if findings:
        where = f"The training went on from {whole[0].name}" if whole else "The training began anew"
        findings = [f"{finding}. {where}" for finding in findings]
    return (str(whole[0]) if whole else None), findings


def check_checkpoint(directory: Path) -> None:
    """Make sure that a checkpoint can be gone on from: its files are there, to their ends.

    Args:
        directory: The checkpoint.

    Raises:
        StateFileError: A file is missing, cut off or changed; the message names it.
    """
    state = directory / TRAINER_STATE
    known = read_json(state, TRAINER_STATE_SHAPE)
    if known.get("global_step") is None or known.get("log_history") is None:
        raise unreadable(state, "it lacks the step" if known else "it is not there")
    if not any(any(directory.glob(pattern)) for pattern in _WEIGHTS):
        raise StateFileError(f"{directory.name} has no weights. Directory: {directory}")
    for file in sorted(directory.rglob("*")):
        if file.is_file() and (why := _what_is_wrong(file)):
            raise unreadable(file, why)


def _what_is_wrong(file: Path) -> str | None:
    try:
        if file.suffix == ".safetensors":
            from safetensors import SafetensorError, safe_open

            try:
                with safe_open(file, "pt"):  # looks whether the tensors fill the file
                    return None
            except SafetensorError as error:
                return f"it is cut off or changed ({error})"
        if file.suffix in (".pt", ".pth", ".bin"):
            return _what_is_wrong_with_archive(file)
        if file.suffix == ".json":
            json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _what_is_wrong_with_archive(file: Path) -> str | None:
    """What torch saves is a zip archive with a checksum of each part."""
    with file.open("rb") as handle:
        if handle.read(1) == _PICKLE:
            return None
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        return f"it is cut off or changed ({error})"
    return f"it is changed at {broken}" if broken else None


def _step_of(directory: Path) -> int:
    return int(directory.name.rpartition("-")[2])


def _remove(directory: Path) -> None:
    if directory.is_dir() and not directory.is_symlink():
        shutil.rmtree(directory, ignore_errors=True)
    else:
        directory.unlink(missing_ok=True)
