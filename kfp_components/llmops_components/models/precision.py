"""The types of numbers: the one policy, whatever a model is loaded for.

==================  =====================================================================================
trained             :func:`precision`: float32 for weights that are trained, 16 bit for those that are not
asked (evaluation)  :func:`answering`: the checkpoint's own, or float32 where 16 bit would be emulated
served              :func:`serving`: 16 bit, or float32 where that would be emulated
embeddings          :data:`EMBEDDING`
stored              as asked for, one of :data:`DTYPES`; ``auto`` is as it was
==================  =====================================================================================
"""

from __future__ import annotations

DTYPES = ("auto", "bfloat16", "float16", "float32")
EMBEDDING = "float32"  # models of this kind are small, and distances are compared


def half() -> str | None:
    """The 16-bit type that this machine computes with, or None: others it only emulates, slower than float32."""
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return (
        "bfloat16"
        if any(on and "bf16" in name for name, on in torch.cpu.get_capabilities().items())
        else None
    )


def precision(full: bool) -> tuple[str, dict[str, bool]]:
    """Type of the weights and mixed precision for a training.

    Frozen weights can be 16 bit; weights that are trained need float32, or small updates are rounded away.

    Args:
        full: Whether all weights are trained, instead of an adapter.

    Returns:
        The dtype's name and ``bf16`` / ``fp16`` for the training arguments.
    """
    short = half()
    mixed = {"bf16": False, "fp16": True} if short == "float16" else {"bf16": short == "bfloat16"}
    return "float32" if full or short is None else short, mixed


def answering() -> str:
    """Type of the weights of a model that is measured: its own, unless this machine has to emulate 16-bit numbers."""
    return "float32" if half() is None else "auto"


def serving() -> str:
    """Type of the weights of a model that is served: half the memory, and up to twice as fast."""
    return half() or "float32"
