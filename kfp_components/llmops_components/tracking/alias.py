"""Move an alias of a registered model by a decision, not to whichever version was registered last.

MLflow knows no "set this alias unless somebody else has". So a registration first claims the alias by a tag on its
version, then looks who has it, sets it, and looks at the claims again: of two that run at the same time, the one that
sets the alias last sees the other's claim, and hands the alias on if that one's model is of a newer date.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

AS_OF_TAG = "llmops.as_of"
_CLAIM_TAG = "llmops.alias."
_ASKED, _MOVED = "asked", "moved"


@dataclass(frozen=True)
class AliasMove:
    """What became of an alias.

    Args:
        moved: Whether it points to another version than before.
        version: Version that has it now; None for none.
        note: Why, in a sentence.
    """

    moved: bool
    version: str | None
    note: str


def note_date(client: MlflowClient, version: ModelVersion, as_of: str) -> None:
    """Tag a version with the date that its model is of, the newest if it was registered more than once.

    Args:
        client: Of the registry.
        version: The version.
        as_of: Date or partition, as text that sorts.
    """
    if as_of > version.tags.get(AS_OF_TAG, ""):
        client.set_model_version_tag(version.name, version.version, AS_OF_TAG, as_of)


def move_alias(
    client: MlflowClient,
    version: ModelVersion,
    alias: str,
    as_of: str | None,
    *,
    only_if_newer: bool = True,
) -> AliasMove:
    """Point an alias to a version, unless a version of a newer date has it.

    Args:
        client: Of the registry.
        version: The version.
        alias: The alias.
        as_of: Date or partition that the model is of, as text that sorts; None moves the alias in any case.
        only_if_newer: False moves it in any case, and notes the date, so that what is older does not move it back.
    """
    name, number, tag = version.name, str(version.version), f"{_CLAIM_TAG}{alias}"
    moved = _moved_for(version, tag)
    if as_of is not None:
        client.set_model_version_tag(name, number, tag, f"{_ASKED} {as_of}")
    settled = {claim for claim in _claims(client, name, tag) if not claim.is_open}
    holder = _holder(client, name, alias)
    if holder is not None and str(holder.version) == number:
        move = AliasMove(False, number, f"Alias {alias!r} is at version {number} already.")
    elif (
        only_if_newer
        and holder is not None
        and as_of is not None
        and (newer := _held_since(holder, tag)) > as_of
    ):
        move = _left(alias, str(holder.version), newer, as_of)
    else:
        client.set_registered_model_alias(name, alias, number)
        where = "for the first time" if holder is None else f"from version {holder.version}"
        move = AliasMove(True, number, f"Alias {alias!r} has moved to version {number} {where}.")
        while (
            only_if_newer
            and as_of is not None
            and (rival := _newer_rival(client, name, alias, as_of, settled))
        ):
            client.set_registered_model_alias(name, alias, rival.version)
            move = _left(alias, rival.version, rival.as_of, as_of)
    if as_of is not None:
        done = _MOVED if move.version == number else "left"
        # One that comes late does not make what is there already older.
        client.set_model_version_tag(
            name, number, tag, f"{done} {max(as_of, moved if done == _MOVED else '')}"
        )
    return move


@dataclass(frozen=True)
class _Claim:
    as_of: str
    version: str
    is_open: bool


def _claims(client: MlflowClient, name: str, tag: str) -> list[_Claim]:
    claims = []
    for version in client.search_model_versions(f"name = '{name}'"):
        state, _, as_of = version.tags.get(tag, "").partition(" ")
        if as_of:
            claims.append(_Claim(as_of, str(version.version), state == _ASKED))
    return claims


def _newer_rival(
    client: MlflowClient, name: str, alias: str, as_of: str, settled: set[_Claim]
) -> _Claim | None:
    """Who has to have the alias that this registration has just set, of those that asked for it meanwhile."""
    rivals = [claim for claim in _claims(client, name, f"{_CLAIM_TAG}{alias}") if claim not in settled]
    newest = max(rivals, key=lambda claim: claim.as_of, default=None)
    holder = _holder(client, name, alias)
    if newest is None or newest.as_of <= as_of or (holder and str(holder.version) == newest.version):
        return None
    return newest


def _holder(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    number = client.get_registered_model(name).aliases.get(alias)
    return None if number is None else client.get_model_version(name, str(number))


def date_of(version: ModelVersion) -> str:
    """The date that a version is of; of one that says nothing of it, when it was made.

    Args:
        version: The version.
    """
    made = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    return version.tags.get(AS_OF_TAG) or made.strftime("%Y-%m-%dT%H:%M:%SZ")


def _held_since(holder: ModelVersion, tag: str) -> str:
    """The date that counts for an alias: its version's, or that for which it was moved there, whichever is newer."""
    return max(date_of(holder), _moved_for(holder, tag))


def _moved_for(version: ModelVersion, tag: str) -> str:
    """The date for which an alias was moved to a version; empty where it was not."""
    state, _, as_of = version.tags.get(tag, "").partition(" ")
    return as_of if state == _MOVED else ""


def _left(alias: str, version: str, newer: str, older: str) -> AliasMove:
    note = f"Alias {alias!r} stays at version {version}, which is newer: of {newer}; this one is of {older}."
    return AliasMove(False, version, note)
