"""Which checkpoint a training goes on from: the newest one of this very run whose files are whole.

Only those files are judged that the Trainer itself reads. One that cannot be read at this moment says nothing about the checkpoint,
and one that is not whole stays where its owner finds it.
"""

from __future__ import annotations

import errno
import json
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmops_components.errors import ComponentError, SettingError, UnavailableError
from llmops_components.processes import is_main_process
from llmops_components.state_files import StateFileError, mismatch, read_json, unreadable, write_json

RUN_FILE = "run.json"
MICRO_BATCH_FILE = "micro_batch.json"  # how the rows of a step are split
TRAINER_STATE = "trainer_state.json"
LEFT_OUT = (
    "left-out-"  # no name of a checkpoint for Transformers, which neither goes on from it nor deletes it
)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SHARDED = ("pytorch_model_fsdp*", "optimizer_*")  # directories of torch.distributed.checkpoint
_BESIDE = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth")
_CONFIGURATIONS = ("config.json", "adapter_config.json")
_DEEPSPEED = "latest"  # names the directory of DeepSpeed's files
_PICKLE = b"\x80"  # files of torch before they were zip archives
# What a reader of archives says of offsets that are no offsets; it is the file's content that is wrong.
_OF_CONTENT = (errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)


def claim(checkpoints: Path, run: Mapping[str, Any]) -> None:
    """Make sure that a directory's checkpoints are this very run's, and note whose they are where nobody has.

    Args:
        checkpoints: Directory of the checkpoints; made when it does not exist.
        run: What makes the run what it is. It is kept beside the checkpoints and has to be the same on resume, or
            two different runs would be mixed silently.

    Raises:
        SettingError: They are another run's, or nobody can tell whose they are.
        UnavailableError: The directory cannot be read at this moment.
    """
    run = json.loads(json.dumps(run, default=str), parse_constant=str)
    marker = checkpoints / RUN_FILE
    try:
        before = read_json(marker)
    except OSError as error:
        raise _not_now(checkpoints, error) from error
    except StateFileError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno not in _OF_CONTENT:
            raise _not_now(checkpoints, error.__cause__) from error
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


def put_all_aside(checkpoints: Path) -> None:
    """Leave all checkpoints out, whole or not, and forget whose they are.

    Args:
        checkpoints: Directory of the checkpoints.
    """
    for directory in _found(checkpoints):
        _put_aside(directory)
    for name in (RUN_FILE, MICRO_BATCH_FILE):
        marker = checkpoints / name
        if marker.is_symlink() or marker.exists():
            _put_aside(marker)


def resume_point(checkpoints: Path) -> tuple[str | None, list[str]]:
    """The newest whole checkpoint, or None, and what there is to say of those that are not whole.

    Half-written ones are removed. Those that were finished and are not whole are put aside by name, because the training comes to
    their step again. For one process alone, see :func:`~llmops_components.processes.decided_by_main`.

    Args:
        checkpoints: Directory of the checkpoints, see :func:`claim`.

    Raises:
        UnavailableError: A file cannot be read at this moment; nothing was put aside or removed for that.
    """
    findings: list[str] = []
    whole = None
    for directory in _found(checkpoints):
        try:
            if not _is_finished(directory):
                shutil.rmtree(directory) if not directory.is_symlink() else directory.unlink()
                continue
            check_checkpoint(directory)
            whole = directory
            break  # older ones are looked at when they are needed
        except StateFileError as error:
            aside = _put_aside(directory)
            findings.append(f"{directory.name} was left out: {error}. It is now {aside.name}")
        except OSError as error:
            raise _not_now(directory, error) from error
    where = f"The training went on from {whole.name}" if whole else "The training began anew"
    return (str(whole) if whole else None), [f"{finding}. {where}" for finding in findings]


def check_checkpoint(directory: Path) -> None:
    """Make sure that a checkpoint can be gone on from: what the Trainer reads of it is there, to its end.

    Args:
        directory: The checkpoint.

    Raises:
        StateFileError: A file is missing, cut off or changed; the message names it.
        OSError: A file cannot be read at this moment.
    """
    _check_state(directory / TRAINER_STATE)
    weights = list(_weights(directory))
    if not weights:
        raise StateFileError(f"{directory.name} has no weights. Directory: {directory}")
    for path in [*weights, *(path for pattern in _BESIDE for path in sorted(directory.glob(pattern)))]:
        _check_file(path)
    for name in _CONFIGURATIONS:
        if (directory / name).exists():
            _json(directory / name)


def _found(checkpoints: Path) -> list[Path]:
    """Checkpoints, the newest first."""
    try:
        found = [path for path in checkpoints.iterdir() if _step_of(path) is not None]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _not_now(checkpoints, error) from error
    return sorted(found, key=lambda path: _step_of(path) or 0, reverse=True)


def _is_finished(directory: Path) -> bool:
    """Whether the save came to its last file."""
    if not directory.is_dir():
        raise unreadable(directory, "it is no directory")
    try:
        (directory / TRAINER_STATE).lstat()
    except FileNotFoundError:
        return False
    return True


def _check_state(file: Path) -> None:
    """As Transformers reads it: a loss or a norm of the gradient may be no number, and a long training's log is long."""
    if not file.is_file():
        raise unreadable(file, "it is no regular file" if file.exists() else "it is not there")
    state = _json(file)
    shape = {"global_step": int, "log_history": [dict]}
    if why := mismatch(state, shape):
        raise unreadable(file, why)
    if state.get("global_step") is None or state.get("log_history") is None:
        raise unreadable(file, "it lacks the step")


def _json(file: Path) -> Any:
    content = file.read_bytes()
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        why = (
            "it holds NUL bytes alone, as after a power cut" if content and not content.strip(b"\0") else None
        )
        raise unreadable(file, why or ("it is cut off, or no JSON" if content else "it is empty")) from error


def _weights(directory: Path) -> Iterator[Path]:
    """The files of the weights, those that are missing included; sharded ones are looked at as a whole."""
    for place in (directory, *sorted(path for path in directory.iterdir() if path.is_dir())):
        # Adapters beside the first have directories of their own.
        names = _WEIGHTS if place == directory else _WEIGHTS[2:]
        yield from (place / name for name in names if (place / name).exists())
    for name in _INDEXES:
        if (directory / name).exists():
            index = _json(directory / name)
            if why := mismatch(index, {"weight_map": {str: str}}):
                raise unreadable(directory / name, why)
            yield from (directory / shard for shard in sorted(set((index.get("weight_map") or {}).values())))
    for pattern in _SHARDED:
        for path in sorted(directory.glob(pattern)):
            if path.is_dir():
                yield from _shards(path)
    if (directory / "pytorch_model_fsdp.bin").exists():
        yield directory / "pytorch_model_fsdp.bin"
    if (directory / _DEEPSPEED).exists():
        yield from _of_deepspeed(directory)


def _shards(directory: Path) -> Iterator[Path]:
    """Files of torch.distributed.checkpoint, once each is as long as its table of contents says."""
    contents = directory / ".metadata"  # written last
    if not contents.exists():
        raise unreadable(contents, "it is not there")
    from torch.distributed.checkpoint import FileSystemReader

    try:
        parts = (FileSystemReader(directory).read_metadata().storage_data or {}).values()
        ends: dict[str, int] = {}
        for part in parts:
            ends[part.relative_path] = max(ends.get(part.relative_path, 0), part.offset + part.length)
    except OSError:
        raise
    except Exception as error:  # unpickling what is no pickle can raise anything
        raise unreadable(contents, f"it is cut off or changed ({type(error).__name__})") from error
    for name, end in sorted(ends.items()):
        file = directory / name
        if not file.exists():
            raise unreadable(file, "it is not there")
        if file.stat().st_size < end:
            raise unreadable(file, f"it is cut off: it has {file.stat().st_size} of {end} bytes")
        yield file


def _of_deepspeed(directory: Path) -> Iterator[Path]:
    latest = directory / _DEEPSPEED
    name = latest.read_text(encoding="utf-8", errors="replace").strip().strip("\0")
    files = sorted((directory / name).glob("*.pt")) if name and "/" not in name else []
    if not any("model_states" in file.name for file in files):
        raise unreadable(latest, f"it names {name!r}, where no weights are")
    yield from files


def _check_file(file: Path) -> None:
    if not file.is_file():
        raise unreadable(file, "it is no regular file" if file.exists() else "it is not there")
    if file.suffix == ".safetensors":
        _check_tensors(file)
    elif file.suffix != ".distcp":
        _check_archive(file)


def _check_tensors(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt"):  # looks whether the tensors fill the file
            pass
    except SafetensorError as error:
        raise unreadable(file, f"it is cut off or changed ({error})") from error


def _check_archive(file: Path) -> None:
    """What torch saves is a zip archive with a checksum of each part."""
    with file.open("rb") as handle:
        if handle.read(1) == _PICKLE:
            return
    try:
        with zipfile.ZipFile(file) as archive:
            for part in archive.infolist():
                if part.CRC:  # 0 where torch was told to compute none
                    with archive.open(part) as content:
                        while content.read(1 << 20):
                            pass
    except OSError as error:
        if error.errno not in _OF_CONTENT:
            raise
        raise unreadable(file, f"it is cut off or changed ({error})") from error
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError) as error:
        raise unreadable(file, f"it is cut off or changed ({error})") from error


def _step_of(directory: Path) -> int | None:
    kind, _, step = directory.name.rpartition("-")
    return int(step) if kind == "checkpoint" and step.isascii() and step.isdigit() else None


def _put_aside(path: Path) -> Path:
    """Give it a name by which it is no checkpoint, one that is free."""
    for number in range(1, 10_000):
        aside = path.with_name(f"{LEFT_OUT}{path.name}" + (f".{number}" if number > 1 else ""))
        if not (aside.exists() or aside.is_symlink()):
            try:
                return path.rename(aside)
            except OSError as error:
                raise _not_now(path, error) from error
    raise ComponentError(
        f"Too much was left out already: {path.parent} is full of {LEFT_OUT}{path.name}.N. Empty it."
    )


def _not_now(path: Path, error: OSError) -> UnavailableError:
    return UnavailableError(
        f"{path.name} cannot be read at this moment: {error.strerror or error}. Nothing was left out or removed for it. Run the step "
        f"again; if it stays so, look at the disk and its permissions, or move it away. Path: {error.filename or path}"
    )
