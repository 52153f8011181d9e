"""Further models beside the baseline: paired as it is, shown in the report, and no part of what a gate decides by."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import in_browser, needs_browser
from hostile_service import Does, answer_to, hostile_service
from llmops_components.errors import DataError, SettingError
from llmops_components.evaluation.further import FurtherModel, GivenModel, check_further, named_scores
from llmops_components.evaluation.likelihoods import perplexity_of
from llmops_components.evaluation.metrics.plan import plan_metrics
from llmops_components.evaluation.metrics.scoring import score_answers
from llmops_components.evaluation.report.packed import pack
from llmops_components.evaluation.report.page import render_page
from llmops_components.evaluation.report.text import render_markdown
from llmops_components.evaluation.report.written import write_report
from llmops_components.evaluation.scored import Given, score_rows
from llmops_components.evaluation.scores_file import read_further
from llmops_components.evaluation.service import evaluate_service
from llmops_components.evaluation.statistics import Scores, compare
from llmops_components.results import digest_of
from test_report import HOSTILE, Elements, content, data_of, unpacked
from tiny_model import write_rows

METRICS = ["rougeL", "bleu", "exact_match"]
ROWS = [
    {"prompt": f"What is {number} and {number}?", "reference": f"it is {2 * number} as everybody knows"}
    for number in range(1, 13)
]


def said(number: int) -> str:
    """What the service answers to a row: right in most."""
    return f"it is {2 * number + number % 3} as everybody knows"


def scores_of(change: dict[int, Any] | None = None, **more: Any) -> list[dict[str, Any]]:
    """Scores of another model, right in all rows but those that are given."""
    lines: list[dict[str, Any]] = []
    for number, row in enumerate(ROWS, start=1):
        other = (change or {}).get(number, {})
        if other is not None:
            lines.append({"row": number, **row, "answer": row["reference"], **more, **other})
    return lines


@pytest.fixture
def evaluate(tmp_path: Path):
    def behave(prompt: str, nth: int) -> Does:
        found = re.match(r"What is (\d+) and", prompt)
        return Does(
            body=answer_to(prompt, said(int(found[1])) if found else '{"reason": "so", "value": 0.5}')
        )

    def run(further: dict[str, list[dict[str, Any]]] | None = None, **settings: Any):
        files = {
            name: write_rows(tmp_path / f"further {place}.jsonl", lines)
            for place, (name, lines) in enumerate((further or {}).items())
        }
        with hostile_service(behave) as server:
            if "judge" in settings:
                settings["judge"] = {"url": f"{server.url}/v1", "model_name": "judge", **settings["judge"]}
            return evaluate_service(
                write_rows(tmp_path / "rows.jsonl", ROWS),
                tmp_path / "scores.jsonl",
                tmp_path / "report.html",
                **{"url": server.url, "model_name": "m", "metric_names": METRICS}
                | {"report_json": tmp_path / "report.json", "report_markdown": tmp_path / "report.md"}
                | settings,
                further_scores=files or None,
            )

    return run


def told(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "report.json").read_text())


def test_the_paired_difference_is_that_of_the_two_models_compared_directly(evaluate, tmp_path):
    others = {
        "week 46": scores_of({3: {"answer": "no idea"}}),
        "week 47": scores_of({5: {"answer": "it is"}}),
    }
    evaluate(others, baseline_scores=write_rows(tmp_path / "base.jsonl", scores_of()))
    plan = plan_metrics(METRICS)
    answers = [
        [said(number) for number in range(1, 13)],
        *([each["answer"] for each in lines] for lines in others.values()),
    ]
    ours, *theirs = (score_answers(plan, each, [row["reference"] for row in ROWS]) for each in answers)
    found = told(tmp_path)["further_models"]
    assert list(found) == ["week 46", "week 47"]
    for (name, figures), scores in zip(found.items(), theirs, strict=True):
        place = list(others).index(name)
        assert figures["digest"] == digest_of(tmp_path / f"further {place}.jsonl")[0]
        assert figures["rows"] == 12
        for metric, each in figures["metrics"].items():
            limits = (0, 100) if metric == "bleu" else (0, 1)
            direct = compare(
                *(Scores(x.values, x.statistics, x.combine, limits) for x in (ours[metric], scores[metric]))
            )
            assert each["difference"]["value"] == pytest.approx(direct.difference.value, abs=1e-6)
            assert each["difference"]["low"] == pytest.approx(direct.difference.low, rel=1e-3, abs=1e-6)
            assert each["difference"]["high"] == pytest.approx(direct.difference.high, rel=1e-3, abs=1e-6)
            assert each["value"] == pytest.approx(scores[metric].aggregate, abs=1e-6)
            assert each["low"] <= each["value"] <= each["high"]
            assert (each["rows_scored"], each["rows_unscored"], each["pairs_scored"]) == (12, 0, 12)
    assert found["week 46"]["metrics"]["exact_match"]["difference"]["value"] == pytest.approx(
        4 / 12 - 11 / 12, abs=1e-6
    )


def test_a_gate_reads_the_same_with_and_without_them(evaluate, tmp_path):
    base = write_rows(tmp_path / "base.jsonl", scores_of({2: {"answer": "four"}}))
    alone = evaluate(baseline_scores=base)
    scores = (tmp_path / "scores.jsonl").read_text()
    chinese = scores_of({number: {"answer": "不知道"} for number in range(1, 13)})
    beside = evaluate({"a": chinese, "b": scores_of({4: None})}, baseline_scores=base)
    assert beside.comparison.model_dump() == alone.comparison.model_dump()
    assert {name: beside.metrics[name] for name in METRICS} == {name: alone.metrics[name] for name in METRICS}
    assert without_seconds(tmp_path) == [
        each | {"seconds": None} for each in map(json.loads, scores.splitlines())
    ]
    assert "further_models" not in alone.details
    assert beside.details["further_models"]["b"]["rows"] == 11


def test_characters_in_an_answer_of_a_further_model_do_not_change_how_a_corpus_is_scored():
    rows, texts = [{"reference": "yes"}] * 6, ["yes", "yes", "yes", "no", "\u662f\u7684", "yes"]
    given = [Given(text) for text in texts]
    plan = plan_metrics(["bleu"])
    bleu = score_rows(plan, rows, given, of_each=2, together=4).scores["bleu"]
    alone = score_rows(plan, rows[:4], given[:4], of_each=2).scores["bleu"]
    as_one = score_rows(plan, rows, given, of_each=2).scores["bleu"]
    assert (bleu[:2].aggregate, alone[:2].aggregate, as_one[:2].aggregate) == (0, 0, pytest.approx(100))
    assert bleu.values[:4].tolist() == alone.values.tolist()


def without_seconds(tmp_path: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (tmp_path / "scores.jsonl").read_text().splitlines())
    return [each | {"seconds": None} for each in lines]


def test_rows_that_a_model_lacks_are_not_scored_and_counted(evaluate, tmp_path):
    lines = scores_of({2: None, 7: None, 9: {"answer": None, "reason": "it took too long"}})
    report = evaluate({"partly": lines})
    figures = told(tmp_path)["further_models"]["partly"]
    assert figures["rows"] == 10
    exact = figures["metrics"]["exact_match"]
    assert (exact["value"], exact["rows_scored"], exact["rows_unscored"], exact["pairs_scored"]) == (
        1,
        9,
        3,
        9,
    )
    assert exact["worst_case"] == 0.75
    right = [number for number in range(1, 13) if number % 3 == 0 and number not in (2, 7, 9)]
    assert exact["difference"]["value"] == pytest.approx(len(right) / 9 - 1, abs=1e-6)
    assert (
        "The scores of the further model 'partly' have 10 of 12 rows; the others have no score there: row 2, 7."
        in report.findings
    )
    assert [each for each in report.findings if "exact_match" in each] == [
        "exact_match has no score for 1 of 10 answers of the further model 'partly': row 9. it took too long; they are left out of the "
        "aggregate."
    ]
    page = (tmp_path / "report.html").read_text()
    assert '<small class="warn">9 of 12 scored</small>' in page
    assert "9 of 12" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("further", "error", "message"),
    [
        ({"a": scores_of({3: {"prompt": "What else?"}})}, DataError, r"^further_scores of 'a', row 3: its prompt differs"),
        ({"a": scores_of({3: {"reference": "x"}})}, DataError, r"row 3: its reference differs from the dataset's\. Give the scores"),
        ({"a": [*scores_of(), scores_of()[0] | {"row": 13}]}, DataError, r"of 'a' have a row 13, and there are rows 1 to 12"),
        ({"a": scores_of({3: {"row": None}})}, DataError, r"of 'a' have a row None"),
        ({"a": scores_of({3: {"row": True}})}, DataError, r"of 'a' have a row True"),
        ({"a": scores_of({3: {"row": 2}})}, DataError, r"of 'a' have row 2 twice"),
        ({"a": scores_of({3: {"answer": None}})}, DataError, r"of 'a', row 3: there is no answer"),
        ({"a": scores_of(), "A ": scores_of()}, SettingError, r"two models are called 'A '"),
        ({"Baseline": scores_of()}, SettingError, r"'Baseline' is what the report calls another one"),
        ({" ": scores_of()}, SettingError, r"' ' is no name of a model"),
        ({"a\nb": scores_of()}, SettingError, r"is no name of a model"),
        ({"x" * 61: scores_of()}, SettingError, r"of 60 characters at most"),
        ({name: scores_of() for name in "abcde"}, SettingError, r"has 5 models, and a report has room for 4"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_before_anything_is_asked(
    evaluate, tmp_path, further, error, message
):
    with pytest.raises(error, match=message):
        evaluate(further)
    assert not (tmp_path / "scores.jsonl").exists()


def test_names_and_files_have_to_be_as_many():
    assert named_scores(["/a", None, "/b", None], ["one", "two"]) == {"one": "/a", "two": "/b"}
    assert named_scores([None] * 4, None) == {}
    for places, names in ((["/a", None], None), ([None], ["one"]), (["/a", "/b"], ["one"])):
        with pytest.raises(
            SettingError, match=r"^further_names has \d names for the scores of \d further models"
        ):
            named_scores(places, names)
    with pytest.raises(SettingError, match="two models are called 'one'"):
        named_scores(["/a", "/b"], ["one", "one"])
    with pytest.raises(SettingError, match=r"^further_scores is \['/a'\]"):
        check_further(["/a"])


def test_another_release_wrote_parts_of_prompts(tmp_path):
    rows = [{"prompt": [{"role": "user", "content": "q"}], "reference": "r"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "q"}]}]
    path = write_rows(tmp_path / "old.jsonl", [{"row": 1, "prompt": parts, "reference": "r", "answer": "a"}])
    (found,) = read_further({"old": path}, rows)
    assert (found.answers[0]["answer"], found.lacking, found.findings()) == ("a", [], [])


def test_other_tokens_leave_that_model_alone_without_a_perplexity():
    known = [(-2.0, 2), (-3.0, 3), (-2.0, 2), (-3.0, 3), (-2.0, 9), (-3.0, 3), (-4.0, 2), None]
    scores, reasons = perplexity_of(known, 2)
    assert scores.are_there.tolist() == [True, True, True, True, False, False, True, False]
    assert set(reasons) == {4, 5, 7} and "other tokens" in reasons[5] and "does not say" in reasons[7]


JUDGED = {
    "metric_args": {"good": {"prompt": "Is this good? {response}", "bounds": [0, 1]}},
    "metric_names": ["good"],
}


def test_a_judge_is_asked_about_them_last_and_its_limit_is_that_of_all(evaluate, tmp_path):
    base = write_rows(tmp_path / "base.jsonl", scores_of({1: {"answer": "one"}}))
    other = scores_of({number: {"answer": f"other {number}"} for number in range(1, 13)})
    limit = {"concurrency": 1, "max_tokens_total": 5 * 22}
    report = evaluate({"late": other}, baseline_scores=base, judge=limit, **JUDGED)
    each = report.comparison.metrics["good"]
    assert (each.rows_scored, each.pairs_scored) == (12, 12)
    late = told(tmp_path)["further_models"]["late"]["metrics"]["good"]
    assert 0 < late["rows_scored"] < 12
    assert any("the judge's limit is reached" in line and "'late'" in line for line in report.findings)


def test_which_of_two_answers_is_better_is_asked_of_model_and_baseline_alone(tmp_path):
    asked: list[str] = []

    def judge(prompt: str, nth: int) -> Does:
        if "Answer A:" not in prompt:
            return Does(body=answer_to(prompt, "mine"))
        asked.append(prompt)
        return Does(body=answer_to(prompt, json.dumps({"reason": "so", "better": "A"})))

    with hostile_service(judge) as server:
        report = evaluate_service(
            write_rows(tmp_path / "rows.jsonl", ROWS),
            tmp_path / "scores.jsonl",
            tmp_path / "report.html",
            url=server.url,
            model_name="m",
            metric_names=["judge_preference", "exact_match"],
            composites={"both": {"judge_preference": 0.5, "exact_match": 0.5}},
            judge={"url": f"{server.url}/v1", "model_name": "judge"},
            baseline_scores=write_rows(tmp_path / "base.jsonl", scores_of()),
            further_scores={"other": write_rows(tmp_path / "other.jsonl", scores_of({1: {"answer": "theirs"}}))},
            report_json=tmp_path / "report.json",
        )  # fmt: skip
    assert len(asked) == 24 and not any("theirs" in each for each in asked)
    assert report.comparison.metrics["judge_preference"].pairs_scored == 12
    assert list(told(tmp_path)["further_models"]["other"]["metrics"]) == ["exact_match"]
    assert not any("'other'" in line for line in report.findings)


def beside(given: Any, name: str, values: list[float], answers: list[str] | None = None) -> FurtherModel:
    """A further model with these scores by the report's metric."""
    texts = answers or [f"said {place + 1}" for place in range(len(values))]
    lines: list[dict[str, Any] | None] = [
        None if math.isnan(value) else {"row": place + 1, "answer": texts[place]}
        for place, value in enumerate(values)
    ]
    scores = {"rougeL": Scores.mean_of(values, (0, 1))}
    return FurtherModel.of(GivenModel(name, "sha256:0", lines), scores, given.ours)


def with_further(*others: tuple[str, list[float]], baseline: list[float] | None = None, answers=None) -> Any:
    given = content([0.9, 0.5, 0.1], baseline)
    object.__setattr__(given, "further", [beside(given, name, values, answers) for name, values in others])
    return given


@pytest.mark.parametrize("baseline", [None, [0.1, 0.1, 0.1]])
def test_the_page_has_a_column_for_each_and_says_that_they_decide_nothing(baseline):
    given = with_further(("first", [0.8, 0.4, 0.0]), ("second", [1.0, math.nan, 0.4]), baseline=baseline)
    text = render_page(given)
    section = text.partition('<h2 id="further">')[2].partition("</section>")[0]
    assert re.findall(r"<th[^>]*>([^<]+)", section) == ["Metric", "Model", "first", "second"]
    (row,) = re.findall(r"<tr><td>rougeL(.*?)</tbody>", section, re.DOTALL)
    cells = [
        " ".join(Elements(f"<td{cell}".replace("<small", " <small")).text.split())
        for cell in row.split("<td")[1:]
    ]
    assert [re.match(r"[\d.]+", cell)[0] for cell in cells] == ["0.500", "0.400", "0.700"]
    assert "3 of 3 scored" in cells[1] and "model +0.100 (" in cells[1]
    assert "2 of 3 scored worst case 0.4667" in cells[2] and "model \u22120.200 (" in cells[2]
    assert "decide nothing: no gate reads their scores" in " ".join(section.split())
    assert "Further models" not in render_page(content([0.9, 0.5, 0.1], baseline))
    markdown = render_markdown(given)
    assert "They are here to compare with, and decide nothing." in markdown
    (line,) = re.findall(r"\| rougeL \| second \|.*", markdown)
    assert re.split(r" ?\| ?", line)[3] == "0.700" and "| 2 of 3 | 0.467 | \u22120.200 |" in line
    # Side by side: their answers, below names and scores, with the script and without it.
    assert "second \u00b7 not scored" in text and "first \u00b7 0.800" in text
    found = data_of(text)
    assert found["further"] == ["first", "second"]
    assert [row[12] for row in found["rows"]][1] == [
        ["said 2", [0.4]],
        ["[not answered: the scores of that model do not have this row]", [None]],
    ]


def test_names_and_answers_of_further_models_are_text():
    text = render_page(with_further((HOSTILE, [0.8, 0.4, 0.0]), answers=[HOSTILE] * 3))
    assert Elements(text).tags.count("script") == 2 and "img" not in Elements(text).tags
    assert HOSTILE in Elements(text).text


@pytest.mark.parametrize("room", [400_000, 150_000])
def test_where_room_is_short_the_samples_that_differ_most_keep_the_answers_of_further_models(room):
    chance = np.random.default_rng(1)
    count = 2000
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz "))

    def texts() -> list[str]:
        return ["".join(chance.choice(letters, 150)) for _ in range(count)]

    given = content(
        chance.random(count).tolist(),
        chance.random(count).tolist(),
        rows=[{"answer": a, "baseline_answer": b} for a, b in zip(texts(), texts(), strict=True)],
    )
    object.__setattr__(given, "further", [beside(given, "other", chance.random(count).tolist(), texts())])
    whole = pack(given)
    assert whole.told(count) == []
    packed = pack(given, room)
    assert room * 0.8 < len(packed.data) <= room
    rows = {row[0]: row for row in unpacked(packed.data)["rows"]}
    with_theirs = [number for number, row in rows.items() if row[12]]
    assert 0 < len(with_theirs) < len(rows)
    changes = np.abs(given.compared["rougeL"].changes)
    most = np.mean([changes[number - 1] for number in with_theirs])
    assert most > np.mean([changes[number - 1] for number in rows if number not in with_theirs]) + 0.1
    assert any(f"are shown with {len(with_theirs):,} samples" in line for line in packed.told(count))


@needs_browser
def test_a_person_sees_their_answers_beside_the_others_and_finds_and_saves_them(tmp_path):
    file = tmp_path / "report.html"
    given = with_further(
        ("first", [0.8, 0.4, math.nan]), baseline=[0.1, 0.4, 0.4], answers=["Ärger", HOSTILE, "c"]
    )
    write_report(given, file)

    async def look(page):
        await page.wait_for("!at('all').hidden")
        await page.run("at('search').value = 'ärger'; select()")
        heads = await page.run("[...document.querySelectorAll('#cards h3')].map(each => each.textContent)")
        assert heads == ["Reference", "Baseline", "Model", "first \u00b7 0.800"]
        saved = await page.run("record(found[0])")
        assert (saved["further.first.answer"], saved["further.first.rougeL"]) == ("Ärger", 0.8)
        await page.run("at('search').value = ''; select()")
        shown = await page.run("[...document.querySelectorAll('#cards .text')].map(each => each.textContent)")
        assert HOSTILE in shown
        heads = await page.run("[...document.querySelectorAll('#cards h3')].map(each => each.textContent)")
        assert "first \u00b7 not scored" in heads
        assert await page.run("document.querySelectorAll('#cards script, #cards img').length") == 0
        assert page.said == []

    in_browser(file.as_uri(), look)
