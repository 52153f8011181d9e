"""KFP component: REINFORCE leave-one-out with TRL."""

from typing import Optional

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_rloo(
    dataset: Input[Dataset],
    base_model: Input[Model],
    model: Output[Model],
    adapter: Output[Model],
    metrics: Output[Metrics],
    result: Output[Artifact],
    reward_model: Optional[Input[Model]] = None,
    rewards: Optional[dict] = None,
    eval_dataset: Optional[Input[Dataset]] = None,
    training_args: Optional[dict] = None,
    peft_args: Optional[dict] = None,
    model_args: Optional[dict] = None,
    checkpoints: Optional[str] = None,
):
    """Train a policy to earn more reward than its other answers, with TRL's ``RLOOTrainer``.

    Args:
        dataset: Rows with a prompt: JSON lines or Parquet; further columns are handed to the reward functions.
        base_model: Directory of the policy to start from.
        model: The trained policy with the adapter merged in, as safetensors with its tokenizer.
        adapter: The PEFT adapter alone.
        metrics: Reward, KL, entropy, length of the answers, tokens per second and sizes, for the pipelines UI.
        result: Digests, metrics and resources of this step.
        reward_model: Directory of a reward model, as train_reward writes it.
        rewards: Weights by name: ``reward_model``, a function in ``trl.rewards``, or ``module:function`` of a module that
            the environment variable LLMOPS_REWARD_MODULES allows. Left out, the reward model alone.
        eval_dataset: Rows held out from training, for ``eval_loss`` and the reward on them.
        training_args: Passed to ``trl.RLOOConfig``; unknown names are errors.
        peft_args: Passed to ``peft.LoraConfig``; left out, a LoRA on all linear layers is trained.
        model_args: Passed to ``AutoModelForCausalLM.from_pretrained``.
        checkpoints: Directory that outlives the step, on a cluster a mounted volume. Training that was killed goes on
            from the last checkpoint there; without it, it starts again.
    """
    from llmops_components.stage import run_stage, whole_numbers
    from llmops_components.training.rloo import train_rloo as train

    run_stage(
        "train_rloo",
        lambda: train(
            dataset.path,
            base_model.path,
            model.path,
            adapter.path,
            rewards=whole_numbers(rewards),
            reward_model=reward_model.path if reward_model else None,
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
