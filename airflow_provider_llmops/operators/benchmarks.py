"""The operator that runs benchmark tasks on a model."""

from __future__ import annotations

from typing import Any

from airflow_provider_llmops.operators.judged import FURTHER_ADDRESSES, ReportOperator
from airflow_provider_llmops.uris import Address

__all__ = ["RunBenchmarksOperator"]


class RunBenchmarksOperator(ReportOperator):
    """Run benchmark tasks of lm-evaluation-harness by name, and compare a model with another one on the same samples.

    The data plane needs the extra ``harness`` of ``llmops-components``. The output ``comparison`` has each metric over the samples of all tasks
    that have it, and as slices by ``task`` over those of each, so that a rule of the gate may be of one task or, with
    ``{"task": "*"}``, of each.

    Artifacts: ``scores`` (one JSON line a sample), ``report`` (page), the same as ``report_json`` and ``report_markdown``, and
    ``harness_results``, as lm-evaluation-harness writes them.

    :param model: URI of the model
    :param task_names: tasks, groups or tags of lm-evaluation-harness, or of the task files, such as ``["arc_easy", "boolq"]``
    :param task_files: URI of a directory of YAML files with tasks of yours, and the rows that they name; nothing in them is run
    :param baseline_scores: ``scores`` of another model on the same tasks, asked in the same way
    :param metric_names: metrics to compare, such as ``acc`` or with a filter ``exact_match,strict-match``; all when left out
    :param num_fewshot: examples before each question; what each task says when left out
    :param limit: most rows of each task, its first ones; all when left out
    :param batch_size: prompts asked together
    :param chat_template: whether prompts are messages, written by the tokenizer's chat template
    :param seed: seed of the choice of examples, and of what is sampled
    :param download: whether rows may come from the network, as those of most tasks that lm-evaluation-harness has; otherwise from the
        task files and the cache of the Hugging Face hub alone

    MLflow has ``mlflow_conn_id`` and ``tracking``: :class:`~airflow_provider_llmops.operators.judged.ReportOperator`.
    """

    component = "run_benchmarks"
    addresses = {
        "model": Address(kind="directory"),
        "task_files": Address(kind="directory"),
        "baseline_scores": Address(kind="file"),
        **FURTHER_ADDRESSES,
    }

    def __init__(
        self,
        *,
        model: str,
        task_names: list[str],
        task_files: str | None = None,
        baseline_scores: str | None = None,
        metric_names: list[str] | None = None,
        num_fewshot: int | str | None = None,
        limit: int | str | None = None,
        batch_size: int | str = 16,
        chat_template: bool | str = False,
        seed: int | str = 1234,
        download: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.task_names = task_names
        self.task_files = task_files
        self.baseline_scores = baseline_scores
        self.metric_names = metric_names
        self.num_fewshot = num_fewshot
        self.limit = limit
        self.batch_size = batch_size
        self.chat_template = chat_template
        self.seed = seed
        self.download = download
