"""Operators for models: bring a base model in, fine-tune it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_provider_llmops.operators.component import ComponentOperator


class ImportBaseModelOperator(ComponentOperator):
    """Store a causal language model as safetensors with its tokenizer.

    Artifacts: ``model``.

    :param source: ``hf://org/name``, an absolute directory, or ``package://name`` for a GGUF file in an installed package
    :param revision: branch, tag or commit on the hub
    :param dtype: type of the stored weights: ``bfloat16``, ``float16`` or ``float32``
    """

    component = "import_base_model"
    inputs = ("source", "revision", "dtype")
    template_fields: Sequence[str] = (*ComponentOperator.template_fields, *inputs)

    def __init__(
        self, *, source: str, revision: str | None = None, dtype: str = "bfloat16", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.revision = revision
        self.dtype = dtype


class TrainSFTOperator(ComponentOperator):
    """Fine-tune on prompt/completion or conversational rows with TRL's ``SFTTrainer``.

    Artifacts: ``model`` (adapter merged in), ``adapter``.

    :param dataset: URI of JSON lines in a TRL format for supervised fine-tuning
    :param base_model: URI of the model to start from
    :param eval_dataset: URI of rows held out from training, for ``eval_loss``
    :param training_args: passed to ``trl.SFTConfig``; unknown names are errors
    :param peft_args: passed to ``peft.LoraConfig``
    :param model_args: passed to ``AutoModelForCausalLM.from_pretrained``
    :param checkpoints: directory that outlives the run; training that was killed goes on from the last checkpoint there
    """

    component = "train_sft"
    inputs = (
        "dataset",
        "base_model",
        "eval_dataset",
        "training_args",
        "peft_args",
        "model_args",
        "checkpoints",
    )
    template_fields: Sequence[str] = (*ComponentOperator.template_fields, *inputs)
    template_fields_renderers = {"training_args": "json", "peft_args": "json", "model_args": "json"}

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
