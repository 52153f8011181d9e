"""The licence of a model: as its card states it, and as it came with the model that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmops_components.models.directory import read_settings
from llmops_components.models.provenance import PROVENANCE_FILE, card_licence, lineage_of

_SAYS_NOTHING = ("", "unknown")
_NONE_KNOWN = "other"  # to the hub: there is a licence, and nobody says which


def licences_of(directory: Path) -> list[str]:
    """What is said of a model's licence: by its card, and by the record of the model that it was made from; without repetition.

    Args:
        directory: Model directory.
    """
    made_from = lineage_of(read_settings(directory / PROVENANCE_FILE) or {})[-1]
    stated = (card_licence(directory), made_from.get("license"))
    found = [str(each).strip().lower() for each in stated if each is not None]
    return list(dict.fromkeys(each for each in found if each not in _SAYS_NOTHING))


def licence_faults(found: Sequence[str], allowed: Sequence[str]) -> list[str]:
    """Why a model is not under the licences that are allowed; none where it is.

    Args:
        found: Of :func:`licences_of`.
        allowed: Identifiers as the hub writes them, such as ``apache-2.0``.
    """
    wanted = {each.strip().lower() for each in allowed}
    listed = ", ".join(sorted(wanted))
    if not found:
        return [
            f"Nothing says under which licence the model is. Allowed are {listed}: state it as `license` in the head of its README.md."
        ]
    return [
        f"The model is under the licence {each!r}, which is not among those allowed: {listed}."
        for each in found
        if each not in wanted or each == _NONE_KNOWN
    ]
