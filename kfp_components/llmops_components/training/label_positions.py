"""Logits only where there are labels, on a CPU too.

A prompt has no labels, and padding has none, yet away from CUDA and XPU TRL 1.16 multiplies all their positions with the
whole vocabulary (``trl/trainer/utils.py``, ``add_fused_lm_head``): with short answers to long prompts that is more than
half of a training step on a CPU. It does so for devices that compile anew for every number of positions; a CPU does
not. The loss is the same, since TRL masks those positions out of it in any case.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Where TRL asks, by this name, whether it may leave positions out. The kernels ask another module's function of the
# same name whether they can use Triton; that one stays as it is.
_ASKED = "_use_triton"
_MODULES = ("trl.trainer.utils", "trl.trainer.distillation_trainer")


def _takes_any_shape(device: torch.device) -> bool:
    return device.type in ("cpu", "cuda", "xpu")


@contextmanager
def only_where_labelled() -> Iterator[None]:
    """Within it, TRL's trainers compute logits at labelled positions only; a release that does not ask is left alone."""
    modules = [module for module in map(importlib.import_module, _MODULES) if hasattr(module, _ASKED)]
    originals = [getattr(module, _ASKED) for module in modules]
    try:
        for module in modules:
            setattr(module, _ASKED, _takes_any_shape)
        yield
    finally:
        for module, original in zip(modules, originals, strict=True):
            setattr(module, _ASKED, original)
