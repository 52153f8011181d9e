"""The one place where a trainer is built, run and saved, whichever it is: load, build, run, save.

A module of :mod:`.methods` for each trainer (``sft.py``, ``dpo.py``, ...) says in a :class:`Method` what is special about it.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmops_components.data.formats import FormatName
from llmops_components.data.sources import Source, open_source
from llmops_components.errors import ModelError, SettingError, check_known
from llmops_components.models import loading
from llmops_components.models.directory import check_model_directory
from llmops_components.models.outputs import check_output
from llmops_components.models.precision import precision
from llmops_components.models.provenance import count_parameters, describe_base
from llmops_components.models.quiet import quiet_libraries
from llmops_components.models.saving import save_trained
from llmops_components.passthrough.refusals import refusals, refusing
from llmops_components.passthrough.tables import typed
from llmops_components.passthrough.training import TrainingOptions
from llmops_components.processes import decided_by_main, is_main_process, process_count
from llmops_components.redaction import redacted
from llmops_components.results import StepReport
from llmops_components.state_files import naming_full_disk
from llmops_components.training import curves, settings
from llmops_components.training.checkpoints import claim, put_all_aside, resume_point
from llmops_components.training.label_positions import only_where_labelled
from llmops_components.training.lengths import check_lengths
from llmops_components.training.model_card import CARD_FILE, write_model_card
from llmops_components.training.rows import (
    check_columns,
    check_end_token,
    naming_refused_rows,
    row_findings,
)
from llmops_components.uris import local_path

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback

    from llmops_components.tracking.run import Tracker

# An adapter starts from nothing and bears, and needs, about ten times the rate of full training.
FULL_TRAINING_RATE = 0.1
WARM_UP = 0.05  # of the steps
CHECKPOINTS_VARIABLE = "LLMOPS_CHECKPOINTS"
RETRY_SAVE_MINUTES = 5.0


@dataclass(frozen=True)
class Method:
    """What tells one way of training from another.

    Args:
        component: Name of the component.
        trainer: Class in ``trl``.
        config: Class of its arguments in ``trl``.
        formats: Formats of the rows that it takes.
        columns: Columns that it reads; None for all.
        learning_rate: Default for an adapter.
        defaults: Further defaults of the arguments.
        fixed: Arguments that the caller may not set.
        curves: Figures worth reporting besides the loss: names in the trainer's log by the names to report.
        shown: Which of them each line of progress shows.
        task: Kind of model.
        prompt_tuning: Whether prompt tuning works with it.
        judged_by: Figure of the evaluation by which checkpoints are compared.
        keeps_order: Whether the trainer takes the rows in their order, so that they are shuffled before it.
        smallest_batch: Rows that a batch of one process needs at least.
        answers: Whether the model answers prompts while it is trained.
        expand: Makes several rows of one.
    """

    component: str
    trainer: str
    config: str
    formats: tuple[FormatName, ...]
    learning_rate: float
    columns: tuple[str, ...] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, str] = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    task: loading.TaskType = "CAUSAL_LM"
    prompt_tuning: bool = True
    judged_by: str = "eval_loss"
    keeps_order: bool = False
    smallest_batch: int = 1
    answers: bool = False
    expand: Callable[[dict[str, Any]], list[dict[str, Any]]] | None = None

    @property
    def learns_text(self) -> bool:
        """Whether the model learns to write what is in the rows, as it does not where it judges or explores."""
        return self.task == "CAUSAL_LM" and "prompt_only" not in self.formats


class Watch(Protocol):
    """Looks at what a trainer does besides its loss."""

    def attach(self, trainer: Any) -> None:
        """Begin to look, at a trainer that has not trained yet."""

    def findings(self) -> list[str]:
        """Sentences for the result; an :class:`InputError` if the outcome is of no use."""


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
        ``budget``, and the MLflow run in ``tracking``.

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
    from llmops_components.training.survival import interruptible, with_smaller_batches

    with interruptible(), tempfile.TemporaryDirectory(prefix=f"{method.component}-") as scratch:
        job = _Job(
            method, options, rows, eval_rows, base_directory, Path(scratch), facts or {}, trainer_args, watch
        )
        job.check()
        with (
            track(job.run, tracking=options.get("tracking"), checkpoints=job.checkpoints) as tracker,
            only_where_labelled(),
        ):
            report = with_smaller_batches(
                job.arguments,
                lambda args: job.carry_out(args, tracker, model=model, adapter=adapter),
                smallest=method.smallest_batch,
            )
        job.done()
    report.details["tracking"] = tracker.details()
    return report


class _Job:
    """One training: its settings, and how it is carried out.

    ``arguments`` and ``carry_out`` are apart so that a training for which the memory did not suffice can be carried out
    again with other arguments.
    """

    def __init__(
        self,
        method: Method,
        options: TrainingOptions,
        rows: Source,
        eval_rows: Source | None,
        base_model: Path,
        scratch: Path,
        facts: Mapping[str, Any],
        trainer_args: Callable[[], Mapping[str, Any]],
        watch: Watch | None,
    ) -> None:
        from llmops_components.training.budget import BudgetCallback

        self.method, self.options = method, options
        # One for all attempts: what the memory did not suffice for has cost time too.
        self.budget = BudgetCallback(**typed(options.get("budget"), "budget", "budget"))
        self.rows, self.eval_rows = rows, eval_rows
        self.base_model, self.scratch = base_model, scratch
        self.trainer_args, self.watch = trainer_args, watch
        self.left_out: list[str] = []  # what there is to say of checkpoints that cannot be gone on from
        self.given = typed(options.get("training_args"), "training_args", f"trl.{method.config}")
        given_checkpoints = options.get("checkpoints") or None
        self.own_checkpoints = given_checkpoints and str(local_path(given_checkpoints, "checkpoints"))
        self.checkpoints = self.own_checkpoints or os.environ.get(CHECKPOINTS_VARIABLE)
        self.peft_config = settings.build_peft(options.get("peft_args"), method.task)
        if self.peft_config and self.peft_config.is_prompt_learning and not method.prompt_tuning:
            raise SettingError(
                f"peft_args: {method.component} cannot tune a prompt, its loss does not see it. Use a LoRA."
            )
        all_weights = self.peft_config is None
        self.dtype, mixed_precision = precision(full=all_weights)
        self.defaults = {
            **settings.training_defaults(self.given),
            **({} if self.given.get("fp16") or self.given.get("bf16") else mixed_precision),
            "learning_rate": method.learning_rate * (FULL_TRAINING_RATE if all_weights else 1),
            "lr_scheduler_type": "cosine",
            "warmup_steps": WARM_UP,
            **method.defaults,
        }
        self.schedule = (
            settings.checkpoint_defaults(self.given, method.judged_by if eval_rows else None)
            if self.own_checkpoints is not None
            else {}
        )
        # Which weights are kept is part of what a run is; where they are saved on the way is not.
        judged = {
            name: value for name, value in self.schedule.items() if name not in settings.CHECKPOINT_DEFAULTS
        }
        # It goes into files, tracking and the model card, all of which others can read.
        self.run = redacted(
            {
                "component": method.component,
                "dataset": dict(rows.origin),
                **({"eval_dataset": dict(eval_rows.origin)} if eval_rows else {}),
                "base_model": describe_base(base_model),
                "training_args": {**self.defaults, **judged, **self.given},
                "peft_args": dict(options.get("peft_args") or {}),
                "model_args": {"dtype": self.dtype, **(options.get("model_args") or {})},
                "processes": process_count(),  # the effective batch, and with it steps and schedule, are those of all of them
                **facts,
            }
        )

    @property
    def _is_for_a_retry(self) -> bool:
        """Whether checkpoints are kept that nobody asked for."""
        return self.own_checkpoints is None and self.checkpoints is not None

    def check(self) -> None:
        """Wrong settings are errors before anything is loaded or tracked."""
        from llmops_components.training.survival import Checkpointing, LossGuard

        self.arguments()
        Checkpointing(self._save_minutes())
        LossGuard.from_setting(self._loss_guard())
        self._claim_checkpoints()

    def arguments(self, changes: Mapping[str, Any] | None = None) -> Any:
        """The trainer's arguments: the caller's, with some changed."""
        import trl

        args = settings.build_config(
            getattr(trl, self.method.config),
            {**self.given, **(settings.FOR_A_RETRY if self._is_for_a_retry else {}), **(changes or {})},
            what="training_args",
            defaults=self.defaults | self.schedule,
            fixed={
                **settings.fixed_args(self.checkpoints or self.scratch),
                **(
                    {}
                    if self.own_checkpoints
                    else {"save_strategy": "steps" if self._is_for_a_retry else "no"}
                ),
                **self.method.fixed,
            },
        )
        if args.learning_rate == 0:
            raise SettingError(
                "training_args: learning_rate is 0, with which nothing would be learned. Give a number above 0."
            )
        if self.rows.rows is None and args.max_steps <= 0:
            raise SettingError(
                f"training_args: max_steps is needed, because {self.rows.name} is large and streamed, so that its end "
                "is not known. Set it, or raise LLMOPS_STREAM_BYTES."
            )
        return args

    def carry_out(
        self,
        args: Any,
        tracker: Tracker,
        *,
        model: str | os.PathLike[str],
        adapter: str | os.PathLike[str],
    ) -> StepReport:
        """Load, build, run, save."""
        from llmops_components.tracking.sender import STOPPED_TAG
        from llmops_components.training import survival
        from llmops_components.training.callbacks.progress import ProgressCallback
        from llmops_components.training.change import Before, check_steps

        resume_from = self._resume_point()
        progress = ProgressCallback({name: self.method.curves[name] for name in self.method.shown})
        budget = self.budget
        trainer, findings = self._build(args, [progress, budget, tracker.callback])
        before = Before(trainer.model)
        trainable, total = count_parameters(trainer.model)
        if trainer.is_world_process_zero():
            count = "streamed" if self.rows.rows is None else len(self.rows.rows)
            going_on = f", going on from {resume_from}" if resume_from else ""
            print(
                f"Training {trainable:,} of {total:,} parameters on {count} rows, {args.device}{going_on}",
                flush=True,
            )

        with (
            naming_full_disk(args.output_dir),
            naming_refused_rows(trainer.processing_class, self.rows, self.eval_rows),
        ):
            survival.run_training(
                trainer,
                resume_from,
                save_minutes=self._save_minutes(),
                loss_guard=self._loss_guard(),
            )
        findings = [*self.left_out, *findings]
        used = budget.report()["used"]
        stopped = budget.finding()
        check_steps(trainer.state, stopped)
        if self.watch:
            findings += self.watch.findings()
        if stopped:
            findings.insert(0, stopped)
            tracker.tags({STOPPED_TAG: stopped})
            if trainer.is_world_process_zero():
                print(stopped, flush=True)
        metrics = {
            **curves.curve_metrics(trainer.state.log_history, self.method.curves),
            "steps": trainer.state.global_step,
            "epochs": trainer.state.epoch,
            "tokens": progress.tokens,
            "tokens_per_second": progress.tokens / progress.seconds if progress.seconds else 0.0,
            "trainable_parameters": trainable,
            "total_parameters": total,
        }
        if self.eval_rows:
            metrics |= curves.eval_metrics(_evaluation(trainer), self.method.curves)

        trained = self._whole_model(trainer)
        if trainer.is_world_process_zero():
            before.check(trained, trainer)
            card = partial(
                write_model_card,
                run=self.run,
                metrics=metrics,
                log_history=trainer.state.log_history,
                task=self.method.task,
                dataset_name=self.rows.name,
                paper=trainer._paper,
                findings=tuple(findings),
            )
            findings += save_trained(
                trained,
                trainer.processing_class,
                self.run,
                curves.training_log(trainer.state.log_history),
                base_model=self.base_model,
                model_args=self.options.get("model_args"),
                model=model,
                adapter=adapter,
                task=self.method.task,
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
            },
            findings=findings,
        )

    def _claim_checkpoints(self) -> None:
        if self.checkpoints is None:
            return
        try:
            claim(Path(self.checkpoints), self.run)
        except SettingError:
            if not self._is_for_a_retry:
                raise
            # Nobody asked for them, and the settings have changed since: there is nothing to go on from.
            if is_main_process():
                put_all_aside(Path(self.checkpoints))
                claim(Path(self.checkpoints), self.run)

    def _resume_point(self) -> str | None:
        if self.checkpoints is None:
            return None
        directory = Path(self.checkpoints)
        found, findings = decided_by_main(lambda: resume_point(directory))
        self.left_out += findings  # they are put aside, so that the next look does not find them
        return found

    def done(self) -> None:
        """Remove checkpoints that nobody asked for."""
        if self._is_for_a_retry and is_main_process():
            shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _save_minutes(self) -> float | None:
        given = self.options.get("save_minutes")
        return RETRY_SAVE_MINUTES if given is None and self._is_for_a_retry else given

    def _loss_guard(self) -> Mapping[str, float] | bool:
        guard = self.options.get("loss_guard")
        return True if guard is None else guard

    def _build(self, args: Any, callbacks: list[TrainerCallback]) -> tuple[Any, list[str]]:
        """The trainer, and what there is to say of the data as it sees them."""
        import transformers
        import trl

        from llmops_components.training.callbacks.trainjob_status import report_beside

        further_args = self.trainer_args()
        transformers.set_seed(args.seed)  # a new head is random
        base, tokenizer = loading.load_model(
            self.base_model,
            self.options.get("model_args"),
            dtype=self.dtype,
            task=self.method.task,
            new_head=self.method.task == "SEQ_CLS",
        )
        _check_chat_template(self.rows, args, tokenizer, self.base_model)
        check_end_token(self.rows, args, tokenizer)
        train_dataset = self._dataset(self.rows, args.seed)
        eval_dataset = self._dataset(self.eval_rows, args.seed) if self.eval_rows else None
        where = f"{self.method.trainer} refuses these settings for {self.rows.name}"
        with refusals(where), naming_refused_rows(tokenizer, self.rows, self.eval_rows):
            trainer = getattr(trl, self.method.trainer)(
                model=base,
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=tokenizer,
                peft_config=copy.deepcopy(self.peft_config),  # PEFT writes into it
                callbacks=[*callbacks, *self.options.get("callbacks", ())],
                **further_args,
            )
        if not _is_sharded(trainer):  # where each process has a part of it, which answers nothing
            # Flash attention knows 16 bit alone, in which the trainer has weights of 32 bit compute.
            flash = "flash" in str(getattr(base.config, "_attn_implementation", ""))
            with trainer.accelerator.autocast() if flash else nullcontext():
                self._check_batches(base, trainer.processing_class)
        # These it builds of its arguments as well, but later.
        for name in ("create_optimizer", "create_scheduler"):
            setattr(trainer, name, refusing(where, getattr(trainer, name)))
        trainer.remove_callback(transformers.PrinterCallback)
        report_beside(trainer)
        _keep_trained_copies_exact(trainer)
        findings = row_findings(
            trainer, args, self.rows, learns_text=self.method.learns_text, columns=self.method.columns
        )
        if "warmup_steps" not in self.given:
            _warm_up_only_where_it_is_a_step(trainer)
        if self.watch:
            self.watch.attach(trainer)
        if self.rows.rows is None:
            return trainer, findings
        cut = check_lengths(trainer.train_dataset, args, len(train_dataset), self.rows.name)
        return trainer, [*cut, *findings]

    def _check_batches(self, base: Any, tokenizer: Any) -> None:
        """The trainer pads rows to one length: what it learns from must not depend on that."""
        from llmops_components.models.probing import check_answers_in_batch, check_scores_in_batch

        if self.method.answers:
            check_answers_in_batch(base, self.method.trainer)
        if self.method.task == "SEQ_CLS":
            check_scores_in_batch(base, tokenizer)

    def _dataset(self, source: Source, seed: int) -> Any:
        shuffles = self.method.keeps_order or source.rows is None  # otherwise the trainer does
        return source.dataset(
            self.method.columns, expand=self.method.expand, shuffle_seed=seed if shuffles else None
        )

    def _whole_model(self, trainer: Trainer) -> Any:
        """The trained model with all of its weights; in the first process only, if they are spread over several."""
        if not _is_sharded(trainer):
            return trainer.model
        gathered = self.scratch / "gathered"
        trainer.save_model(str(gathered))  # all processes send their parts
        if not trainer.is_world_process_zero():
            return None
        if trainer.is_deepspeed_enabled:
            from transformers.integrations.deepspeed import unset_hf_deepspeed_config

            unset_hf_deepspeed_config()  # or the model is spread again, for which this process would wait for the others
        settings_of = {
            "model_args": self.options.get("model_args"),
            "dtype": str(trainer.model.dtype).removeprefix("torch."),
            "task": self.method.task,
        }
        if self.peft_config is None:
            return loading.load_model(gathered, **settings_of)[0]
        base = loading.load_base_of_adapter(self.base_model, trainer.processing_class, **settings_of)
        return loading.load_adapter(base, gathered, of=self.base_model)


def _evaluation(trainer: Trainer) -> Mapping[str, Any]:
    """Figures on the rows held out, of the weights that are kept."""
    from llmops_components.training.budget import best_step

    best = best_step(trainer.args, trainer.state)  # it was evaluated when it was saved
    known = [entry for entry in trainer.state.log_history if entry["step"] == best and "eval_loss" in entry]
    return known[0] if known else trainer.evaluate()


def _is_sharded(trainer: Trainer) -> bool:
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
