"""Builds of PyTorch, which differ in what they take on the disk."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PYPI_BUILD = "cuda"  # for Linux


@dataclass(frozen=True)
class Size:
    """Disk that an environment takes, in bytes.

    :param installed: what stays
    :param downloads: what pip has in the temporary directory, and keeps in its cache
    """

    installed: float
    downloads: float


# Measured with the constraints of November 2026, rounded up.
CONTROL_PLANE_SIZE = Size(0.6e9, 0.2e9)
CPU_SIZE = Size(2.6e9, 0.8e9)
CUDA_SIZE = Size(6.7e9, 3.3e9)


def installed_build(directory: Path, requirement: str) -> str | None:
    """The build of torch that an environment has, as :func:`torch_build` says; None if it has not that version.

    :param directory: the environment
    :param requirement: ``torch==version``
    """
    version = requirement.partition("==")[2]
    pattern = f"lib/python*/site-packages/torch-{version}*.dist-info"
    for found in directory.glob(pattern):
        installed, _, name = found.name.removesuffix(".dist-info").removeprefix("torch-").partition("+")
        if installed == version:
            return name or _build_without_name()
    return None


def torch_build(python: Path, requirement: str, options: Sequence[str] = ()) -> str:
    """Which build of torch pip would install: ``cpu``; ``cuda``, which is PyPI's for Linux; or another by its name.

    Of one version pip prefers a build with a name, such as ``2.13.0+cpu``, to the one without. PyPI has the latter alone, which on
    Linux is the one with CUDA.

    :param python: interpreter with the pip that would install it
    :param requirement: ``torch==version``
    :param options: options of ``pip install`` that say where packages come from
    """
    command = [
        str(python),
        "-m",
        "pip",
        "index",
        "versions",
        "torch",
        "--disable-pip-version-check",
        *options,
    ]
    answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    version = re.escape(requirement.partition("==")[2])
    builds = re.findall(rf"(?<![\w.]){version}(?:\+([\w.]+))?(?=[,)\s]|$)", answer.stdout)
    return max(builds, default="") or _build_without_name()


def _build_without_name() -> str:
    return PYPI_BUILD if sys.platform == "linux" else "cpu"


def describe(size: Size) -> str:
    """A size in words."""
    return f"{size.installed / 1e9:.1f} GB, and {size.downloads / 1e9:.1f} GB of downloads"


def cpu_hint() -> str:
    """How to have the smaller build."""
    return f"PIP_EXTRA_INDEX_URL={CPU_INDEX} gets the CPU build: {describe(CPU_SIZE)}."
