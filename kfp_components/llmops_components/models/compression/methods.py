"""Ways to compress a model's weights, and whether a directory holds what one of them writes.

Weights are compressed, and nothing else: the model computes in its own type, and its weights become numbers of that type as they
are used. What is offered was proved on a CPU: saved, loaded again exactly, evaluated, served.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops_components.errors import ModelError, SettingError, check_known
from llmops_components.json_text import parse_json
from llmops_components.models.directory import read_settings
from llmops_components.models.precision import DTYPES

if TYPE_CHECKING:
    from torch import nn

METHODS = ("int8",)
_REFUSED = {
    "int4": "torchao packs 4-bit weights for GPUs alone, and what it packs for a CPU cannot be saved as safetensors",
    "gguf": "no maintained package converts a model to GGUF: the package gguf reads and writes the files, and llama.cpp's script, "
    "which converts, is in none",
}
# What torchao's Int8WeightOnlyConfig says of itself in config.json: a scale for each row.
_INT8 = {
    "_type": "Int8WeightOnlyConfig",
    "_version": 2,
    "group_size": None,
    "granularity": {"_type": "PerRow", "_version": 1, "dim": -1},
    "set_inductor_config": None,  # options of torch.compile, whatever they are
}
# The tensors that a compressed weight is stored as, with their types in safetensors.
_PARTS = {"qdata": "I8", "scale": "F32", "zero_point": "I8"}
_NOTED_DTYPES = [{"_type": "torch.dtype", "_data": dtype} for dtype in DTYPES[1:]]
_WITHOUT_PARAMETERS = ("._weight_scale", "._weight_zero_point")


@dataclass(frozen=True)
class _Tensor:
    """What the header of a weight file says of a tensor."""

    kind: str
    shape: tuple[int, ...]


def check_method(method: str) -> None:
    """Raise :class:`SettingError` for a way to compress that is not offered here, with the reason if it is a known one.

    Args:
        method: Its name.
    """
    if reason := _REFUSED.get(method):
        raise SettingError(f"method {method!r} is not offered: {reason}. Use {', '.join(METHODS)}.")
    check_known([method], METHODS, "method")


def torchao_config(method: str) -> Any:
    """What Transformers is told to compress weights by as it loads them.

    Args:
        method: One of :data:`METHODS`.
    """
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    check_method(method)
    # It would set options of torch.compile, for the whole process.
    return TorchAoConfig(Int8WeightOnlyConfig(set_inductor_config=False))


def method_of(directory: Path) -> str | None:
    """How a model says that it was compressed: one of :data:`METHODS`, a name that is none of them, or None if it was not.

    Args:
        directory: Model directory.
    """
    settings = (read_settings(directory / "config.json") or {}).get("quantization_config")
    if settings is None:
        return None
    settings = settings if isinstance(settings, dict) else {}
    if (made_with := settings.get("quant_method")) != "torchao":
        return str(made_with or "unknown")[:40]
    kind = settings.get("quant_type")
    data = _plain(kind.get("default", kind) if isinstance(kind, dict) else kind)
    named = data.get("_type") if isinstance(data, dict) else data
    whole_embeddings = not settings.get("include_input_output_embeddings")
    if whole_embeddings and isinstance(data, dict) and {**data, "set_inductor_config": None} == _INT8:
        return METHODS[0]
    return f"torchao {named}"[:60]


def _plain(value: Any) -> Any:
    """torchao's notation of an object without the level that holds its fields."""
    if isinstance(value, dict):
        inner = value.get("_data")
        fields = {
            **{k: v for k, v in value.items() if k != "_data"},
            **(inner if isinstance(inner, dict) else {}),
        }
        return {key: _plain(each) for key, each in fields.items()}
    return value


def check_whole_model(directory: Path, use: str) -> None:
    """Raise :class:`ModelError` for a model that torchao has compressed where a whole one is needed.

    Args:
        directory: Model directory.
        use: What it is needed for.
    """
    if is_of_torchao(method := method_of(directory)):
        raise ModelError(
            f"A compressed model is no base for {use}: its weights are rounded ({method}). Give the model that it was made from, and "
            f"compress what comes out with compress_model. Model: {directory}."
        )


def check_compressed_model(directory: Path) -> bool:
    """Whether torchao has compressed a model, which then is what it says of itself.

    Args:
        directory: Model directory.

    Raises:
        ModelError: It was compressed in a way that is not offered here, or its weight files are not what they were.
    """
    if not is_of_torchao(method := method_of(directory)):
        return False
    if method not in METHODS:
        raise ModelError(
            f"The model is compressed in a way that is not offered here ({method}). Offered is {', '.join(METHODS)}, with a scale for each "
            f"row and whole embeddings: compress the model that it was made from with compress_model. Model: {directory}."
        )
    check_stored_weights(directory)
    return True


def is_of_torchao(method: str | None) -> bool:
    """Whether a way to compress is one of torchao's, so that torchao has to be there to load the model.

    Args:
        method: Of :func:`method_of`.
    """
    return method is not None and (method in METHODS or method.startswith("torchao "))


def check_stored_weights(directory: Path) -> None:
    """Hold the weight files of a compressed model against what they say of themselves, from their headers alone.

    Transformers and torchao notice some of it while they load, and say only that a conversion failed; of the rest, a weight that is no
    longer compressed or has lost its type, they say nothing.

    Args:
        directory: Model directory that :func:`method_of` knows.

    Raises:
        ModelError: A file is cut off, or a part of a weight is missing, of another type or shape, or not what the files call it.
    """
    stored, said = _read_headers(directory)
    compressed = 0
    for weight, made in said.items():
        if made == {"_type": "Tensor"}:
            continue
        compressed += 1
        parts = {name: f"{weight.removesuffix('weight')}_weight_{name}" for name in _PARTS}
        if fault := _fault_of(weight, made, {name: stored.get(part) for name, part in parts.items()}):
            raise ModelError(
                f"Model {directory} is not what compress_model wrote: {fault}. Compress the model that it was made from again."
            )
    if not compressed:
        raise ModelError(
            f"Model {directory} calls itself compressed, and none of its weights is. Save the whole model again, or correct its "
            "config.json."
        )


def _fault_of(weight: str, made: Any, parts: Mapping[str, _Tensor | None]) -> str | None:
    """What is wrong with a compressed weight."""
    if missing := [name for name, tensor in parts.items() if tensor is None]:
        return f"the {missing[0]} of {weight} is missing"
    found = {name: tensor for name, tensor in parts.items() if tensor is not None}
    for name, tensor in found.items():
        if tensor.kind != _PARTS[name]:
            return f"the {name} of {weight} is of type {tensor.kind} instead of {_PARTS[name]}"
    shape = found["qdata"].shape
    if len(shape) != 2:
        return f"{weight} has {len(shape)} dimensions instead of 2"
    for name in ("scale", "zero_point"):
        if found[name].shape != (shape[0], 1):
            return f"the {name} of {weight} has the shape {found[name].shape} instead of {(shape[0], 1)}"
    kept = {"act_quant_kwargs": None, "reduce_range": False, "block_size": [1, shape[1]]}
    data = made.get("_data") if isinstance(made, dict) and made.get("_type") == "Int8Tensor" else None
    if not isinstance(data, dict) or {name: data[name] for name in data if name != "dtype"} != kept:
        return f"{weight} is stored in another way than by {METHODS[0]} with a scale for each row"
    if data.get("dtype") not in _NOTED_DTYPES:
        return f"{weight} has a type that is none of {', '.join(DTYPES[1:])}"
    return None


def _read_headers(directory: Path) -> tuple[dict[str, _Tensor], dict[str, Any]]:
    """The tensors of all weight files, and what torchao noted there of each weight."""
    from safetensors import SafetensorError, safe_open

    stored: dict[str, _Tensor] = {}
    said: dict[str, Any] = {}
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - not a dict
                    tensor = weights.get_slice(name)
                    stored[name] = _Tensor(tensor.get_dtype(), tuple(tensor.get_shape()))
                notes = weights.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"Weight file {file.name} cannot be read: {error}. Compress the model again. Model: {directory}."
            ) from error
        try:
            names = parse_json(notes["tensor_names"])
            said |= {name: parse_json(notes[name]) for name in names}
        except (KeyError, ValueError, TypeError) as error:
            raise ModelError(
                f"Weight file {file.name} does not say how its weights are compressed: {error!r}. Compress the model again with "
                f"compress_model. Model: {directory}."
            ) from error
    return stored, said


def check_loaded_weights(model: nn.Module, directory: Path) -> None:
    """Raise :class:`ModelError` unless each compressed weight of a loaded model has the shape of its layer.

    Args:
        model: The model.
        directory: Where it was loaded from, for the message.
    """
    for name, layer in compressed_layers(model):
        asked, found = (layer.out_features, layer.in_features), tuple(layer.weight.shape)
        if asked != found:
            raise ModelError(
                f"Model {directory} has weights of another shape than its config.json asks for, for example {name}.weight: {found} "
                f"instead of {asked}. Compress the model that it was made from again."
            )


def compressed_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers whose weights are compressed, with their names.

    Args:
        model: A model.
    """
    from torchao.quantization import Int8Tensor

    for name, layer in model.named_modules():
        if isinstance(getattr(layer, "weight", None), Int8Tensor):
            yield name, layer


def is_parameter(tensor: str) -> bool:
    """Whether a tensor of a weight file counts as parameters: scales of compressed weights are no weights themselves.

    Args:
        tensor: Its name.
    """
    return not tensor.endswith(_WITHOUT_PARAMETERS)
