"""What a revision on a cluster has answered, counted by the servers of its pods.

No gateway of ours shares the requests out there, so each pod is asked for what it exports at ``/metrics``:

- our predictor (``llmops_components.serving.predictor.counting``): everything, by the rules of the local gateway;
- vLLM's own server: requests and errors by the status that its HTTP server has counted of each POST, seconds by its engine, which counts one
  for each prompt, also of those that clients left. It counts no 429 apart and says none by itself
  (``vllm/entrypoints/serve/instrumentator/metrics.py``, ``vllm/v1/metrics/loggers.py``);
- KServe's huggingfaceserver: it exports how long answers took, and not which failed. What it has answered is not known.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from airflow_provider_llmops.backends.serving.base import Answers
from airflow_provider_llmops.backends.serving.histogram import seconds_of
from airflow_provider_llmops.backends.serving.kserve.exposition import Exposition, Sample
from airflow_provider_llmops.exceptions import ApiUnavailableError, RunNotFoundError

__all__ = ["METRICS_PATH", "answered_by", "answers_in"]

METRICS_PATH = "/metrics"
CUT_OFF = "cut_off"  # code of an answer that the predictor did not bring to its end
_BEGAN = "process_start_time_seconds"
_OURS, _OUR_SECONDS = "llmops_requests_total", "llmops_request_duration_seconds_bucket"
_VLLM, _VLLM_SECONDS = "http_requests_total", "vllm:e2e_request_latency_seconds_bucket"
_NAMES = frozenset({_BEGAN, _OURS, _OUR_SECONDS, _VLLM, _VLLM_SECONDS})


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
        began = exported.named(_BEGAN)
        if len(began) != 1 or not 0 < began[0].value < math.inf:
            return None  # a count that began anew could not be told
        if exported.named(_OURS):
            codes, buckets = _counts(exported.named(_OURS), "code"), exported.named(_OUR_SECONDS)
        elif _VLLM in exported.declared:  # before the first request it is declared, and has no value
            asked = [sample for sample in exported.named(_VLLM) if sample.labels.get("method") == "POST"]
            codes, buckets = _counts(asked, "status"), exported.named(_VLLM_SECONDS)
        else:
            return None
        return Answers(
            sum(count for code, count in codes.items() if _is_counted(code)),
            sum(count for code, count in codes.items() if is_error(code)),
            seconds_of(_buckets(buckets)),
            began[0].value,
        )
    except ValueError:
        return None


def is_error(code: str) -> bool:
    """Whether an answer with a code is an error of the revision's own.

    :param code: of :data:`CUT_OFF`, a status, or a class of them such as ``5xx``
    """
    return code in (CUT_OFF, "429") or code.startswith("5")


def _is_counted(code: str) -> bool:
    return is_error(code) or not code.startswith("4")


def _counts(samples: Sequence[Sample], label: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for sample in samples:
        if not (0 <= sample.value < math.inf and sample.value.is_integer()) or label not in sample.labels:
            raise ValueError(f"{sample.name} is {sample.value:g} with {sample.labels}, which counts nothing")
        counts[sample.labels[label]] += int(sample.value)
    return counts


def _buckets(samples: Sequence[Sample]) -> dict[float, int]:
    return {float(bound): count for bound, count in _counts(samples, "le").items()}
