"""Wheels made on the spot, so that pip has something to install without a network."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path


def make_wheel(directory: Path, name: str, version: str, files: Mapping[str, str | bytes]) -> Path:
    """Write a pure wheel.

    :param directory: where to
    :param name: name of the distribution
    :param files: content of each file by its path below ``site-packages``
    """
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    everything = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*everything, f"{info}/RECORD"))
    path = directory / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name_in_wheel, content in {**everything, f"{info}/RECORD": record}.items():
            wheel.writestr(name_in_wheel, content)
    return path


def repack_kfp(directory: Path, site_packages: Path, version: str) -> Path:
    """Write a wheel with what KFP runs a step with, under another version.

    :param directory: where to
    :param site_packages: where KFP is installed
    :param version: the version that it is to say it has
    """
    package = site_packages / "kfp"
    sources = [package / "__init__.py", package / "version.py", *(package / "dsl").rglob("*.py")]
    files = {
        str(path.relative_to(site_packages)): path.read_bytes() for path in sources if "test" not in path.name
    }
    files["kfp/version.py"] = f"__version__ = {version!r}\n".encode()
    return make_wheel(directory, "kfp", version, files)
