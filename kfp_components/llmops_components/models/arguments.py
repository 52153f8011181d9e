"""A caller's ``model_args``: what ``from_pretrained`` takes, and how weights are quantized."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from llmops_components.errors import SettingError
from llmops_components.models.precision import precision
from llmops_components.passthrough.tables import FROM_PRETRAINED, MODEL_ARGS, QUANTIZATION, check_names, typed


def check_model_args(given: Mapping[str, Any], model_config: Any) -> None:
    """Raise :class:`SettingError` for keyword arguments that ``from_pretrained`` would hand on to nobody.

    Args:
        given: The caller's keyword arguments.
        model_config: The model's ``config.json``.
    """
    valid = {*MODEL_ARGS, *model_config.to_dict()}
    check_names(given, valid, "model_args", FROM_PRETRAINED)


def declared_by(model_config: Any) -> dict[str, list[Any]]:
    """Types of the fields of a model's own config: those of the values that they have.

    Args:
        model_config: The model's ``config.json``.
    """
    kinds: dict[type, list[Any]] = {bool: ["bool"], int: ["int", "float"], float: ["int", "float"]}
    values = model_config.to_dict()
    return {name: kinds[type(value)] for name, value in values.items() if type(value) in kinds}


def build_quantization(given: Any) -> Any:
    """How the frozen weights are quantized (QLoRA), or None.

    Args:
        given: Keyword arguments of ``transformers.BitsAndBytesConfig``, for example ``{"load_in_4bit": True}``.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise SettingError(
            f"model_args: quantization_config has to be an object, not {type(given).__name__}. For example "
            "{'load_in_4bit': True}."
        )
    import inspect

    import torch
    from transformers import BitsAndBytesConfig

    valid = set(inspect.signature(BitsAndBytesConfig.__init__).parameters) - {"self", "kwargs"}
    check_names(given, valid, "quantization_config", QUANTIZATION)
    given = typed(given, "quantization_config", QUANTIZATION)
    problem = None
    if not torch.cuda.is_available():
        problem = "this machine has no CUDA device"
    elif importlib.util.find_spec("bitsandbytes") is None:
        problem = "the package bitsandbytes is not installed"
    if problem:
        raise SettingError(
            f"model_args: quantization_config needs a GPU and bitsandbytes, and {problem}. Leave it out, or run the "
            "component where both are there."
        )
    # QLoRA's own settings: https://arxiv.org/abs/2305.14314
    defaults = {
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": precision(full=False)[0],
        "bnb_4bit_use_double_quant": True,
    }
    return BitsAndBytesConfig(**({**defaults, **given} if given.get("load_in_4bit") else dict(given)))
