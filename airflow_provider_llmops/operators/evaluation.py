"""Operators that judge a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.bases.branch import BranchMixIn
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowSkipException

from airflow_provider_llmops.exceptions import (
    ConfigurationError,
    LLMOpsError,
    QualityGateFailed,
    describe_unknown,
    shown_value,
)
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.hooks.mlflow import MlflowHook
from airflow_provider_llmops.hooks.signing import SigningHook
from airflow_provider_llmops.links import ReportLink
from airflow_provider_llmops.openlineage.components import ComponentFacts, passed_checks
from airflow_provider_llmops.openlineage.lineage import Check, TaskLineage, Touched
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.operators.judged import FURTHER_ADDRESSES, EvaluationOperator
from airflow_provider_llmops.remote.traced import TracedOperator
from airflow_provider_llmops.uris import Address
from airflow_provider_llmops.xcom import cut_to_fit, summary_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.decision import Decision

__all__ = ["CheckModelOperator", "EvaluateModelOperator", "QualityGateOperator"]

DECISION_TAG = "llmops.decision"
NOTE_TAG = "mlflow.note.content"  # MLflow shows it as the run's description


class CheckModelOperator(ComponentOperator):
    """Check a model's files, digest, signature, licence and size before anything serves it; fails when a check is not passed.

    In any case: the weights are safetensors files that hold what their headers say, and every other file is JSON, text, a tokenizer or
    a picture. Pickles, code, weights in other formats, and links that lead out of the directory are refused by name. Nothing is loaded.

    Artifact: ``report`` (JSON: each check with what it looked at and what it found). It is pushed before the task fails.

    :param model: URI of the model
    :param model_digest: digest that the model has to have: ``sha256:`` and 64 hexadecimal digits
    :param allowed_licenses: licences as the hub names them, for example ``["apache-2.0", "mit"]``; what the card says and what is known
        of the origin have to be among them, and a model of which nothing is known does not pass
    :param max_parameters: most parameters
    :param max_bytes: most bytes of the weight files
    :param scan: have modelscan look for code in the files; it needs a data plane on a Python below 3.13
    :param signature: URI of the model's signature, as :class:`~airflow_provider_llmops.operators.registry.RegisterModelOperator` and
        :class:`~airflow_provider_llmops.operators.registry.FetchModelOperator` give it
    :param public_key: public key in PEM of who has to have signed the model; several, one below the other, where any of them will do. A
        model without a signature does not pass then, nor one with a file more, less or other than was signed
    :param signing_conn_id: connection of type ``model_signing`` that has the public key, instead of ``public_key``
    :param model_name: name in the model registry, with
    :param model_version: the number of a version, in whose tags it is noted what was checked, and what came of it
    :param mlflow_conn_id: connection of type ``mlflow`` for that; its credentials reach the step through its environment only
    """

    component = "check_model"
    lineage_facts = ComponentFacts(
        checks=lambda result: {"model": passed_checks(result.details.get("checks"))}
    )
    own_arguments = ("signing_conn_id", "mlflow_conn_id")
    addresses = {"model": Address(kind="directory"), "signature": Address(kind="file")}

    def __init__(
        self,
        *,
        model: str,
        model_digest: str | None = None,
        allowed_licenses: Sequence[str] | str | None = None,
        max_parameters: int | str | None = None,
        max_bytes: int | str | None = None,
        scan: bool | str = True,
        signature: str | None = None,
        public_key: str | None = None,
        signing_conn_id: str | None = None,
        model_name: str | None = None,
        model_version: str | None = None,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.model_digest = model_digest
        self.allowed_licenses = allowed_licenses
        self.max_parameters = max_parameters
        self.max_bytes = max_bytes
        self.scan = scan
        self.signature = signature
        self.public_key = public_key
        self.signing_conn_id = signing_conn_id
        self.model_name = model_name
        self.model_version = model_version
        self.mlflow_conn_id = mlflow_conn_id

    def arguments(self) -> dict[str, Any]:
        """The component's arguments; the public key may be a connection's."""
        given = super().arguments() | {
            "model_name": self.model_name or None,
            "model_version": None if self.model_version in (None, "") else str(self.model_version),
            "tracking_uri": MlflowHook(self.mlflow_conn_id).tracking_uri() if self.model_name else None,
        }
        if "PRIVATE KEY" in str(self.public_key or ""):
            raise ConfigurationError(
                "public_key is a private key, which everybody could read who may see the run. Give the public key alone, as `openssl pkey "
                "-pubout` writes it, and make a new pair."
            )
        if not self.signing_conn_id:
            return given
        if self.public_key:
            raise ConfigurationError(
                "There are public_key and signing_conn_id: which of them says who has to have signed the model? Leave one out."
            )
        return given | {"public_key": SigningHook(self.signing_conn_id).public_key()}

    def environment(self) -> dict[str, str]:
        """MLflow's credentials, where something is noted there."""
        return MlflowHook(self.mlflow_conn_id).environment() if self.model_name else {}


class EvaluateModelOperator(EvaluationOperator):
    """Answer every evaluation prompt and score the answers.

    Artifacts: ``scores`` (one JSON line a sample), ``report`` (page), and the same as ``report_json`` and ``report_markdown``. The output
    ``comparison`` holds for each metric what model and baseline reach, how they differ, within which interval, and on how many rows; without
    ``baseline_scores`` what the model reaches.

    :param model: URI of the model
    :param dataset: URI of rows with a ``prompt``, and what else the metrics need, which is a ``reference`` for most
    :param baseline_scores: ``scores`` of another model on the same rows, to compare with
    :param metric_names: metrics to compute, by name, or functions of allowed packages as ``module:function``; all that look at answer
        and reference alone when left out
    :param generation_args: passed to ``transformers.GenerationConfig``
    :param batch_size: prompts generated together
    :param embedding_model: directory or ``package://name`` of the sentence-embedding model
    :param reward_model: URI of the reward model behind the metric ``reward``
    :param composites: weighted sums of metrics row by row, such as ``{"quality": {"rougeL": 0.5, "chrf": 0.005}}``: metrics like the others
    :param slices: columns by whose values rows are compared for themselves, such as ``["language", "prompt_length"]``, the latter in quarters
    :param slice_metrics: metrics to compare in slices; the first when left out

    Metrics by a judge need ``judge``, ``judge_conn_id`` and the like: :class:`~airflow_provider_llmops.operators.judged.JudgedOperator`; MLflow
    needs ``mlflow_conn_id``: :class:`~airflow_provider_llmops.operators.judged.EvaluationOperator`.
    """

    component = "evaluate_model"
    addresses = {
        "model": Address(kind="directory"),
        "dataset": Address(kind="file"),
        "baseline_scores": Address(kind="file"),
        **FURTHER_ADDRESSES,
        "embedding_model": Address(("package",), "directory"),
        "reward_model": Address(kind="directory"),
        "checkpoints": Address(kind="directory", exists=False),
    }

    def __init__(
        self,
        *,
        model: str,
        dataset: str,
        baseline_scores: str | None = None,
        metric_names: list[str] | None = None,
        generation_args: dict[str, Any] | None = None,
        batch_size: int | str = 16,
        embedding_model: str | None = None,
        reward_model: str | None = None,
        composites: dict[str, dict[str, float]] | None = None,
        slices: list[str] | None = None,
        slice_metrics: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.dataset = dataset
        self.baseline_scores = baseline_scores
        self.metric_names = metric_names
        self.generation_args = generation_args
        self.batch_size = batch_size
        self.embedding_model = embedding_model
        self.reward_model = reward_model
        self.composites = composites
        self.slices = slices
        self.slice_metrics = slice_metrics


class QualityGateOperator(TracedOperator, BranchMixIn):
    """Hold a model to rules, on the evidence that an evaluation has brought home.

    A rule is a dict with ``metric`` and one limit, in the metric's own unit: ``at_least`` or ``at_most``; against the baseline
    ``not_worse_by`` or ``better_by``. With ``slice``, such as ``{"language": "de"}``, it is about those rows alone; with ``{"language": "*"}``
    each value is a rule of its own. With ``min_rows`` fewer rows leave it undecided. All rules have to hold, each with ``confidence``.

    Passed is what the bounds say, not the number that was found. The outcome is ``fail`` where a rule is broken for sure, else
    ``undecided`` where one is not shown to hold. Rows without a score count as failed, and no rule against the baseline holds with such
    rows. Without a baseline only the others decide.

    ``return_value`` is the decision: ``outcome``, ``findings``, ``rules`` and ``evidence``. It is pushed before the task fails, skips or
    branches.

    :param comparison: output ``comparison`` of an evaluation
    :param rules: the rules
    :param confidence: how sure it has to be that a rule holds: 0.9, 0.95, 0.99 or 0.999
    :param on_fail: ``fail``, ``skip``, or ids of the tasks to go on with; those are skipped where the outcome is another one
    :param on_undecided: the same where there is not enough evidence
    :param report: URI of the evaluation's page, to name and link
    :param baseline: what the model was compared with, in words, such as ``chat version 3``: it is kept with the decision
    :param kubeflow_conn_id: connection that the evaluation ran with, by which the page is reached
    :param evaluation: what the evaluation's task returns, whose run in MLflow gets the decision as its description and as tags
    :param mlflow_conn_id: connection of type ``mlflow`` for that. Where the server does not take it, the decision holds all the same
    """

    template_fields: Sequence[str] = (
        "comparison",
        "rules",
        "confidence",
        "on_fail",
        "on_undecided",
        "report",
        "baseline",
        "kubeflow_conn_id",
        "evaluation",
        "mlflow_conn_id",
    )
    operator_extra_links = (ReportLink(),)
    ui_color = "#fef3e0"
    # A task that a branch has skipped stays so when it is cleared by itself.
    inherits_from_skipmixin = True

    def __init__(
        self,
        *,
        comparison: Mapping[str, Any],
        rules: Sequence[Mapping[str, Any]],
        confidence: float | str = 0.95,
        on_fail: str | Sequence[str] = "fail",
        on_undecided: str | Sequence[str] = "fail",
        report: str | None = None,
        baseline: str | None = None,
        kubeflow_conn_id: str = KubeflowPipelinesHook.default_conn_name,
        evaluation: Mapping[str, Any] | None = None,
        mlflow_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.comparison = comparison
        self.rules = rules
        self.confidence = confidence
        self.on_fail = on_fail
        self.on_undecided = on_undecided
        self.report = report
        self.baseline = baseline
        self.kubeflow_conn_id = kubeflow_conn_id
        self.evaluation = evaluation
        self.mlflow_conn_id = mlflow_conn_id
        self._decision: Decision | None = None

    def lineage(self) -> TaskLineage:
        """The evaluation's page, and once it is decided, each rule as a check."""
        read = (Touched(self.report, kind="FILE"),) if isinstance(self.report, str) and self.report else ()
        if self._decision is None:
            return TaskLineage(inputs=read)
        rules = self._decision.evidence.get("rules", ())
        checks = tuple(
            Check(str(each["name"]), each["outcome"] == "pass", actual=_figure(each)) for each in rules
        )
        outcome = str(self._decision.outcome)
        run = {"passed": outcome == "pass", "details": {"outcome": outcome}}
        return TaskLineage(inputs=read, checks=checks, run=run)

    def execute(self, context: Context) -> dict[str, Any]:
        """Decide; the decision is pushed whatever it is."""
        from airflow_provider_llmops.comparison import read_comparison  # whoever reads DAGs runs nothing
        from airflow_provider_llmops.decision import Outcome
        from airflow_provider_llmops.gate import decide, read_confidence, read_rules

        run_id = self._run_in_mlflow()
        ways = {Outcome.FAIL: self._way("on_fail"), Outcome.UNDECIDED: self._way("on_undecided")}
        decision = decide(
            read_rules(self.rules), read_comparison(self.comparison), read_confidence(self.confidence)
        )
        self._decision = decision
        report = self._link_report(context)
        named = {"report": self.report, "baseline": self.baseline}
        found = {**decision.to_json(), **{name: text for name, text in named.items() if text}}
        value: dict[str, Any] = cut_to_fit(found)
        context["ti"].xcom_push(key="return_value", value=value)
        for finding in decision.findings:
            self.log.info("%s", finding)
        if run_id:
            self._tell_mlflow(run_id, str(decision.outcome), decision.findings)
        if decision.outcome is Outcome.PASS:
            self.log.info("Gate passed. %s", report or "")
            self._follow(context, None, ways)
            return value
        way = ways[decision.outcome]
        reason = summary_of(decision.findings)
        if way == "skip":
            raise AirflowSkipException(f"The gate is not passed ({decision.outcome}): {reason}")
        if way == "fail":
            raise QualityGateFailed(reason, report)
        self.log.warning("The gate is not passed (%s): %s", decision.outcome, reason)
        self._follow(context, way, ways)
        return value

    def _run_in_mlflow(self) -> str | None:
        """Id of the evaluation's run, where the decision is to be kept there, too."""
        if not self.mlflow_conn_id:
            return None
        if not isinstance(self.evaluation, Mapping):
            raise ConfigurationError(
                "mlflow_conn_id is given, and no evaluation whose run could get the decision. Give evaluation what its task returns, or leave "
                "both out."
            )
        tracking = (self.evaluation.get("details") or {}).get("tracking") or {}
        if not tracking.get("run_id"):
            self.log.warning(
                "The decision is not in MLflow, where the evaluation has no run: %s",
                tracking.get("not_logged") or "it was made without mlflow_conn_id",
            )
        return tracking.get("run_id")

    def _tell_mlflow(self, run_id: str, outcome: str, findings: Sequence[str]) -> None:
        """Describe the evaluation's run by the decision."""
        told = "\n".join(f"- {' '.join(finding.split())}" for finding in findings)
        tags = {DECISION_TAG: outcome, NOTE_TAG: f"**Gate: {outcome}**\n\n{told}"}
        if self.baseline:
            tags[f"{DECISION_TAG}.baseline"] = self.baseline
        try:
            MlflowHook(self.mlflow_conn_id or "").tag_run(run_id, tags)
        except (AirflowNotFoundException, LLMOpsError) as error:
            self.log.warning("The decision is not in MLflow: %s", error)

    def _way(self, name: str) -> str | list[str]:
        """What to do where the gate is not passed."""
        given = getattr(self, name)
        if given in ("fail", "skip"):
            return str(given)
        ids = [given] if isinstance(given, str) else given
        if (
            not isinstance(ids, Sequence)
            or not ids
            or not all(isinstance(each, str) and each for each in ids)
        ):
            raise ConfigurationError(f"{name} must be fail, skip, or ids of tasks, got {shown_value(given)}.")
        known = {*self.dag.task_ids, *self.dag.task_group_dict}
        if unknown := describe_unknown(ids, known):
            raise ConfigurationError(
                f"{name}: the DAG has no task {unknown}. Give ids of tasks after the gate."
            )
        return list(ids)

    def _follow(
        self, context: Context, way: str | list[str] | None, ways: Mapping[Any, str | list[str]]
    ) -> None:
        """Go on with the tasks of one way; where the gate is passed, with all but those of the others."""
        branches = [each for ids in ways.values() if not isinstance(ids, str) for each in ids]
        if not branches:
            return
        if way is None:
            others = set(self._expand_task_group_roots(context["ti"], branches))
            way = [each for each in self.downstream_task_ids if each not in others]
        self.do_branch(context, way)

    def _link_report(self, context: Context) -> str | None:
        if not self.report:
            return None
        url = ""
        try:
            url = KubeflowPipelinesHook(self.kubeflow_conn_id).page_url(self.report)
        except (AirflowNotFoundException, ConfigurationError) as error:
            self.log.warning("The report is not linked: %s", error)
        ReportLink().push(context["ti"], url)
        return f"Report: {url or self.report}"


def _figure(figures: Mapping[str, Any]) -> str:
    """What a rule was held against, in words."""
    found = f"{figures['value']:g}" if "value" in figures else "no value"
    return f"{figures['outcome']}: {found} on {figures['rows']} rows"
