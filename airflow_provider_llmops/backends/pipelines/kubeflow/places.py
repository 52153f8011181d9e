"""Where the steps of a run write, below a pipeline root."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.uris import scheme_of


def root_of(answer: Mapping[str, Any], settings: KfpSettings) -> str:
    """Where a run writes: whoever made it may have chosen another root than the connection's.

    :param answer: the server's JSON about the run
    :param settings: the connection's settings
    """
    root = str((answer.get("runtime_config") or {}).get("pipeline_root") or "")
    # Of files only the connection says which may be read.
    return settings.pipeline_root if scheme_of(root) in ("", "file") else root


class StepPlaces:
    """Where the steps of one run may have written their outputs.

    The server puts the pipeline's name and the run's id below the pipeline root (``backend/src/v2/metadata``); some
    versions qualify the name of an uploaded pipeline first.

    :param root: the run's pipeline root
    :param pipeline: name of the pipeline
    :param run_id: the run
    :param namespace: of the run, where the server is multi-user
    """

    def __init__(self, root: str, pipeline: str, run_id: str, *, namespace: str | None) -> None:
        self.root = root
        names = [pipeline, f"pipeline/{pipeline}"]
        if namespace:
            names.append(f"namespace/{namespace}/pipeline/{pipeline}")
        below = root.partition("?")[0].rstrip("/")
        self._directories = [f"{below}/{name}/{run_id}" for name in names]

    def of(self, task: str) -> list[str]:
        """The directories in which the attempts of a step may have written.

        :param task: path of the step; of a task in a group the server takes the task's own name
        """
        return [f"{directory}/{task.rpartition('/')[2]}" for directory in self._directories]
