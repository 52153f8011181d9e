"""Which packages the data plane has, and which an environment on top of it; the data plane's stay as they are."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from packaging.utils import canonicalize_name

from llmops_components.errors import InputError

# A step's own kfp is its harness: nothing else of the data plane imports it while a step runs.
_HARNESS = {"kfp", "kfp-pipeline-spec", "kfp-server-api"}


class DataPlaneChanged(InputError):
    """A step has written to the environment that all runs start from."""


def snapshot() -> dict[str, str]:
    """What is installed in the data plane, and when; cheap enough to be asked after every step."""
    found = {}
    for directory in data_plane_directories():
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith((".dist-info", ".egg-info", ".egg-link")):
                    found[entry.name] = str(entry.stat().st_mtime_ns)
    return found


def check_unchanged(before: Mapping[str, str], step: str) -> None:
    """Raise :class:`DataPlaneChanged` if packages were installed or removed since.

    Args:
        before: An earlier :func:`snapshot`.
        step: The step that ran since.
    """
    after = snapshot()
    gone = sorted(_label(name) for name in before.keys() - after.keys())
    new = sorted(_label(name) for name, changed in after.items() if before.get(name) != changed)
    if gone or new:
        raise DataPlaneChanged(
            f"The data plane's packages were changed while step {step} ran: "
            f"{'; '.join(filter(None, [gone and 'gone: ' + ', '.join(gone), new and 'new: ' + ', '.join(new)]))}. "
            f"Every run starts from {sys.prefix}: put it right (dev/setup does), and let the step name its packages in "
            "packages_to_install instead of installing them there. If somebody else changed it, clear the task."
        )


def packages_in(directory: Path) -> Path:
    return directory / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def data_plane_directories() -> list[Path]:
    """The data plane's."""
    return list(dict.fromkeys(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")))


def distributions(directory: Path) -> dict[str, str]:
    """Names and versions in an environment alone, without what lies below it."""
    found = importlib.metadata.distributions(path=[str(packages_in(directory))])
    return {canonicalize_name(one.name): one.version for one in found}


def packages_replaced(directory: Path) -> str:
    """Packages of the data plane that an environment on top of it holds in another version."""
    names = []
    for name, version in distributions(directory).items():
        if name not in _HARNESS:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                names.append(f"{name} {importlib.metadata.version(name)} by {version}")
    return ", ".join(sorted(names))


def _label(name: str) -> str:
    return " ".join(name.rsplit(".", 1)[0].split("-")[:2])
