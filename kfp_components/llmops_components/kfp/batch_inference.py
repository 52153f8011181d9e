"""KFP component: ask a served model every row of a dataset."""

from typing import Optional

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Output, OutputPath

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def batch_inference(
    dataset: Input[Dataset],
    answers: Output[Dataset],
    rejected: Output[Dataset],
    metrics: Output[Metrics],
    result: Output[Artifact],
    passed: OutputPath(bool),
    url: str,
    model_name: str,
    protocol: str = "openai_chat",
    request: Optional[dict] = None,
    concurrency: int = 16,
    limits: Optional[dict] = None,
    min_answered: float = 1.0,
    retry_failed: bool = False,
    checkpoints: Optional[str] = None,
):
    """Ask a served model every row of a dataset, many at a time: each is answered, or listed with the reason why not.

    The service's API key, where it wants one, is in the environment variable ``LLMOPS_SERVICE_KEY``, or in a file that
    ``LLMOPS_SERVICE_KEY_FILE`` names; it is no argument.

    Args:
        dataset: Rows with a ``prompt``, text or a conversation, or with ``messages`` that end with a question.
        answers: The answered rows in their order, each with its ``answer``, and how it came as ``response``.
        rejected: The rows without an answer, each with its line number and its reasons.
        metrics: Counts, tokens, rates and percentiles of the latency, for the pipelines UI.
        result: Digests, metrics and resources of this step.
        passed: Whether enough rows were answered.
        url: Address of the service, or the base URL of an OpenAI API, which ends in ``/v1``.
        model_name: Name of the served model.
        protocol: ``openai_chat``, ``openai_completions``, ``openai`` (a conversation by the first, a text by the second, as
            ``evaluate_model`` has them read), or KServe's ``v1`` or ``v2``.
        request: Further fields of each request, such as ``max_tokens``; of ``v1`` and ``v2`` the ``parameters``.
        concurrency: Questions at a time.
        limits: ``request_seconds`` (120), ``run_minutes``, ``attempts`` (5), ``outage_seconds`` (300) and
            ``refused_in_a_row`` (100), ``requests_per_minute`` (no limit).
        min_answered: Share of the rows, from 0 to 1, that must be answered for the gate to pass.
        retry_failed: Ask also those rows again that an earlier run was refused for good.
        checkpoints: Directory that outlives the step, on a cluster a mounted volume. A run that was killed goes on with the
            answers there; without it, it starts again.
    """
    from llmops_components.inference.batch import batch_inference as ask_rows
    from llmops_components.kfp._run import run_step
    from llmops_components.passthrough.declared import whole_numbers

    run_step(
        "batch_inference",
        lambda: ask_rows(
            dataset.path,
            answers.path,
            rejected.path,
            url=url,
            model_name=model_name,
            protocol=protocol,
            request=whole_numbers(request),
            concurrency=concurrency,
            limits=whole_numbers(limits),
            min_answered=min_answered,
            retry_failed=retry_failed,
            checkpoints=checkpoints,
        ),
        outputs={"answers": answers, "rejected": rejected},
        metrics=metrics,
        result=result,
        passed=passed,
    )
