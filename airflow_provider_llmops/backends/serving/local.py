"""Services on this machine, carried out by ``python -m llmops_components.serving.local``.

That module owns the directories, processes and addresses of local services, for the ``deploy_model`` component as much as
for this provider; here it is called and its JSON is read.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow_provider_llmops.backends.data_plane import DataPlane, last_line
from airflow_provider_llmops.backends.serving.base import Answers, Revision, Service, check_wanted
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, RunNotFoundError
from airflow_provider_llmops.json_text import parse_json
from airflow_provider_llmops.states import ServiceState

_CONTROLLER_MODULE = "llmops_components.serving.local"
_NOT_FOUND = "ServiceNotFoundError"
COMMAND_TIMEOUT_SECONDS = 90.0
ANSWER_TIMEOUT_SECONDS = 150.0  # the controller gives up before


class LocalServingBackend:
    """Runs services as detached predictors behind one stable address each.

    :param python: interpreter of the data plane's environment
    :param root: directory that holds ``services/``
    """

    poll_interval = 1.0
    rolls_out = False
    lags = False

    def __init__(self, *, python: str | os.PathLike[str], root: str | os.PathLike[str]) -> None:
        self._data_plane = DataPlane(python)
        self._root = Path(root)

    def apply(
        self, manifest: Mapping[str, Any], *, as_of: str | None = None, beside: bool = False
    ) -> tuple[Revision, bool]:
        """Start a revision, always beside what serves; the same manifest again returns the revision that already runs it. Its date counts with the traffic."""
        answer = self._call("apply", "-", stdin=json.dumps(manifest))
        return _revision(answer), bool(answer["created"])

    def reason_not_to_split(self, namespace: str) -> None:
        """None: the gateway of each service shares its requests out."""

    def names(self, namespace: str, *, patience: float | None = None) -> list[str]:
        """Names of all services of a namespace, read once."""
        found: list[str] = self._call("names", "--namespace", namespace)["names"]
        return found

    def get(
        self, namespace: str, name: str, *, patience: float | None = None, may_lag: bool = False
    ) -> Service:
        """Read a service: files of this machine, which are read once."""
        return _service(self._call("status", "--namespace", namespace, name))

    def set_traffic(
        self,
        namespace: str,
        name: str,
        percent: Mapping[str, int],
        *,
        as_of: str | None = None,
        only_if_newer: bool = True,
    ) -> Service:
        """Share the requests out; revisions that lose theirs finish what they are answering, then stop."""
        shares = [f"{revision}={share}" for revision, share in percent.items()]
        dated = [] if as_of is None else [f"--as-of={as_of}"]
        dated += [] if only_if_newer else ["--in-any-case"]
        self._call("traffic", "--namespace", namespace, name, *shares, *dated)
        return self.get(namespace, name)

    def ask(self, namespace: str, name: str, revision: str, prompt: str, max_tokens: int) -> str:
        """Ask one revision a question. The controller does, to whom the revision listens besides its gateway."""
        question = json.dumps({"prompt": prompt, "max_tokens": max_tokens})
        answer: str = self._call(
            *("ask", "--namespace", namespace, name, "--revision", revision),
            stdin=question,
            timeout=ANSWER_TIMEOUT_SECONDS,
        )["answer"]
        return answer

    def way_to(self, service: Service, revision: str) -> tuple[str, str]:
        """The service's address, whose gateway lets a client choose, and the revision's name."""
        return service.url or "", revision

    def bring_back(
        self, namespace: str, name: str, revision: str, *, replacing: str
    ) -> tuple[Revision, bool]:
        """Start a former revision again, from what was kept of it; it gets the traffic when somebody gives it that."""
        check_wanted(self.get(namespace, name), revision, replacing)
        answer = self._call("start", "--namespace", namespace, name, "--revision", revision)
        return _revision(answer), bool(answer["created"])

    def withdraw(
        self, namespace: str, name: str, revision: str, *, back_to: str | None = None, is_bad: bool = True
    ) -> str | None:
        """Give a revision up, keeping its log; what served has gone on, and has its share of the requests again."""
        if revision in self.get(namespace, name).revisions:
            options = [] if is_bad else ["--not-bad"]
            self._call("withdraw", "--namespace", namespace, name, "--revision", revision, *options)
        return None

    def give_up(self, namespace: str, name: str, revision: str) -> None:
        """Stop a revision that another one has replaced, and note that it is nothing to go back to."""
        self.withdraw(namespace, name, revision)

    def delete(self, namespace: str, name: str) -> None:
        """Stop the whole service and remove it."""
        with contextlib.suppress(RunNotFoundError):
            self._call("delete", "--namespace", namespace, name)

    def left_of(self, namespace: str, name: str) -> list[str]:
        """The service, where it is there: its processes end before it is gone."""
        try:
            self.get(namespace, name)
        except RunNotFoundError:
            return []
        return ["its directory"]

    def logs(self, namespace: str, name: str, revision: str, lines: int) -> list[str]:
        """The last lines that a revision wrote."""
        answer = self._call(
            "logs", "--namespace", namespace, name, "--revision", revision, "--lines", str(lines)
        )
        text: str = answer["log"]
        return text.splitlines()

    def check(self) -> str:
        """Make sure that the controller can be started."""
        version = self._data_plane.check()
        return f"local backend ready: Python {version} at {self._data_plane.python}, services in {self._root / 'services'}"

    def _call(
        self, command: str, *arguments: str, stdin: str | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        answer = self._data_plane.run(
            ["-m", _CONTROLLER_MODULE, command, "--root", str(self._root), *arguments],
            stdin=stdin,
            timeout=COMMAND_TIMEOUT_SECONDS if timeout is None else timeout,
        )
        try:
            value: dict[str, Any] = parse_json(answer.stdout)
        except ValueError:
            last = last_line(answer.stderr)
            raise ApiUnavailableError(
                f"Local serving could not {command}: {last}. Check that llmops-components in the data plane's environment "
                "belongs to this provider.",
                f"Interpreter: {self._data_plane.python}",
            ) from None
        if answer.returncode != 0:
            error = value["error"]
            kind = ApiUnavailableError if error.get("retryable", True) else ConfigurationError
            kind = RunNotFoundError if error.get("type") == _NOT_FOUND else kind
            raise kind(error["message"], f"Refused by local serving: {command}")
        return value


def _revision(item: Mapping[str, Any]) -> Revision:
    return Revision(
        revision=item["revision"],
        state=ServiceState(item["state"]),
        url=item.get("url"),
        traffic=item.get("traffic", 0),
        error=item.get("error"),
        digest=item.get("digest"),
        answered=Answers.read(item["answered"]) if item.get("answered") else None,
        as_of=item.get("as_of"),
        served_at=item.get("served_at"),
        is_given_up=bool(item.get("is_given_up")),
        ignored=tuple(item.get("ignored") or ()),
    )


def _service(value: Mapping[str, Any]) -> Service:
    revisions = [_revision(item) for item in value["revisions"]]
    return Service(
        name=value["name"],
        namespace=value["namespace"],
        url=value.get("url"),
        revisions={revision.revision: revision for revision in revisions},
        as_of=value.get("as_of"),
        is_reachable=value["gateway"] == "RUNNING",
        stable=value.get("stable"),
        wanted=_wanted(revisions),
    )


def _wanted(revisions: Sequence[Revision]) -> str | None:
    """The newest revision that has requests, or is newer than that and on its way to them."""
    newest = max((each.revision for each in revisions if each.traffic), default="")
    coming = (each.revision for each in revisions if each.revision > newest and not each.state.is_lost)
    return max(coming, default=newest) or None
