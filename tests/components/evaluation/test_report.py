"""The evaluation page: complete, safe, and in the promised order."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest
from llmops_components.evaluation import report
from llmops_components.evaluation.facts import Facts
from llmops_components.evaluation.report import render_report
from llmops_components.evaluation.statistics import Scores, compare, estimate

FACTS = Facts(
    "LlamaForCausalLM", 134_515_008, 1514, 123.4, cut_off=1, skipped={"semantic_similarity": "no model"}
)


def page(values: list[float], baseline: list[float] | None = None, **texts: str) -> str:
    scores = Scores.mean_of(values)
    samples = [
        {
            "row": i,
            "prompt": [{"role": "user", "content": texts.get("prompt", f"question {i}")}],
            "reference": texts.get("reference", f"reference {i}"),
            "answer": texts.get("answer", f"answer {i}"),
            "tokens": 3,
            "finish_reason": "stop",
            "rougeL": value if math.isfinite(value) else None,
        }
        for i, value in enumerate(values, start=1)
    ]
    estimates = {"rougeL": estimate(scores)}
    if baseline is None:
        return render_report(samples, estimates, FACTS)
    comparisons = {"rougeL": compare(scores, Scores.mean_of(baseline))}
    return render_report(
        samples, estimates, FACTS, comparisons, [texts.get("baseline_answer", "before")] * len(values)
    )


def sections(html: str) -> dict[str, list[int]]:
    """Row numbers by heading, in the order of the page."""
    found = {}
    for section in re.findall(r"<section>(.*?)</section>", html, re.DOTALL):
        title = re.search(r"<(?:h2|summary)>(.*?)</", section)[1]
        found[title] = [int(row) for row in re.findall(r"<b>Row (\d+)</b>", section)]
    return found


class Elements(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("field", ["prompt", "reference", "answer", "baseline_answer"])
def test_text_of_models_and_data_is_escaped(field):
    evil = "</div><script>alert('x')</script><img src=x onerror=\"alert(1)\">{{ 7 * 7 }}"
    elements = Elements(page([0.5, 0.6], [0.4, 0.4], **{field: evil}))
    assert "script" not in elements.tags
    assert "img" not in elements.tags
    assert evil in elements.text


def test_the_page_needs_nothing_beside_it():
    html = page([0.5, 0.6], [0.4, 0.4])
    elements = Elements(html)
    assert not {"script", "link", "img", "iframe"} & set(elements.tags)
    assert not {"src", "href"} & elements.attributes
    assert not re.search(r"https?:|@import|url\(", html)


def test_best_and_worst_changes_come_first_and_every_row_once(monkeypatch):
    monkeypatch.setattr(report, "SHOWN_AT_ENDS", 2)
    html = page([0.9, 0.2, 0.5, 0.4, 0.5, 0.55, 0.1], [0.1, 0.3, 0.5, 0.1, 0.4, 0.5, 0.9])
    assert sections(html) == {
        "Largest gains in rougeL": [1, 4],
        "Largest losses in rougeL": [7, 2],
        "The other 3 samples, by change of rougeL": [5, 6, 3],
    }


def test_an_unchanged_sample_is_neither_gain_nor_loss():
    assert sections(page([0.5, 0.6], [0.5, 0.6])) == {"The other 2 samples, by change of rougeL": [1, 2]}


def test_without_a_baseline_the_samples_are_in_the_order_of_their_score(monkeypatch):
    monkeypatch.setattr(report, "SHOWN_AT_ENDS", 1)
    assert sections(page([0.3, 0.9, 0.1, 0.5])) == {
        "Highest rougeL": [2],
        "Lowest rougeL": [3],
        "The other 2 samples, by score of rougeL": [4, 1],
    }


@pytest.mark.parametrize(("count", "shown"), [(30, 30), (31, 30)])
def test_a_large_page_leaves_out_the_middle_and_says_so(monkeypatch, count, shown):
    monkeypatch.setattr(report, "MAX_SAMPLES", 30)
    html = page([i / count for i in range(count)])
    assert html.count("<article>") == shown
    assert ("samples in the middle are not shown" in html) is (count > shown)


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ([0.6, 0.7, 0.8], "Better in rougeL."),
        ([0.4, 0.5, 0.6], "Worse in rougeL."),
        ([0.4, 0.6, 0.8], "No clear difference in rougeL."),
    ],
)
def test_the_verdict_follows_the_interval(ours, verdict):
    assert f'<p class="verdict">{verdict}</p>' in page(ours, [0.5, 0.6, 0.7])


def test_facts_and_skipped_metrics_are_told():
    text = " ".join(Elements(page([0.5])).text.split())
    assert "LlamaForCausalLM, 135 M parameters" in text
    assert "1,514 tokens generated, 123 a second · 1 answer cut off at the token limit" in text
    assert "semantic_similarity was left out: no model." in text


def test_samples_without_a_score_come_last_and_are_counted(monkeypatch):
    monkeypatch.setattr(report, "SHOWN_AT_ENDS", 1)
    html = page([0.9, math.nan, 0.2, 0.5], [0.1, 0.3, 0.4, math.nan])
    assert sections(html) == {
        "Largest gains in rougeL": [1],
        "Largest losses in rougeL": [3],
        "The other 2 samples, by change of rougeL": [2, 4],
    }
    assert "2 of 4 samples have no score by rougeL" in html
    assert sections(page([math.nan, 0.9, 0.1])) == {
        "Highest rougeL": [2],
        "Lowest rougeL": [3],
        "The other 1 samples, by score of rougeL": [1],
    }


def test_a_metric_without_any_score_says_so():
    assert '<p class="verdict">No score for rougeL.</p>' in page([math.nan], [0.5])
    assert "no sample has a score" in page([math.nan])
