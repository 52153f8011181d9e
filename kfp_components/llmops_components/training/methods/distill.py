"""On-policy distillation: a small model learns a large one's judgement of the small one's own answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Unpack

from llmops_components.errors import ModelError
from llmops_components.models.directory import check_model_directory
from llmops_components.models.loading import load_model, load_tokenizer
from llmops_components.models.precision import precision
from llmops_components.models.provenance import describe_base
from llmops_components.passthrough.training import TrainingOptions
from llmops_components.results import StepReport
from llmops_components.training.driver import run_training
from llmops_components.training.method import Method

DISTILL = Method(
    component="distill",
    formats=("prompt_only",),
    columns=("prompt",),
    learning_rate=1e-5,
    fixed={
        "teacher_model_name_or_path": None,
        "teacher_model_revision": None,
        "teacher_model_init_kwargs": None,
    },
    curves={
        "entropy": "entropy",
        "completion_length": "completions/mean_length",
        "clipped_completions": "completions/clipped_ratio",
    },
    prompt_tuning=False,
    answers=True,
)


def distill(
    dataset: str | os.PathLike[str],
    base_model: str | os.PathLike[str],
    teacher: str | os.PathLike[str],
    model: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    **options: Unpack[TrainingOptions],
) -> StepReport:
    """Train a student to give each token the probability that its teacher gives, with TRL's ``DistillationTrainer``.

    The student writes the answers, the teacher only judges them, so that the student learns what to do where it
    really gets.

    Args:
        dataset: Rows with a prompt, plain or conversational, in whatever format: a JSON Lines or Parquet file, or
            ``hf://datasets/org/name@revision``.
        base_model: Directory of the student.
        teacher: Directory of the teacher; its vocabulary has to be the student's.
        model: Output directory: the trained student, adapter merged in, with tokenizer and ``provenance.json``.
        adapter: Output directory: the PEFT adapter alone. Not written when all weights are trained.
        options: See :class:`~llmops_components.passthrough.training.TrainingOptions`.

    Returns:
        Besides the metrics of every trainer, whose loss is the divergence from the teacher: ``first_``, ``final_`` and
        ``eval_`` of ``entropy``, ``completion_length`` and ``clipped_completions``.
    """
    teacher_directory = check_model_directory(teacher)

    def trainer_args() -> dict[str, Any]:
        from llmops_components.models.probing import check_answers_in_batch

        judge, _ = load_model(teacher_directory, dtype=precision(full=False)[0])
        check_answers_in_batch(judge, DISTILL.trainer)
        _check_vocabulary(judge, check_model_directory(base_model), teacher_directory)
        return {"teacher_model": judge.eval().requires_grad_(False)}

    return run_training(
        DISTILL,
        dataset,
        base_model,
        model,
        adapter,
        options,
        facts={"teacher": describe_base(teacher_directory)},
        trainer_args=trainer_args,
    )


def _check_vocabulary(judge: Any, student: Path, teacher: Path) -> None:
    """Probabilities are compared token by token, so both models have to mean the same by each number."""
    ours, theirs = (load_tokenizer(path).get_vocab() for path in (student, teacher))
    if ours != theirs:
        different = sum(ours.get(token) != theirs.get(token) for token in ours.keys() | theirs.keys())
        raise ModelError(
            f"Student {student} and teacher {teacher} do not share a vocabulary: {different} tokens differ. Use two "
            "models of one family."
        )
