"""KFP component: compress a model's weights."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def compress_model(
    base_model: Input[Model],
    model: Output[Model],
    metrics: Output[Metrics],
    result: Output[Artifact],
    dataset: Input[Dataset] = None,
    method: str = "int8",
    dtype: str = "auto",
):
    """Write a model with compressed weights, and measure it beside the one that it was made from.

    Args:
        base_model: Directory of the model: whole weights, an adapter merged in.
        model: The compressed model with its tokenizer.
        metrics: Size, time to load and tokens per second of both, for the pipelines UI.
        result: Digests, metrics and resources of this step.
        dataset: Rows whose text the losses of both are of, the first 32.
        method: ``int8``: a byte for each weight and a scale for each row, by torchao.
        dtype: Type of what is not compressed: ``bfloat16``, ``float16``, ``float32``, or ``auto`` for the model's own.
    """
    from llmops_components.kfp._run import run_step
    from llmops_components.models.compression.compress import compress_model as compress

    run_step(
        "compress_model",
        lambda: compress(
            base_model.path,
            model.path,
            method=method,
            dtype=dtype,
            dataset=dataset.path if dataset else None,
        ),
        outputs={"model": model},
        metrics=metrics,
        result=result,
    )
