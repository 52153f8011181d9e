"""The one place where a trainer is built, run and saved, whichever it is: load, build, run, save.

A module of :mod:`.methods` for each trainer (``sft.py``, ``dpo.py``, ...) says in a :class:`~.method.Method` what is special about it;
:mod:`.plan` settles what it is trained with, and :mod:`.building` makes the trainer.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops_components.data.sources import open_source
from llmops_components.errors import check_known
from llmops_components.models import loading
from llmops_components.models.directory import check_model_directory
from llmops_components.models.outputs import check_output
from llmops_components.models.provenance import count_parameters
from llmops_components.models.saving import save_trained
from llmops_components.passthrough.training import TrainingOptions
from llmops_components.quiet import quiet_libraries
from llmops_components.results import StepReport
from llmops_components.state_files import naming_full_disk
from llmops_components.training import building, curves
from llmops_components.training.label_positions import only_where_labelled
from llmops_components.training.method import Asked, Method, Watch
from llmops_components.training.model_card import CARD_FILE, write_model_card
from llmops_components.training.plan import Plan
from llmops_components.training.rows import (
    check_columns,
    naming_refused_rows,
)

if TYPE_CHECKING:
    from transformers import Trainer

    from llmops_components.tracking.run import Tracker


def run_training(
    method: Method,
    dataset: str | os.PathLike[str],
    base_model: str | os.PathLike[str],
    model: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    options: TrainingOptions,
    *,
    facts: Mapping[str, Any] | None = None,
    trainer_args: Callable[[], Mapping[str, Any]] = dict,
    watch: Watch | None = None,
) -> StepReport:
    """Train a model by some method.

    Args:
        method: What is special about the method.
        dataset: Rows to train on.
        base_model: Directory of the model to start from.
        model: Output directory of the trained model.
        adapter: Output directory of the adapter.
        options: What every trainer takes.
        facts: What else makes the run what it is, for the provenance.
        trainer_args: Makes further arguments for the trainer's constructor.
        watch: Looks at what matters for this method alone.

    Returns:
        Metrics: ``train_loss`` (mean), ``first_loss``, ``final_loss``, ``eval_loss``, the same of the method's other
        curves, ``steps``, ``epochs``, ``tokens`` and ``tokens_per_second`` of this process,
        ``trainable_parameters``, ``total_parameters``. Details: ``resumed_from``, ``device``, what was used of the
        ``budget``, what the ``memory`` sufficed for, and the MLflow run in ``tracking``.

    Raises:
        DataError: The dataset cannot be trained on; names the line.
        SettingError: An argument is unknown or wrong, the loss diverged, the memory does not suffice, or nothing was
            learned: the model equals its base.
        ModelError: A model cannot be loaded.
        TrainingInterrupted: SIGTERM arrived; with ``checkpoints`` the training is saved.
    """
    check_known(options, TrainingOptions.__annotations__, f"arguments of {method.component}")
    # Cheap checks first: they need no torch and answer at once.
    check_output(model)
    check_output(adapter)
    base_directory = check_model_directory(base_model)
    rows = open_source(dataset, method.formats)
    held_out = options.get("eval_dataset")
    eval_rows = open_source(held_out, method.formats) if held_out is not None else None
    for source in filter(None, (rows, eval_rows)):
        check_columns(source, method.columns)

    quiet_libraries()
    from llmops_components.tracking.run import track
    from llmops_components.training.micro_batch import as_split, choose
    from llmops_components.training.survival import interruptible, within_memory

    with interruptible(), tempfile.TemporaryDirectory(prefix=f"{method.component}-") as scratch:
        asked = Asked(
            method=method,
            rows=rows,
            eval_rows=eval_rows,
            base_model=base_directory,
            options=options,
            facts=facts or {},
            trainer_args=trainer_args,
            watch=watch,
        )
        plan = Plan(asked, Path(scratch))
        plan.check()
        with (
            track(plan.run, tracking=options.get("tracking"), checkpoints=plan.checkpoints) as tracker,
            only_where_labelled(),
        ):
            plan.split = choose(plan)
            train = partial(_carry_out, plan, tracker=tracker, model=model, adapter=adapter)
            report = as_split(plan, train) or within_memory(
                plan.arguments,
                train,
                smallest=method.smallest_batch,
                may_recompute=plan.may_recompute,
            )
        plan.done()
    report.details["tracking"] = tracker.details()
    return report


def _carry_out(
    plan: Plan,
    args: Any,
    *,
    tracker: Tracker,
    model: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
) -> StepReport:
    """Load, build, run, save."""
    from llmops_components.tracking.sender import STOPPED_TAG
    from llmops_components.training import survival
    from llmops_components.training.callbacks.progress import ProgressCallback
    from llmops_components.training.change import Before, check_steps
    from llmops_components.training.memory import check_fits
    from llmops_components.training.micro_batch import check_rest

    resume_from = plan.resume_point()
    progress = ProgressCallback({name: plan.method.curves[name] for name in plan.method.shown})
    budget = plan.budget
    trainer, findings = building.build_trainer(plan, args, [progress, budget, tracker.callback])
    check_rest(plan, trainer)
    if plan.may_recompute and not args.activation_checkpointing:
        check_fits(trainer)
    before = Before(trainer.model)
    trainable, total = count_parameters(trainer.model)
    if trainer.is_world_process_zero():
        count = "streamed" if plan.asked.rows.rows is None else len(plan.asked.rows.rows)
        going_on = f", going on from {resume_from}" if resume_from else ""
        print(
            f"Training {trainable:,} of {total:,} parameters on {count} rows, {args.device}{going_on}",
            flush=True,
        )

    with (
        naming_full_disk(args.output_dir),
        naming_refused_rows(trainer.processing_class, plan.asked.rows, plan.asked.eval_rows),
    ):
        survival.run_training(
            trainer,
            resume_from,
            save_minutes=plan.save_minutes(),
            loss_guard=plan.loss_guard(),
        )
    findings = [*plan.left_out, *plan.split_findings(), *plan.memory_findings(), *findings]
    used = budget.report()["used"]
    stopped = budget.finding()
    check_steps(trainer.state, stopped)
    if plan.asked.watch:
        findings += plan.asked.watch.findings()
    if stopped:
        findings.insert(0, stopped)
        tracker.tags({STOPPED_TAG: stopped})
        if trainer.is_world_process_zero():
            print(stopped, flush=True)
    metrics = {
        **curves.curve_metrics(trainer.state.log_history, plan.method.curves),
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "tokens": progress.tokens,
        "tokens_per_second": progress.tokens / progress.seconds if progress.seconds else 0.0,
        "trainable_parameters": trainable,
        "total_parameters": total,
    }
    if plan.asked.eval_rows:
        metrics |= curves.eval_metrics(_evaluation(trainer), plan.method.curves)

    trained = _whole_model(plan, trainer)
    if trainer.is_world_process_zero():
        before.check(trained, trainer)
        card = partial(
            write_model_card,
            run=plan.run,
            metrics=metrics,
            log_history=trainer.state.log_history,
            task=plan.method.task,
            dataset_name=plan.asked.rows.name,
            paper=trainer._paper,
            findings=tuple(findings),
        )
        findings += save_trained(
            trained,
            trainer.processing_class,
            plan.run,
            curves.training_log(trainer.state.log_history),
            base_model=plan.asked.base_model,
            model_args=plan.options.get("model_args"),
            model=model,
            adapter=adapter,
            task=plan.method.task,
            card=card,
        )
        tracker.metrics(metrics | {f"used_{name}": value for name, value in used.items()})
        tracker.file(
            next(path for path in (Path(model, CARD_FILE), Path(adapter, CARD_FILE)) if path.exists())
        )
    trainer.accelerator.wait_for_everyone()
    return StepReport(
        metrics=metrics,
        details={
            "resumed_from": Path(resume_from).name if resume_from else None,
            "device": str(args.device),
            "budget": budget.report(),
            "memory": {
                "activation_checkpointing": args.activation_checkpointing,
                "per_device_train_batch_size": args.per_device_train_batch_size,
                "gradient_accumulation_steps": args.gradient_accumulation_steps,
            },
        },
        findings=findings,
    )


def _whole_model(plan: Plan, trainer: Trainer) -> Any:
    """The trained model with all of its weights; in the first process only, if they are spread over several."""
    if not building.is_sharded(trainer):
        return trainer.model
    gathered = plan.scratch / "gathered"
    trainer.save_model(str(gathered))  # all processes send their parts
    if not trainer.is_world_process_zero():
        return None
    if trainer.is_deepspeed_enabled:
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()  # or the model is spread again, for which this process would wait for the others
    settings_of = {
        "model_args": plan.options.get("model_args"),
        "dtype": str(trainer.model.dtype).removeprefix("torch."),
        "task": plan.method.task,
    }
    if plan.peft_config is None:
        return loading.load_model(gathered, **settings_of)[0]
    base = loading.load_base_of_adapter(plan.asked.base_model, trainer.processing_class, **settings_of)
    return loading.load_adapter(base, gathered, of=plan.asked.base_model)


def _evaluation(trainer: Trainer) -> Mapping[str, Any]:
    """Figures on the rows held out, of the weights that are kept."""
    from llmops_components.training.budget import best_step

    best = best_step(trainer.args, trainer.state)  # it was evaluated when it was saved
    known = [entry for entry in trainer.state.log_history if entry["step"] == best and "eval_loss" in entry]
    return known[0] if known else trainer.evaluate()
