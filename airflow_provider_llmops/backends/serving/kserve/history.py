"""Former specifications of a service, to go back to: each a ``ControllerRevision``, Kubernetes' own object for that.

It belongs to the service and is deleted with it. Its data cannot be changed; what may differ from run to run stands in its annotations,
since on the service itself it would roll all pods out again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_llmops.backends.serving.kserve.reading import REVISION_LABEL

SERVICE_LABEL = "llmops/service"
AS_OF_ANNOTATION = "llmops/as-of"
SERVED_ANNOTATION = "llmops/served-at"
DIGEST_ANNOTATION = "llmops/manifest-digest"
API_VERSION = "apps/v1"


@dataclass(frozen=True)
class Record:
    """A specification that the service was given.

    :param revision: its name
    :param number: which one it was, counted from 1
    :param manifest: the ``InferenceService``
    :param as_of: date or partition of its model, as text that sorts
    :param digest: of the manifest as it was given, whose notes KServe does not get
    :param served_at: when it was given the traffic, by the clock of whoever did, in ISO 8601; ``None`` if it never was
    """

    revision: str
    number: int
    manifest: Mapping[str, Any]
    digest: str | None = None
    as_of: str | None = None
    served_at: str | None = None

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
            annotations.get(SERVED_ANNOTATION),
        )


def document_of(service: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """The ``ControllerRevision`` of a specification that has not served yet.

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
            "annotations": {DIGEST_ANNOTATION: record.digest},
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


def former_of(records: Mapping[str, Record], revision: str) -> Record | None:
    """What served last before a revision; ``None`` if nothing has.

    :param records: by name
    :param revision: the revision
    """
    others = [each for each in records.values() if each.served_at and each.revision != revision]
    return max(others, key=lambda each: each.served_at or "", default=None)
