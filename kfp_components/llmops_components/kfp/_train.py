"""What the training components have in common: a pipeline step's artifacts and parameters become a training."""

from __future__ import annotations

from typing import Any

from kfp.dsl import Artifact, Metrics, Model

from llmops_components.kfp._run import run_step
from llmops_components.passthrough.declared import whole_numbers
from llmops_components.training.launch import train


def train_step(
    component: str,
    *,
    model: Model,
    adapter: Model,
    metrics: Metrics,
    result: Artifact,
    processes: int,
    preset: str,
    **inputs: Any,
) -> None:
    """Train as a pipeline step.

    Args:
        component: Name of a training component.
        model: Output artifact of the trained model.
        adapter: Output artifact of the adapter.
        metrics: Output artifact that shows the metrics in the pipelines UI.
        result: Output artifact for the result.
        processes: Number of training processes.
        preset: How they work together.
        inputs: The component's other arguments; of an artifact the trainer gets the path.
    """
    outputs = {"model": model, "adapter": adapter}
    arguments = {
        name: value.path if isinstance(value, Artifact) else value
        for name, value in (inputs | outputs).items()
    }
    run_step(
        component,
        lambda: train(component, whole_numbers(arguments), processes=processes, preset=preset),
        outputs=outputs,
        metrics=metrics,
        result=result,
    )
