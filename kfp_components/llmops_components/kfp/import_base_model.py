"""KFP component: bring a base model into the pipeline's artifact store."""

from typing import Optional

from kfp import dsl
from kfp.dsl import Artifact, Model, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def import_base_model(
    model: Output[Model],
    result: Output[Artifact],
    source: str,
    revision: Optional[str] = None,
    dtype: str = "bfloat16",
):
    """Fetch a causal language model and store it as safetensors with its tokenizer.

    Args:
        model: Directory with config, safetensors and tokenizer.
        result: Digest, licence, number of parameters and resources of this step.
        source: ``hf://org/name`` of the Hugging Face hub, an absolute directory, which may hold one GGUF file instead, the
            path of a GGUF file, or ``package://name`` for a GGUF file shipped in an installed Python package.
        revision: Branch, tag or commit on the hub; the default branch when left out.
        dtype: Type of the stored weights: ``bfloat16``, ``float16`` or ``float32``.
    """
    from llmops_components.kfp._run import run_step
    from llmops_components.models.importing import import_base_model as import_model

    run_step(
        "import_base_model",
        lambda: import_model(model.path, source=source, revision=revision, dtype=dtype),
        outputs={"model": model},
        result=result,
    )
