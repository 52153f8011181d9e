"""Prometheus' text format: what its own client writes and reads in the data plane, read here."""

from __future__ import annotations

import json
import math
import subprocess
from typing import Any

import pytest
from planes import DATA_PYTHON

from airflow_provider_llmops.backends.serving.base import Answers
from airflow_provider_llmops.backends.serving.kserve.answered import answers_in
from airflow_provider_llmops.backends.serving.kserve.exposition import Exposition

# Has the predictor count answers, then writes what prometheus_client exports, and what its parser reads of that and of each line of input.
SCRIPT = r"""
import json, sys
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from llmops_components.serving.predictor.counting import CUT_OFF, REQUESTS, SECONDS

def read(text):
    families = text_string_to_metric_families(text)
    return [[sample.name, sample.labels, repr(float(sample.value))] for each in families for sample in each.samples]

for code, seconds in (("200", 0.02), ("200", 0.5), ("201", 3.0)):
    REQUESTS.labels(code).inc()
    SECONDS.observe(seconds)
for code in ("429", "503", CUT_OFF):
    REQUESTS.labels(code).inc()
predictor = generate_latest(REGISTRY).decode()

strange = CollectorRegistry()
counter = Counter("vllm:odd", "Help with a \\ and a\nline break", ["a", "b"], registry=strange)
for value in ("", " ", 'quote " and \\', "line\nbreak", "}", "{", ",", '",b="', "#", "\u00e4\u4f60\U0001f600", "\\n", "tab\tand\rreturn"):
    counter.labels(value, value[::-1]).inc(1e9)
for number, value in enumerate((float("inf"), float("-inf"), float("nan"), 1e-300, 123456789.125, -0.0)):
    Gauge(f"value_{number}", "", registry=strange).set(value)
Histogram("vllm:odd_seconds", "", ["a"], registry=strange).labels("x").observe(0.3)
odd = generate_latest(strange).decode()

print(json.dumps([[text, read(text)] for text in (predictor, odd)]))
for line in sys.stdin:
    text = json.loads(line)
    try:
        print(json.dumps(read(text)))
    except ValueError:
        print("null")
"""
# Texts that another server may write as well.
TEXTS = (
    "a 1\n",
    "a{} 1\n",
    "a  1\n",
    "\ta\t1\t\n",
    'a {x="1"} 1\n',
    'a{x="1",} 1\n',
    'a{ x = "1" , y = "2" } 1\n',
    "a 1 1395066363000\n",
    "a -3.5e-05 -3982045\n",
    "a +Inf\n",
    "a NaN\n",
    "# EOF\na 1\n",
    "# HELP a text\n# TYPE a gauge\na 1\n",
    "\n\na 1\n\n",
)
BROKEN = (
    "a\n",
    "a one\n",
    "a 1_000\n",
    "a{x=1} 1\n",
    'a{x="1} 1\n',
    'a{x="1"y="2"} 1\n',
    'a{x="1",x="2"} 1\n',
    'a{x="1" 1\n',
    'a{="1"} 1\n',
)


@pytest.fixture(scope="module")
def read() -> list[Any]:
    """What ``prometheus_client`` has exported, each with what it reads of that; then what it reads of the texts above."""
    lines = "\n".join(json.dumps(text) for text in (*TEXTS, *BROKEN))
    ran = subprocess.run([DATA_PYTHON, "-c", SCRIPT], input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def plain(text: str, names: set[str]) -> list[list[Any]]:
    samples = Exposition.read(text, names).samples
    return [[sample.name, sample.labels, repr(sample.value)] for sample in samples]


def test_every_value_is_read_as_prometheus_own_client_reads_it(read: list[Any]) -> None:
    exported, *of_texts = read
    assert len(exported[1][1]) > 25
    for text, samples in (*exported, *zip(TEXTS, of_texts, strict=False)):
        assert plain(text, {name for name, *_ in samples}) == samples


def test_what_it_refuses_is_refused(read: list[Any]) -> None:
    refused = read[1 + len(TEXTS) :]
    assert len(refused) == len(BROKEN)
    for text, samples in zip(BROKEN, refused, strict=True):
        assert samples is None, text
        with pytest.raises(ValueError, match=r"not a value|no number|labels"):
            Exposition.read(text, {"a"})
        assert Exposition.read(text, {"b"}).samples == []  # others do not concern us


def test_a_text_that_was_cut_off_is_refused() -> None:
    for text in ("a 1\na 12", "a"):
        with pytest.raises(ValueError, match="in the middle of a line"):
            Exposition.read(text, {"a"})
    assert Exposition.read("", {"a"}).samples == []


def test_the_predictors_answers_are_read_with_their_errors_and_seconds(read: list[Any]) -> None:
    ((text, samples), _), *_ = read
    answers = answers_in(text)
    assert answers is not None
    began = next(float(value) for name, _, value in samples if name == "process_start_time_seconds")
    assert (answers.requests, answers.errors, answers.began) == (6, 3, began)
    assert sorted(answers.seconds.values()) == [1, 1, 1]
    for bound, seconds in zip(sorted(answers.seconds), (0.02, 0.5, 3.0), strict=True):
        assert seconds <= bound < seconds * 1.2
    assert answers.percentile(0.95) == pytest.approx(3.0, rel=0.2)
    assert not math.isinf(max(answers.seconds))
    later = Answers.of({"a": answers})
    assert later.since(Answers.read(json.loads(json.dumps(later.to_json())))).requests == 0
