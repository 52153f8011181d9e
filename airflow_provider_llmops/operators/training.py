"""Operators for models: bring a base model in, train it in every way of TRL, merge an adapter, compress it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_llmops.hooks.mlflow import MlflowHook
from airflow_provider_llmops.links import MlflowRunLink, ModelCardLink
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.operators.pipeline_run import tracking_of
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink

    from airflow_provider_llmops.specs.pipeline import BoundPipeline

__all__ = [
    "CompressModelOperator",
    "DistillOperator",
    "ImportBaseModelOperator",
    "MergeAdapterOperator",
    "ReinforcementOperator",
    "TrainDPOOperator",
    "TrainGRPOOperator",
    "TrainKTOOperator",
    "TrainRLOOOperator",
    "TrainRewardOperator",
    "TrainSFTOperator",
    "TrainingOperator",
]

_ROWS = Address(("hf",), "file")
_MODEL = Address(kind="directory")


class ImportBaseModelOperator(ComponentOperator):
    """Store a causal language model as safetensors with its tokenizer.

    Artifacts: ``model``.

    :param source: ``hf://org/name``, an absolute directory, a GGUF file, or ``package://name`` for one in an installed package
    :param revision: branch, tag or commit on the hub
    :param dtype: type of the stored weights: ``bfloat16``, ``float16`` or ``float32``
    """

    component = "import_base_model"
    addresses = {"source": Address(("hf", "package"), names=True)}

    def __init__(
        self, *, source: str, revision: str | None = None, dtype: str = "bfloat16", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.revision = revision
        self.dtype = dtype


class TrainingOperator(ComponentOperator):
    """What the operators of all trainers take.

    Artifacts: ``model`` (adapter merged in), ``adapter``.

    :param dataset: URI of JSON lines or Parquet in a format of the trainer
    :param base_model: URI of the model to start from
    :param eval_dataset: URI of rows held out from training, for ``eval_loss``; with ``checkpoints`` each of those is
        evaluated, and the best one is the outcome
    :param training_args: passed to the trainer's configuration class in TRL; unknown names are errors
    :param peft_args: passed to ``peft.LoraConfig``; ``{"use_dora": True}`` makes it a DoRA,
        ``{"peft_type": "PROMPT_TUNING"}`` tunes a prompt, ``{"peft_type": None}`` trains all weights
    :param model_args: passed to ``from_pretrained``; ``{"quantization_config": {"load_in_4bit": True}}`` makes it QLoRA
    :param checkpoints: directory that outlives the run; training that was killed goes on from the last checkpoint there
    :param save_minutes: longest time between two checkpoints
    :param budget: limits at which the training stops with what it has: ``max_minutes``, ``max_tokens``, ``max_cost`` with
        ``price_per_device_hour``
    :param tracking: where it is tracked in MLflow: ``tracking_uri``, ``experiment``, ``parent``, ``run_name``, ``tags``; no credentials
    :param mlflow_conn_id: connection of type ``mlflow``: gives ``tracking`` the address, the DAG's run as ``parent`` and the
        task as ``run_name``, of a mapped task with its ``map_index_template`` or its index; its credentials reach the step through its environment only
    :param processes: number of training processes that the step starts, as a rule one for each of its GPUs
    :param preset: how they work together: ``ddp``, ``fsdp2``, ``zero1``, ``zero2``, ``zero3``, or ``cpu``
    """

    own_arguments = ("mlflow_conn_id",)
    operator_extra_links: Collection[BaseOperatorLink] = (
        *ComponentOperator.operator_extra_links,
        ModelCardLink(),
        MlflowRunLink(),
    )
    addresses: ClassVar[Mapping[str, Address]] = {
        "dataset": _ROWS,
        "eval_dataset": _ROWS,
        "base_model": _MODEL,
        "checkpoints": Address(kind="directory", exists=False),
    }

    def __init__(
        self,
        *,
        dataset: str,
        base_model: str,
        eval_dataset: str | None = None,
        training_args: dict[str, Any] | None = None,
        peft_args: dict[str, Any] | None = None,
        model_args: dict[str, Any] | None = None,
        checkpoints: str | None = None,
        save_minutes: float | None = None,
        budget: dict[str, float] | None = None,
        tracking: dict[str, Any] | None = None,
        mlflow_conn_id: str | None = None,
        processes: int = 1,
        preset: str = "ddp",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.base_model = base_model
        self.eval_dataset = eval_dataset
        self.training_args = training_args
        self.peft_args = peft_args
        self.model_args = model_args
        self.checkpoints = checkpoints
        self.save_minutes = save_minutes
        self.budget = budget
        self.tracking = tracking
        self.mlflow_conn_id = mlflow_conn_id
        self.processes = processes
        self.preset = preset

    def arguments(self) -> dict[str, Any]:
        """The component's arguments; the connection and the DAG's run say where it is tracked."""
        arguments = super().arguments()
        if self.mlflow_conn_id:
            arguments["tracking"] = tracking_of(self, self.mlflow_conn_id, self.tracking)
        return arguments

    def environment(self) -> dict[str, str]:
        """MLflow's credentials."""
        return MlflowHook(self.mlflow_conn_id).environment() if self.mlflow_conn_id else {}

    def deciding(self, pipeline: BoundPipeline) -> BoundPipeline:
        """Without where it is tracked, which differs from run to run, and does not change what comes out."""
        kept = {name: value for name, value in pipeline.parameters.items() if name != "tracking"}
        return replace(pipeline, parameters=kept)


class TrainSFTOperator(TrainingOperator):
    """Fine-tune on prompt/completion or conversational rows with TRL's ``SFTTrainer``."""

    component = "train_sft"


class TrainRewardOperator(TrainingOperator):
    """Train a reward model on preferences with TRL's ``RewardTrainer``; ``model`` is the reward model."""

    component = "train_reward"


class TrainDPOOperator(TrainingOperator):
    """Make a model prefer the better of two answers with TRL's ``DPOTrainer``."""

    component = "train_dpo"


class TrainKTOOperator(TrainingOperator):
    """Learn from answers that were each called good or bad with TRL's ``KTOTrainer``."""

    component = "train_kto"


class ReinforcementOperator(TrainingOperator):
    """What the operators for reinforcement learning take besides.

    :param rewards: weights by name: ``reward_model``, a function in ``trl.rewards``, or ``module:function`` of a module
        that ``LLMOPS_REWARD_MODULES`` allows where the component runs; left out, the reward model alone
    :param reward_model: URI of a reward model
    """

    addresses = {**TrainingOperator.addresses, "reward_model": _MODEL}

    def __init__(
        self, *, rewards: dict[str, Any] | None = None, reward_model: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.rewards = rewards
        self.reward_model = reward_model


class TrainGRPOOperator(ReinforcementOperator):
    """Train a policy to earn more reward than the average of its own answers with TRL's ``GRPOTrainer``."""

    component = "train_grpo"


class TrainRLOOOperator(ReinforcementOperator):
    """Train a policy to earn more reward than its other answers with TRL's ``RLOOTrainer``."""

    component = "train_rloo"


class DistillOperator(TrainingOperator):
    """Train a student to judge its own answers as a teacher does, with TRL's ``DistillationTrainer``.

    :param teacher: URI of the teacher, whose vocabulary has to be the student's
    """

    component = "distill"
    addresses = {**TrainingOperator.addresses, "teacher": _MODEL}

    def __init__(self, *, teacher: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.teacher = teacher


class MergeAdapterOperator(ComponentOperator):
    """Add the change of an adapter to the weights of its base model.

    Artifacts: ``model``.

    :param base_model: URI of the model that the adapter was trained on
    :param adapter: URI of the adapter
    :param dtype: type to merge and store in: ``bfloat16``, ``float16``, ``float32``, or ``auto`` for the base model's
    """

    component = "merge_adapter"
    addresses = {"base_model": _MODEL, "adapter": _MODEL}

    def __init__(self, *, base_model: str, adapter: str, dtype: str = "auto", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.base_model = base_model
        self.adapter = adapter
        self.dtype = dtype


class CompressModelOperator(ComponentOperator):
    """Compress a model's weights, and measure it beside the model that it was made from.

    What comes out is evaluated, registered and served like any model; it is no base for training or merging.

    Artifacts: ``model``. Metrics, each with ``base_`` for the model before: ``weight_bytes``, ``load_seconds``,
    ``tokens_per_second`` on the CPU, and of a dataset ``loss``.

    :param base_model: URI of the model, whole weights with an adapter merged in
    :param method: ``int8``, a byte for each weight and a scale for each row, by torchao
    :param dtype: type of what is not compressed: ``bfloat16``, ``float16``, ``float32``, or ``auto`` for the model's
    :param dataset: URI of rows whose text the losses are of, the first 32
    """

    component = "compress_model"
    addresses = {"base_model": _MODEL, "dataset": Address(kind="file")}

    def __init__(
        self,
        *,
        base_model: str,
        method: str = "int8",
        dtype: str = "auto",
        dataset: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.base_model = base_model
        self.method = method
        self.dtype = dtype
        self.dataset = dataset
