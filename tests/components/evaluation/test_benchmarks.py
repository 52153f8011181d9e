"""Benchmark tasks: the same values as lm_eval's own, what is compared of them, and what is not run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from llmops_components.errors import DataError, SettingError
from llmops_components.evaluation.benchmarks.choosing import check_task
from llmops_components.evaluation.benchmarks.files import Code
from llmops_components.evaluation.benchmarks.harness import confined
from llmops_components.evaluation.benchmarks.run import run_benchmarks
from tiny_model import write_rows

COLOURS = ["red", "blue", "green"]
THINGS = ["sky", "grass", "apple", "sea", "leaf"]
CHOICE = """
task: colours
tag: small
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl, train: shots.jsonl}}
test_split: test
fewshot_split: train
num_fewshot: 2
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: brier_score, aggregation: brier_score, higher_is_better: false}
  - {metric: mcc, aggregation: matthews_corrcoef, higher_is_better: true}
metadata: {version: 1.0}
"""
WRITTEN = """
include: shared
task: written
tag: small
doc_to_text: "{{question}}"
doc_to_target: "{{choices[gold]}}"
output_type: generate_until
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
filter_list:
  - name: first-letter
    filter:
      - {function: regex, regex_pattern: "([a-z])"}
      - {function: take_first}
  - name: whole
    filter:
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
"""
SHARED = """
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
"""
TEXT = """
include: shared
task: text
doc_to_text: ""
doc_to_target: "{{question}}"
output_type: loglikelihood_rolling
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""


def rows_of(things: list[str]) -> list[dict]:
    return [
        {"question": f"What colour is the {thing}?", "choices": COLOURS, "gold": number % 3}
        for number, thing in enumerate(things)
    ]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    directory = tmp_path / "tasks"
    directory.mkdir()
    write_rows(directory / "rows.jsonl", rows_of(THINGS))
    write_rows(directory / "shots.jsonl", rows_of(["rose", "cloud", "moss"]))
    for name, text in (("a.yaml", CHOICE), ("b.yaml", WRITTEN), ("shared", SHARED), ("c.yaml", TEXT)):
        (directory / name).write_text(text)
    return directory


@pytest.fixture
def run(files: Path, talkative_model: Path, tmp_path: Path):
    def run(*names: str, name: str = "model", model: Path = talkative_model, **settings):
        return run_benchmarks(
            model,
            tmp_path / f"{name}.jsonl",
            tmp_path / f"{name}.html",
            task_names=list(names),
            task_files=settings.pop("task_files", files),
            harness_results=tmp_path / f"{name}.json",
            **settings,
        )

    return run


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_values_are_those_of_simple_evaluate(run, files, talkative_model, tmp_path, monkeypatch):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    report = run("colours", "written", "text")
    monkeypatch.chdir(files)  # where lm_eval itself looks for the rows
    theirs = simple_evaluate(
        "hf",
        model_args={"pretrained": str(talkative_model), "dtype": "float32"},
        tasks=["colours", "written", "text"],
        task_manager=TaskManager(include_path=str(files), include_defaults=False),
        batch_size=16,
        device="cpu",
        bootstrap_iters=0,
        random_seed=1234,
    )["results"]
    ours = json.loads((tmp_path / "model.json").read_text())["results"]
    expected = {
        f"{task}/{key.removesuffix(',none')}": value
        for task, values in theirs.items()
        for key, value in values.items()
        if isinstance(value, float) and "mcc" not in key
    }
    assert len(expected) == 7
    assert {name: report.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-12, abs=1e-6)
    assert ours["colours"]["mcc,none"] == theirs["colours"]["mcc,none"]
    assert report.findings == [
        "mcc is no mean of scores of single samples: it is in the results of lm_eval alone (colours)."
    ]


def test_samples_and_the_comparison_are_by_task(run, tmp_path):
    report = run("small", "text")
    lines = read(tmp_path / "model.jsonl")
    assert [(line["task"], line["subtask"]) for line in lines] == [
        *[("small", "colours")] * 5,
        *[("small", "written")] * 5,
        *[("text", "text")] * 5,
    ]
    assert lines[0]["prompt"].endswith("Question: What colour is the sky?\nAnswer:")
    assert lines[0]["prompt"].count("Question:") == 3
    assert (lines[0]["reference"], lines[0]["answer"] in COLOURS) == ("red", True)
    assert lines[0]["acc"] == float(lines[0]["answer"] == "red")
    slices = report.comparison.slices["task"]
    assert set(slices) == {"small", "text"}
    assert set(slices["text"]) == {"word_perplexity", "bits_per_byte"}
    # A metric is of the tasks that have it: those of a group without it are not unscored in another one's.
    assert {name: each.rows_scored for name, each in report.comparison.metrics.items()}[
        "word_perplexity"
    ] == 5
    assert not report.comparison.metrics["word_perplexity"].higher_is_better
    assert "What colour is the sky?" in (tmp_path / "model.html").read_text()


def test_a_model_is_compared_with_another_sample_by_sample(run, tiny_model, tmp_path):
    run("colours", name="champion", model=tiny_model)
    report = run("colours", baseline_scores=tmp_path / "champion.jsonl", metric_names=["acc", "brier_score"])
    ours, theirs = (read(tmp_path / f"{name}.jsonl") for name in ("model", "champion"))
    found = report.comparison.slices["task"]["colours"]["brier_score"]
    changes = [a["brier_score"] - b["brier_score"] for a, b in zip(ours, theirs, strict=True)]
    assert any(changes)
    assert found.difference.value == pytest.approx(sum(changes) / 5, abs=1e-6)
    assert (found.pairs_scored, found.higher_is_better) == (5, False)
    assert list(report.comparison.metrics) == ["acc", "brier_score"]


def test_further_models_are_shown_and_change_nothing_that_a_gate_reads(run, tiny_model, tmp_path):
    run("colours", "text", name="other", model=tiny_model)
    alone = run("colours", "text")
    lines = read(tmp_path / "other.jsonl")
    write_rows(tmp_path / "partly.jsonl", [line for line in lines if line["row"] != 2])
    further = {"all": tmp_path / "other.jsonl", "partly": tmp_path / "partly.jsonl"}
    report = run("colours", "text", further_scores=further, report_json=tmp_path / "report.json")
    assert report.comparison == alone.comparison
    assert report.details["further_models"]["partly"]["rows"] == len(lines) - 1
    assert any("'partly' have 9 of 10 rows" in line for line in report.findings)
    found = json.loads((tmp_path / "report.json").read_text())["further_models"]
    ours = [line for line in read(tmp_path / "model.jsonl") if "acc" in line]
    theirs = [line for line in lines if "acc" in line]
    changes = [a["acc"] - b["acc"] for a, b in zip(ours, theirs, strict=True)]
    each = found["all"]["metrics"]["acc"]
    assert each["difference"]["value"] == pytest.approx(sum(changes) / 5, abs=1e-6)
    # A metric is of the tasks that have it: of the other five samples none is missing.
    assert (each["rows_scored"], each["rows_unscored"]) == (5, 0)
    each = found["partly"]["metrics"]["acc"]
    assert (each["rows_scored"], each["rows_unscored"], each["pairs_scored"]) == (4, 1, 4)
    assert '<th class="n">partly' in (tmp_path / "model.html").read_text()


def test_further_models_that_were_asked_otherwise_are_refused(run, tmp_path):
    run("colours", name="other")
    with pytest.raises(DataError, match="further_scores of 'other', row 1 was asked otherwise"):
        run("colours", further_scores={"other": tmp_path / "other.jsonl"}, num_fewshot=1)
    with pytest.raises(DataError, match="further_scores of 'other' have a row 4, and there are rows 1 to 3"):
        run("colours", further_scores={"other": tmp_path / "other.jsonl"}, limit=3)
    with pytest.raises(SettingError, match="'model' is what the report calls another one"):
        run("colours", further_scores={"model": tmp_path / "other.jsonl"})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"num_fewshot": 1}, "row 1 was asked otherwise"),
        ({"seed": 7}, "row 1 was asked otherwise"),
        ({"limit": 3}, "are of 5 samples, and the tasks have 3"),
        ({"metric_names": ["mean_of_mine"]}, "Unknown metric_names: 'mean_of_mine'"),
    ],
)
def test_a_baseline_of_other_samples_is_refused(run, tmp_path, settings, expected):
    run("colours", name="champion")
    with pytest.raises((DataError, SettingError), match=expected):
        run("colours", baseline_scores=tmp_path / "champion.jsonl", **settings)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("process_docs: !function code.run", "needs code of its own, code.run"),
        ("class: !function code.Task", "needs code of its own, code.Task"),
        ("unsafe_code: true", "runs code that the model writes"),
        (
            "dataset_kwargs: {trust_remote_code: true}",
            "trust_remote_code runs files|trust_remote_code runs code",
        ),
        (
            "dataset_kwargs: {data_files: https://example.com/rows.jsonl}",
            "from the network, and download is false",
        ),
        ("dataset_kwargs: {data_files: ../../rows.jsonl}", "lie outside of the directory"),
        ("dataset_path: someone/elses", "takes its rows from the Hugging Face hub"),
        ("metric_list: [{metric: wer}]", "'wer', whose code would come from the Hugging Face hub"),
        (
            "metric_list: [{metric: acc, hf_evaluate: true}]",
            "'acc', whose code would come from the Hugging Face hub",
        ),
        ("metric_list: [{metric: mcc}]", "no metric that can be compared sample by sample"),
        ("num_fewshot: 0", "says that it takes none"),
        ("fewshot_split: null", "has no examples beside the rows that it asks"),
        ("doc_to_image: picture", "has doc_to_image"),
        ("include: ../../other.yaml", "lies outside of the directory"),
        ("doc_to_text: '{{ cycler.__init__.__globals__.os.system(\"touch TOUCHED\") }}'", "is unsafe|unsafe"),
    ],
)
def test_what_needs_code_or_the_network_is_refused_by_name(run, files, monkeypatch, tmp_path, line, expected):
    monkeypatch.chdir(tmp_path)
    (files / "code.py").write_text("open('TOUCHED', 'w').close()\n")
    key = line.partition(":")[0]
    kept = [
        each
        for each in CHOICE.splitlines()
        if not each.startswith((key, *(["  -"] if key == "metric_list" else [])))
    ]
    (files / "a.yaml").write_text("\n".join([*kept, line]))
    with pytest.raises((DataError, SettingError), match=expected):
        run("colours", num_fewshot=1)
    assert not (tmp_path / "TOUCHED").exists()


def test_the_template_that_is_refused_here_runs_in_lm_eval_itself(tmp_path):
    from lm_eval.utils import apply_template

    touch = f"{{{{ cycler.__init__.__globals__.os.system('touch {tmp_path}/TOUCHED') }}}}"
    apply_template(touch, {})
    assert (tmp_path / "TOUCHED").exists()
    with confined(download=False), pytest.raises(Exception, match="unsafe"):
        apply_template(touch, {})


def test_functions_of_the_package_run_where_it_is_allowed(monkeypatch):
    config = {"task": "hellaswag", "process_docs": Code("utils.process_docs")}
    with pytest.raises(SettingError, match="functions of the package lm_eval, such as utils"):
        check_task("hellaswag", config, is_own=False, download=False)
    monkeypatch.setenv("LLMOPS_ALLOWED_CODE", "lm_eval")
    check_task("hellaswag", config, is_own=False, download=False)
    with pytest.raises(SettingError, match="needs code of its own"):
        check_task("hellaswag", config, is_own=True, download=False)


def test_a_sample_that_cannot_be_scored_is_none_and_says_why(run, files, tmp_path):
    rows = rows_of(THINGS)
    rows[1]["gold"] = None
    write_rows(files / "rows.jsonl", rows)
    report = run("colours", limit=3)
    found = report.comparison.slices["task"]["colours"]["acc"]
    assert (found.rows_scored, found.rows_unscored) == (2, 1)
    assert found.worst_case is not None
    assert found.worst_case < 1
    assert read(tmp_path / "model.jsonl")[1]["acc"] is None
    assert "TypeError" in read(tmp_path / "model.jsonl")[1]["unscored"]["acc"]
    assert any("acc of colours has no score for 1 of 3 samples: row 2" in each for each in report.findings)


def test_a_prompt_that_is_cut_is_told(run, files):
    rows = rows_of(THINGS)
    rows[0]["question"] = "red " * 2000
    write_rows(files / "rows.jsonl", rows)
    report = run("written", limit=1)
    assert any("lm_eval warned once: Left truncation" in each for each in report.findings), report.findings


def test_names_are_checked_before_a_model_is_loaded(run, tmp_path):
    with pytest.raises(SettingError, match="task_names is 'colours'"):
        run_benchmarks(tmp_path, tmp_path / "s", tmp_path / "r", task_names="colours")
    with pytest.raises(SettingError, match="limit must be a whole number from 1"):
        run("colours", limit=0)
    with pytest.raises(SettingError, match="task colours twice, in small and in colours"):
        run("small", "colours")
