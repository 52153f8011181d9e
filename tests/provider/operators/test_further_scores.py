"""Scores of further models: one argument of an evaluation by name, and an artifact for each in the data plane."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from airflow.sdk import DAG, task
from hostile_service import Does, answer_to, hostile_service

from airflow_provider_llmops.exceptions import ConfigurationError, InvalidInputError
from airflow_provider_llmops.operators.benchmarks import RunBenchmarksOperator
from airflow_provider_llmops.operators.evaluate_service import EvaluateServiceOperator
from airflow_provider_llmops.operators.evaluation import EvaluateModelOperator

pytestmark = pytest.mark.usefixtures("connections")
SLOTS = [f"further_scores_{number}" for number in (1, 2, 3, 4)]
OPERATORS = {
    EvaluateModelOperator: {"model": "/m", "dataset": "/d"},
    EvaluateServiceOperator: {"dataset": "/d", "url": "http://127.0.0.1:1", "model_name": "m"},
    RunBenchmarksOperator: {"model": "/m", "task_names": ["boolq"]},
}


def evaluation(further_scores: object, kind: type = EvaluateModelOperator):
    return kind(task_id="evaluate", further_scores=further_scores, **OPERATORS[kind])


@pytest.mark.parametrize("kind", OPERATORS, ids=lambda kind: kind.__name__)
def test_each_becomes_an_artifact_and_its_name_one_of_a_list(kind):
    given = {"week 46": "/a", "week 47": "s3://bucket/b"}
    for found in (evaluation(given, kind), evaluation(json.dumps(given), kind)):
        arguments = found.arguments()
        assert [arguments[slot] for slot in SLOTS] == ["/a", "s3://bucket/b", None, None]
        assert arguments["further_names"] == ["week 46", "week 47"]
        assert "further_scores" not in arguments
        bound = found.bind()
        assert bound.parameters["further_names"] == ["week 46", "week 47"]
    for nothing in (None, {}, "", "None"):
        arguments = evaluation(nothing, kind).arguments()
        assert [arguments[name] for name in (*SLOTS, "further_names")] == [None] * 5
    assert set(SLOTS) <= set(kind.addresses)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["/a"], r"^further_scores must have URIs of scores by the name of their model, got \['/a'\]"),
        ("/a", r"got '/a'"),
        ({"a": 1}, r"^further_scores must have URIs"),
        ({"": "/a"}, r"^further_scores must have URIs"),
        ({"a": ""}, r"^further_scores must have URIs"),
        (dict.fromkeys("abcde", "/a"), r"^further_scores has 5 models, and a report has room for 4"),
    ],
)
def test_what_names_no_scores_is_refused(given, message):
    with pytest.raises(ConfigurationError, match=message):
        evaluation(given).arguments()


def test_what_another_task_makes_is_waited_for_and_filled_in():
    with DAG("dag") as dag:

        @task
        def score() -> str:
            return "/scores"

        made = score()
        found = EvaluateModelOperator(
            task_id="evaluate", model="/m", dataset="/d", further_scores={"other": made}
        )
    assert found.upstream_task_ids == {"score"}
    assert "further_scores" in found.template_fields
    assert dag.task_dict["evaluate"].template_fields_renderers["further_scores"] == "json"


def test_lineage_names_them_among_what_was_read():
    found = evaluation({"one": "/scores/one.jsonl", "two": "/scores/two.jsonl"}).lineage()
    assert {"/scores/one.jsonl", "/scores/two.jsonl"} <= {each.address for each in found.inputs}


@pytest.fixture
def rows(tmp_path: Path):
    asked = [{"prompt": f"q{number}", "reference": f"r{number}"} for number in range(1, 7)]

    def write(name: str, answers: dict[int, str] | None = None, **more: str) -> str:
        """Rows; with answers the scores of a model that has given them."""
        lines = [row | more for row in asked]
        if answers is not None:
            lines = [
                asked[number - 1] | {"row": number, "answer": text} | more for number, text in answers.items()
            ]
        path = tmp_path / name
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return str(path)

    return write


def evaluate(context, rows, further_scores, url):
    operator = EvaluateServiceOperator(
        task_id="task",
        dataset=rows("rows.jsonl"),
        url=url,
        model_name="m",
        metric_names=["exact_match"],
        baseline_scores=rows("base.jsonl", dict.fromkeys(range(1, 7), "no")),
        further_scores=further_scores,
        deferrable=False,
        poll_interval=0.05,
    )
    return operator, operator.execute(context)


def test_the_report_of_a_local_run_shows_them_and_the_comparison_does_not(context, backend, rows):
    right = rows("right.jsonl", {number: f"r{number}" for number in range(1, 7)})
    half = rows("half.jsonl", {1: "r1", 2: "no", 3: "r3"})
    with hostile_service(
        lambda prompt, nth: Does(body=answer_to(prompt, prompt.replace("q", "r")))
    ) as server:
        operator, value = evaluate(context, rows, {"right": right, "half, too": half}, server.url)
    page, told = (
        Path(value["artifacts"][name]["uri"].removeprefix("file://")).read_text()
        for name in ("report", "report_json")
    )
    found = json.loads(told)["further_models"]
    differences = {
        name: each["metrics"]["exact_match"]["difference"]["value"] for name, each in found.items()
    }
    assert differences == {"right": 0, "half, too": pytest.approx(1 / 3, abs=1e-6)}
    counts = found["half, too"]["metrics"]["exact_match"]
    assert (counts["rows_scored"], counts["rows_unscored"], counts["pairs_scored"]) == (3, 3, 3)
    assert '<th class="n">right<th class="n">half, too' in page
    assert value["details"]["further_models"]["right"]["rows"] == 6
    digests = {name: each["digest"] for name, each in value["details"]["further_models"].items()}
    assert digests == {
        name: f"sha256:{hashlib.sha256(Path(path).read_bytes()).hexdigest()}"
        for name, path in (("right", right), ("half, too", half))
    }
    assert {right, half} <= {each.address for each in operator.lineage().inputs}
    assert "right" not in json.dumps(context["ti"].xcom["comparison"])
    assert context["ti"].xcom["comparison"]["metrics"]["exact_match"]["baseline"]["value"] == 0


def test_scores_of_other_rows_fail_the_task_with_their_model_and_row(context, backend, rows):
    other = rows("other.jsonl", {1: "r1"}, reference="something else")
    with hostile_service() as server, pytest.raises(InvalidInputError) as raised:
        evaluate(context, rows, {"of May": other}, server.url)
    assert "further_scores of 'of May', row 1: its reference differs from the dataset's" in str(raised.value)
