"""A training on nodes as the author of a DAG asks for it, and the TrainJob that carries it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow_provider_llmops.backends.trainjobs.manifest import train_job
from airflow_provider_llmops.backends.trainjobs.request import REQUEST_VARIABLE, TrainingRequest, labels_of
from airflow_provider_llmops.settings.kubernetes import StepSettings
from airflow_provider_llmops.specs.declared import converted
from airflow_provider_llmops.specs.pipeline import PipelineSpec

# As the entry point in the components' image has them: llmops_components.training.launch.
LAUNCH_MODULE = "llmops_components.training.launch"
# The container's last words, which Kubernetes keeps in the pod's status.
TERMINATION_LOG = "/dev/termination-log"


@dataclass(frozen=True)
class Training:
    """What the operator's arguments of the same names say; they are checked where they are used.

    :param run_timeout: how long it may run, from its start on
    """

    component: str
    arguments: Any
    output_path: str
    step_settings: Any
    num_nodes: Any
    processes_per_node: Any
    preset: str
    runtime: str
    runtime_kind: str
    run_timeout: timedelta | None

    @property
    def run_seconds(self) -> float | None:
        """How long it may run."""
        return None if self.run_timeout is None else self.run_timeout.total_seconds()

    @property
    def request(self) -> TrainingRequest:
        """What the entry point on each node is asked to do."""
        settings = StepSettings.of(self.step_settings)
        return TrainingRequest(self.component, self.arguments, self.output_path, self.preset, settings)

    def manifest(
        self, name: str, namespace: str, *, token: str, checkpoints: str, origin: Mapping[str, str]
    ) -> dict[str, Any]:
        """The TrainJob.

        :param name: its name
        :param namespace: its namespace
        :param token: what tells it from every other TrainJob
        :param checkpoints: name of the directory of those that may be gone on from
        :param origin: ids of the task, for labels and annotations
        """
        request = self.request
        text = request.variable(name, checkpoints)
        annotations = {f"llmops/{key.replace('_', '-')}": value for key, value in origin.items()}
        return train_job(
            name,
            namespace=namespace,
            token=token,
            image=PipelineSpec.packaged(self.component).image,
            command=["python", "-m", LAUNCH_MODULE],
            args=[f"env:{REQUEST_VARIABLE}"],
            env={REQUEST_VARIABLE: text, "LLMOPS_ERROR_FILE": TERMINATION_LOG},
            settings=request.settings,
            runtime=self.runtime,
            runtime_kind=self.runtime_kind,
            num_nodes=converted(self.num_nodes, ["int"], "num_nodes", {}, strict=False),
            processes_per_node=converted(
                self.processes_per_node, ["int", "null"], "processes_per_node", {}, strict=False
            ),
            active_deadline_seconds=None if self.run_seconds is None else max(1, round(self.run_seconds)),
            labels={"app.kubernetes.io/managed-by": "airflow", **labels_of(annotations)},
            annotations={"llmops/component": self.component, **annotations},
        )
