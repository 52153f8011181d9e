"""Connection to whatever carries out pipeline runs."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from airflow_provider_llmops.backends.pipelines.base import server_of
from airflow_provider_llmops.connections import (
    KUBEFLOW_FIELDS,
    LOCAL_FIELDS,
    RUNS_FIELDS,
    SERVICES_FIELDS,
    form_defaults,
)
from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown, shown_value
from airflow_provider_llmops.redaction import redact

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_provider_llmops.backends.pipelines.base import PipelineBackend, Run, RunRequest

__all__ = ["KubeflowPipelinesHook", "local_settings"]

DEFAULT_ROOT = "~/.llmops"
_FORM_DEFAULTS = form_defaults(KUBEFLOW_FIELDS) | form_defaults(SERVICES_FIELDS)


def local_settings(connection: Connection, *further: str) -> dict[str, Any]:
    """Settings of a local backend, from a connection's extra.

    :param connection: connection without a host
    :param further: fields that are known besides those of every local backend
    :raises ConfigurationError: a field is unknown, or the interpreter is missing
    """
    known = {*LOCAL_FIELDS, *further}
    extra = {
        name: value
        for name, value in connection.extra_dejson.items()
        if value not in (None, "") and _FORM_DEFAULTS.get(name) != value
    }
    if unknown := describe_unknown(extra, known):
        raise ConfigurationError(
            f"Connection {connection.conn_id!r}: unknown field {unknown} in extra. Known: {', '.join(sorted(known))}."
        )
    if "python" not in extra:
        raise ConfigurationError(
            f"Connection {connection.conn_id!r} has no host, so it is local and needs 'python' in extra: the interpreter "
            "of the environment in which llmops-components is installed."
        )
    root = Path(extra.get("root", DEFAULT_ROOT)).expanduser()
    if not root.is_absolute():  # it would be another directory in a worker than in the triggerer
        raise ConfigurationError(
            f"Connection {connection.conn_id!r}: 'root' in extra must be an absolute path of this machine, got {shown_value(extra['root'], 200)}."
        )
    return {**extra, "root": root}


class KubeflowPipelinesHook(BaseHook):
    """Submit, watch and cancel pipeline runs.

    A connection with a host is an API server of Kubeflow Pipelines 2. One without runs pipelines on this machine, in
    detached processes of the data plane's interpreter.

    :param kubeflow_conn_id: connection of type ``kubeflow``
    """

    conn_name_attr = "kubeflow_conn_id"
    default_conn_name = "kubeflow_default"
    conn_type = "kubeflow"
    hook_name = "Kubeflow Pipelines"

    def __init__(self, kubeflow_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.kubeflow_conn_id = kubeflow_conn_id

    @cached_property
    def backend(self) -> PipelineBackend:
        """The backend that the connection chooses."""
        return self._backend_of(self.get_connection(self.kubeflow_conn_id))

    async def aget_backend(self) -> PipelineBackend:
        """The same from the triggerer, where connections are read asynchronously."""
        if "backend" not in self.__dict__:
            self.__dict__["backend"] = self._backend_of(await self.aget_connection(self.kubeflow_conn_id))
        return self.backend

    def _backend_of(self, connection: Connection) -> PipelineBackend:
        if connection.host:
            from airflow_provider_llmops.backends.pipelines.kubeflow.backend import KubeflowPipelineBackend
            from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings

            return KubeflowPipelineBackend(KfpSettings.of(connection))
        # Whoever reads DAGs runs nothing.
        from airflow_provider_llmops.backends.pipelines.local.backend import (
            DEFAULT_SLOTS,
            LocalPipelineBackend,
        )

        settings = local_settings(connection, *RUNS_FIELDS)
        try:
            settings["slots"] = int(settings.get("slots", DEFAULT_SLOTS))
        except ValueError:
            settings["slots"] = 0
        if settings["slots"] < 1:
            raise ConfigurationError(
                f"Connection {self.kubeflow_conn_id!r}: 'slots' in extra must be a number from 1 on."
            )
        if (retention := settings.pop("retention", None)) is not None:
            settings["retention"] = self._days(retention)
        return LocalPipelineBackend(**settings)

    def _days(self, value: Any) -> float:
        try:
            days = float(value)
        except (TypeError, ValueError):
            days = 0.0
        if not 0 < days < math.inf:
            raise ConfigurationError(
                f"Connection {self.kubeflow_conn_id!r}: 'retention' in extra must be a number of days above 0, got {shown_value(value, 60)}."
            )
        return days

    def get_conn(self) -> PipelineBackend:
        """The backend."""
        return self.backend

    def submit(self, request: RunRequest) -> str:
        """Start a run and return its id.

        :param request: what to run
        """
        return self.backend.submit(request)

    def get_run(self, run_id: str) -> Run:
        """Read a run.

        :param run_id: the backend's id
        """
        return self.backend.get(run_id)

    def cancel(self, run_id: str) -> None:
        """Stop a run; does nothing if it has ended.

        :param run_id: the backend's id
        """
        self.backend.cancel(run_id)

    def page_url(self, uri: str) -> str:
        """Address at which a browser shows an artifact; empty if there is none.

        :param uri: address of the artifact
        """
        return self.backend.page_url(uri, self.kubeflow_conn_id)

    def retry(self, run_id: str) -> None:
        """Go on with a failed run: its failed steps and those that depend on them. Not on the local backend.

        :param run_id: the backend's id
        """
        server_of(self.backend, "To go on with a failed run").retry(run_id)

    def test_connection(self) -> tuple[bool, str]:
        """Whether the backend can be used, and why not."""
        try:
            return True, self.backend.check()
        except Exception as error:
            return False, redact(str(error))
