"""What a model directory has to hold before any step takes it. Standard library only: it is checked before torch loads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llmops_components.errors import ModelError
from llmops_components.json_text import parse_json
from llmops_components.passthrough.code import refuse_code

# Optimizer states, training arguments and old weights: unpickling them runs whatever is in them.
PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PICKLED_WEIGHTS = ("*model*.bin", "*.pt", "*.pth", "*.ckpt")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_CONFIGS = ("config.json", "generation_config.json")
_SAVE = "Save model and tokenizer into it with save_pretrained()."


def check_model_directory(path: str | os.PathLike[str]) -> Path:
    """The directory of a model, once it is known to hold config, safetensors weights and a tokenizer.

    Args:
        path: Model directory.

    Raises:
        ModelError: Something is missing; the message names it.
        SettingError: Its configuration chooses kernels or other code that is not allowed here.
    """
    directory = Path(path)
    if directory.is_file():
        raise ModelError(
            f"{directory} is a file, and a model is a directory. Give the directory that it lies in."
        )
    if not directory.is_dir():
        raise ModelError(
            f"Model directory {directory} does not exist. Check the path or the step that writes it."
        )
    if not (directory / "config.json").is_file():
        adapter = (directory / "adapter_config.json").is_file()
        hint = " It holds an adapter: merge it with its base model." if adapter else ""
        raise ModelError(f"{directory} is not a model directory: it has no config.json.{hint}")
    refuse_chosen_code(directory)
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"{index} is not a safetensors index: {error!r}.") from error
        if missing := sorted(shard for shard in shards if not (directory / shard).is_file()):
            raise ModelError(
                f"{directory} lacks {len(missing)} of {len(shards)} weight files: {', '.join(missing)}."
            )
    elif not any(file.stat().st_size for file in directory.glob("*.safetensors")):
        pickles = sorted(file.name for pattern in _PICKLED_WEIGHTS for file in directory.glob(pattern))
        raise ModelError(
            f"Model directory {directory} has no *.safetensors weights. "
            + (
                f"{', '.join(pickles)} is a pickle, which is never loaded: convert it first."
                if pickles
                else _SAVE
            )
        )
    if not any((directory / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(
            f"Model directory {directory} has no tokenizer (none of {', '.join(_TOKENIZER_FILES)}). {_SAVE}"
        )
    return directory


def refuse_chosen_code(directory: Path) -> None:
    """Hold what a model's own files choose to the rules that the caller's arguments are held to.

    Transformers takes the name of a kernel from ``config.json`` as it takes it from an argument. ``auto_map`` names code that
    runs only with ``trust_remote_code``, which is asked for elsewhere: ordinary models have it.

    Args:
        directory: Model directory, checked or not.

    Raises:
        SettingError: Something in them is not allowed here.
    """
    for name in _CONFIGS:
        if (config := read_settings(directory / name)) is not None:
            refuse_code(f"{name} of model {directory}", _without_auto_map(config))


def read_settings(file: Path) -> dict[str, Any] | None:
    """What a model's file of settings says; None if it is not there.

    Args:
        file: For example ``config.json``.

    Raises:
        ModelError: It is no JSON object, or nested so deeply that no reader gets through it.
    """
    try:
        settings = parse_json(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ModelError(
            f"{file.name} of the model is not valid JSON: {error}. Save it again. File: {file}."
        ) from error
    if not isinstance(settings, dict):
        raise ModelError(f"{file.name} of the model is no JSON object. Save it again. File: {file}.")
    return settings


def _without_auto_map(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            str(key).lstrip("_"): _without_auto_map(item) for key, item in value.items() if key != "auto_map"
        }
    return [_without_auto_map(item) for item in value] if isinstance(value, list) else value
