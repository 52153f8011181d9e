"""The memory of a device: what a process may still take of it, and what it gives back."""

from __future__ import annotations

import gc
from contextlib import suppress
from pathlib import Path
from typing import Any

_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: Any) -> int:
    """Memory that a process may still take on a device, with what it holds and does not use.

    Args:
        device: A ``torch.device``. On a CPU the container's limit counts where there is one.
    """
    import psutil
    import torch

    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # without a limit there is no file, or "max" in it
        limit, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(stat["inactive_file"]))
    return free


def free_unused() -> None:
    """Give back what nothing refers to any more."""
    from accelerate.utils.memory import clear_device_cache

    gc.collect()
    clear_device_cache()
