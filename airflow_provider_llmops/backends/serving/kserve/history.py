"""Former specifications of a service, to go back to: each a ``ControllerRevision``, Kubernetes' own object for that.

It belongs to the service and is deleted with it. Its data cannot be changed; what may differ from run to run stands in its annotations,
since on the service itself it would roll all pods out again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_llmops.backends.serving.kserve.reading import REVISION_LABEL

SERVICE_LABEL = "llmops/service"
AS_OF_ANNOTATION = "llmops/as-of"
ASKED_ANNOTATION = "llmops/asked-at"
SERVED_ANNOTATION = "llmops/served-at"
WITHDRAWN_ANNOTATION = "llmops/withdrawn-at"
DIGEST_ANNOTATION = "llmops/manifest-digest"
API_VERSION = "apps/v1"
MAX_RECORDS = 10


@dataclass(frozen=True)
class Record:
    """A specification that the service was given.

    :param revision: its name
    :param number: which one it was, counted from 1
    :param manifest: the ``InferenceService``
    :param digest: of the manifest as it was given, whose notes KServe does not get
    :param as_of: date or partition of its model, as text that sorts
    :param asked_at: when it was asked for last; times are in ISO 8601 and UTC, so that they sort
    :param served_at: when it was given the requests last; ``None`` if it never was
    :param withdrawn_at: when it was given up last
    """

    revision: str
    number: int
    manifest: Mapping[str, Any]
    digest: str | None = None
    as_of: str | None = None
    asked_at: str = ""
    served_at: str | None = None
    withdrawn_at: str | None = None

    @property
    def is_given_up(self) -> bool:
        """Whether it was given up since it was asked for."""
        return self.withdrawn_at is not None and self.withdrawn_at >= self.asked_at

    @property
    def has_traffic(self) -> bool:
        """Whether it was given the requests since it was asked for."""
        return self.served_at is not None and self.served_at >= self.asked_at

    @property
    def notes(self) -> dict[str, str | None]:
        """What may change, as annotations."""
        return {
            DIGEST_ANNOTATION: self.digest,
            AS_OF_ANNOTATION: self.as_of,
            ASKED_ANNOTATION: self.asked_at,
            SERVED_ANNOTATION: self.served_at,
            WITHDRAWN_ANNOTATION: self.withdrawn_at,
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Record:
        """Read a ``ControllerRevision``."""
        metadata = document["metadata"]
        annotations = metadata.get("annotations") or {}
        return cls(
            metadata["labels"][REVISION_LABEL],
            document["revision"],
            document["data"],
            annotations.get(DIGEST_ANNOTATION),
            annotations.get(AS_OF_ANNOTATION),
            annotations.get(ASKED_ANNOTATION, ""),
            annotations.get(SERVED_ANNOTATION),
            annotations.get(WITHDRAWN_ANNOTATION),
        )


def document_of(service: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """The ``ControllerRevision`` of a specification.

    :param service: the ``InferenceService`` that has it, as the API server has it
    :param record: what to keep
    """
    metadata = service["metadata"]
    owner = {
        "apiVersion": service["apiVersion"],
        "kind": service["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "ControllerRevision",
        "metadata": {
            "name": name_of(metadata["name"], record.revision),
            "namespace": metadata["namespace"],
            "labels": {SERVICE_LABEL: metadata["name"], REVISION_LABEL: record.revision},
            "annotations": {key: value for key, value in record.notes.items() if value is not None},
            "ownerReferences": [owner],
        },
        "revision": record.number,
        "data": dict(record.manifest),
    }


def name_of(service: str, revision: str) -> str:
    """Name of the object that keeps a revision.

    :param service: name of the service
    :param revision: name of the revision
    """
    return f"{service}-{revision}"


def former_of(records: Mapping[str, Record], revision: str, ready: Collection[str]) -> Record | None:
    """What to go back to from a revision: what serves beside it, else what served last, else what was asked for last.

    :param records: by name
    :param revision: the revision
    :param ready: revisions that have pods that are ready
    :return: ``None`` if there is nothing that was not given up
    """
    others = [each for each in records.values() if each.revision != revision and not each.is_given_up]
    return max(
        others, key=lambda each: (each.revision in ready, each.served_at or "", each.asked_at), default=None
    )


def superfluous(records: Mapping[str, Record], revision: str) -> list[Record]:
    """Records that nobody goes back to any more.

    :param records: by name
    :param revision: the one that is asked for
    """
    others = [each for each in records.values() if each.revision != revision]
    others.sort(key=lambda each: (not each.is_given_up, each.served_at or "", each.asked_at))
    return others[: -(MAX_RECORDS - 1)] if len(others) >= MAX_RECORDS else []
