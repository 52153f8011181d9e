"""The output of steps as the launcher of Kubeflow Pipelines 2.17 leaves it below the pipeline root."""

from __future__ import annotations

import uuid
from pathlib import Path


def leave_log(
    root: Path,
    pipeline: str,
    run_id: str,
    task: str,
    text: str,
    *,
    retry: int = 0,
    attempt: str | None = None,
) -> Path:
    """What the launcher uploads of a step, whether it succeeded or failed.

    :param root: directory that stands for the object storage
    :param pipeline: name of the pipeline in its specification
    :param task: the step's name in the group that it belongs to
    :param text: what the step printed
    :param retry: which try of its pod it was, from 0
    :param attempt: the name that the driver has given it; a new one when ``None``
    """
    path = root / pipeline / run_id / task / (attempt or str(uuid.uuid4())) / f"executor-logs-{retry}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
