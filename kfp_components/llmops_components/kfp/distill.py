"""KFP component: on-policy distillation with TRL."""

from typing import Optional

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def distill(
    dataset: Input[Dataset],
    base_model: Input[Model],
    teacher: Input[Model],
    model: Output[Model],
    adapter: Output[Model],
    metrics: Output[Metrics],
    result: Output[Artifact],
    eval_dataset: Optional[Input[Dataset]] = None,
    training_args: Optional[dict] = None,
    peft_args: Optional[dict] = None,
    model_args: Optional[dict] = None,
    checkpoints: Optional[str] = None,
):
    """Train a student to give each token the probability that its teacher gives, with TRL's ``DistillationTrainer``.

    Args:
        dataset: Rows with a prompt: JSON lines or Parquet.
        base_model: Directory of the student.
        teacher: Directory of the teacher; its vocabulary has to be the student's.
        model: The trained student with the adapter merged in, as safetensors with its tokenizer.
        adapter: The PEFT adapter alone.
        metrics: Divergence from the teacher, entropy, tokens per second and sizes, for the pipelines UI.
        result: Digests, metrics and resources of this step.
        eval_dataset: Rows held out from training, for ``eval_loss``.
        training_args: Passed to ``trl.DistillationConfig``; unknown names are errors.
        peft_args: Passed to ``peft.LoraConfig``; left out, a LoRA on all linear layers is trained.
        model_args: Passed to ``AutoModelForCausalLM.from_pretrained``.
        checkpoints: Directory that outlives the step, on a cluster a mounted volume. Training that was killed goes on
            from the last checkpoint there; without it, it starts again.
    """
    from llmops_components.stage import run_stage, whole_numbers
    from llmops_components.training.distill import distill as train

    run_stage(
        "distill",
        lambda: train(
            dataset.path,
            base_model.path,
            teacher.path,
            model.path,
            adapter.path,
            training_args=whole_numbers(training_args),
            peft_args=whole_numbers(peft_args),
            model_args=whole_numbers(model_args),
            eval_dataset=eval_dataset.path if eval_dataset else None,
            checkpoints=checkpoints,
        ),
        outputs={"model": model, "adapter": adapter},
        metrics=metrics,
        result=result,
    )
