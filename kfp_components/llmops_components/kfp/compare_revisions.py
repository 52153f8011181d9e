"""KFP component: ask two revisions of a service the same questions, and compare their answers."""

from typing import Optional

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def compare_revisions(
    dataset: Input[Dataset],
    scores: Output[Dataset],
    report: Output[HTML],
    worst: Output[Artifact],
    metrics: Output[Metrics],
    result: Output[Artifact],
    url: str,
    model_name: str,
    revision: Optional[str] = None,
    baseline_url: Optional[str] = None,
    baseline_revision: Optional[str] = None,
    against: Optional[str] = None,
    metric_names: Optional[list] = None,
    embedding_model: Optional[str] = None,
    protocol: str = "openai_chat",
    request: Optional[dict] = None,
    max_rows: Optional[int] = None,
    concurrency: int = 8,
    limits: Optional[dict] = None,
    checkpoints: Optional[str] = None,
):
    """Ask two revisions of a service the same questions at the same time, and compare their answers row by row.

    The service's API key, where it wants one, is in the environment variable ``LLMOPS_SERVICE_KEY``, or in a file that
    ``LLMOPS_SERVICE_KEY_FILE`` names; it is no argument.

    Args:
        dataset: Rows with a ``prompt``, or with ``messages`` that end with a question, and a ``reference`` to score answers against.
        scores: A JSON line a row: question, both answers with their scores and seconds, and why there is no answer.
        report: A page with the scores and both answers side by side.
        worst: JSON with the rows that the revision answers worst against the baseline.
        metrics: Rows, those without an answer, and latencies, for the pipelines UI.
        result: Digests, metrics and resources of this step.
        url: Address of the revision, or of a service on this machine, of which ``revision`` is asked.
        model_name: Name of the served model.
        revision: Name of the revision, where the address is that of a service on this machine.
        baseline_url: Address of the revision that it is compared with; the same when left out.
        baseline_revision: Name of that revision.
        against: What answers are scored against: ``reference``, or ``baseline`` for the other revision's answer; the reference
            if the rows have one, when left out.
        metric_names: Metrics to compute; all that need no judge when left out. The first orders the rows.
        embedding_model: Directory or ``package://name`` of the sentence-embedding model.
        protocol: ``openai_chat``, ``openai_completions``, ``openai`` (a conversation by the first, a text by the second, as
            ``evaluate_model`` has them read), or KServe's ``v1`` or ``v2``.
        request: Further fields of each request, such as ``max_tokens``; of ``v1`` and ``v2`` the ``parameters``.
        max_rows: Ask only the first so many rows; all when left out.
        concurrency: Questions at a time, of each revision.
        limits: ``request_seconds`` (120), ``run_minutes``, ``attempts`` (5), ``outage_seconds`` (300) and
            ``refused_in_a_row`` (100), ``requests_per_minute`` (no limit).
        checkpoints: Directory that outlives the step, on a cluster a mounted volume. A run that was killed goes on with the
            answers there; without it, it starts again.
    """
    from llmops_components.evaluation.revisions import compare_revisions as compare
    from llmops_components.kfp._run import as_page, run_step
    from llmops_components.passthrough.declared import whole_numbers

    as_page(report)
    run_step(
        "compare_revisions",
        lambda: compare(
            dataset.path,
            scores.path,
            report.path,
            worst.path,
            url=url,
            model_name=model_name,
            revision=revision,
            baseline_url=baseline_url,
            baseline_revision=baseline_revision,
            against=against,
            metric_names=metric_names,
            embedding_model=embedding_model,
            protocol=protocol,
            request=whole_numbers(request),
            max_rows=max_rows,
            concurrency=concurrency,
            limits=whole_numbers(limits),
            checkpoints=checkpoints,
        ),
        outputs={"scores": scores, "report": report, "worst": worst},
        metrics=metrics,
        result=result,
    )
