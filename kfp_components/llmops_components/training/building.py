"""From the settings of a training to a trainer: model, tokenizer and rows loaded, checked, and handed over."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops_components.data.sources import Source
from llmops_components.errors import ModelError
from llmops_components.models import loading
from llmops_components.passthrough.refusals import refusals, refusing
from llmops_components.training.lengths import check_lengths
from llmops_components.training.method import Method
from llmops_components.training.plan import WARM_UP
from llmops_components.training.rows import (
    check_end_token,
    naming_refused_rows,
    row_findings,
)

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback

    from llmops_components.training.plan import Plan


def build_trainer(
    plan: Plan, args: Any, callbacks: list[TrainerCallback], *, sample: int | None = None
) -> tuple[Any, list[str]]:
    """The trainer, and what there is to say of the data as it sees them.

    Args:
        plan: The settings of the training.
        args: The trainer's arguments.
        callbacks: What looks on, besides the caller's own.
        sample: Build it for trials, with so many rows and nobody else who looks on.

    Raises:
        DataError: A row cannot be trained on; names it.
        SettingError: The trainer refuses an argument.
        ModelError: The model cannot be loaded, or answers a row otherwise beside longer ones.
    """
    import transformers
    import trl

    from llmops_components.training.callbacks.trainjob_status import report_beside
    from llmops_components.training.step_order import sort_within_steps

    asked, method, rows = plan.asked, plan.method, plan.asked.rows
    further_args = asked.trainer_args()
    transformers.set_seed(args.seed)  # a new head is random
    base, tokenizer = loading.load_model(
        asked.base_model,
        plan.options.get("model_args"),
        dtype=plan.dtype,
        task=method.task,
        new_head=method.task == "SEQ_CLS",
    )
    _check_chat_template(rows, args, tokenizer, asked.base_model)
    check_end_token(rows, args, tokenizer)
    train_dataset = _dataset(method, rows, args.seed)
    if sample is not None:
        train_dataset = train_dataset.shuffle(seed=args.seed).select(range(min(sample, len(train_dataset))))
    has_eval = asked.eval_rows is not None and sample is None
    eval_dataset = _dataset(method, asked.eval_rows, args.seed) if has_eval else None
    looking_on = [] if sample is not None else [*callbacks, *plan.options.get("callbacks", ())]
    where = f"{method.trainer} refuses these settings for {rows.name}"
    with refusals(where), naming_refused_rows(tokenizer, rows, asked.eval_rows):
        trainer = getattr(trl, method.trainer)(
            model=base,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            peft_config=copy.deepcopy(plan.peft_config),  # PEFT writes into it
            callbacks=looking_on,
            **further_args,
        )
    if sample is not None:
        return trainer, []
    if not is_sharded(trainer):  # where each process has a part of it, which answers nothing
        # Flash attention knows 16 bit alone, in which the trainer has weights of 32 bit compute.
        flash = "flash" in str(getattr(base.config, "_attn_implementation", ""))
        with trainer.accelerator.autocast() if flash else nullcontext():
            _check_batches(method, base, trainer.processing_class)
    # These it builds of its arguments as well, but later.
    for name in ("create_optimizer", "create_scheduler"):
        setattr(trainer, name, refusing(where, getattr(trainer, name)))
    trainer.remove_callback(transformers.PrinterCallback)
    report_beside(trainer)
    _keep_trained_copies_exact(trainer)
    findings = row_findings(trainer, args, rows, learns_text=method.learns_text, columns=method.columns)
    sort_within_steps(plan, trainer)
    if "warmup_steps" not in plan.given:
        _warm_up_only_where_it_is_a_step(trainer)
    if asked.watch:
        asked.watch.attach(trainer)
    if rows.rows is None:
        return trainer, findings
    cut = check_lengths(trainer.train_dataset, args, len(train_dataset), rows.name)
    return trainer, [*cut, *findings]


def _check_batches(method: Method, base: Any, tokenizer: Any) -> None:
    """The trainer pads rows to one length: what it learns from must not depend on that."""
    from llmops_components.models.probing import check_answers_in_batch, check_scores_in_batch

    if method.answers:
        check_answers_in_batch(base, method.trainer)
    if method.task == "SEQ_CLS":
        check_scores_in_batch(base, tokenizer)


def _dataset(method: Method, source: Source, seed: int) -> Any:
    shuffles = method.keeps_order or source.rows is None  # otherwise the trainer does
    return source.dataset(method.columns, expand=method.expand, shuffle_seed=seed if shuffles else None)


def is_sharded(trainer: Trainer) -> bool:
    """Whether each process has a part of the weights.

    Args:
        trainer: Any trainer.
    """
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def _check_chat_template(rows: Source, args: Any, tokenizer: Any, base_model: Path) -> None:
    if rows.format.conversational and tokenizer.chat_template is None:
        if getattr(args, "chat_template_path", None):
            return
        remedy = (
            ", or training_args={'chat_template_path': ...}" if hasattr(args, "chat_template_path") else ""
        )
        raise ModelError(
            f"The tokenizer in {base_model} has no chat template, and the rows of {rows.name} are conversations. "
            f"Use an instruction-tuned model, plain-text rows{remedy}."
        )


def _warm_up_only_where_it_is_a_step(trainer: Trainer) -> None:
    """Transformers rounds a share of the steps up, and the first step of a warm-up has a rate of zero: a short training
    would lose a step, and a training of one step would learn nothing."""
    create_scheduler = trainer.create_scheduler

    def of_steps(num_training_steps: int, *rest: Any, **named: Any) -> Any:
        if num_training_steps * WARM_UP < 1:
            trainer.args.warmup_steps = 0
        return create_scheduler(num_training_steps, *rest, **named)

    trainer.create_scheduler = of_steps


def _keep_trained_copies_exact(trainer: Trainer) -> None:
    """PEFT trains whole modules (a new head) as copies in the type of the frozen weights: in 16 bit, small updates of
    them would be rounded away. The adapter's own weights it makes 32 bit by itself."""
    import torch

    if trainer.args.bf16 or trainer.args.fp16:
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad and "modules_to_save" in name:
                parameter.data = parameter.data.to(torch.float32)
