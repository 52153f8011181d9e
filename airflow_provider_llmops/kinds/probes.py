"""The comparison of a canary's answers with the stable revision's, as a run beside the canary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.backends.pipelines.base import PipelineServer, RunRequest
from airflow_provider_llmops.backends.pipelines.component import bind_component
from airflow_provider_llmops.backends.serving.access import KEY_VARIABLE
from airflow_provider_llmops.decision import Decision
from airflow_provider_llmops.delivery.probes import COMPARISON, CanaryProbes
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.links import ReportLink
from airflow_provider_llmops.remote.intent import Intent, attempts_key, origin_of
from airflow_provider_llmops.specs.pipeline import BoundPipeline, PipelineSpec
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["COMPARISON_ADDRESSES", "ProbeRuns"]

COMPARISON_ADDRESSES = {
    "dataset": Address(kind="file"),
    "embedding_model": Address(("package",), "directory"),
    "checkpoints": Address(kind="directory", exists=False),
}
MAX_NAME_LENGTH = 120
STEP_KEY = "llmops_canary_step"
Way = tuple[str, str | None]


class ProbeRuns:
    """Starts the comparisons of one canary.

    :param probes: what is asked, and how it is judged
    :param kserve: hook of the service, with whose key it is asked
    :param service_name: name of the service
    :param logger: of the task
    """

    def __init__(self, probes: CanaryProbes, kserve: KServeHook, service_name: str, logger: Any) -> None:
        self._probes = probes
        self._kserve = kserve
        self._service_name = service_name
        self._log = logger
        self.hook = KubeflowPipelinesHook(probes.kubeflow_conn_id)

    def check(self) -> None:
        """Look whether a comparison could be started, and reach both revisions.

        :raises ConfigurationError: an argument is wrong, the questions are not there, or it would run where no revision can be reached
        """
        is_on_a_cluster = isinstance(self.hook.backend, PipelineServer)
        if self._kserve.backend.rolls_out and not is_on_a_cluster:
            raise ConfigurationError(
                f"The answers would be compared on this machine (connection {self._probes.kubeflow_conn_id!r} has no host), and service "
                f"{self._service_name!r} runs on a cluster, whose revisions have addresses inside of it alone. Name a connection to Kubeflow "
                "Pipelines on that cluster as kubeflow_conn_id of probes, or leave them out."
            )
        if is_on_a_cluster and not self._kserve.backend.rolls_out:
            raise ConfigurationError(
                f"The answers would be compared on a cluster (connection {self._probes.kubeflow_conn_id!r} has a host), and service "
                f"{self._service_name!r} runs on this machine, which no pod reaches. Name a connection without a host as kubeflow_conn_id of "
                "probes, or leave them out."
            )
        pipeline = self._pipeline(("http://127.0.0.1", "canary"), ("http://127.0.0.1", "stable"))
        if is_on_a_cluster:
            from airflow_provider_llmops.backends.pipelines.kubeflow.submission import refuse_secrets

            refuse_secrets("probes", pipeline, self._environment())

    def since(
        self, context: Context, share: int, now: dict[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """What both had answered before they were first asked in a step: in an attempt that follows the questions are not put again, and count.

        :param context: of the attempt
        :param share: percent of the requests that the canary has
        :param now: what canary and stable revision have answered by now
        """
        step: dict[str, Any] = {"of": _key_of(context), "share": share, "revisions": sorted(now)}
        stored: Any = context["task_state_store"].get(STEP_KEY)
        if stored and {**stored, **step} == stored:
            found: dict[str, dict[str, Any]] = stored["since"]
            return found
        begun: dict[str, Any] = {**step, "since": now}
        context["task_state_store"].set(STEP_KEY, begun)
        return now

    def start(
        self, context: Context, revision: str, stable: str, share: int, way_to: Callable[[str], Way]
    ) -> dict[str, Any]:
        """Have both asked, once in each step, whatever attempt begins it: what watches the step is told.

        :param context: of the attempt
        :param revision: the canary
        :param stable: the revision that it is compared with
        :param share: percent of the requests that the canary has
        :param way_to: how a client asks a revision: an address, and a name where it is the service's
        """
        ti, intent = context["ti"], Intent.load(context)
        began = intent.began if intent else ti.try_number
        name = f"{ti.dag_id}.{ti.task_id}"[:MAX_NAME_LENGTH]
        name += f" {self._service_name} {revision} {share}% {_key_of(context)}"
        backend = self.hook.backend
        # One that has ended without a result is begun anew by the next attempt, which the one after that has to find.
        tries = range(began, ti.try_number + 1)
        found = [
            run for again in ("", *(f" {each}" for each in tries)) if (run := backend.find(name + again))
        ]
        former = next((run for run in found if not run.state.is_lost), None)
        if former is None:
            request = RunRequest(
                display_name=f"{name} {ti.try_number}" if found else name,
                pipeline=self._pipeline(way_to(revision), way_to(stable)),
                labels={**origin_of(context), "component": COMPARISON},
                environment=self._environment(),
            )
            run_id = backend.submit(request)
        else:
            run_id = former.run_id
        self._log.info("Answers of %s and %s are compared in run %s", revision, stable, run_id)
        return {
            "kubeflow_conn_id": self._probes.kubeflow_conn_id,
            "run_id": run_id,
            "probes": self._probes.to_json(),
        }

    def tell(self, context: Context, decision: Decision) -> tuple[str, ...]:
        """Link the page with both answers, and say in lines which are the worst.

        :param context: of the attempt
        :param decision: on a step
        """
        figures = decision.evidence.get("answers") or {}
        report = figures.get("report")
        if report:
            ReportLink().push(context["ti"], self.hook.page_url(report))
        worst = [_side_by_side(row) for row in figures.get("worst") or ()]
        return (*worst, *((f"Report: {report}",) if report else ()))

    def _environment(self) -> dict[str, str]:
        """The service's API key; inside of a cluster there is no certificate to verify."""
        found = self._kserve.access.environment() if not self._kserve.backend.rolls_out else {}
        key = self._kserve.access.api_key
        return found if key is None else {**found, KEY_VARIABLE: key}

    def _pipeline(self, canary: Way, stable: Way) -> BoundPipeline:
        backend, probes = self.hook.backend, self._probes
        more = dict(probes.arguments)
        others = [name for name in more.pop("metric_names", None) or () if name != probes.metric]
        given = {
            **more,
            "dataset": probes.dataset,
            "url": canary[0],
            "revision": canary[1],
            "baseline_url": stable[0],
            "baseline_revision": stable[1],
            "model_name": self._service_name,
            "metric_names": [probes.metric, *others],
        }
        spec = PipelineSpec.packaged(COMPARISON)
        image = (probes.step_settings or {}).get("image")
        pipeline = bind_component(COMPARISON, spec, given, image=backend.image, own_image=image)
        if probes.step_settings:
            from airflow_provider_llmops.settings.steps import apply_settings

            pipeline = apply_settings(pipeline, probes.step_settings)
        return backend.place(pipeline, COMPARISON_ADDRESSES)


def _key_of(context: Context) -> str:
    """Shared by the attempts that follow each other until the task is cleared."""
    intent = Intent.load(context)
    return attempts_key(context, intent.began if intent else None)


def _side_by_side(row: Mapping[str, Any]) -> str:
    """A question with both answers, in a few lines."""
    scores = [
        f"{row[name]:.3g}" if row.get(name) is not None else "no score"
        for name in ("score", "baseline_score")
    ]
    lines = [f"Row {row['row']}: {row['prompt']}"]
    if "reference" in row:
        lines.append(f"  reference: {row['reference']}")
    lines.append(f"  canary ({scores[0]}): {row['answer']}")
    lines.append(f"  stable ({scores[1]}): {row['baseline_answer']}")
    return "\n".join(lines)
