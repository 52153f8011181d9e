"""The evaluation as a whole: files, numbers, comparison with a baseline, and bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from chat_templates import chat_template
from hostile_service import Does, answer_to, hostile_service
from llmops_components.errors import DataError, ModelError, SettingError
from llmops_components.evaluation.about import About
from llmops_components.evaluation.evaluate import evaluate_model
from llmops_components.inference import pool
from llmops_components.results import digest_of
from tiny_model import write_rows

METRICS = ["rougeL", "bleu", "exact_match"]
THINGS = {"apple": "red", "sky": "blue", "grass": "green"}
ROWS = [
    {
        "prompt": [{"role": "user", "content": f"What colour is the {thing}?"}],
        "reference": f"The {thing} is {colour}.",
        "contexts": [f"The {thing} is {colour}, they say."],
    }
    for thing, colour in THINGS.items()
]


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def model(talkative_model: Path) -> Path:
    return talkative_model


@pytest.fixture
def evaluate(model: Path, tmp_path: Path):
    def run(rows: list[dict] | Path = ROWS, *, name: str = "model", **settings):
        dataset = rows if isinstance(rows, Path) else write_rows(tmp_path / "rows.jsonl", rows)
        settings = {
            "metric_names": METRICS,
            "generation_args": {"max_new_tokens": 6},
            "model": model,
        } | settings
        return evaluate_model(
            dataset=dataset, scores=tmp_path / f"{name}.jsonl", report=tmp_path / f"{name}.html", **settings
        )

    return run


def test_scores_hold_every_sample_with_every_metric(evaluate, tmp_path):
    report = evaluate()
    scores = read_rows(tmp_path / "model.jsonl")
    assert [list(row) for row in scores] == [
        ["row", "prompt", "reference", "answer", "tokens", "finish_reason", *METRICS]
    ] * 3
    assert [row["row"] for row in scores] == [1, 2, 3]
    assert [{key: row[key] for key in ("prompt", "reference")} for row in scores] == [
        {key: row[key] for key in ("prompt", "reference")} for row in ROWS
    ]
    assert set(report.metrics) == {*METRICS, "samples", "tokens_per_second"}
    assert report.metrics["samples"] == 3
    assert report.metrics["rougeL"] == pytest.approx(sum(row["rougeL"] for row in scores) / 3, abs=1e-6)
    assert report.details["skipped_metrics"] == {}
    assert not report.comparison.has_baseline
    for name in METRICS:
        each = report.comparison.metrics[name]
        assert (each.candidate.value, each.rows_scored, each.baseline) == (report.metrics[name], 3, None)
        assert each.candidate.low <= each.candidate.lower[0] <= each.candidate.value
    assert report.passed
    assert (tmp_path / "model.html").read_text().startswith("<!doctype html>")


def test_the_report_is_a_page_json_and_markdown_of_the_same_and_says_what_was_evaluated(
    evaluate, model, tmp_path
):
    asked = {"api_key": "sk-abcdefghijklmnopqrstuvwxyz0123456789"}
    report = evaluate(
        slices=["prompt_length"],
        report_json=tmp_path / "made" / "report.json",
        report_markdown=tmp_path / "made" / "report.md",
    )
    told = json.loads((tmp_path / "made" / "report.json").read_text())
    assert told["comparison"] == report.comparison.model_dump()
    about = told["about"]
    assert about["settings"] == {"do_sample": False, "max_new_tokens": 6, "batch_size": 16}
    assert (about["Model digest"], about["Dataset digest"]) == (
        digest_of(model)[0],
        digest_of(tmp_path / "rows.jsonl")[0],
    )
    page, text = (tmp_path / "model.html").read_text(), (tmp_path / "made" / "report.md").read_text()
    for shown in (page, text):
        assert about["Model digest"] in shown and about["Dataset digest"] in shown
    assert "| rougeL | " in text and "By prompt length" in page
    service = About.of_service(
        "evaluate_service", "m", "https://me:secret@host/v1", tmp_path / "rows.jsonl", settings=asked
    )
    assert service.facts["Address"] == "https://host/v1" and service.settings == {"api_key": "***"}


def test_the_same_evaluation_writes_the_same_scores(evaluate, tmp_path):
    evaluate(name="one", batch_size=1)
    evaluate(name="two", batch_size=3)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_a_model_against_itself_is_no_improvement(evaluate, tmp_path):
    alone = evaluate(name="base")
    report = evaluate(baseline_scores=tmp_path / "base.jsonl")
    assert report.metrics.keys() == alone.metrics.keys()
    assert report.comparison.has_baseline
    for name in METRICS:
        before, each = (said.comparison.metrics[name] for said in (alone, report))
        assert each.candidate == before.candidate
        assert each.baseline.model_dump() == each.candidate.model_dump(include={"value", "low", "high"})
        assert (each.difference.value, each.rows_scored, each.rows_unscored, each.pairs_scored) == (
            0,
            3,
            0,
            3,
        )
        assert each.difference.lower[0] < 0 < each.difference.upper[0]
    assert "No clear difference in rougeL" in (tmp_path / "model.html").read_text()


def test_a_better_baseline_is_a_loss_on_every_metric_and_three_rows_are_no_proof_of_it(
    evaluate, tmp_path, capsys
):
    evaluate(name="base")
    perfect = [row | {"answer": row["reference"]} for row in read_rows(tmp_path / "base.jsonl")]
    write_rows(tmp_path / "base.jsonl", perfect)
    report = evaluate(baseline_scores=tmp_path / "base.jsonl")
    compared = report.comparison.metrics
    # Scored again from the answers, whatever the file says of their scores.
    assert [compared[name].baseline.value for name in METRICS] == pytest.approx([1, 100, 1])
    for name in METRICS:
        assert compared[name].candidate.value == report.metrics[name]
        assert compared[name].difference.value == pytest.approx(
            compared[name].candidate.value - compared[name].baseline.value, abs=2e-6
        )
        # Three of three are worse, which happens to equal models one time in eight.
        assert compared[name].difference.upper[0] > 0 > compared[name].difference.value
    assert "No clear difference in rougeL, bleu, exact_match." in (tmp_path / "model.html").read_text()
    assert "rougeL                  1.000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows[:2],
            r"are of 2 rows, and the dataset has 3\. Pass the scores of an evaluation of the same dataset",
        ),
        (lambda rows: [rows[0], rows[2], rows[1]], "row 2: its prompt and reference differ"),
        (lambda rows: [*rows[:2], rows[2] | {"reference": "other"}], "row 3: its reference differ"),
        (
            lambda rows: [{k: v for k, v in rows[0].items() if k != "answer"}, *rows[1:]],
            "row 1: there is no answer",
        ),
    ],
)
def test_a_baseline_of_other_rows_is_refused(evaluate, tmp_path, change, message):
    base = [row | {"answer": "x"} for row in ROWS]
    write_rows(tmp_path / "base.jsonl", change(base))
    with pytest.raises(DataError, match=message):
        evaluate(baseline_scores=tmp_path / "base.jsonl")


def test_a_row_without_a_reference_is_named_by_its_line(evaluate):
    rows = [ROWS[0], {**ROWS[1], "reference": ""}, {k: v for k, v in ROWS[2].items() if k != "reference"}]
    with pytest.raises(DataError, match=r"line 2: reference is empty; line 3: reference is missing"):
        evaluate(rows)


def test_rows_need_the_columns_that_the_metrics_ask_for(evaluate, model, tmp_path):
    rows = [{"prompt": row["prompt"]} for row in ROWS]
    with pytest.raises(DataError) as raised:
        evaluate(rows)
    assert str(raised.value).startswith(
        "The rows have no reference, which the metrics rougeL, bleu, exact_match need. Add the column, or ask for metrics "
        "that need none (reward)."
    )
    judge = tmp_path / "judge"
    make_judge(model, judge)
    report = evaluate(rows, metric_names=["reward"], reward_model=judge)
    assert report.metrics["samples"] == 3
    assert [list(row) for row in read_rows(tmp_path / "model.jsonl")] == [
        ["row", "prompt", "answer", "tokens", "finish_reason", "reward"]
    ] * 3
    report = evaluate(rows, metric_names=None, reward_model=judge, name="all")
    assert report.details["skipped_metrics"]["rougeL"] == "the rows have no reference"
    assert "reward" in report.metrics


def test_prompts_of_parts_and_names_of_ragas_are_evaluated_as_ours(evaluate, tmp_path):
    evaluate(name="plain")
    parts = [
        {
            "user_input": [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in row["prompt"]],
            "reference": row["reference"],
        }
        for row in ROWS
    ]
    evaluate(parts, name="parts", baseline_scores=tmp_path / "plain.jsonl")
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "plain.jsonl").read_bytes()


def test_prompts_that_the_template_refuses_or_cuts_are_named(evaluate, model, tmp_path):
    system = {"role": "system", "content": "Be brief."}
    rows = [ROWS[0], {**ROWS[1], "prompt": [system, *ROWS[1]["prompt"]]}]
    gemma = shutil.copytree(model, tmp_path / "gemma")
    (gemma / "chat_template.jinja").write_text(chat_template("gemma"))
    with pytest.raises(DataError, match=r"^Row 2: the chat template refuses message 1 of prompt \(system\)"):
        evaluate(rows, model=gemma)
    assert evaluate(rows, name="system").findings == []
    (gemma / "chat_template.jinja").write_text(chat_template("qwen3"))
    system["role"] = "developer"
    assert evaluate(rows, model=gemma, name="developer").findings == [
        "1 of 2 rows have text that the chat template leaves out, so that the model never sees it: row 2: the text of "
        "message 1 of prompt (developer). Change these rows, or use another chat template."
    ]


def test_an_empty_dataset_is_refused(evaluate):
    with pytest.raises(DataError, match="has no rows"):
        evaluate([])


def test_a_model_without_weights_is_refused(evaluate, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"no \*\.safetensors weights"):
        evaluate(model=tmp_path / "empty")


def test_a_prompt_that_does_not_fit_is_named_by_its_row(evaluate):
    long = {**ROWS[1], "prompt": [{"role": "user", "content": "colour " * 600}]}
    with pytest.raises(DataError, match=r"row 2 \(\d+ tokens\)"):
        evaluate([ROWS[0], long])


def test_an_unknown_metric_is_found_before_anything_is_read(evaluate):
    with pytest.raises(SettingError, match=r"'blue' \(did you mean 'bleu'\?\)"):
        evaluate(Path("/no/such/dataset"), metric_names=["blue"], model="/no/such/model")


def test_an_unknown_generation_argument_is_refused(evaluate):
    with pytest.raises(SettingError, match="did you mean 'temperature'"):
        evaluate(generation_args={"temprature": 1})


def make_judge(model: Path, directory: Path):
    """A reward model of the tiny model's body, written to a directory, and its tokenizer."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(model)
    network.config.pad_token_id = tokenizer.pad_token_id
    network.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return network, tokenizer


def test_reward_is_what_the_reward_model_gives_to_prompt_and_answer(evaluate, model, tmp_path):
    import torch

    judge = tmp_path / "judge"
    network, tokenizer = make_judge(model, judge)
    first = evaluate(metric_names=["rougeL", "reward"], reward_model=judge, name="first")
    second = evaluate(
        metric_names=["reward"], reward_model=judge, baseline_scores=tmp_path / "first.jsonl", name="second"
    )
    rows = read_rows(tmp_path / "first.jsonl")
    expected = []
    for row in rows:
        messages = [*row["prompt"], {"role": "assistant", "content": row["answer"]}]
        tokens = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            expected.append(network(**tokens).logits.item())
    assert [row["reward"] for row in rows] == pytest.approx(expected, abs=5e-2)
    assert len(set(expected)) == 3
    assert first.metrics["reward"] == pytest.approx(sum(expected) / 3, abs=5e-2)
    assert second.comparison.metrics["reward"].difference.value == pytest.approx(0.0, abs=5e-2)
    assert "what the reward model gives" in (tmp_path / "first.html").read_text()


def test_a_row_without_a_score_is_null_counted_and_told_and_the_others_are_compared(
    evaluate, model, tmp_path, monkeypatch
):
    import torch

    judge = tmp_path / "judge"
    network, _ = make_judge(model, judge)
    forward = type(network).forward
    evaluate(metric_names=["rougeL", "reward"], reward_model=judge, name="base")
    seen = []

    def without_the_second(self, input_ids, **kwargs):
        """A reward model that overflows for one prompt."""
        answer = forward(self, input_ids, **kwargs)
        for number, tokens in enumerate(input_ids):
            seen.append(tokens)
            if (tokens == marked).any():
                answer.logits[number] = torch.nan
        return answer

    vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    marked = next(number for word, number in vocabulary.items() if "sky" in word)
    monkeypatch.setattr(type(network), "forward", without_the_second)
    report = evaluate(
        metric_names=["rougeL", "reward"], reward_model=judge, baseline_scores=tmp_path / "base.jsonl"
    )
    assert seen
    rows = read_rows(tmp_path / "model.jsonl")
    assert [row["reward"] is None for row in rows] == [False, True, False]
    reward = (rows[0]["reward"] + rows[2]["reward"]) / 2
    assert report.metrics["reward"] == pytest.approx(reward, abs=1e-6)
    compared = report.comparison.metrics["reward"]
    assert compared.candidate.value == compared.baseline.value == report.metrics["reward"]
    assert (compared.rows_scored, compared.rows_unscored, compared.pairs_scored) == (2, 1, 2)
    # A reward has no end: nobody knows what a failed row would get.
    assert (compared.worst_case, compared.candidate.lower) == (None, [])
    assert report.comparison.metrics["rougeL"].rows_unscored == 0
    assert [finding.partition(":")[0] for finding in report.findings] == [
        "reward has no score for 1 of 3 answers of the model",
        "reward has no score for 1 of 3 answers of the baseline",
    ]
    page = (tmp_path / "model.html").read_text()
    assert "1 of 3 samples have no score by reward." in page
    assert "not scored" in page


def test_a_judge_scores_what_it_can_and_the_rest_is_told_in_every_place(evaluate, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.delenv("LLMOPS_CHECKPOINTS", raising=False)

    def behave(prompt: str, nth: int) -> Does:
        if "sky" in prompt:
            return Does(400, {"error": {"message": "not about the sky"}})
        return Does(body=answer_to("", json.dumps({"reason": "so it is", "value": "good"})))

    rows = [{**row, "retrieved_contexts": row["contexts"]} for row in ROWS]
    with hostile_service(behave) as server:
        settings = {
            "metric_names": ["grounded", "rougeL"],
            "metric_args": {
                "grounded": {
                    "prompt": "{user_input} {response} {retrieved_contexts}",
                    "values": {"good": 1, "bad": 0},
                }
            },
            "judge": {"url": f"{server.url}/v1", "model_name": "judge", "price": {"input": 1e6, "output": 0}},
            "checkpoints": tmp_path / "kept",
        }
        evaluate(rows, name="base", **settings)
        asked = len(server.bodies)
        report = evaluate(rows, baseline_scores=tmp_path / "base.jsonl", **settings)
        # What is known is not asked again, by the second evaluation either.
        assert len(server.bodies) - asked == 2
    found = read_rows(tmp_path / "model.jsonl")
    assert [row["grounded"] for row in found] == [1.0, None, 1.0]
    reason = "the judge's server refused the question: HTTP 400: not about the sky"
    assert [row.get("unscored") for row in found] == [None, {"grounded": reason}, None]
    assert report.metrics["grounded"] == 1.0
    assert {name: report.metrics[name] for name in report.metrics if name.startswith("judge_")} == {
        "judge_questions": 2,
        "judge_prompt_tokens": 6,
        "judge_completion_tokens": 4,
        "judge_cost": 6.0,
    }
    assert report.details["rows_unscored"] == {"grounded": 1}
    assert report.details["judge"]["unscored"] == {"grounded": {"refused": 2}}
    assert report.details["judge"]["settings"]["model_name"] == "judge"
    assert report.findings == [
        f"grounded has no score for 1 of 3 answers of the {whose}: row 2. {reason}; they are left out of the aggregate."
        for whose in ("model", "baseline")
    ]
    page = (tmp_path / "model.html").read_text()
    assert "not about the sky" in page and "{user_input} {response} {retrieved_contexts}" in page


def test_metrics_that_a_local_model_cannot_have_and_columns_of_another_kind_are_refused(evaluate):
    with pytest.raises(SettingError, match="tool_call_f1, which compares tool calls"):
        evaluate(metric_names=["tool_call_f1"])
    judge = {"url": "http://127.0.0.1:1/v1", "model_name": "m"}
    with pytest.raises(
        DataError, match="The rows have no retrieved_contexts, which the metrics faithfulness need"
    ):
        evaluate(metric_names=["faithfulness"], judge=judge)
    rows = [{**row, "retrieved_contexts": "one text"} for row in ROWS]
    with pytest.raises(DataError, match="line 1: retrieved_contexts is 'one text', and no list of texts"):
        evaluate(rows, metric_names=["faithfulness"], judge=judge)


def test_composites_and_slices_are_compared_as_metrics_are(evaluate, tmp_path):
    rows = [{**row, "language": language} for row, language in zip(ROWS, ("en", "de", "en"), strict=True)]
    settings = {
        "composites": {"quality": {"rougeL": 0.5, "bleu": 0.005}},
        "slices": ["language", "prompt_length"],
    }
    alone = evaluate(rows, name="base", **settings)
    assert list(alone.metrics)[:4] == [*METRICS, "quality"]
    report = evaluate(
        rows, baseline_scores=tmp_path / "base.jsonl", slice_metrics=["quality", "exact_match"], **settings
    )
    for line in read_rows(tmp_path / "model.jsonl"):
        assert line["quality"] == pytest.approx(0.5 * line["rougeL"] + 0.005 * line["bleu"], abs=2e-6)
    compared = report.comparison
    assert compared.metrics["quality"].candidate.value == report.metrics["quality"]
    assert {value: list(each) for value, each in compared.slices["language"].items()} == {
        "en": ["quality", "exact_match"],
        "de": ["quality", "exact_match"],
    }
    assert compared.slices["language"]["en"]["quality"].pairs_scored == 2
    assert set(compared.slices) == {"language", "prompt_length"}
    assert "0.5 rougeL + 0.005 bleu" in (tmp_path / "model.html").read_text()


def test_slice_of_a_column_that_no_row_has_is_found_before_the_model_is_loaded(evaluate):
    with pytest.raises(DataError, match="no row has 'langage'"):
        evaluate(slices=["langage"], model="/no/such/model")
