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
    reward_model: Input[Model] = None,
    rewards: Optional[dict] = None,
    eval_dataset: Input[Dataset] = None,
    training_args: Optional[dict] = None,
    peft_args: Optional[dict] = None,
    model_args: Optional[dict] = None,
    checkpoints: Optional[str] = None,
    save_minutes: Optional[float] = None,
    budget: Optional[dict] = None,
    tracking: Optional[dict] = None,
    processes: int = 1,
    preset: str = "ddp",
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
            from the last checkpoint there; without it, it starts again. With ``eval_dataset`` too, each checkpoint is
            evaluated and the best one is the outcome.
        save_minutes: Longest time between two checkpoints.
        budget: Limits at which the training stops with what it has: ``max_minutes``, ``max_tokens``, ``max_cost`` with
            ``price_per_device_hour``. They may be raised for a run that goes on.
        tracking: Where it is tracked in MLflow: ``tracking_uri``, ``experiment``, ``parent``, ``run_name``. Credentials
            belong in the environment, never here.
        processes: Number of training processes that the step starts, as a rule one for each of its GPUs.
        preset: How they work together: ``ddp``, ``fsdp2``, ``zero1``, ``zero2``, ``zero3``, or ``cpu``.
    """
    given = locals()
    from llmops_components.kfp._train import train_step

    train_step("train_rloo", **given)
