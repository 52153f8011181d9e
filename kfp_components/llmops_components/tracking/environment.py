"""What a training ran on, for tracking and for the model card."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llmops_components.processes import process_count

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "deepspeed")


def environment() -> dict[str, Any]:
    """Python, libraries, device and number of processes; nothing of the variables or the paths of the machine."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device_name(),
        "processes": process_count(),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
    }


def device_name() -> str:
    """Name of the GPU, or of the processor with the number of cores."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = (line.partition(":") for line in cpuinfo.read_text(encoding="utf-8").splitlines())
        model = next((value.strip() for key, _, value in lines if key.strip() == "model name"), model)
    return f"{model}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
