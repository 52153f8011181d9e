"""KFP component: make rows to train with of what people have said of a service's answers."""

from typing import List, Optional

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Output, OutputPath

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def collect_feedback(
    requests: Input[Dataset],
    feedback: Input[Dataset],
    preferences: Output[Dataset],
    unpaired: Output[Dataset],
    demonstrations: Output[Dataset],
    rejected: Output[Dataset],
    metrics: Output[Metrics],
    result: Output[Artifact],
    passed: OutputPath(bool),
    on_conflict: str = "majority",
    raters: str = "numbered",
    up_from: Optional[float] = None,
    down_to: Optional[float] = None,
    names: Optional[List[str]] = None,
):
    """Make rows to train with of a service's log and of what people have said of its answers.

    Every line of feedback is used, or is in ``rejected`` with its reason.

    Args:
        requests: The log of a service with OpenAI's API: records with request and response, KServe's events, or the audit log of a service on this
            machine.
        feedback: Rows with the id of a request, ``rating``, ``correction``, ``who``, ``at`` and ``comment``.
        preferences: Rows with ``prompt``, ``chosen`` and ``rejected``.
        unpaired: Rows with ``prompt``, ``completion`` and ``label``.
        demonstrations: Rows with ``prompt`` and ``completion``: good answers and corrections.
        rejected: Lines that were not used, with their reasons.
        metrics: Counts, for the pipelines UI.
        result: Digests, counts and resources of this step.
        passed: Whether any feedback could be used.
        on_conflict: Whether the ``majority`` counts where people say different things of an answer, or nobody (``drop``).
        raters: Whether people are ``numbered`` in provenance, or ``named``.
        up_from: The lowest number as rating that says that an answer is good.
        down_to: The highest number that says that it is bad.
        names: What both files are called in ids of rows, the log first; the last parts of their addresses when left out.
    """
    from llmops_components.data.feedback.collect import collect_feedback as collect
    from llmops_components.kfp._run import run_step
    from llmops_components.uris import last_part

    run_step(
        "collect_feedback",
        lambda: collect(
            requests.path,
            feedback.path,
            preferences.path,
            unpaired.path,
            demonstrations.path,
            rejected.path,
            on_conflict=on_conflict,
            raters=raters,
            up_from=up_from,
            down_to=down_to,
            names=names or [last_part(requests.uri), last_part(feedback.uri)],
        ),
        outputs={
            "preferences": preferences,
            "unpaired": unpaired,
            "demonstrations": demonstrations,
            "rejected": rejected,
        },
        metrics=metrics,
        result=result,
        passed=passed,
    )
