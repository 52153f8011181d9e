"""KFP component: merge an adapter into its base model."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Model, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def merge_adapter(
    base_model: Input[Model],
    adapter: Input[Model],
    model: Output[Model],
    metrics: Output[Metrics],
    result: Output[Artifact],
    dtype: str = "auto",
):
    """Write a base model with an adapter's change added to its weights, as safetensors.

    Args:
        base_model: Directory of the model that the adapter was trained on.
        adapter: Directory of the PEFT adapter.
        model: The merged model with its tokenizer.
        metrics: Sizes, for the pipelines UI.
        result: Digests, metrics and resources of this step.
        dtype: Type to merge and store in: ``bfloat16``, ``float16``, ``float32``, or ``auto`` for the base model's own.
    """
    from llmops_components.kfp._run import run_step
    from llmops_components.models.merging import merge_adapter as merge

    run_step(
        "merge_adapter",
        lambda: merge(base_model.path, adapter.path, model.path, dtype=dtype),
        outputs={"model": model},
        metrics=metrics,
        result=result,
    )
