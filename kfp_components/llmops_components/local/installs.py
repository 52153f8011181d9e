"""What a step's command installs before its component: how it is read from the command, whether the data plane has it, what it is called."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import re
import shlex
from collections.abc import Sequence

from packaging.requirements import InvalidRequirement, Requirement

from llmops_components.redaction import redact

_INSTALL = re.compile(r"-m\s+pip\s+install\s+(?P<arguments>(?:'[^']*'|\"[^\"]*\"|[^'\"&|;\n)])+)")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s'\"]*@")
_QUERY = re.compile(r"\?[^\s'\"#?]*=[^\s'\"#]*")
_QUIET = {"--quiet", "-q", "--no-warn-script-location", "--user"}


def without_secrets(text: str) -> str:
    """Text without users, passwords and query strings of the addresses in it."""
    return redact(_QUERY.sub("", _CREDENTIALS.sub("", text)))


def is_written_for_data_plane(command: Sequence[str]) -> bool:
    """Whether a step installs nothing and uses this package: it may start what goes on in the data plane after it."""
    return _start_of_component(command) == 0 and any("llmops_components" in part for part in command)


def installs_of(command: Sequence[str]) -> list[list[str]]:
    """Arguments of each ``pip install`` that a step's command carries out before the component itself.

    Args:
        command: The command as compiled.

    Returns:
        ``[]`` for a step that installs nothing.
    """
    found = []
    for script in command[: _start_of_component(command)]:
        for match in _INSTALL.finditer(script):
            arguments = [word for word in shlex.split(match["arguments"]) if word not in _QUIET]
            if arguments not in found:  # "install X || install X --user" is one wish
                found.append(arguments)
    return found


def without_installs(command: Sequence[str]) -> list[str]:
    """The command that is left when its packages are there."""
    return list(command[_start_of_component(command) :])


def _start_of_component(command: Sequence[str]) -> int:
    """Where the part begins that runs the component: the shell whose script starts KFP's executor."""
    for index, part in enumerate(command):
        if "kfp.dsl.executor_main" in part:
            return max(index - 2, 0)
    return 0


def is_satisfied(installs: Sequence[Sequence[str]]) -> bool:
    """Whether the data plane has all of it as it is."""
    for arguments in installs:
        for word in arguments:
            if word == "--no-deps":
                continue
            try:
                requirement = Requirement(word)
                if requirement.marker and not requirement.marker.evaluate():
                    continue
                version = importlib.metadata.version(requirement.name)
            except (InvalidRequirement, importlib.metadata.PackageNotFoundError):
                return False
            if (
                requirement.url
                or requirement.extras
                or not requirement.specifier.contains(version, prereleases=True)
            ):
                return False
    return True


def names_wanted(installs: Sequence[Sequence[str]]) -> str:
    """The packages' names, for people."""
    words = []
    for arguments in installs:
        for index, word in enumerate(arguments):
            is_value = index > 0 and arguments[index - 1].startswith("-") and "=" not in arguments[index - 1]
            if word.startswith("-") or (is_value and arguments[index - 1] != "--no-deps"):
                continue
            with contextlib.suppress(InvalidRequirement):
                requirement = Requirement(word)
                if requirement.marker and not requirement.marker.evaluate():
                    continue
            words.append(without_secrets(word))
    return ", ".join(words) or "its packages"
