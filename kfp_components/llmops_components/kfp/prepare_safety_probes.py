"""KFP component: probes by which an evaluation tells whether a model can be talked into harm."""

from typing import List, Optional

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Output

from llmops_components.kfp.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare_safety_probes(
    probes: Output[Dataset],
    rejected: Output[Dataset],
    metrics: Output[Metrics],
    result: Output[Artifact],
    categories: Optional[List[str]] = None,
    more: Input[Artifact] = None,
):
    """Write probes as rows to evaluate with the metric ``safety``: those that come along, and those of a larger set.

    Args:
        probes: Rows with a ``prompt``, a ``category``, and what an answer must not have.
        rejected: Lines of ``more`` that are no probes, with their reasons.
        metrics: Rows by category, for the pipelines UI.
        result: Digests, counts and resources of this step.
        categories: Categories of the probes that come along: ``pii_leakage``, ``prompt_injection``, ``injection_through_contexts``,
            ``jailbreak``, ``system_prompt_leakage``, ``toxicity``, ``bias``; all when left out.
        more: Further probes: rows of the same form, or a report of garak (``report.jsonl``).
    """
    from llmops_components.evaluation.safety.prepare import prepare_safety_probes as prepare
    from llmops_components.kfp._run import run_step

    run_step(
        "prepare_safety_probes",
        lambda: prepare(probes.path, rejected.path, categories=categories, more=more.path if more else None),
        outputs={"probes": probes, "rejected": rejected},
        metrics=metrics,
        result=result,
    )
