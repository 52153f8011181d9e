"""Operators for the model registry: register a model, fetch a version of one, move an alias."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from airflow_provider_llmops.assets import model_asset
from airflow_provider_llmops.delivery.as_of import as_of, is_backfill, origin_in_time
from airflow_provider_llmops.exceptions import check_is_flag
from airflow_provider_llmops.hooks.mlflow import MlflowHook, version_of
from airflow_provider_llmops.hooks.signing import SigningHook
from airflow_provider_llmops.lineage.made_by import DATA_URI, tags_of_tasks
from airflow_provider_llmops.links import MlflowRunLink, ModelCardLink, ModelVersionLink, ReportLink
from airflow_provider_llmops.openlineage.registry import registered_model
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.redaction import redact
from airflow_provider_llmops.remote.intent import dag_run_key
from airflow_provider_llmops.remote.origin import tags_of
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_provider_llmops.backends.pipelines.base import Run
    from airflow_provider_llmops.openlineage.lineage import TaskLineage

__all__ = ["FetchModelOperator", "RegisterModelOperator", "SetAliasOperator"]


class RegisterModelOperator(ComponentOperator):
    """Log an MLflow run and make a model version; the same content is registered once.

    Artifacts: ``registration``, and ``signature`` of a model that is signed. ``return_value["details"]`` holds the version and its
    addresses. The version is tagged with the DAG, its version, run, settings and place in time, the digests of model and data, and by which key it was signed:
    what ``llmops lineage`` tells of it.

    An alias is moved by a decision, never by which run finishes last: a version of a newer date or partition keeps it, and
    in backfills it stays. What became of it, and why, is in ``details["alias_note"]``.

    Events of assets among ``outlets`` have ``model_name`` and ``model_version`` as extra, so that a DAG that they start knows what to take;
    and ``is_backfill``, where the version is a backfill's, whose alias stays: what is served then is of newer data.

    :param model: URI of the model
    :param model_name: name in the model registry
    :param dataset: URI of the data that it was trained on; its digest becomes a tag
    :param report: URI of the evaluation's page, stored with the run
    :param mlflow_conn_id: connection of type ``mlflow``; its credentials reach the step through its environment only
    :param experiment: MLflow experiment
    :param alias: alias moved to this version, for example ``candidate``; every alias stays where it is when left out
    :param alias_in_backfill: whether a backfill moves it, too
    :param as_of: date or partition that the model is of, as text that sorts; that of the DAG's run when left out
    :param params_to_log: parameters to log
    :param model_metrics: metrics to log
    :param comparison: output ``comparison`` of an evaluation, kept with the run as ``comparison.json``
    :param decision: what a :class:`~airflow_provider_llmops.operators.evaluation.QualityGateOperator` returns, kept as ``decision.json``; its
        outcome is the version's tag ``llmops.decision``, and its ``baseline`` the tag ``llmops.decision.baseline``
    :param tags: tags of run and version
    :param made_by: what the tasks that made the model have returned, such as ``[import_base_model.output, train.output]``: their components,
        images and runs, and the base model or the registered version that it was made from, become tags
    :param signing_conn_id: connection of type ``model_signing``, with whose private key the model is signed; the key reaches the step
        through its environment only. Left out, the model is not signed
    """

    component = "register_model"
    own_arguments = ("mlflow_conn_id", "alias_in_backfill", "signing_conn_id", "made_by")
    addresses = {
        "model": Address(kind="directory"),
        "dataset": Address(),
        "report": Address(kind="file"),
    }
    operator_extra_links: Collection[BaseOperatorLink] = (
        *ComponentOperator.operator_extra_links,
        ModelVersionLink(),
        MlflowRunLink(),
        ModelCardLink(),
        ReportLink(),
    )

    def __init__(
        self,
        *,
        model: str,
        model_name: str,
        dataset: str | None = None,
        report: str | None = None,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        experiment: str = "llmops",
        alias: str | None = None,
        alias_in_backfill: bool = False,
        as_of: str | None = None,
        params_to_log: dict[str, Any] | None = None,
        model_metrics: dict[str, Any] | None = None,
        comparison: dict[str, Any] | None = None,
        decision: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
        made_by: list[dict[str, Any]] | None = None,
        signing_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.model_name = model_name
        self.dataset = dataset
        self.report = report
        self.mlflow_conn_id = mlflow_conn_id
        self.experiment = experiment
        self.alias = alias
        self.alias_in_backfill = alias_in_backfill
        self.as_of = as_of
        self.params_to_log = params_to_log
        self.model_metrics = model_metrics
        self.comparison = comparison
        self.decision = decision
        self.tags = tags
        self.made_by = made_by
        self.signing_conn_id = signing_conn_id

    def arguments(self) -> dict[str, Any]:
        """The component's arguments; where the model comes from is added to its tags."""
        check_is_flag("alias_in_backfill", self.alias_in_backfill)
        origin = {}
        if self._context:
            ti = self._context["ti"]
            origin = {f"airflow.{name}": getattr(ti, name) for name in ("dag_id", "run_id", "task_id")}
            origin |= origin_in_time(self._context) | tags_of(self._context)
        made = tags_of_tasks(self.made_by) if self.made_by is not None else {}
        data = {DATA_URI: redact(self.dataset)} if self.dataset else {}
        to_log = {name: value for name, value in (self.params_to_log or {}).items() if value is not None}
        return super().arguments() | {
            "tracking_uri": MlflowHook(self.mlflow_conn_id).tracking_uri(),
            "run_name": origin.get("airflow.run_id"),
            "parent": dag_run_key(self._context) if self._context else None,
            "alias": None if self._is_left_in_backfill else self.alias,
            "as_of": as_of(self._context, self.as_of) if self._context else self.as_of,
            "params_to_log": to_log,
            "tags": {**origin, **data, **made, **(self.tags or {})},
            "sign": bool(self.signing_conn_id),
        }

    def execute(self, context: Context) -> dict[str, Any]:
        """Link what is registered, then register it."""
        for link, uri in ((ModelCardLink(), self.model), (ReportLink(), self.report)):
            if uri:
                link.push(context["ti"], self.hook.page_url(f"{uri}{link.file}"))
        return super().execute(context)

    @property
    def _is_left_in_backfill(self) -> bool:
        return bool(
            self.alias and not self.alias_in_backfill and self._context and is_backfill(self._context)
        )

    def environment(self) -> dict[str, str]:
        """MLflow's credentials, and the private key that the model is signed with."""
        signing = SigningHook(self.signing_conn_id).environment() if self.signing_conn_id else {}
        return {**MlflowHook(self.mlflow_conn_id).environment(), **signing}

    def outcome(self, context: Context, run: Run) -> dict[str, Any]:
        """The result, and the address of the version's page for the link."""
        value = super().outcome(context, run)
        if self._is_left_in_backfill:
            note = f"Alias {self.alias!r} stays where it is: this is a backfill, and alias_in_backfill is not set."
            value["details"] |= {"alias": self.alias, "alias_note": note}
        self.log.info("%s", value["details"].get("alias_note"))
        links = value["details"].get("links", {})
        ModelVersionLink().push(context["ti"], links.get("model_version", ""))
        self._tell_version(context, value["details"])
        MlflowRunLink().push(context["ti"], links.get("run", ""))
        return value

    def lineage(self) -> TaskLineage:
        """With the version that there is now."""
        found = super().lineage()
        if self._ended_with is None:
            return found
        made = self._ended_with.details
        model = registered_model(
            self.mlflow_conn_id,
            made["name"],
            digest=made.get("model_digest"),
            version=made["version"],
            alias=made.get("alias") if made.get("alias_moved") else None,
        )
        return replace(found, outputs=(*found.outputs, *model))

    def _tell_version(self, context: Context, registered: Mapping[str, Any]) -> None:
        """Say in the events of assets which version there is."""
        version: dict[str, Any] = {
            "model_name": registered["name"],
            "model_version": str(registered["version"]),
        }
        if is_backfill(context) and not self.alias_in_backfill:
            version["is_backfill"] = True
        self.tell_assets(context, version, of=model_asset(registered["name"]))


class FetchModelOperator(ComponentOperator):
    """Fetch the files of a registered model version, as :class:`RegisterModelOperator` has kept them.

    Fails when their digest is not the one that they were registered with. Artifacts: ``model``, and ``signature`` of a version that is
    signed. ``return_value["details"]`` holds ``version``, ``model_digest``, ``as_of``, ``aliases``, ``signed_by`` and ``signed_at``.

    :param model_name: name in the model registry
    :param model_version: number of the version; or
    :param alias: an alias, whose version is taken
    :param required: whether the task fails where there is no such version, or no such model; otherwise it is skipped, and
        ``return_value["details"]["version"]`` is ``None``. A server that does not answer fails it in any case
    :param mlflow_conn_id: connection of type ``mlflow``; its credentials reach the step through its environment only
    """

    component = "fetch_model"
    own_arguments = ("mlflow_conn_id",)

    def __init__(
        self,
        *,
        model_name: str,
        model_version: str | None = None,
        alias: str | None = None,
        required: bool | str = True,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_name = model_name
        self.model_version = model_version
        self.alias = alias
        self.required = required
        self.mlflow_conn_id = mlflow_conn_id

    def arguments(self) -> dict[str, Any]:
        """The component's arguments; what a form leaves empty is not given."""
        return super().arguments() | {
            "model_version": version_of(self.model_version),
            "alias": self.alias or None,
            "tracking_uri": MlflowHook(self.mlflow_conn_id).tracking_uri(),
        }

    def environment(self) -> dict[str, str]:
        """MLflow's credentials."""
        return MlflowHook(self.mlflow_conn_id).environment()

    def lineage(self) -> TaskLineage:
        """With the version that is fetched."""
        found, result = super().lineage(), self._ended_with
        details = result.details if result is not None else {}
        model = registered_model(
            self.mlflow_conn_id,
            self.model_name,
            digest=details.get("model_digest"),
            version=details.get("version") or self.model_version,
            alias=self.alias,
        )
        return replace(found, inputs=(*found.inputs, *model))

    def outcome(self, context: Context, run: Run) -> dict[str, Any]:
        """The result; the task is skipped where there is no such version, and there need be none."""
        value = super().outcome(context, run)
        if value["details"]["version"] is None:
            context["ti"].xcom_push(key="return_value", value=value)
            raise AirflowSkipException(value["findings"][0])
        return value


class SetAliasOperator(ComponentOperator):
    """Move an alias to a registered model version, unless it was moved for a later run, or one of a newer date has it.

    The same again moves nothing, and a task that comes late, or is cleared, never moves it back. ``return_value["details"]`` holds ``former_version``,
    ``version`` that has it now, ``moved``, and why as ``note``.

    :param model_name: name in the model registry
    :param model_version: number of the version
    :param alias: the alias, for example ``production``
    :param as_of: date or partition that the move is of, as text that sorts; that of the DAG's run when left out
    :param only_if_newer: leave the alias where it is if the version that has it is of a newer date; ``False`` moves it in any case
    :param mlflow_conn_id: connection of type ``mlflow``; its credentials reach the step through its environment only
    """

    component = "set_alias"
    own_arguments = ("mlflow_conn_id",)

    def __init__(
        self,
        *,
        model_name: str,
        model_version: str,
        alias: str,
        as_of: str | None = None,
        only_if_newer: bool | str = True,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_name = model_name
        self.model_version = model_version
        self.alias = alias
        self.as_of = as_of
        self.only_if_newer = only_if_newer
        self.mlflow_conn_id = mlflow_conn_id

    def arguments(self) -> dict[str, Any]:
        """The component's arguments; the date is that of the DAG's run."""
        return super().arguments() | {
            "model_version": version_of(self.model_version),
            "as_of": as_of(self._context, self.as_of) if self._context else self.as_of,
            "tracking_uri": MlflowHook(self.mlflow_conn_id).tracking_uri(),
        }

    def environment(self) -> dict[str, str]:
        """MLflow's credentials."""
        return MlflowHook(self.mlflow_conn_id).environment()

    def lineage(self) -> TaskLineage:
        """With the version that the alias was to move to; where it is now is among the facts."""
        found, result = super().lineage(), self._ended_with
        model = registered_model(
            self.mlflow_conn_id, self.model_name, version=self.model_version, alias=self.alias
        )
        moved = {name: result.details.get(name) for name in ("alias", "version", "moved")} if result else {}
        return replace(found, inputs=(*found.inputs, *model), run={**found.run, "details": moved})

    def outcome(self, context: Context, run: Run) -> dict[str, Any]:
        """The result; why the alias is where it is stands in the log."""
        value = super().outcome(context, run)
        self.log.info("%s", value["details"].get("note"))
        return value
