"""The runs on the server: found, read, listed, ended and made to go on."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_llmops.backends.pipelines.base import Run
from airflow_provider_llmops.backends.pipelines.kubeflow.api import KfpApi, RefusedError, WorkflowGoneError
from airflow_provider_llmops.backends.pipelines.kubeflow.filters import filter_of, predicate
from airflow_provider_llmops.backends.pipelines.kubeflow.reading import EPOCH, RunReader
from airflow_provider_llmops.exceptions import RunNotFoundError
from airflow_provider_llmops.states import RunState

log = logging.getLogger(__name__)

MAX_RUNS_PER_READ = 100  # ids in one filter: about 5 KB of URL, below the 8 KB that common proxies take
MAX_DESCRIPTION = 255
_LABELS_FIRST = (
    "fingerprint", "component_digest", "dag_version", "dag_run_id", "task_id", "dag_id", "bundle_version", "provider_version",
)  # fmt: skip


class ServerRuns:
    """The runs of a connection's namespace.

    :param api: the server
    :param reader: reads its answers
    """

    def __init__(self, api: KfpApi, reader: RunReader) -> None:
        self._api = api
        self._reader = reader

    def get(self, run_id: str, *, patience: float | None = None) -> Run:
        """Read one run.

        :param run_id: the run
        :param patience: seconds to go on trying; the connection's when ``None``
        :raises RunNotFoundError: there is none with that id
        """
        try:
            answer = self._api.call(self._api.runs.run_service_get_run, run_id, patience=patience)
        except RefusedError as error:
            if error.status == 404:
                raise RunNotFoundError(str(error)) from error
            raise
        return self._reader.read(answer)

    def find(self, display_name: str, *, patience: float | None = None) -> Run | None:
        """The run of that name. If there are several, the oldest; the others are stopped.

        The server's database compares without case, accents and spaces at the end; here every character counts.

        :param display_name: the name
        :param patience: seconds to go on trying; the connection's when ``None``
        """
        named = predicate("display_name", "EQUALS", string_value=display_name)
        found = self._list(named, sort_by="created_at", patience=patience)
        runs = [run for run in found if run.display_name == display_name]
        for twin in runs[1:]:
            if not twin.state.is_terminal:
                log.warning("Run %s has the name of run %s and is stopped", twin.run_id, runs[0].run_id)
                self.cancel(twin.run_id, patience=patience)
        return runs[0] if runs else None

    def find_reusable(self, fingerprint: str) -> Run | None:
        """The newest successful run whose description, see :func:`description_of`, has a fingerprint.

        :param fingerprint: what the run's label ``fingerprint`` was
        """
        line = f"fingerprint: {fingerprint}"
        # Found without case, and with wildcards in it; here the line is compared.
        wanted = predicate("description", "IS_SUBSTRING", string_value=line)
        succeeded = predicate("state", "EQUALS", string_value=RunState.SUCCEEDED)
        found = self._answers(wanted, succeeded, sort_by="created_at desc", page_size=1)
        same = (answer for answer in found if line in str(answer.get("description", "")).splitlines())
        return next((self._reader.read(answer) for answer in same), None)

    def list_finished(self, since: datetime, *, with_steps_of: Container[str]) -> Iterator[Run]:
        """Runs that finished at or after a moment, by the server's clock, which counts whole seconds.

        :param since: the moment
        :param with_steps_of: ids of the runs whose steps are told; each specification has to be read for that, and the
            runs are anybody's
        """
        after = since.astimezone(UTC).replace(microsecond=0).strftime("%Y-%m-%dT%H:%M:%SZ")
        # A run that has not finished carries the epoch, so the filter leaves it out.
        finished = predicate("finished_at", "GREATER_THAN_EQUALS", timestamp_value=after)
        return self._list(finished, sort_by="finished_at", with_steps_of=with_steps_of)

    def last_finished_at(self) -> datetime:
        """When the run that finished last did so, by the server's clock; the epoch if none has."""
        newest = next(self._list(sort_by="finished_at desc", page_size=1, with_steps_of=()), None)
        return (newest and newest.finished_at) or EPOCH + timedelta(seconds=1)

    def read_many(self, run_ids: Sequence[str]) -> dict[str, Run]:
        """Read several runs at once; those that do not exist are left out.

        :param run_ids: at most :data:`MAX_RUNS_PER_READ`
        """
        wanted = predicate("run_id", "IN", string_values={"values": list(run_ids)})
        return {run.run_id: run for run in self._list(wanted)}

    def cancel(self, run_id: str, *, patience: float | None = None) -> None:
        """Terminate a run; does nothing if it has ended.

        Of one whose workflow somebody has deleted nothing runs any more, though the server calls it CANCELING from then on.

        :param run_id: the run
        :param patience: seconds to go on trying; the connection's when ``None``
        """

        def is_over() -> bool:
            state = self.get(run_id, patience=patience).state
            return state.is_terminal or state.is_canceled

        if not is_over():
            try:
                self._api.call(self._api.runs.run_service_terminate_run, run_id, patience=patience)
            except WorkflowGoneError as error:
                log.warning("Run %s is let go, since nothing of it runs: %s", run_id, error)
            except RefusedError:
                if not is_over():  # it ended between the two requests, or the answer to the first was lost
                    raise

    def _list(
        self, *predicates: dict[str, Any], with_steps_of: Container[str] | None = None, **kwargs: Any
    ) -> Iterator[Run]:
        """The runs to which all conditions apply; with the steps of all when ``with_steps_of`` is ``None``."""
        for answer in self._answers(*predicates, **kwargs):
            with_steps = with_steps_of is None or answer["run_id"] in with_steps_of
            yield self._reader.read(answer, with_steps=with_steps)

    def _answers(self, *predicates: dict[str, Any], **kwargs: Any) -> Iterator[dict[str, Any]]:
        if predicates:
            kwargs["filter"] = filter_of(*predicates)
        return self._api.pages(self._api.runs.run_service_list_runs, "runs", **kwargs, **self._api.scope)


def description_of(labels: Mapping[str, str]) -> str:
    """Where a run comes from, readable in the web interface and by :meth:`ServerRuns.find_reusable`.

    The server's column has 255 characters, so what does not fit is left out, the least telling last.

    :param labels: of the run
    """
    lines: list[str] = []
    for name in (*_LABELS_FIRST, *labels):
        value = labels.get(name, "")
        line = f"{name}: {value[:23] if value.startswith('sha256:') else value}"
        if value and line not in lines and len("\n".join([*lines, line])) <= MAX_DESCRIPTION:
            lines.append(line)
    return "\n".join(lines)
