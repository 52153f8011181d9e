"""The rows of the database, how answers show them, and the names by which lists find them.

Upstream: ``model/*.go`` for the columns, ``server/api_converter.go`` for the answers. All times are whole seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from .filters import Listable
from .messages import rfc3339
from .specs import Spec

FINAL = frozenset({"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"})


@dataclass
class Experiment:
    experiment_id: str
    display_name: str
    description: str
    created: int
    namespace: str
    storage_state: str = "AVAILABLE"
    last_run: int = 0

    def to_json(self) -> dict[str, Any]:
        return populated(
            experiment_id=self.experiment_id,
            display_name=self.display_name,
            description=self.description,
            created_at=rfc3339(self.created),
            namespace=self.namespace,
            storage_state=self.storage_state,
            last_run_created_at=rfc3339(self.last_run),
        )


@dataclass
class Pipeline:
    pipeline_id: str
    name: str
    display_name: str
    description: str
    created: int
    namespace: str
    tags: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return populated(
            pipeline_id=self.pipeline_id,
            display_name=self.display_name,
            name=self.name,
            description=self.description,
            created_at=rfc3339(self.created),
            namespace=self.namespace,
            tags=self.tags,
        )


@dataclass
class Version:
    pipeline_id: str
    version_id: str
    name: str
    display_name: str
    description: str
    created: int
    spec: Spec
    code_source_url: str
    tags: dict[str, str]
    package_url: str = ""
    status: str = "READY"

    @property
    def spec_text(self) -> str:
        return self.spec.encoded.decode()

    def to_json(self) -> dict[str, Any]:
        return populated(
            pipeline_id=self.pipeline_id,
            pipeline_version_id=self.version_id,
            display_name=self.display_name,
            name=self.name,
            description=self.description,
            created_at=rfc3339(self.created),
            package_url={"pipeline_url": self.package_url} if self.package_url else None,
            code_source_url=self.code_source_url,
            pipeline_spec=self.spec.struct,
            tags=self.tags,
        )


@dataclass
class Run:
    run_id: str
    experiment_id: str
    namespace: str
    display_name: str
    description: str
    service_account: str
    storage_state: str
    created: int
    scheduled: int
    finished: int
    state: str
    workflow: str
    spec: Spec | None = None
    reference: dict[str, str] | None = None
    parameters: dict[str, Any] | None = None
    pipeline_root: str = ""
    plugins_input: dict[str, Any] | None = None
    recurring_run_id: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str | None = None
    reported: str = ""  # the last state that the workflow itself reported; empty until the first report
    _json: dict[str, Any] | None = None
    _encoded: bytes | None = None

    # Columns that upstream lists by and that this fake does not fill.
    @property
    def conditions(self) -> str:
        return self.state.title()

    @property
    def blank(self) -> str:
        return ""

    def changed(self) -> None:
        self._json = self._encoded = None

    def to_json(self) -> dict[str, Any]:
        if self._json is None:
            runtime = populated(parameters=self.parameters, pipeline_root=self.pipeline_root)
            source = (
                {"pipeline_version_reference": self.reference}
                if self.spec is None
                else {"pipeline_spec": self.spec.struct}
            )
            self._json = populated(
                experiment_id=self.experiment_id,
                run_id=self.run_id,
                display_name=self.display_name,
                storage_state=self.storage_state,
                description=self.description,
                **source,
                runtime_config=runtime,
                service_account=self.service_account,
                # A run that has not finished has the epoch here, not nothing (toApiRun).
                created_at=rfc3339(self.created),
                scheduled_at=rfc3339(self.scheduled),
                finished_at=rfc3339(self.finished),
                state=self.state,
                error=rpc_status(self.error),
                run_details=populated(task_details=list(self.tasks.values())),
                recurring_run_id=self.recurring_run_id,
                state_history=self.history,
                plugins_input=self.plugins_input,
            )
        return self._json

    def encoded(self) -> bytes:
        if self._encoded is None:
            # The spec is most of a run and never changes: it is encoded once, for all runs that share it.
            rest = {key: value for key, value in self.to_json().items() if key != "pipeline_spec"}
            encoded = json.dumps(rest, separators=(",", ":")).encode()
            if self.spec is not None:
                encoded = b'%s,"pipeline_spec":%s}' % (encoded[:-1], self.spec.encoded)
            self._encoded = encoded
        return self._encoded


RUN = Listable(
    "Run",
    columns={
        "run_id": "UUID",
        "id": "UUID",
        "display_name": "DisplayName",
        "name": "DisplayName",
        "created_at": "CreatedAtInSec",
        "finished_at": "FinishedAtInSec",
        "description": "Description",
        "scheduled_at": "ScheduledAtInSec",
        "storage_state": "StorageState",
        "status": "Conditions",
        "namespace": "Namespace",
        "experiment_id": "ExperimentUUID",
        "state": "State",
        "state_history": "StateHistory",
        "runtime_details": "PipelineRuntimeManifest",
        "recurring_run_id": "JobUUID",
    },
    attributes={
        "UUID": "run_id",
        "DisplayName": "display_name",
        "CreatedAtInSec": "created",
        "FinishedAtInSec": "finished",
        "Description": "description",
        "ScheduledAtInSec": "scheduled",
        "StorageState": "storage_state",
        "Conditions": "conditions",
        "Namespace": "namespace",
        "ExperimentUUID": "experiment_id",
        "State": "state",
        "StateHistory": "blank",
        "PipelineRuntimeManifest": "blank",
        "JobUUID": "recurring_run_id",
    },
    # model/run.go GetFieldValue knows these under other names, so there is no token for a second page.
    unsortable=frozenset({"ExperimentUUID", "StateHistory", "JobUUID"}),
)
EXPERIMENT = Listable(
    "Experiment",
    columns={
        "id": "UUID",
        "experiment_id": "UUID",
        "name": "Name",
        "display_name": "Name",
        "created_at": "CreatedAtInSec",
        "last_run_created_at": "LastRunCreatedAtInSec",
        "description": "Description",
        "namespace": "Namespace",
        "storage_state": "StorageState",
    },
    attributes={
        "UUID": "experiment_id",
        "Name": "display_name",
        "CreatedAtInSec": "created",
        "LastRunCreatedAtInSec": "last_run",
        "Description": "description",
        "Namespace": "namespace",
        "StorageState": "storage_state",
    },
    prefix="experiments.",
)
PIPELINE = Listable(
    "Pipeline",
    columns={
        "id": "UUID",
        "pipeline_id": "UUID",
        "name": "Name",
        "display_name": "DisplayName",
        "created_at": "CreatedAtInSec",
        "description": "Description",
        "namespace": "Namespace",
    },
    attributes={
        "UUID": "pipeline_id",
        "Name": "name",
        "DisplayName": "display_name",
        "CreatedAtInSec": "created",
        "Description": "description",
        "Namespace": "namespace",
    },
    prefix="pipelines.",
)
VERSION = Listable(
    "PipelineVersion",
    columns={
        "id": "UUID",
        "pipeline_version_id": "UUID",
        "name": "Name",
        "display_name": "DisplayName",
        "created_at": "CreatedAtInSec",
        "status": "Status",
        "description": "Description",
        "pipeline_spec": "PipelineSpec",
    },
    attributes={
        "UUID": "version_id",
        "Name": "name",
        "DisplayName": "display_name",
        "CreatedAtInSec": "created",
        "Status": "status",
        "Description": "description",
        "PipelineSpec": "spec_text",
    },
    prefix="pipeline_versions.",
)


def populated(**fields: Any) -> dict[str, Any]:
    """Without empty fields, as protojson writes messages (``EmitUnpopulated: false``)."""
    return {name: value for name, value in fields.items() if value not in (None, "", {}, [])}


def status(seconds: int, state: str) -> dict[str, Any]:
    return {"update_time": rfc3339(seconds), "state": state}


def rpc_status(message: str | None) -> dict[str, Any] | None:
    return None if message is None else {"code": 13, "message": message}
