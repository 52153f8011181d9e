"""The backend for an API server of Kubeflow Pipelines 2: each method leads to the module that knows how."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from airflow_provider_llmops.backends.pipelines import artifacts as artifact_store
from airflow_provider_llmops.backends.pipelines.base import Run, RunRequest, Wait
from airflow_provider_llmops.backends.pipelines.kubeflow import pages, places, why_waiting
from airflow_provider_llmops.backends.pipelines.kubeflow.api import KfpApi, RefusedError
from airflow_provider_llmops.backends.pipelines.kubeflow.failures import explain_failure
from airflow_provider_llmops.backends.pipelines.kubeflow.health import check_server
from airflow_provider_llmops.backends.pipelines.kubeflow.places import StepPlaces
from airflow_provider_llmops.backends.pipelines.kubeflow.pods import RunPods
from airflow_provider_llmops.backends.pipelines.kubeflow.reading import RunReader, went_on_at
from airflow_provider_llmops.backends.pipelines.kubeflow.runs import ServerRuns
from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.backends.pipelines.kubeflow.submission import Submission
from airflow_provider_llmops.backends.pipelines.kubeflow.versions import PipelineVersions
from airflow_provider_llmops.specs.ir import handed_into_groups_as_null
from airflow_provider_llmops.specs.pipeline import BoundPipeline
from airflow_provider_llmops.states import StepState
from airflow_provider_llmops.uris import Address

log = logging.getLogger(__name__)

IMAGE_SECONDS = 10.0  # that a cluster may take to say which image has run
NODES_LAG_SECONDS = 1.5  # how far the nodes of a run may be behind its state


class KubeflowPipelineBackend:
    """Carries out runs on an API server of Kubeflow Pipelines 2.

    :param settings: the connection's settings
    """

    poll_interval = 5.0

    def __init__(self, settings: KfpSettings) -> None:
        self.settings = settings
        self._api = KfpApi(settings)
        self._versions = PipelineVersions(self._api)
        self._reader = RunReader(settings, self._versions)
        self._runs = ServerRuns(self._api, self._reader)
        self._submission = Submission(self._api, self._runs, self._versions)

    @property
    def image(self) -> str | None:
        """Image to run the provider's own components in, where the connection names one."""
        return self.settings.image

    def image_of(self, compiled: str, own: str | None = None) -> str:
        """Image that a step of the provider's components runs in.

        :param compiled: that the component was compiled for
        :param own: that the step's settings name
        """
        return own or self.image or compiled

    def pinned(self, image: str | None, run_id: str, task: str) -> str | None:
        """The image with the digest that the step's pod ran, where the connection names one of Kubernetes and the pod is still there.

        :param image: that the step was to run in
        :param run_id: the run
        :param task: the step's name in the specification
        """
        if image is None or "@" in image or not self.settings.kubernetes_conn_id:
            return image
        try:
            digest = RunPods.of(self.settings, seconds=IMAGE_SECONDS).image_digest(run_id, task)
        except Exception as error:  # whatever it is: the step has done its work
            log.warning("The digest of the image of %s is not known: %s", task, error)
            return image
        return f"{image}@{digest}" if digest else image

    def impatient(self) -> KubeflowPipelineBackend:
        """The same, for a caller that repeats requests itself."""
        return KubeflowPipelineBackend(dataclasses.replace(self.settings, patience=0.0))

    def place(self, pipeline: BoundPipeline, addresses: Mapping[str, Address]) -> BoundPipeline:
        """The pipeline as it is: whether steps can read an address is for the cluster to say."""
        for group, name in handed_into_groups_as_null(pipeline.spec, pipeline.parameters.keys()):
            log.warning(
                "Input %r has no value and no default, and task %r, a group of tasks, takes it: up to version 2.17 Kubeflow "
                "Pipelines hands no null into a group, and fails there. Give it a value, or compile a default",
                name,
                group,
            )
        return pipeline

    def submit(self, request: RunRequest) -> str:
        """Create the run, once, even if answers are lost."""
        return self._submission.submit(request)

    def get(self, run_id: str) -> Run:
        """Read one run; once more if it has just ended, for its nodes are about a second behind."""
        run = self._runs.get(run_id)
        if run.state.is_terminal and not all(StepState(state).is_terminal for state in run.tasks.values()):
            time.sleep(NODES_LAG_SECONDS)
            run = self._runs.get(run_id)
        return run

    def find(self, display_name: str) -> Run | None:
        """The run of that name. If there are several, the oldest; the others are stopped."""
        return self._runs.find(display_name)

    def find_version(self, pipeline: str, version: str | None) -> dict[str, str]:
        """Ids of a pipeline on the server and of one of its versions."""
        return self._versions.by_name(pipeline, version)

    def read_version(self, version: Mapping[str, str]) -> dict[str, Any]:
        """The specification that a version holds."""
        return self._versions.spec(version)

    def find_reusable(self, fingerprint: str) -> Run | None:
        """The newest successful run whose labels hold a fingerprint."""
        return self._runs.find_reusable(fingerprint)

    def list_finished(self, since: datetime, *, with_steps_of: Container[str] = ()) -> Iterator[Run]:
        """Runs that finished at or after a moment, by the server's clock."""
        return self._runs.list_finished(since, with_steps_of=with_steps_of)

    def last_finished_at(self) -> datetime:
        """When the run that finished last did so, by the server's clock; the epoch if none has."""
        return self._runs.last_finished_at()

    def read_many(self, run_ids: Sequence[str]) -> dict[str, Run]:
        """Read several runs at once; those that do not exist are left out."""
        return self._runs.read_many(run_ids)

    def cancel(self, run_id: str, patience: float | None = None) -> None:
        """Terminate a run; does nothing if it has ended."""
        self._runs.cancel(run_id, patience=patience)

    def retry(self, run_id: str) -> None:
        """Run the failed steps of a failed run again, and what depends on them."""
        try:
            self._api.call(self._api.runs.run_service_retry_run, run_id)
        except RefusedError:
            # Unless the answer to an earlier request was lost, and it goes on.
            if self.get(run_id).state.is_terminal:
                raise

    def read_result(self, run_id: str, pipeline: str, task: str) -> tuple[str, str]:
        """The step's ``result`` output in the artifact store."""
        roots = self._places(self.settings.pipeline_root, pipeline, run_id).of(task)
        return artifact_store.read_result(roots, run_id, task, self.settings.storage_conn_id)

    def list_outputs(self, run_id: str, pipeline: str, task: str) -> dict[str, str]:
        """Address of each artifact that a step has written, by its name."""
        roots = self._places(self.settings.pipeline_root, pipeline, run_id).of(task)
        return artifact_store.list_outputs(roots, self.settings.storage_conn_id)

    def input_digest(self, uri: str) -> str | None:
        """What the component that made the artifact said of it, or what the storage says."""
        return artifact_store.input_digest(uri, self.settings.storage_conn_id)

    def run_url(self, run_id: str) -> str:
        """The run's page in the web interface."""
        return pages.run_page(self.settings, run_id)

    def page_url(self, uri: str, conn_id: str) -> str:
        """The artifact as the web interface of Kubeflow Pipelines hands it out."""
        return pages.artifact_page(self.settings, uri)

    def why_waiting(self, run_id: str) -> list[Wait]:
        """From the pods, through the Kubernetes connection."""
        return why_waiting.why_waiting(self.settings, run_id)

    async def awhy_waiting(self, run_id: str) -> list[Wait]:
        """The same from the triggerer."""
        return await why_waiting.awhy_waiting(self.settings, run_id)

    def explain_failure(self, run: Run) -> Run:
        """With the reason from its steps' output in the artifact store, or else from their pods."""
        patience = self.settings.short_patience
        answer = self._api.call(self._api.runs.run_service_get_run, run.run_id, patience=patience)
        info = self._reader.specification_of(answer).get("pipelineInfo") or {}
        root = places.root_of(answer, self.settings)
        where = self._places(root, str(info.get("name") or ""), run.run_id)
        return explain_failure(run, self.settings, where, since=went_on_at(answer))

    def check(self) -> str:
        """Ask for the server's version, then for its runs, which needs credentials."""
        return check_server(self._api)

    def _places(self, root: str, pipeline: str, run_id: str) -> StepPlaces:
        return StepPlaces(root, pipeline, run_id, namespace=self.settings.namespace)
