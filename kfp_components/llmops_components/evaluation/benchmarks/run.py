"""Run benchmark tasks on a model, and compare it with another one sample by sample."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from llmops_components.data.files import write_output
from llmops_components.errors import SettingError, check_whole_number
from llmops_components.evaluation.about import About
from llmops_components.evaluation.clock import Clock
from llmops_components.evaluation.further import FurtherScores, check_further
from llmops_components.results import StepReport
from llmops_components.tracking.settings import Tracking

_GREATEST = 2**31 - 1


def run_benchmarks(
    model: str | os.PathLike[str],
    scores: str | os.PathLike[str],
    report: str | os.PathLike[str],
    *,
    task_names: Sequence[str],
    task_files: str | os.PathLike[str] | None = None,
    baseline_scores: str | os.PathLike[str] | None = None,
    metric_names: Sequence[str] | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    chat_template: bool = False,
    seed: int = 1234,
    download: bool = False,
    report_json: str | os.PathLike[str] | None = None,
    report_markdown: str | os.PathLike[str] | None = None,
    harness_results: str | os.PathLike[str] | None = None,
    tracking: Mapping[str, str] | None = None,
    further_scores: FurtherScores | None = None,
) -> StepReport:
    """Run tasks of lm-evaluation-harness by name, and compare a model with another one on the same samples.

    The harness itself compares two models as if they had been asked different things; here the difference is that of pairs.

    Args:
        model: Directory of the model, weights as safetensors.
        scores: Output file, one JSON line a sample: task, prompt, reference, answer, every score, and as ``unscored`` by metric why there
            is none.
        report: Output file, an HTML page without external parts.
        task_names: Tasks, groups or tags of lm_eval, or of the task files. Each is a slice of the comparison by ``task``.
        task_files: Directory of YAML files with tasks of yours, and the rows that they name. They are data: nothing in them is run.
        baseline_scores: The ``scores`` of another model on the same tasks, asked in the same way.
        metric_names: Metrics to compare, as lm_eval names them: ``acc``, or with a filter ``exact_match,strict-match``; all by default.
        num_fewshot: Examples before each question; what each task says by default.
        limit: Most rows of each task, its first ones; all by default.
        batch_size: Prompts asked together.
        chat_template: Whether prompts are messages, written by the tokenizer's chat template.
        seed: Seed of the choice of examples, and of what is sampled.
        download: Whether rows may come from the network; otherwise from the task files and the cache of the Hugging Face hub alone.
        report_json: Output file, the page's figures as JSON; none when left out.
        report_markdown: Output file, the page as Markdown; none when left out.
        harness_results: Output file, the results as lm_eval writes them; none when left out.
        tracking: Where it becomes a run of its own in MLflow, see :class:`~llmops_components.passthrough.training.TrackingSettings`; what the
            environment says when left out.
        further_scores: The ``scores`` of further models on the same tasks, asked in the same way, by name: the report shows them, and no
            comparison has them. A sample that one lacks counts as not scored for it.

    Returns:
        Metrics: each task's aggregates as ``task/metric``, and ``samples``. The comparison has each metric over the samples of all tasks that
        have it, and as slices by ``task`` over those of each.

    Raises:
        SettingError: A task is unknown, or needs code or a network that is not allowed; lm_eval is not installed.
        DataError: A task file or the baseline cannot be used, or the baseline is of other samples.
        ModelError: The model cannot be loaded.
        UnavailableError: Rows cannot be fetched.
    """
    names = _checked(task_names, num_fewshot, limit, batch_size, seed)
    Tracking.find(tracking)
    check_further(further_scores)

    from llmops_components.evaluation.benchmarks.choosing import choose_tasks
    from llmops_components.evaluation.benchmarks.concluding import (
        Benchmarked,
        check_room,
        conclude,
        read_further,
    )
    from llmops_components.evaluation.benchmarks.harness import ask, confined, load_tasks
    from llmops_components.evaluation.benchmarks.samples import lines_of, measures_of
    from llmops_components.evaluation.facts import BenchmarkFacts
    from llmops_components.models.loading import load_to_answer

    clock = Clock()
    settings = {"num_fewshot": num_fewshot, "chat_template": chat_template, "seed": seed}
    with confined(download=download):
        manager = choose_tasks(names, None if task_files is None else Path(task_files), download=download)
        chosen = load_tasks(manager, names, num_fewshot=num_fewshot)
        measures = measures_of(chosen, metric_names)
        check_room(measures)
        clock.lap("load the tasks")
        network, tokenizer = load_to_answer(model)
        clock.lap("load the model")
        asked = ask(
            chosen,
            network,
            tokenizer,
            num_fewshot=num_fewshot,
            limit=limit,
            batch_size=batch_size,
            chat_template=chat_template,
            seed=seed,
        )
        clock.lap("ask")
    lines = lines_of(chosen, asked, measures, settings)
    further = read_further(further_scores, lines, list(measures.all))
    asked.results["config"]["model"] = Path(model).name
    if harness_results is not None:
        write_output(
            harness_results, json.dumps(asked.results, indent=1, default=str, ensure_ascii=False) + "\n"
        )
    about = About.of_model(
        "run_benchmarks",
        model,
        task_files,
        settings={
            "tasks": names,
            **{name: value for name, value in settings.items() if value is not None},
            **({"limit": limit} if limit is not None else {}),
            "batch_size": batch_size,
            "versions": {task: str(version) for task, version in asked.results["versions"].items()},
            "lm_eval": asked.results["lm_eval_version"],
        },
        baseline_scores=baseline_scores,
        further=further,
        tracking=tracking,
    )
    facts = BenchmarkFacts(
        architecture=type(network).__name__, parameters=network.num_parameters(), tasks=len(names)
    )
    del network, tokenizer
    return conclude(
        Benchmarked(lines, measures, facts, about, [*measures.left_out, *asked.warnings], further),
        baseline_scores,
        clock,
        scores=scores,
        report=report,
        report_json=report_json,
        report_markdown=report_markdown,
    )


def _checked(
    task_names: Sequence[str], num_fewshot: int | None, limit: int | None, batch_size: int, seed: int
) -> list[str]:
    """The names of the tasks, once it is known that what is asked for can be."""
    if importlib.util.find_spec("lm_eval") is None:
        raise SettingError(
            "run_benchmarks needs lm-evaluation-harness, which is not installed. Install `llmops-components[harness]` in the image of the "
            "data plane."
        )
    if isinstance(task_names, str) or not task_names or not all(isinstance(each, str) for each in task_names):
        raise SettingError(
            f"task_names is {task_names!r:.60}. Give a list of names, such as ['arc_easy', 'boolq']."
        )
    for name, value, least in (("num_fewshot", num_fewshot, 0), ("limit", limit, 1)):
        if value is not None:
            check_whole_number(name, value, least, _GREATEST)
    check_whole_number("batch_size", batch_size, 1, _GREATEST)
    check_whole_number("seed", seed, 0, _GREATEST)
    return list(dict.fromkeys(task_names))
