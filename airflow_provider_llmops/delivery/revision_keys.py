"""Keys of revisions: the name alone comes again when a service is made anew, so the digest of the manifest stands behind it."""

from __future__ import annotations

__all__ = ["key_of", "parts_of"]


def key_of(revision: str, digest: str | None) -> str:
    """A revision, by which it is known whatever becomes of the service.

    :param revision: its name
    :param digest: of its manifest
    """
    return f"{revision}@{digest}"


def parts_of(key: str) -> tuple[str, str | None]:
    """Name and digest of a revision.

    :param key: of :func:`key_of`
    """
    revision, _, digest = key.partition("@")
    return revision, None if digest == "None" else digest
