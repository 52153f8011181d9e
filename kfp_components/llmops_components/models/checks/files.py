"""The files of a model, one by one: what each is, and whether it is what its name says. Nothing is loaded or unpickled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from math import prod
from pathlib import Path

from llmops_components.errors import ModelError
from llmops_components.json_text import parse_json
from llmops_components.models.compression.methods import (
    METHODS,
    check_stored_weights,
    is_parameter,
    method_of,
)
from llmops_components.models.directory import PICKLED

WEIGHTS = "*.safetensors"
INDEX = "*.safetensors.index.json"
_SENTENCEPIECE = "*.model"
_PICTURES = {"*.png": b"\x89PNG\r\n\x1a\n", "*.jpg": b"\xff\xd8\xff", "*.jpeg": b"\xff\xd8\xff"}
_JSON = ("*.json",)
_TEXTS = (
    "*.jinja",
    "*.txt",
    "*.md",
    "*.svg",
    "*.yaml",
    "*.yml",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    ".gitattributes",
)
_CODE = ("*.py", "*.pyc", "*.so", "*.dll", "*.dylib", "*.sh", "*.exe", "*.whl")
_OTHER_WEIGHTS = (
    "*.gguf",
    "*.ggml",
    "*.onnx",
    "*.onnx_data",
    "*.h5",
    "*.keras",
    "*.msgpack",
    "*.tflite",
    "*.npz",
    "*.npy",
    "*.pb",
)
# How files begin that run something when they are opened by what fits them, whatever their name is.
_MAGIC = {
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"#!": "a script",
    b"GGUF": "a GGUF file",
    b"\x89HDF": "an HDF5 file",
}


@dataclass(frozen=True)
class Weights:
    """What the headers of the weight files say.

    Args:
        parameters: Number of parameters.
        bytes: Size of the weight files.
        files: Their names.
    """

    parameters: int
    bytes: int
    files: tuple[str, ...]


def faults_of_files(directory: Path) -> list[str]:
    """Why files of a model are refused, a sentence each; none where every file is what a model needs, and what its name says.

    Args:
        directory: Model directory.
    """
    return [fault for file in _files(directory) for fault in _faults(directory, file)]


def read_weights(directory: Path) -> Weights:
    """Number and size of the weights, from the headers of the weight files, wherever in the directory they lie.

    Args:
        directory: Model directory.

    Raises:
        ModelError: A file is no safetensors file, or not the one that the index speaks of.
    """
    from safetensors import SafetensorError, safe_open

    parameters, size = 0, 0
    where: dict[Path, dict[str, str]] = {}
    files = [file for file in _files(directory) if _is(file.name, WEIGHTS)]
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                names = list(weights.keys())
                parameters += sum(
                    prod(weights.get_slice(name).get_shape()) for name in names if is_parameter(name)
                )
        except (SafetensorError, OSError) as error:
            name = file.relative_to(directory).as_posix()
            raise ModelError(f"{name} is no safetensors file: {error}.") from error
        where.setdefault(file.parent, {}).update(dict.fromkeys(names, file.name))
        size += file.stat().st_size
    for index in (file for file in _files(directory) if _is(file.name, INDEX)):
        if fault := _fault_of_index(index, where.get(index.parent, {})):
            raise ModelError(fault)
    if not parameters:
        raise ModelError("It has no weights in safetensors files.")
    if method_of(directory) in METHODS:
        check_stored_weights(directory)
    return Weights(parameters, size, tuple(file.relative_to(directory).as_posix() for file in files))


def _files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path


def _faults(directory: Path, file: Path) -> Iterator[str]:
    name = file.relative_to(directory).as_posix()
    if file.is_symlink():
        if not file.resolve().is_relative_to(directory.resolve()):
            yield f"{name} is a link that leads out of the model's directory."
            return
        if not file.exists():
            yield f"{name} is a link to nothing."
            return
        if file.is_dir():  # what is in it is looked at where it lies
            return
    # What a link leads to is held to the name of the link, too: it is opened by that name.
    if not file.is_file():
        yield f"{name} is no plain file."
        return
    if kind := _refused_kind(file.name):
        yield f"{name} is {kind}."
        return
    start = _start_of(file)
    if _is(file.name, WEIGHTS):  # read by its own library, see read_weights
        return
    found = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
    if found:
        yield f"{name} is {found}, whatever its name says."
    elif _is(file.name, *_JSON):
        try:
            parse_json(file.read_bytes())
        except ValueError as error:
            yield f"{name} is no JSON: {error}."
    elif _is(file.name, *_PICTURES):
        if not any(_is(file.name, kind) and start.startswith(magic) for kind, magic in _PICTURES.items()):
            yield f"{name} is not the picture that its name says."
    elif _is(file.name, *_TEXTS):
        try:
            file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            yield f"{name} is no text in UTF-8."


def _refused_kind(name: str) -> str | None:
    if _is(name, *PICKLED):
        return "a pickle, or may be one: unpickling runs whatever is in it"
    if _is(name, *_CODE):
        return "code, which would run where the model is loaded"
    if _is(name, *_OTHER_WEIGHTS):
        return "a file of weights that are not safetensors"
    if _is(name, WEIGHTS, _SENTENCEPIECE, *_JSON, *_PICTURES, *_TEXTS):
        return None
    return "of a kind that no model needs"


def _is(name: str, *patterns: str) -> bool:
    return any(fnmatch(name.lower(), pattern.lower()) for pattern in patterns)


def _start_of(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(16)


def _fault_of_index(index: Path, where: dict[str, str]) -> str | None:
    """How an index differs from the files that it speaks of."""
    try:
        listed = parse_json(index.read_bytes())["weight_map"]
        items = dict(listed.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{index.name} is no index of safetensors files: {error!r}."
    if items == where:
        return None
    other = sorted(name for name in items.keys() | where.keys() if items.get(name) != where.get(name))
    name = other[0]
    return (
        f"{index.name} does not speak of the files that are there: {len(other)} weights are elsewhere, for example {name}, listed in "
        f"{items.get(name, 'no file')} and found in {where.get(name, 'no file')}."
    )
