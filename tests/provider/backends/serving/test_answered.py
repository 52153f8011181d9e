"""What a revision's pods have answered, by what their servers export."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from airflow_provider_llmops.backends.serving.base import Answers
from airflow_provider_llmops.backends.serving.counters import seconds_of
from airflow_provider_llmops.backends.serving.kserve.answered import answered_by, answers_in
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, RunNotFoundError

RECORDED = json.loads((Path(__file__).parents[3] / "recorded" / "model-server-metrics.json").read_text())


def exported(began: float = 100.0, *, quick: int = 0, slow: int = 0, **errors: int) -> str:
    """What our predictor exports."""
    lines = [f"process_start_time_seconds {began}", "# TYPE llmops_requests_total counter"]
    lines += [f'llmops_requests_total{{code="200"}} {quick + slow}.0']
    lines += [
        f'llmops_requests_total{{code="{code.lstrip("_")}"}} {count}.0' for code, count in errors.items()
    ]
    for bound, count in (
        ("0.1", 0),
        ("0.118", quick),
        ("2.0", quick),
        ("2.3", quick + slow),
        ("+Inf", quick + slow),
    ):
        lines.append(f'llmops_request_duration_seconds_bucket{{le="{bound}"}} {count}.0')
    return "\n".join([*lines, ""])


def answered(**pods: str) -> Answers:
    found = answered_by(pods.__getitem__, pods)
    assert found is not None
    return found


def test_requests_errors_and_seconds_of_all_pods_are_added() -> None:
    found = answered(
        a=exported(200.0, quick=90, slow=5, _500=2, cut_off=1), b=exported(100.0, quick=10, _429=3, _503=0)
    )
    assert (found.requests, found.errors, found.began) == (111, 6, 100.0)
    assert found.percentile(0.9) == 0.118
    assert found.percentile(0.99) == pytest.approx(2.3)
    assert sum(found.seconds.values()) == 105
    assert Answers.read(json.loads(json.dumps(found.to_json()))) == found


def test_each_pod_is_compared_with_itself() -> None:
    before = answered(
        kept=exported(100.0, quick=10, slow=1, _500=4),
        restarted=exported(100.0, quick=50, _500=5),
        gone=exported(100.0, quick=70, _500=6),
    )
    now = answered(
        kept=exported(100.0, quick=30, slow=1, _500=5),
        restarted=exported(300.0, quick=7),
        new=exported(400.0, slow=2, _503=1),
    )
    later = now.since(before)
    # 20 and an error of the one that was kept; all of the one that was started anew, and of the new one.
    assert (later.requests, later.errors) == (21 + 7 + 3, 1 + 0 + 1)
    assert [count for _, count in sorted(later.seconds.items()) if count] == [27, 2]
    assert now.since(now).requests == 0
    # Fewer than there were, never more, and never less than nothing.
    assert answered(kept=exported(100.0, quick=10, slow=1, _500=4)).since(before).requests == 0


@pytest.mark.parametrize(
    "error", [ApiUnavailableError("No answer."), RunNotFoundError("There is no pod of this name.")]
)
def test_what_one_pod_does_not_say_is_not_known_of_the_revision(error: Exception) -> None:
    def scrape(pod: str) -> str:
        if pod == "b":
            raise error
        return exported(quick=10)

    assert answered_by(scrape, ["a", "b"]) is None
    assert answered_by(scrape, ["a"]) is not None
    assert answered_by(scrape, []) is None  # nothing that answers is not nothing that was answered


def test_a_right_that_is_missing_is_said() -> None:
    def scrape(pod: str) -> str:
        raise ConfigurationError("The connection's user may not get pods/proxy.")

    with pytest.raises(ConfigurationError, match="pods/proxy"):
        answered_by(scrape, ["a"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "python_info 1.0\n",
        exported().replace("# TYPE", "# NO TYPE"),
        exported().replace("process_start_time_seconds", "start_time_seconds"),
        exported().replace("process_start_time_seconds 100.0", "process_start_time_seconds NaN"),
        exported().replace('le="+Inf"', 'le="9.9"'),
        exported(quick=3).replace('le="2.3"} 3.0', 'le="2.3"} 2.0'),
        exported().replace('code="200"} 0.0', 'code="200"} 0.5'),
        exported().replace('code="200"} 0.0', 'code="200"} -1'),
        exported().replace('code="200"} 0.0', 'code="200"} +Inf'),
        exported().replace('code="200"', 'status="200"'),
        exported().replace('le="2.3"', 'le="much"'),
        exported()[:-1],
        "\n".join(line for line in exported().splitlines() if "duration" not in line) + "\n",
    ],
)
def test_what_cannot_be_read_is_not_known_and_never_zero(text: str) -> None:
    assert answers_in(exported()) is not None
    assert answers_in(text) is None


def test_vllm_tells_its_errors_by_the_status_of_each_post() -> None:
    began = answers_in(RECORDED["vllm before the first request"])
    assert began is not None
    assert (began.requests, began.errors, dict(began.seconds)) == (0, 0, {})
    found = answers_in(RECORDED["vllm"])
    assert found is not None
    later = found.since(began)
    # 20 answers, a 500, a 503 and a crash; neither a wrong request nor those for the list of models.
    assert (later.requests, later.errors) == (23, 3)
    assert sum(later.seconds.values()) == 21  # one that failed had come as far as the engine
    assert later.percentile(0.5) == pytest.approx(1.3, abs=0.1)  # in a bucket from 1 to 1.5
    assert 3.5 < (later.percentile(0.9) or 0.0) < 5.0  # from 2.5 to 5


def test_how_long_huggingfaceserver_took_is_not_enough() -> None:
    assert "vllm:e2e_request_latency_seconds_bucket" in RECORDED["huggingfaceserver"]
    assert answers_in(RECORDED["huggingfaceserver"]) is None


def test_coarse_buckets_are_spread_and_can_be_taken_apart() -> None:
    coarse = {0.3: 0, 2.5: 0, 5.0: 1000, 10.0: 1040, math.inf: 1041}
    found = seconds_of(coarse)
    assert sum(found.values()) == 1041
    assert Answers(seconds=found).percentile(0.5) == pytest.approx(3.75, rel=0.1)
    # No jump from 5 s to 10 s where a little more takes longer.
    slower = seconds_of({**coarse, 5.0: 980, 10.0: 1040})
    assert Answers(seconds=slower).percentile(0.95) == pytest.approx(5.9, rel=0.1)
    assert Answers(seconds=found).percentile(1.0) == math.inf
    before = Answers(seconds=seconds_of({each: count // 3 for each, count in coarse.items()}), began=1.0)
    later = Answers(seconds=found, began=1.0).since(before)
    assert sum(later.seconds.values()) == 1041 - 347
    assert later.percentile(0.5) == pytest.approx(3.75, rel=0.1)


@pytest.mark.parametrize(
    "cumulative", [{}, {1.0: 3}, {1.0: 3, math.inf: 2}, {1.0: math.nan, math.inf: 2}, {math.inf: math.inf}]
)
def test_what_is_no_histogram_is_refused(cumulative: dict[float, float]) -> None:
    with pytest.raises(ValueError, match="a histogram with"):
        seconds_of(cumulative)


def test_sums_that_differ_in_their_last_digits_are_buckets() -> None:
    several = 0.1 + 0.2  # as Prometheus adds increases of several pods, in whatever order
    assert several > 0.3
    assert seconds_of({0.5: 100 * several, 0.6: 30.0, math.inf: 30.0}) == seconds_of(
        {0.5: 30.0, 0.6: 30.0, math.inf: 30.0}
    )
    with pytest.raises(ValueError, match="a histogram with"):
        seconds_of({0.5: 30.0, math.inf: 29.99})
