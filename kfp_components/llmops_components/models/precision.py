"""The type of a model's weights that suits this machine."""

from __future__ import annotations


def precision(full: bool) -> tuple[str, dict[str, bool]]:
    """Type of the weights and mixed precision that suit this machine.

    Frozen weights can be 16 bit; weights that are trained need float32, or small updates are rounded away.

    Args:
        full: Whether all weights are trained, instead of an adapter.

    Returns:
        The dtype's name and ``bf16`` / ``fp16`` for the training arguments.
    """
    import torch

    if torch.cuda.is_available():
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        half, mixed = ("bfloat16", {"bf16": True}) if bf16 else ("float16", {"bf16": False, "fp16": True})
        return ("float32" if full else half), mixed
    # Without these instructions bfloat16 is emulated on a CPU and slower than float32.
    if any(present for name, present in torch.cpu.get_capabilities().items() if "bf16" in name):
        return ("float32" if full else "bfloat16"), {"bf16": True}
    return "float32", {"bf16": False}
