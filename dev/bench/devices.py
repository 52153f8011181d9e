"""The device that a benchmark runs on: a GPU where there is one, unless ``--device`` says otherwise."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import resource
from pathlib import Path


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), help="a GPU where there is one")


def chosen(wanted: str | None) -> str:
    """``cpu`` or ``cuda``, for this process and its children; to be asked for before torch looks for GPUs."""
    if wanted == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    there = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted not in (None, there):
        raise SystemExit("No GPU that torch can use was found. Start it with --device cpu.")
    return there


def described(device: str) -> str:
    """What it is, and which torch computes on it."""
    import torch

    versions = f"torch {torch.__version__}"
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        return f"{card.name}, {card.total_memory / 2**30:.0f} GiB, {versions}"
    return f"{os.cpu_count()} cores of {_processor()}, {versions}"


def peak_gib(device: str) -> float:
    """The most memory that this process has had, of the device."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    import torch

    return torch.cuda.max_memory_allocated() / 2**30


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
