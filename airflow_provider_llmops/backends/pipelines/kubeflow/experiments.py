"""The experiment that a connection's runs belong to."""

from __future__ import annotations

from airflow_provider_llmops.backends.pipelines.kubeflow.api import KfpApi, RefusedError
from airflow_provider_llmops.backends.pipelines.kubeflow.filters import filter_of, predicate
from airflow_provider_llmops.exceptions import ConfigurationError

DEFAULT_EXPERIMENT = "Default"


class Experiment:
    """The experiment that the connection names, or the namespace's default.

    :param api: the server
    """

    def __init__(self, api: KfpApi) -> None:
        self._api = api
        self._known: str | None = None

    def id(self) -> str | None:
        """Its id; it is made if need be. ``None`` leaves the experiment to the server.

        :raises ConfigurationError: the server cannot tell its name from another experiment's
        """
        settings = self._api.settings
        name = settings.experiment or (DEFAULT_EXPERIMENT if settings.namespace else None)
        if name is not None and self._known is None:
            self._known = self._find(name) or self._make(name)
        return self._known

    def _find(self, name: str) -> str | None:
        wanted = filter_of(predicate("display_name", "EQUALS", string_value=name))
        answer: dict[str, list[dict[str, str]]] = self._api.call(
            self._api.experiments.experiment_service_list_experiments,
            filter=wanted,
            page_size=1,
            **self._api.scope,
        )
        found = next(iter(answer.get("experiments") or ()), None)
        if found is None:
            return None
        if found.get("display_name", name) != name:
            raise ConfigurationError(
                f"Experiment {name!r} cannot be told from {found['display_name']!r}, which the server has already: its database "
                "compares names without case and accents. Write it alike in 'experiment' of connection "
                f"{self._api.settings.conn_id!r}, or choose another name."
            )
        return found["experiment_id"]

    def _make(self, name: str) -> str:
        body = {"display_name": name, **self._api.scope}
        try:
            made = self._api.call(self._api.experiments.experiment_service_create_experiment, body)
        except RefusedError:
            if found := self._find(name):  # another task has just made it
                return found
            raise
        return str(made["experiment_id"])
