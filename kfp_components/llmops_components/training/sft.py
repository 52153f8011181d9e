"""Supervised fine-tuning."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops_components.data.formats import read_valid_rows
from llmops_components.errors import DataError, ModelError
from llmops_components.models import check_model_directory
from llmops_components.results import StageReport, digest_of
from llmops_components.training import common

FORMATS = ("prompt_completion", "language_modeling")
COLUMNS = ("prompt", "completion", "messages", "text", "tools", "chat_template_kwargs")


def train_sft(
    dataset: str | os.PathLike[str],
    base_model: str | os.PathLike[str],
    model: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    *,
    training_args: Mapping[str, Any] | None = None,
    peft_args: Mapping[str, Any] | None = None,
    model_args: Mapping[str, Any] | None = None,
    eval_dataset: str | os.PathLike[str] | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
) -> StageReport:
    """Fine-tune a causal language model on prompt/completion or conversational rows with TRL's ``SFTTrainer``.

    Args:
        dataset: JSON Lines in TRL's prompt-completion or language-modeling format, plain or conversational.
        base_model: Directory of the model to start from: config, safetensors, tokenizer.
        model: Output directory: the tuned model, adapter merged in, with tokenizer and ``provenance.json``.
        adapter: Output directory: the PEFT adapter alone. Not written when all weights are trained.
        training_args: Passed to ``trl.SFTConfig``; unknown names are errors.
        peft_args: Passed to ``peft.LoraConfig``; left out, a LoRA of rank 16 on all linear layers is trained.
            ``{"peft_type": None}`` trains all weights.
        model_args: Passed to ``AutoModelForCausalLM.from_pretrained``.
        eval_dataset: Rows like ``dataset``'s, for ``eval_loss``.
        checkpoints: Directory for checkpoints. When it already holds one of the same run, training goes on there.

    Returns:
        Metrics: ``train_loss`` (mean), ``first_loss``, ``final_loss``, ``eval_loss``, ``steps``, ``epochs``,
        ``tokens`` and ``tokens_per_second`` of this process, ``trainable_parameters``, ``total_parameters``.

    Raises:
        DataError: The dataset cannot be trained on; names the line.
        SettingError: An argument is unknown or wrong, or the loss diverged.
        ModelError: The base model cannot be loaded.
    """
    # Cheap checks first: they need no torch and answer at once.
    common.check_output(model)
    common.check_output(adapter)
    base_directory = check_model_directory(base_model)
    rows, fmt = read_valid_rows(dataset, FORMATS)
    eval_rows = read_valid_rows(eval_dataset, FORMATS)[0] if eval_dataset is not None else None

    import transformers
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from llmops_components.training.progress import ProgressCallback

    common.quiet_libraries()
    peft_config = common.build_peft(peft_args)
    dtype, mixed_precision = common.precision(full=peft_config is None)
    defaults = {
        **common.training_defaults(training_args),
        **mixed_precision,
        # An adapter starts from nothing and bears, and needs, about ten times the rate of full training.
        "learning_rate": 2e-5 if peft_config is None else 2e-4,
        "per_device_train_batch_size": 4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
    }
    with tempfile.TemporaryDirectory(prefix="train-sft-") as scratch:
        # Load.
        args = common.build_config(
            SFTConfig,
            training_args,
            what="training_args",
            defaults=defaults | (common.CHECKPOINT_DEFAULTS if checkpoints else {}),
            fixed=common.fixed_args(checkpoints or scratch, checkpoints is not None),
        )
        run = {
            "component": "train_sft",
            "dataset": {"digest": digest_of(dataset)[0], "rows": len(rows), "format": str(fmt)},
            "base_model": common.describe_base(base_directory),
            "training_args": {**defaults, **(training_args or {})},
            "peft_args": dict(peft_args or {}),
            "model_args": {"dtype": dtype, **(model_args or {})},
        }
        resume_from = common.resume_point(Path(checkpoints), run) if checkpoints is not None else None
        base, tokenizer = common.load_model(base_directory, model_args, dtype=dtype)
        if fmt.conversational and tokenizer.chat_template is None:
            raise ModelError(
                f"The tokenizer in {base_directory} has no chat template, and the rows of {dataset} are conversations. "
                "Use an instruction-tuned model, plain-text rows, or training_args={'chat_template_path': ...}."
            )

        # Build.
        progress = ProgressCallback()
        trainer = SFTTrainer(
            model=base,
            args=args,
            train_dataset=Dataset.from_list(_columns(rows)),
            eval_dataset=Dataset.from_list(_columns(eval_rows)) if eval_rows else None,
            processing_class=tokenizer,
            peft_config=peft_config,
            callbacks=[progress],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        findings = _check_lengths(trainer.train_dataset, args, len(rows), dataset)
        trainable, total = common.count_parameters(trainer.model)

        # Run.
        print(
            f"Training {trainable:,} of {total:,} parameters on {len(rows)} rows, {args.device}", flush=True
        )
        if resume_from:
            print(f"Going on from {resume_from}", flush=True)
        trainer.train(resume_from_checkpoint=resume_from)
        metrics = {
            **common.loss_metrics(trainer.state.log_history),
            "steps": trainer.state.global_step,
            "epochs": trainer.state.epoch,
            "tokens": progress.tokens,
            "tokens_per_second": progress.tokens / progress.seconds if progress.seconds else 0.0,
            "trainable_parameters": trainable,
            "total_parameters": total,
        }
        if eval_rows:
            metrics["eval_loss"] = trainer.evaluate()["eval_loss"]

        # Save.
        common.save_model(
            trainer.model, tokenizer, run, trainer.state.log_history, model=model, adapter=adapter
        )
    return StageReport(
        metrics=metrics,
        details={"resumed_from": Path(resume_from).name if resume_from else None, "device": str(args.device)},
        findings=findings,
    )


def _columns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The columns that the trainer reads; others (an id, a source) may have a type that differs from row to row."""
    present = [name for name in COLUMNS if any(name in row for row in rows)]
    return [{name: row.get(name) for name in present} for row in rows]


def _check_lengths(train_dataset: Any, args: Any, rows: int, path: str | os.PathLike[str]) -> list[str]:
    """What ``max_length`` took away: a finding, or an error when nothing is left to learn from.

    TRL drops rows of which no token of the completion is left, without a word.
    """
    if args.packing or args.max_length is None:
        return []
    dropped = rows - len(train_dataset)
    if dropped == rows:
        raise DataError(
            f"No row of {path} has a token of the completion within max_length={args.max_length}. "
            "Raise max_length in training_args or shorten the prompts."
        )
    cut = sum(len(ids) >= args.max_length for ids in train_dataset["input_ids"])
    findings = []
    if dropped:
        findings.append(
            f"{dropped} of {rows} rows were left out: their prompt alone fills max_length={args.max_length}."
        )
    if cut:
        findings.append(f"{cut} of {rows} rows reach max_length={args.max_length} and were cut there.")
    return findings
