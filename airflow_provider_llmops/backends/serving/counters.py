"""Counters of model servers, as Prometheus has them: requests by the code of their answers, seconds in cumulative buckets.

- Our predictor (``llmops_components.serving.predictor.counting``) has everything, by the rules of the local gateway.
- vLLM's own server: requests and errors by the status that its HTTP server has counted of each POST, seconds by its engine, which counts one
  for each prompt, also of those that clients left. It counts no 429 apart and says none by itself
  (``vllm/entrypoints/serve/instrumentator/metrics.py``, ``vllm/v1/metrics/loggers.py``).
- KServe's huggingfaceserver exports how long answers took, and not which failed: it is none of these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from airflow_provider_llmops.backends.serving.base import Answers

__all__ = ["BEGAN", "OURS", "VLLM", "Counters", "answers_of", "seconds_of"]

BEGAN = "process_start_time_seconds"
CUT_OFF = "cut_off"  # code of an answer that the predictor did not bring to its end
_FINE = 1.3  # bounds that are at most so many times the one before are taken as they are
_PARTS = 16
_SUM_ERROR = 1e-9  # sums of fractions of several series in different order differ in their last digits


@dataclass(frozen=True)
class Counters:
    """Names of what one kind of server counts.

    :param requests: of the requests
    :param code: their label that says how they were answered
    :param buckets: of the seconds
    :param labels: all of their labels that are the server's own
    :param method: whether the requests have a label for their HTTP method
    """

    requests: str
    code: str
    buckets: str
    labels: tuple[str, ...]
    method: bool = False


OURS = Counters("llmops_requests_total", "code", "llmops_request_duration_seconds_bucket", ("code", "le"))
VLLM = Counters(
    "http_requests_total",
    "status",
    "vllm:e2e_request_latency_seconds_bucket",
    ("engine", "finished_reason", "handler", "le", "method", "model_name", "status"),
    method=True,
)


def answers_of(codes: Mapping[str, float], cumulative: Mapping[float, float], began: float) -> Answers:
    """What was answered by what a server has counted.

    :param codes: requests by the code of their answers: a status, a class of them such as ``5xx``, or :data:`CUT_OFF`
    :param cumulative: answers without an error by the longest time that they took, ``inf`` included
    :param began: Unix time since which it is counted
    :raises ValueError: these are no counts
    """
    if not all(0 <= count < math.inf for count in codes.values()):
        raise ValueError("requests that are no number")
    errors = sum(count for code, count in codes.items() if _is_error(code))
    others = sum(count for code, count in codes.items() if not code.startswith("4") and not _is_error(code))
    return Answers(round(errors + others), round(errors), seconds_of(cumulative), began)


def _is_error(code: str) -> bool:
    return code in (CUT_OFF, "429") or code.startswith("5")


def seconds_of(cumulative: Mapping[float, float]) -> dict[float, int]:
    """How many answers took at most so long and longer than the next smaller number: ``seconds`` of ``Answers``.

    The answers of a coarse bucket are taken to be spread evenly over it, as ``histogram_quantile`` of Prometheus does. Otherwise a percentile
    that crosses a bound of, say, 5 s would become one of 10 s.

    :param cumulative: how many answers took at most so long, by the bound, ``inf`` included
    :raises ValueError: these are no buckets of a histogram
    """
    bounds = sorted(cumulative)
    if not bounds or bounds[-1] != math.inf:
        raise ValueError("a histogram without the bucket +Inf")
    found: dict[float, int] = {}
    low, below, counted = 0.0, 0.0, 0
    for bound in bounds:
        up_to = cumulative[bound]
        if below > up_to >= below * (1 - _SUM_ERROR):
            up_to = below
        if not below <= up_to < math.inf:
            raise ValueError(f"a histogram with {up_to:g} answers up to {bound:g} s and {below:g} below")
        is_fine = bound == math.inf or bound <= low * _FINE
        for part in range(1, 2 if is_fine else _PARTS + 1):
            share = 1.0 if is_fine else part / _PARTS
            # Cumulative numbers are rounded, never buckets, so that two of them can be taken apart.
            so_far = math.floor(below + (up_to - below) * share + 0.5)
            if so_far > counted:
                at = bound if share == 1.0 else low + (bound - low) * share
                found[at] = so_far - counted
            counted = so_far
        low, below = bound, up_to
    return found
