"""Airflow's public REST API, as far as a backfill needs it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode

from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError
from airflow_provider_llmops.http import header_fault, request
from airflow_provider_llmops.json_text import parse_json
from airflow_provider_llmops.spending import joined_steps
from airflow_provider_llmops.uris import split_address

TIMEOUT_SECONDS = 60.0
OUTAGE_SECONDS = 600.0  # that Airflow may be away, once it has answered
_PAUSE_SECONDS = 5.0
_PAGE = 100
_MAX_RESULTS = 300
_ACTIVE = ("queued", "running")


class RefusedError(ConfigurationError):
    """Airflow refuses a request.

    :param status: HTTP's
    :param said: by Airflow
    :param where: what was asked
    """

    def __init__(self, status: int, said: str, where: str) -> None:
        super().__init__(f"Airflow refuses it ({status}): {said}", where)
        self.status = status
        self.said = said


@dataclass(frozen=True)
class Run:
    """A run of a DAG for a partition.

    :param run_id: within its DAG
    :param key: of the partition
    :param state: as Airflow has it
    :param duration: seconds, of a run that has ended
    :param began: when its first task was ready
    :param ended: when its last task was
    """

    run_id: str
    key: str | None
    state: str
    duration: float | None = None
    began: datetime | None = None
    ended: datetime | None = None

    @property
    def is_active(self) -> bool:
        """Whether it has not ended."""
        return self.state in _ACTIVE

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Run:
        """A run as Airflow tells it.

        :param answer: decoded
        """
        began, ended = (
            datetime.fromisoformat(answer[name]) if answer[name] else None
            for name in ("start_date", "end_date")
        )
        return cls(
            answer["dag_run_id"],
            answer.get("partition_key"),
            answer["state"],
            answer.get("duration"),
            began,
            ended,
        )


class AirflowApi:
    """The requests of a backfill.

    :param url: address of Airflow's API server
    :param token: a token of Airflow's; instead of a login
    :param login: user and password, which a token is asked for with
    :param say: told where Airflow does not answer
    :param sleep: waits for so many seconds
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        login: tuple[str, str] | None = None,
        say: Callable[[str], None] = lambda line: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        address = split_address(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ConfigurationError("The address of Airflow is not one of http or https.", f"Address: {url}")
        if token is not None and (fault := header_fault(token)):
            raise ConfigurationError(f"The token cannot be sent: {fault}.")
        self._url = url.rstrip("/")
        self._token = token
        self._login = login
        self._say = say
        self._sleep = sleep
        self._has_answered = False

    def details(self, dag_id: str) -> dict[str, Any]:
        """What Airflow knows of a DAG.

        :param dag_id: the DAG
        :raises ConfigurationError: there is none
        """
        try:
            found: dict[str, Any] = self.get(f"/dags/{_part(dag_id)}/details")
        except RefusedError as error:
            if error.status != 404:
                raise
            raise ConfigurationError(
                f"There is no DAG {dag_id!r} in this Airflow, or it cannot be imported. See `airflow dags list` and "
                "`airflow dags list-import-errors`."
            ) from error
        return found

    def announced_by(self, dag_id: str) -> set[str]:
        """Names and addresses of the assets that tasks of a DAG have as outlets.

        :param dag_id: the DAG
        """
        found: set[str] = set()
        for asset in self._pages("/assets", "assets", dag_ids=dag_id):
            if any(task["dag_id"] == dag_id for task in asset["producing_tasks"]):
                found |= {asset["name"], asset["uri"]}
        return found

    def events_of(self, dag_id: str, run_id: str, key: str) -> set[str]:
        """Names and addresses of the assets that a run has announced for a partition.

        :param dag_id: its DAG
        :param run_id: the run
        :param key: of the partition
        """
        found: set[str] = set()
        events = self._pages(
            "/assets/events", "asset_events", source_dag_id=dag_id, source_run_id=run_id, order_by="timestamp"
        )
        for event in events:
            if event["partition_key"] == key:
                found |= {name for name in (event["name"], event["uri"]) if name}
        return found

    def keys_between(self, dag_id: str, first: date, last: date, until: datetime) -> list[str]:
        """Keys that a DAG's own timetable gives to the partitions of some days, in order.

        :param dag_id: a DAG with partitions by time
        :param first: day, by the timetable's own clock
        :param last: day, the whole of it
        :param until: partitions that begin later are left out
        """
        body = {
            "dag_id": dag_id,
            "from_date": f"{first.isoformat()}T00:00:00Z",
            "to_date": f"{last.isoformat()}T23:59:59Z",
            "reprocess_behavior": "completed",
        }
        found = {
            each["partition_key"]: each["partition_date"]
            for each in self.post("/backfills/dry_run", body)["backfills"]
        }
        # Airflow leaves partitions out that a run is going on for.
        runs = self._pages(
            f"/dags/{_part(dag_id)}/dagRuns",
            "dag_runs",
            partition_date_gte=first.isoformat(),
            partition_date_lte=last.isoformat(),
            state=list(_ACTIVE),
            order_by="id",
        )
        found |= {each["partition_key"]: each["partition_date"] for each in runs if each["partition_key"]}
        dates = {key: datetime.fromisoformat(begin) for key, begin in found.items()}
        return sorted((key for key in dates if dates[key] <= until), key=lambda key: (dates[key], key))

    def runs(self, dag_id: str, prefix: str) -> list[Run]:
        """Runs of a DAG for partitions, in the order in which they were made.

        :param dag_id: the DAG
        :param prefix: what their keys begin with
        """
        narrowed = {} if prefix in ("", "~") else {"partition_key_prefix_pattern": prefix}
        path = f"/dags/{_part(dag_id)}/dagRuns"
        return [Run.of(each) for each in self._pages(path, "dag_runs", order_by="id", **narrowed)]

    def runs_of(self, dag_id: str, key: str) -> list[Run]:
        """Runs of a DAG for a partition, in the order in which they were made.

        :param dag_id: the DAG
        :param key: of the partition
        """
        return [each for each in self.runs(dag_id, key) if each.key == key]

    def run(self, dag_id: str, run_id: str) -> Run:
        """A run as it is now.

        :param dag_id: its DAG
        :param run_id: the run
        """
        return Run.of(self.get(f"/dags/{_part(dag_id)}/dagRuns/{_part(run_id)}"))

    def last_successes(self, dag_id: str, count: int) -> list[Run]:
        """The newest runs of a DAG that have succeeded.

        :param dag_id: the DAG
        :param count: how many at most
        """
        found = self.get(f"/dags/{_part(dag_id)}/dagRuns", state="success", order_by="-end_date", limit=count)
        return [Run.of(each) for each in found["dag_runs"]]

    def start(self, dag_id: str, run_id: str, key: str, conf: Mapping[str, Any]) -> Run:
        """Start a run for a partition.

        :param dag_id: the DAG
        :param run_id: of the run; Airflow takes each once
        :param key: of the partition
        :param conf: of the run
        :raises RefusedError: with the status 409 where there is a run with this id
        """
        body = {
            "dag_run_id": run_id,
            "logical_date": None,
            "partition_key": key,
            "conf": dict(conf),
            "note": "Started by llmops backfill.",
        }
        return Run.of(self.post(f"/dags/{_part(dag_id)}/dagRuns", body))

    def failed_tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Task instances of a run that have failed themselves.

        :param dag_id: its DAG
        :param run_id: the run
        """
        path = f"/dags/{_part(dag_id)}/dagRuns/{_part(run_id)}/taskInstances"
        return list(self._pages(path, "task_instances", state="failed"))

    def log_of(self, dag_id: str, run_id: str, task: Mapping[str, Any]) -> list[Any]:
        """What a task instance has written in its last attempt.

        :param dag_id: its DAG
        :param run_id: its run
        :param task: as :meth:`failed_tasks` gives it
        """
        path = (
            f"/dags/{_part(dag_id)}/dagRuns/{_part(run_id)}/taskInstances/{_part(task['task_id'])}"
            f"/logs/{max(task['try_number'], 1)}"
        )
        answer = self.get(path, map_index=task["map_index"], full_content="true")
        return list(answer["content"])

    def results_of(self, dag_id: str, run_id: str, *, most: int | None = _MAX_RESULTS) -> Iterator[Any]:
        """What the tasks of a run have returned, and each step of those that join several; nothing where there are so many tasks that it
        takes long to read them.

        :param dag_id: its DAG
        :param run_id: the run
        :param most: how many are read; ``None`` for all
        """
        tasks = f"/dags/{_part(dag_id)}/dagRuns/{_part(run_id)}/taskInstances"
        entries = list(self._pages(f"{tasks}/~/xcomEntries", "xcom_entries", xcom_key="return_value"))
        for entry in entries if most is None or len(entries) <= most else ():
            path = f"{tasks}/{_part(entry['task_id'])}/xcomEntries"
            options = {"map_index": entry["map_index"], "deserialize": "false", "stringify": "false"}
            value = self.get(f"{path}/return_value", **options)["value"]
            yield value
            if names := joined_steps(value):
                pushed = self._pages(path, "xcom_entries", map_index=entry["map_index"])
                for name in sorted({each["key"] for each in pushed} & {*names}):
                    yield self.get(f"{path}/{_part(name)}", **options)["value"]

    def get(self, path: str, **parameters: Any) -> Any:
        """The decoded answer to a question.

        :param path: below the API's root
        :param parameters: of the question
        """
        query = f"?{urlencode(parameters, doseq=True)}" if parameters else ""
        return self._ask(f"{path}{query}", None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The decoded answer to a request that may be repeated where nobody has answered.

        :param path: below the API's root
        :param body: of the request
        """
        return self._ask(path, body)

    def _pages(self, path: str, name: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            answer = self.get(path, limit=_PAGE, offset=offset, **parameters)
            found = answer[name]
            yield from found
            offset += len(found)
            if not found or offset >= answer["total_entries"]:
                return

    def _ask(self, path: str, body: Mapping[str, Any] | None) -> Any:
        """The answer, asked for again where Airflow is away for a while."""
        deadline = time.monotonic() + OUTAGE_SECONDS
        is_told = False
        while True:
            try:
                answer = self._answer(path, body)
            except ApiUnavailableError as error:
                if not self._has_answered or time.monotonic() > deadline:
                    raise
                if not is_told:
                    self._say(f"Airflow does not answer, which is asked again: {str(error).splitlines()[0]}")
                    is_told = True
                self._sleep(_PAUSE_SECONDS)
            else:
                self._has_answered = True
                return answer

    def _answer(self, path: str, body: Mapping[str, Any] | None) -> Any:
        if self._token is None and self._login is not None:
            self._token = self._log_in(self._login)
        try:
            return self._send(f"/api/v2{path}", body)
        except RefusedError as error:
            if error.status != 401:
                raise
            if self._login is None:
                raise ConfigurationError(
                    "Airflow wants a login, or does not take the token. Set LLMOPS_AIRFLOW_TOKEN, or LLMOPS_AIRFLOW_USERNAME and "
                    "LLMOPS_AIRFLOW_PASSWORD."
                ) from error
        self._token = self._log_in(self._login)  # the former one is too old
        return self._send(f"/api/v2{path}", body)

    def _log_in(self, login: tuple[str, str]) -> str:
        body = dict(zip(("username", "password"), login, strict=True))
        try:
            token: str = parse_json(
                request(f"{self._url}/auth/token", body=body, timeout=TIMEOUT_SECONDS).decode()
            )["access_token"]
        except ConfigurationError as error:
            # Without the server's words: they may repeat what it was sent.
            code = _status(error)
            raise ConfigurationError(
                f"Airflow does not take the login ({code or 'no answer of its own'}). Check LLMOPS_AIRFLOW_USERNAME and "
                "LLMOPS_AIRFLOW_PASSWORD, or give LLMOPS_AIRFLOW_TOKEN where its logins are made elsewhere."
            ) from None
        except (ValueError, KeyError, TypeError):
            raise ConfigurationError(
                "There is no Airflow at this address: what answers gives no token.", f"Address: {self._url}"
            ) from None
        return token

    def _send(self, path: str, body: Mapping[str, Any] | None) -> Any:
        where = f"{'GET' if body is None else 'POST'} {path}"
        try:
            content = request(f"{self._url}{path}", body=body, timeout=TIMEOUT_SECONDS, api_key=self._token)
        except ConfigurationError as error:
            if (status := _status(error)) is None:
                raise
            raise RefusedError(status, _said(str(error)), where) from error
        try:
            return parse_json(content.decode())
        except ValueError:
            raise ConfigurationError(
                "There is no Airflow at this address: what answers does not speak JSON.", where
            ) from None


def _part(text: str) -> str:
    return quote(text, safe="")


def _status(error: ConfigurationError) -> int | None:
    """HTTP's status of an error of :func:`request`, where the server has answered."""
    return error.__cause__.code if isinstance(error.__cause__, HTTPError) else None


def _said(message: str) -> str:
    """Airflow's own words in the message of an error of :func:`request`."""
    text = message.splitlines()[0].partition(": ")[2]
    try:
        detail = json.loads(text)["detail"]
    except (ValueError, KeyError, TypeError):
        return text
    if isinstance(detail, dict):
        detail = detail.get("message") or detail.get("reason") or detail
    return detail if isinstance(detail, str) else json.dumps(detail)
