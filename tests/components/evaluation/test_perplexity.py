"""Perplexity: that of a plain loop over transformers, weighted by tokens, with intervals by row."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llmops_components.errors import DataError, SettingError
from llmops_components.evaluation.evaluate import evaluate_model
from llmops_components.evaluation.intervals import RESAMPLES
from llmops_components.evaluation.likelihoods import perplexity_of
from llmops_components.evaluation.service import evaluate_service
from llmops_components.evaluation.statistics import estimate
from tiny_model import COLOURS, write_rows

CHATS: list[dict[str, Any]] = [
    {
        "prompt": [{"role": "user", "content": f"What colour is the {thing}?"}],
        "reference": f"The {thing} is {colour}." + " I am sure." * (i % 3),
    }
    for i, (thing, colour) in enumerate(COLOURS.items())
]
TEXTS: list[dict[str, Any]] = [
    {"prompt": row["prompt"][0]["content"], "reference": f" {row['reference']}"} for row in CHATS
]


@pytest.fixture(scope="module")
def gpt2(tiny_model: Path, tmp_path_factory) -> Path:
    """Another family, with learned positions."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=256,
            n_embd=32,
            n_layer=2,
            n_head=4,
            initializer_range=0.4,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = GPT2LMHeadModel(config)
    directory = tmp_path_factory.mktemp("gpt2")
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def by_a_plain_loop(directory: Path, rows: list[dict[str, Any]]) -> tuple[list[float], list[int]]:
    """Loss of each reference, with labels masked to it, one row at a time."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    losses, counts = [], []
    for row in rows:
        prompt = row["prompt"]
        if not isinstance(prompt, str):
            prompt = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        asked = tokenizer(prompt)["input_ids"]
        ids = torch.tensor([asked + tokenizer(row["reference"], add_special_tokens=False)["input_ids"]])
        labels = ids.clone()
        labels[:, : len(asked)] = -100
        with torch.no_grad():
            loss = model(input_ids=ids, labels=labels).loss.item()
        counts.append(ids.shape[1] - len(asked))
        losses.append(loss * counts[-1])
    return losses, counts


def evaluate(directory: Path, model: Path, rows: list[dict[str, Any]], name: str = "model", **more: Any):
    report = evaluate_model(
        model,
        write_rows(directory / "rows.jsonl", rows),
        directory / f"{name}.jsonl",
        directory / f"{name}.html",
        metric_names=["perplexity"],
        generation_args={"max_new_tokens": 2},
        **more,
    )
    return report, [json.loads(line) for line in (directory / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("family", ["talkative_model", "gpt2"])
@pytest.mark.parametrize("rows", [CHATS, TEXTS], ids=["chats", "texts"])
def test_it_is_that_of_a_plain_loop_by_row_and_by_token(request, tmp_path, family, rows):
    model = request.getfixturevalue(family)
    losses, counts = by_a_plain_loop(model, rows)
    report, scores = evaluate(tmp_path, model, rows, batch_size=3)
    assert len(set(counts)) > 1
    assert report.metrics["perplexity"] == pytest.approx(math.exp(sum(losses) / sum(counts)), rel=1e-4)
    assert [row["reference_tokens"] for row in scores] == counts
    assert [row["log_likelihood"] for row in scores] == pytest.approx([-each for each in losses], rel=1e-4)
    assert [row["perplexity"] for row in scores] == pytest.approx(
        [math.exp(loss / count) for loss, count in zip(losses, counts, strict=True)], rel=1e-4
    )
    each = report.comparison.metrics["perplexity"]
    assert not each.higher_is_better and each.rows_scored == len(rows)
    assert each.candidate.low < each.candidate.value < each.candidate.high


def test_it_is_compared_with_a_baseline_of_the_same_tokens_and_lower_is_better(
    tmp_path, talkative_model, gpt2
):
    worse, _ = evaluate(tmp_path, talkative_model, CHATS, "baseline")
    better, _ = evaluate(tmp_path, gpt2, CHATS, baseline_scores=tmp_path / "baseline.jsonl")
    each = better.comparison.metrics["perplexity"]
    assert each.baseline.value == pytest.approx(worse.metrics["perplexity"], rel=1e-9)
    assert each.pairs_scored == len(CHATS)
    assert each.difference.value == pytest.approx(better.metrics["perplexity"] - worse.metrics["perplexity"])


def test_a_baseline_that_does_not_tell_or_has_other_tokens_has_no_score(tmp_path, gpt2):
    _, scores = evaluate(tmp_path, gpt2, CHATS, "baseline")
    for change, reason in (
        ({"log_likelihood": None}, "what was evaluated does not say how likely the reference is to it"),
        ({"reference_tokens": 99}, "its model has other tokens than the one that it is compared with"),
    ):
        write_rows(tmp_path / "other.jsonl", [scores[0] | change, *scores[1:]])
        report, _ = evaluate(tmp_path, gpt2, CHATS, baseline_scores=tmp_path / "other.jsonl")
        left = len(CHATS) - 1 if "log_likelihood" in change else 0
        each = report.comparison.metrics["perplexity"]
        assert (each.pairs_scored, each.rows_scored) == (left, len(CHATS))
        assert any(reason in finding for finding in report.findings)


def test_its_interval_is_of_rows_drawn_again_with_their_tokens():
    generator = np.random.default_rng(1)
    tokens = generator.integers(1, 40, size=60)
    losses = tokens * generator.gamma(2.0, 1.0, size=60)
    scores, reasons = perplexity_of(
        [(-float(loss), int(count)) for loss, count in zip(losses, tokens, strict=True)], 60
    )
    assert not reasons
    found = estimate(scores)
    assert found is not None
    assert found.value == pytest.approx(math.exp(losses.sum() / tokens.sum()))
    drawn = generator.integers(0, 60, size=(RESAMPLES, 60))
    simple = np.exp(losses[drawn].sum(axis=1) / tokens[drawn].sum(axis=1))
    low, high = np.quantile(simple, (0.025, 0.975))
    assert found.low == pytest.approx(low, rel=0.15) and found.high == pytest.approx(high, rel=0.15)


@pytest.mark.parametrize("overflown", [math.nan, -math.inf])
def test_a_likelihood_that_is_no_number_leaves_its_row_without_a_score_and_says_why(overflown):
    found, reasons = perplexity_of([(overflown, 3), (-1.0, 2)], 2)
    assert found.are_there.tolist() == [False, True]
    assert reasons == {0: "its likelihood is no finite number, as where the model's own numbers overflow"}


def test_a_row_that_does_not_fit_in_the_context_is_named_before_anything_is_answered(tmp_path, gpt2):
    rows = [*CHATS, CHATS[0] | {"reference": "red " * 300}]
    with pytest.raises(DataError, match=r"Row 9 does not fit in the model's context of 256 tokens"):
        evaluate(tmp_path, gpt2, rows)


def test_a_service_is_not_asked_for_it(tmp_path):
    with pytest.raises(SettingError, match="metric_names has perplexity, which needs the model itself"):
        evaluate_service(
            write_rows(tmp_path / "rows.jsonl", CHATS),
            tmp_path / "scores.jsonl",
            tmp_path / "report.html",
            url="http://127.0.0.1:1",
            model_name="m",
            metric_names=["perplexity"],
        )
