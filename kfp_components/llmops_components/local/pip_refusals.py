"""Why pip did not install what a step wants, and whether a retry may help."""

from __future__ import annotations

from llmops_components.errors import ComponentError, InputError, UnavailableError
from llmops_components.local.installs import without_secrets

_UNREACHABLE = (
    "connection broken",
    "connection error",
    "name resolution",
    "network is unreachable",
    "timed out",
    "proxyerror",
    "connection refused",
    "no space left",
    "too many requests",
    "internal server error",
    "service unavailable",
    "bad gateway",
)
_LINES_OF_PIP = 3


class PackagesUnavailable(UnavailableError):
    """The packages of a step cannot be had right now."""


class PackagesRefused(InputError):
    """The packages of a step do not exist, contradict each other, or cannot be built here."""


def pip_refusal(log: str, wanted: str, step: str) -> ComponentError:
    """What pip said, as an error that a retry may or may not help against."""
    lines = [without_secrets(line.strip()) for line in log.splitlines() if line.strip()]
    errors = [line.partition(":")[2].strip() for line in lines if line.startswith("ERROR:")]
    unreachable = [line for line in lines if any(sign in line.lower() for sign in _UNREACHABLE)]
    if unreachable:
        reason = (
            unreachable[-1]
            .rpartition("after connection broken by ")[2]
            .partition("')': ")[0]
            .rpartition(">: ")[2]
        )
        return PackagesUnavailable(
            f"{wanted} cannot be installed for step {step}: the package index does not answer ({reason:.300}). Give this "
            "machine a way to it (PIP_INDEX_URL, a proxy, or PIP_FIND_LINKS with the wheels), or name packages that the data "
            "plane has."
        )
    reason = " ".join((errors or lines or ["pip gave no reason"])[-_LINES_OF_PIP:])
    return PackagesRefused(
        f"{wanted} cannot be installed for step {step}: {reason:.600} Correct packages_to_install of the component, or the "
        "index that it names."
    )
