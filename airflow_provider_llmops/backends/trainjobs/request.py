"""What the entry point on the nodes is asked to do, and where on their volume things lie."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_llmops.backends.trainjobs.manifest import MAX_TRAIN_JOB_NAME
from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown, shown_value
from airflow_provider_llmops.settings.kubernetes import StepSettings
from airflow_provider_llmops.specs.index import read_index
from airflow_provider_llmops.specs.passing_on import checked, is_same_release
from airflow_provider_llmops.specs.pipeline import PipelineSpec
from airflow_provider_llmops.uris import file_path, scheme_of

REQUEST_VARIABLE = "LLMOPS_REQUEST"
MAX_REQUEST_BYTES = 96 * 1024  # Linux allows a variable 128 KiB
_TOKEN_CHARACTERS = 12


@dataclass(frozen=True)
class TrainingRequest:
    """A training on nodes that share a volume.

    :param component: name of the training component
    :param arguments: its arguments by name; data sets and models as paths below a mounted claim, or ``hf://`` addresses
    :param output_path: directory below a mounted claim
    :param preset: how the processes work together
    :param settings: of each node; its claims mount the volume
    """

    component: str
    arguments: Any
    output_path: str
    preset: str
    settings: StepSettings

    def document(self, job_name: str, checkpoints: str) -> dict[str, Any]:
        """What the entry point reads, checked.

        :param job_name: name of the TrainJob
        :param checkpoints: name of the directory of those that may be gone on from, unless an argument names one
        :raises ConfigurationError: an argument is unknown, missing or of the wrong type, or a path is not on a volume
        """
        for what, value, known in (
            ("component", self.component, read_index()["trainings"]),
            ("preset", self.preset, read_index()["presets"]),
        ):
            if unknown := describe_unknown([value], known):
                raise ConfigurationError(f"There is no {what} {unknown}. There are: {', '.join(known)}.")
        if not isinstance(self.arguments, Mapping):
            raise ConfigurationError(f"arguments must be a dict, got {shown_value(self.arguments)}.")
        if started_here := sorted({"processes", "preset"} & set(self.arguments)):
            raise ConfigurationError(
                f"arguments: {', '.join(started_here)} is for a step that starts its own processes. Here the TrainJob does: set "
                "num_nodes, processes_per_node and preset of the operator."
            )
        spec = PipelineSpec.packaged(self.component)
        same_release = is_same_release(self.settings.image, spec.image)
        given = checked(self.component, self.arguments, same_release=same_release)
        arguments = spec.check(given)
        output = self._path("output_path", self.output_path)
        for name, value in arguments.items():
            is_place = name == "checkpoints" or "artifactType" in spec.inputs[name]
            if is_place and not str(value).startswith("hf://"):
                arguments[name] = self._path(name, value)
        arguments.setdefault("checkpoints", f"{output}/checkpoints/{checkpoints}")
        outputs = {name: f"{output}/{job_name}/{name}" for name in models_of(self.component)}
        return {
            "component": self.component,
            "arguments": {**arguments, **outputs},
            "result": f"{output}/{job_name}/result.json",
            "preset": self.preset,
        }

    def variable(self, job_name: str, checkpoints: str) -> str:
        """The document as the value of a container's environment variable."""
        # JSON knows the dollar sign by another name, and Kubernetes would expand $(NAME) in a variable.
        text = json.dumps(self.document(job_name, checkpoints)).replace("$", "\\u0024")
        if len(text) > MAX_REQUEST_BYTES:
            raise ConfigurationError(
                f"The arguments take {len(text)} bytes as JSON, at most {MAX_REQUEST_BYTES} fit. Put data into files on the "
                "volume."
            )
        return text

    def _path(self, name: str, value: Any) -> str:
        """A place on a volume that the nodes mount."""
        mounts = [posixpath.normpath(path) for path in self.settings.persistent_volume_claims.values()]
        if not mounts:
            raise ConfigurationError(
                "A TrainJob has its data, models and outputs on a volume: mount one with step_settings={'persistent_volume_claims': "
                "{'CLAIM': '/mnt/shared'}}."
            )
        path = str(value)
        if scheme_of(path) == "file":
            path = file_path(path, name)
        if scheme_of(path):
            raise ConfigurationError(
                f"The nodes cannot read {name}. Copy it to a volume and give its path below {' or '.join(mounts)}.",
                f"{name}: {shown_value(value, 200)}",
            )
        normal = posixpath.normpath(path)
        if not any(normal.startswith(f"{mount.rstrip('/')}/") for mount in mounts) or "\0" in path:
            raise ConfigurationError(
                f"{name} must be a path below {' or '.join(mounts)}, where the nodes have a volume.",
                f"{name}: {shown_value(value, 200)}",
            )
        return normal


def job_name(dag_id: str, task_id: str, token: str) -> str:
    """Name of the TrainJob: what a person recognises, as far as it fits, and the token.

    :param dag_id: the DAG
    :param task_id: the task
    :param token: what tells it from every other TrainJob
    """
    readable = re.sub(r"[^a-z0-9]+", "-", f"{dag_id}-{task_id}".lower()).strip("-")
    if not readable[:1].isalpha():
        readable = f"t-{readable}"
    room = MAX_TRAIN_JOB_NAME - _TOKEN_CHARACTERS - 1
    return f"{readable[:room].rstrip('-')}-{token[:_TOKEN_CHARACTERS]}"


def labels_of(origin: Mapping[str, str]) -> dict[str, str]:
    """Where the TrainJob comes from, without the index of a task that is not mapped: a label cannot begin with a dash.

    :param origin: the same as annotations, which hold the whole values
    """
    return {
        key: re.sub(r"[^A-Za-z0-9_.-]", "_", value)[:63].strip("-_.")
        for key, value in origin.items()
        if not (key == "llmops/map-index" and value.startswith("-"))
    }


def models_of(component: str) -> list[str]:
    """The outputs of a training component that are models, in their order.

    :param component: name of the component
    """
    known = read_index()["components"].get(
        component, {"outputs": {}}
    )  # one that runs may be another release's
    return [name for name, kind in known["outputs"].items() if kind == "system.Model"]
