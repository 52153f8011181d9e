"""What a revision on a cluster has answered, counted by the servers of its pods.

No gateway of ours shares the requests out there, so each pod is asked for what it exports at ``/metrics``, see
:mod:`~airflow_provider_llmops.backends.serving.counters`. Where a server does not export which requests failed, it is not known what it has
answered.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from airflow_provider_llmops.backends.serving.base import Answers
from airflow_provider_llmops.backends.serving.counters import BEGAN, OURS, VLLM, answers_of
from airflow_provider_llmops.backends.serving.kserve.exposition import Exposition, Sample
from airflow_provider_llmops.exceptions import ApiUnavailableError, RunNotFoundError

__all__ = ["METRICS_PATH", "answered_by", "answers_in"]

METRICS_PATH = "/metrics"
_NAMES = frozenset({BEGAN, *(name for each in (OURS, VLLM) for name in (each.requests, each.buckets))})


def answered_by(scrape: Callable[[str], str], pods: Iterable[str]) -> Answers | None:
    """What the pods of one revision have answered, each since it was started; ``None`` where that is not known of every one of them.

    :meth:`~airflow_provider_llmops.backends.serving.base.Answers.since` compares each pod with itself: of one that was started anew, or is
    new, all counts. What a pod has answered that is gone since is lost, so that fewer requests are counted than there were, never more.

    :param scrape: reads what one pod exports, as text; another error than that it does not answer, or is gone, is not caught
    :param pods: their names
    """
    found = {}
    for pod in pods:
        try:
            answers = answers_in(scrape(pod))
        except (ApiUnavailableError, RunNotFoundError):
            return None
        if answers is None:
            return None
        found[pod] = answers
    return Answers.of(found) if found else None


def answers_in(text: str) -> Answers | None:
    """What one server has answered since it was started; ``None`` where what it exports does not say that.

    :param text: what it exports, in Prometheus' text format
    """
    try:
        exported = Exposition.read(text, _NAMES)
        began = exported.named(BEGAN)
        if len(began) != 1 or not 0 < began[0].value < math.inf:
            return None  # a count that began anew could not be told
        # Before the first request vLLM's counter is declared, and has no value.
        server = next((each for each in (OURS, VLLM) if each.requests in exported.declared), None)
        if server is None:
            return None
        asked = exported.named(server.requests)
        if server.method:
            asked = [sample for sample in asked if sample.labels.get("method") == "POST"]
        buckets = {float(le): count for le, count in _counts(exported.named(server.buckets), "le").items()}
        return answers_of(_counts(asked, server.code), buckets, began[0].value)
    except ValueError:
        return None


def _counts(samples: Sequence[Sample], label: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for sample in samples:
        if not (0 <= sample.value < math.inf and sample.value.is_integer()) or label not in sample.labels:
            raise ValueError(f"{sample.name} is {sample.value:g} with {sample.labels}, which counts nothing")
        counts[sample.labels[label]] += int(sample.value)
    return counts
