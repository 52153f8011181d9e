"""Name of the environment that a wish for packages leads to: the same for the same wish."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from llmops_components.errors import SettingError
from llmops_components.local.installed import snapshot
from llmops_components.local.installs import without_secrets
from llmops_components.uris import file_path


def key_of(installs: Sequence[Sequence[str]]) -> str:
    """Name of the environment: the same for the same wish, Python, index and data plane; no secret takes part.

    What the wish names on this machine has to be unchanged, too.
    """
    settings = {
        name: without_secrets(value)
        for name, value in os.environ.items()
        if name.startswith("PIP_")
        and name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONSTRAINT", "PIP_PRE")
    }
    facts = [
        [[without_secrets(word) for word in arguments] for arguments in installs],
        settings,
        sys.version,
        sysconfig.get_platform(),
        sys.prefix,
        sorted(snapshot()),
    ]
    paths = (_path_in(word) for arguments in installs for word in arguments)
    facts += [state for path in paths if path and (state := _state_of(path))]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _path_in(word: str) -> Path | None:
    """What an argument of ``pip install`` names on this machine: a wheel, a source tree, a file of requirements."""
    path = word.partition("=")[2] if word.startswith("-") else word
    with contextlib.suppress(
        SettingError, OSError, RuntimeError, ValueError
    ):  # no path, whatever it looks like
        if (at := word.lower().find("file:")) >= 0:
            address = re.split(r"[?#]| ;", word[at:])[0]  # where the path ends for pip
            relative = address[len("file:") :]
            path = file_path(address, "packages_to_install") if relative.startswith("/") else relative
        elif not (os.sep in path or path.startswith(".") or path.endswith((".whl", ".gz", ".zip", ".txt"))):
            return None  # the name of a package
        found = Path(re.sub(r"\[[^\]]*\]$", "", path.strip())).expanduser()  # without extras
        return found if path and found.exists() else None
    return None


def _state_of(path: Path) -> list[list[object]]:
    """Size and time of each file below a path that an installation may read and does not make itself."""
    if path.is_dir():
        if not any((path / name).is_file() for name in ("pyproject.toml", "setup.py")):
            return []  # a folder with wheels for many: a new one there changes nothing
        files = []
        for directory, below, names in os.walk(path):
            below[:] = [
                name
                for name in below
                if name not in ("build", "__pycache__")
                and not name.startswith(".")
                and not name.endswith(".egg-info")
            ]
            files += [Path(directory, name) for name in names]
    else:
        files = [path]
    state: list[list[object]] = []
    for file in sorted(files):
        with contextlib.suppress(OSError):  # gone since
            status = file.stat()
            state.append([str(file), status.st_size, status.st_mtime_ns])
    return state
