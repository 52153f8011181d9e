"""The report of an evaluation: complete, safe whatever models write, in the promised order, and driven by a real browser."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import json
import math
import re
import time
from html.parser import HTMLParser
from typing import Any

import pytest
from browser import in_browser, needs_browser
from llmops_components.evaluation.about import About
from llmops_components.evaluation.comparing import comparison_of
from llmops_components.evaluation.facts import Facts
from llmops_components.evaluation.report import page
from llmops_components.evaluation.report.content import Content
from llmops_components.evaluation.report.decided import with_decision
from llmops_components.evaluation.report.figures import histograms
from llmops_components.evaluation.report.packed import pack
from llmops_components.evaluation.report.page import render_page
from llmops_components.evaluation.report.text import render_json, render_markdown
from llmops_components.evaluation.report.written import write_report
from llmops_components.evaluation.slices import labels_of, slices_of
from llmops_components.evaluation.statistics import Scores, compare
from markdown_it import MarkdownIt

HOSTILE = "</div></script><script>document.title='broken'</script><img src=x onerror=\"alert(1)\"><!-- {{ 7 * 7 }} <!--data--> \u2028 &amp; 中文"
FACTS = Facts(
    "LlamaForCausalLM", 134_515_008, 1514, 123.4, cut_off=1, skipped={"semantic_similarity": "no model"}
)
DECISION = {
    "outcome": "fail",
    "findings": ["rougeL 0.2, at least 0.5 asked for: the model is not good enough."],
    "rules": {"confidence": 0.95, "rules": [{"metric": "rougeL", "at_least": 0.5}]},
    "evidence": {"rules": []},
}


def content(
    values: list[float],
    baseline: list[float] | None = None,
    *,
    rows: list[dict[str, Any]] | None = None,
    name: str = "rougeL",
    slices: tuple[str, ...] = (),
    limits: tuple[float, float] | None = (0.0, 1.0),
    **more: Any,
) -> Content:
    """What a report says of answers with these scores, of texts that ``rows`` may replace."""
    given = rows or [{} for _ in values]
    samples = [
        {
            "row": number,
            "prompt": [{"role": "user", "content": f"question {number}"}],
            "reference": f"reference {number}",
            "answer": f"answer {number}",
            "tokens": 3,
            "finish_reason": "stop",
            **row,
        }
        for number, row in enumerate(given, start=1)
    ]
    ours = {name: Scores.mean_of(values, limits)}
    theirs = {} if baseline is None else {name: Scores.mean_of(baseline, limits)}
    compared = {each: compare(ours[each], theirs[each]) for each in theirs}
    by, _ = slices_of(samples, slices, [name], ours, theirs) if slices else ({}, [])
    others = [{"answer": row.get("baseline_answer", "before"), "seconds": None} for row in samples]
    return Content(
        samples=samples,
        ours=ours,
        theirs=theirs,
        compared=compared,
        comparison=comparison_of(ours, theirs, compared, by),
        baseline=others if theirs else (),
        labels=labels_of(samples, slices, ["category"]),
        **{"facts": FACTS, "about": About(component="evaluate_model", model="tuned"), **more},
    )


def html(values: list[float], baseline: list[float] | None = None, **more: Any) -> str:
    return render_page(content(values, baseline, **more))


def sections(text: str) -> dict[str, list[int]]:
    """Row numbers by heading, in the order in which they are seen without the script."""
    found = {}
    for section in re.findall(r"<section>(.*?)</section>", text.partition('<div id="few">')[2], re.DOTALL):
        title = re.search(r"<(?:h2|summary)>(.*?)</", section)[1]
        found[title] = [int(row) for row in re.findall(r"<b>Row (\d+)</b>", section)]
    return found


def unpacked(data: str) -> dict[str, Any]:
    return json.loads(gzip.decompress(base64.b64decode(data)))


def data_of(text: str) -> dict[str, Any]:
    return unpacked(text.partition('id="data">')[2].partition("</script>")[0])


class Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, set[str]] = {}
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("field", ["prompt", "reference", "answer", "baseline_answer", "reason"])
def test_text_of_models_and_data_is_text(field):
    given = {field: HOSTILE, "category": "<script>", **({"answer": None} if field == "reason" else {})}
    text = html([0.5, 0.6], [0.4, 0.4], rows=[given, {"category": "<!--data-->"}])
    elements = Elements(text)
    assert elements.tags.count("script") == 2 and "img" not in elements.tags
    assert HOSTILE in elements.text
    assert not any(name.startswith("on") for name in elements.attributes)
    packed_text = text.partition('id="data">')[2].partition("</script>")[0]
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packed_text)
    assert HOSTILE in json.dumps(data_of(text), ensure_ascii=False).encode().decode().replace('\\"', '"')


def test_what_is_said_of_the_evaluation_is_text_too():
    about = About(component="evaluate_model", model=HOSTILE, settings={HOSTILE: [HOSTILE]}, dag_run=HOSTILE)
    facts = Facts(
        "a", 1, 1, 1.0, judge={"model": HOSTILE}, prompts={HOSTILE: [HOSTILE]}, tokenizers={"rougeL": HOSTILE}
    )
    text = html([0.5], about=about, facts=facts, findings=[HOSTILE], took={HOSTILE: 1})
    assert Elements(text).tags.count("script") == 2 and "img" not in Elements(text).tags
    assert "broken" not in re.sub(r"<title>.*?</title>", "", text).replace("document.title=&#39;broken", "")
    assert data_of(text)["total"] == 1


def test_half_a_surrogate_pair_and_no_end_of_a_word_do_no_harm(tmp_path):
    given = content([0.5, 0.6], rows=[{"answer": "broken \ud800 pair"}, {"answer": "x" * 100_000}])
    outputs = [tmp_path / name for name in ("page.html", "report.json", "report.md")]
    write_report(given, *outputs)
    text = outputs[0].read_text(encoding="utf-8")
    assert "broken \\ud800 pair" in text and "[... 98,500 more characters]" in text
    rows = data_of(text)["rows"]
    assert rows[0][3] == "broken \ud800 pair" and rows[1][3] == ["x" * 8000, 100_000]
    assert json.loads(outputs[1].read_text(encoding="utf-8"))["samples"] == 2
    assert "broken \\ud800 pair" in outputs[2].read_text(encoding="utf-8")


def test_the_page_needs_nothing_beside_it_and_may_do_nothing_else():
    text = html([0.5, 0.6], [0.4, 0.4])
    elements = Elements(text)
    assert not {"link", "img", "iframe", "object", "form", "base"} & set(elements.tags)
    assert "src" not in elements.attributes
    assert all(each.startswith("#") for each in elements.attributes["href"])
    assert not re.search(r"https?:|@import|url\(", text)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (each for each in elements.attributes["content"] if "default-src" in each)
    assert policy == (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def test_best_and_worst_changes_come_first_and_every_row_once(monkeypatch):
    monkeypatch.setattr(page, "SHOWN_AT_ENDS", 2)
    text = html([0.9, 0.2, 0.5, 0.4, 0.5, 0.55, 0.1], [0.1, 0.3, 0.5, 0.1, 0.4, 0.5, 0.9])
    assert sections(text) == {
        "Largest gains in rougeL": [1, 4],
        "Largest losses in rougeL": [7, 2],
        "Another 3 samples, by change of rougeL": [5, 6, 3],
    }


def test_an_unchanged_sample_is_neither_gain_nor_loss():
    assert sections(html([0.5, 0.6], [0.5, 0.6])) == {"Another 2 samples, by change of rougeL": [1, 2]}


def test_of_a_metric_that_is_better_the_lower_the_greatest_fall_is_the_greatest_gain():
    given = content([0.1, 0.9], [0.5, 0.5])
    ours, theirs = (
        {"rougeL": Scores.mean_of(values, (0, 1), higher_is_better=False)}
        for values in ([0.1, 0.9], [0.5, 0.5])
    )
    compared = {"rougeL": compare(ours["rougeL"], theirs["rougeL"])}
    turned = Content(**{**vars(given), "ours": ours, "theirs": theirs, "compared": compared})
    assert sections(render_page(turned)) == {
        "Largest gains in rougeL": [1],
        "Largest losses in rougeL": [2],
    }


def test_without_a_baseline_the_samples_are_in_the_order_of_their_score(monkeypatch):
    monkeypatch.setattr(page, "SHOWN_AT_ENDS", 1)
    assert sections(html([0.3, 0.9, 0.1, 0.5])) == {
        "Best by rougeL": [2],
        "Worst by rougeL": [3],
        "Another 2 samples, by score of rougeL": [4, 1],
    }


@pytest.mark.parametrize(("count", "shown"), [(30, 30), (31, 30)])
def test_without_the_script_a_large_page_leaves_out_the_middle_and_says_so(monkeypatch, count, shown):
    monkeypatch.setattr(page, "MAX_SHOWN", 30)
    text = html([i / count for i in range(count)])
    assert text.count("<article>") == shown
    assert ("further samples are not among these" in text) is (count > shown)
    assert len(data_of(text)["rows"]) == count


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ([0.6, 0.7, 0.8], "Better in rougeL."),
        ([0.4, 0.5, 0.6], "Worse in rougeL."),
        ([0.4, 0.6, 0.8], "No clear difference in rougeL."),
    ],
)
def test_the_verdict_follows_the_interval_until_a_gate_decides(ours, verdict):
    given = content(ours, [0.5, 0.6, 0.7], limits=None)
    text = render_page(given)
    top = " ".join(Elements(text.partition("<h2>Scores</h2>")[0]).text.split())
    assert f"No gate has decided yet {verdict}" in top
    assert f"**No gate has decided yet.** {verdict}" in render_markdown(given)
    assert json.loads(render_json(given))["verdict"] == verdict
    decided = with_decision(text, DECISION)
    top = " ".join(Elements(decided.partition("<h2>Scores</h2>")[0]).text.split())
    assert "No gate has decided yet" not in top
    assert "Failed Decided by the rules of the gate, each with confidence 0.95. rougeL 0.2" in top
    assert decided.partition("<h2>Scores</h2>")[2] == text.partition("<h2>Scores</h2>")[2]
    passed = with_decision(decided, {**DECISION, "outcome": "pass", "findings": [HOSTILE]})
    assert 'class="decision pass"' in passed and 'class="decision fail"' not in passed
    assert Elements(passed).tags.count("script") == 2


def test_a_page_of_an_earlier_release_stays_as_it_is():
    assert with_decision("<h1>before</h1>", DECISION) == "<h1>before</h1>"


def test_identity_facts_and_skipped_metrics_are_told():
    about = About(
        component="evaluate_model",
        model="tuned",
        model_digest="sha256:12",
        base="hf://org/base",
        dataset="rows.jsonl",
        dataset_digest="sha256:34",
        settings={"do_sample": False, "max_new_tokens": 64},
        dag_run="post_training/manual",
        task="evaluate",
        date="2026-01-02T03:04:05+00:00",
    )
    given = content([0.5], about=about, took={"judge_cost": 0.25}, seconds={"generate": 2.0})
    text = " ".join(Elements(render_page(given)).text.split())
    assert "LlamaForCausalLM, 135 M parameters" in text
    assert "1,514 tokens generated, 123 a second · 1 answer cut off at the token limit" in text
    assert "semantic_similarity was left out: no model." in text
    assert dict(re.findall(r"<dt>(.*?)<dd>(.*)", render_page(given))) == {
        "Model": "tuned",
        "Model digest": "sha256:12",
        "Made from": "hf://org/base",
        "Dataset": "rows.jsonl",
        "Dataset digest": "sha256:34",
        "Run of the DAG": "post_training/manual",
        "Task": "evaluate",
        "Date": "2026-01-02T03:04:05+00:00",
        "do sample": "no",
        "max new tokens": "64",
        "judge cost": "0.25",
        "seconds to generate": "2",
    }
    told = json.loads(render_json(given))
    assert told["about"]["Model digest"] == "sha256:12" and told["took"] == {"judge_cost": 0.25}
    assert told["comparison"] == given.comparison.model_dump()


def test_samples_without_a_score_come_last_and_are_counted(monkeypatch):
    monkeypatch.setattr(page, "SHOWN_AT_ENDS", 1)
    text = html([0.9, math.nan, 0.2, 0.5], [0.1, 0.3, 0.4, math.nan])
    assert sections(text) == {
        "Largest gains in rougeL": [1],
        "Largest losses in rougeL": [3],
        "Another 2 samples, by change of rougeL": [2, 4],
    }
    plain = " ".join(Elements(text).text.split())
    assert "1 of 4 samples have no score by rougeL, and 1 more none of the baseline's." in plain
    assert "3 of 4worst case 0.4" in plain
    assert sections(html([math.nan, 0.9, 0.1])) == {
        "Best by rougeL": [2],
        "Worst by rougeL": [3],
        "Another 1 samples, by score of rougeL": [1],
    }


def test_a_metric_without_any_score_says_so():
    assert "<p>No score for rougeL.</p>" in html([math.nan], [0.5])
    assert "no sample has a score" in html([math.nan])
    assert "| rougeL | none |  | 0 of 1 |" in render_markdown(content([math.nan]))


def test_slices_and_categories_of_safety_have_tables_of_their_own():
    rows = [
        {"category": name, "language": language}
        for name in ("bias", "jailbreak")
        for language in ("de", "en")
    ]
    given = content(
        [1.0, 1.0, 0.0, math.nan], [1.0, 0.0, 1.0, 1.0], rows=rows, name="safety", slices=("language",)
    )
    assert {name: (each.rows_scored, each.rows_unscored) for name, each in given.safety.items()} == {
        "bias": (2, 0),
        "jailbreak": (1, 1),
    }
    text = render_page(given)
    plain = " ".join(Elements(text).text.split())
    assert "jailbreaksafety1.0000.000" in plain.replace(" ", "") and "By language" in plain
    assert "| jailbreak | safety | 1.000 | 0.000 |" in render_markdown(given)
    assert data_of(text)["columns"] == [["language", ["de", "en"]], ["category", ["bias", "jailbreak"]]]
    alone = content([1.0, 0.0], rows=rows[::2], name="safety", slices=("category",))
    assert set(alone.safety) == {"bias", "jailbreak"} and alone.slices == {}


def test_each_sample_is_in_one_bar():
    rows = [{"answer": "x" * number, "seconds": number / 10} for number in range(300)]
    rows[7] = {"answer": None, "reason": "it timed out", "seconds": None}
    given = content([number / 300 for number in range(299)] + [math.nan], [0.5] * 300, rows=rows)
    found = {each.name: each for each in histograms(given)}
    assert {name: (sum(each.ours), sum(each.theirs)) for name, each in found.items()} == {
        "rougeL": (299, 300),
        "answer length": (299, 300),
        "latency": (299, 0),
    }
    assert found["rougeL"].ends == ("0", "1")
    assert found["answer length"].ends[1].endswith(" characters and more")
    assert found["rougeL"].bars[0][0] == 0


def test_the_page_has_every_sample_in_full_where_there_is_room():
    rows = [
        {"answer": None, "reason": "it timed out", "unscored": {"rougeL": "it timed out"}},
        {"seconds": 0.25},
    ]
    given = content([math.nan, 0.75], [0.5, 0.25], rows=rows)
    found = pack(given)
    assert (found.samples, found.cut_off, found.told(2)) == (2, 0, [])
    unanswered, answered = unpacked(found.data)["rows"]
    asked = "user: question 1"
    assert unanswered == [
        *(
            1,
            asked,
            "reference 1",
            "[not answered: it timed out]",
            "before",
            [["No rougeL", "it timed out"]],
            1,
            [None, 6],
        ),
        *([None, None], [None], [None], []),
    ]
    assert answered[3:] == ["answer 2", "before", [], 0, [8, 6], [0.25, None], [0.75], [0.5], []]


def test_what_the_page_has_no_room_for_is_told(monkeypatch):
    import numpy as np

    chance = np.random.default_rng(0)
    texts = ["".join(map(chr, chance.integers(32, 127, 3000))) for _ in range(60)]
    given = content([i / 60 for i in range(60)], rows=[{"answer": text} for text in texts])
    assert pack(given).told(60) == []
    cut = pack(given, room=150_000)
    assert (cut.samples, cut.cut_off) == (60, 60) and 1200 < cut.limit < 2200
    assert 135_000 < len(cut.data) <= 150_000  # as much as there is room for
    assert f"Texts are cut at {cut.limit:,} characters, which 60 samples" in cut.told(60)[0]
    few = pack(given, room=8_000)
    assert few.samples < 40 and few.limit == 200 and len(few.data) <= 8_000
    assert f"{60 - few.samples} of 60 samples are left out here" in few.told(60)[0]
    kept = {row[0] for row in unpacked(few.data)["rows"]}
    assert {1, 2, 59, 60} < kept and 30 not in kept  # those from both ends
    monkeypatch.setattr(page, "MAX_PAGE_BYTES", 600_000)
    text = html([i / 60 for i in range(60)], rows=[{"answer": text * 4} for text in texts])
    assert len(text.encode()) < 600_000 and "Texts are cut at" in text


def test_markdown_shows_what_models_write_as_text():
    given = content(
        [0.5, 0.2], [0.4, 0.4], rows=[{"answer": HOSTILE + " | [link](http://x) ![](y) **bold** `code`"}, {}]
    )
    tokens = MarkdownIt("commonmark").enable("table").parse(render_markdown(given))
    kinds = {child.type for token in tokens for child in token.children or ()} | {
        token.type for token in tokens
    }
    assert not {"html_inline", "html_block", "link_open", "image", "code_inline", "fence"} & kinds
    assert {"table_open", "heading_open", "bullet_list_open"} <= kinds
    (answer,) = (token.content for token in tokens if "bold" in token.content and "Model:" in token.content)
    assert "broken" in answer


@needs_browser
def test_a_person_searches_sorts_filters_and_saves(tmp_path):
    rows = [{"language": ("de", "en")[number % 2], "seconds": number / 10} for number in range(50)]
    rows[4] = {**rows[4], "answer": f"=1+1 {HOSTILE}"}
    rows[6] = {**rows[6], "answer": None, "reason": "it timed out"}
    rows[8] = {**rows[8], "answer": "Straße, ÄPFEL und مرحبا"}
    values = [0.5 + (number - 25) / 100 for number in range(50)]
    values[6] = math.nan
    file, downloads = tmp_path / "report.html", tmp_path / "downloads"
    write_report(content(values, [0.5] * 50, rows=rows, slices=("language",)), file)
    downloads.mkdir()

    async def look(page):
        await page.wait_for("!at('all').hidden")
        assert await page.run("at('few').hidden")

        async def rows_for(script: str) -> list[int]:
            await page.run(script)
            return await page.run("found.map(row => row[0])")

        assert (await rows_for("0"))[:3] == [1, 2, 50]  # the greatest change, whatever its direction
        assert await page.run("document.querySelectorAll('#cards article').length") == 20
        await page.run("at('more').click()")
        assert await page.run("at('count').textContent") == "50 of 50 samples, 40 on the page"
        choose = "at('{}').value = '{}'; at('{}').onchange()"
        assert (await rows_for(choose.format("order", "gain", "order")))[:2] == [50, 49]
        assert (await rows_for(choose.format("order", "loss", "order")))[-1] == 7  # without a score last
        assert (await rows_for(choose.format("order", "row", "order")))[:3] == [1, 2, 3]
        assert (await rows_for(choose.format("order", "slow", "order")))[:2] == [50, 49]
        assert await rows_for(choose.format("kind", "same", "kind")) == [26]
        assert len(await rows_for(choose.format("kind", "worse", "kind"))) == 24
        assert await rows_for(choose.format("kind", "unanswered", "kind")) == [7]
        assert len(await rows_for(choose.format("kind", "all", "kind"))) == 50
        assert len(await rows_for(choose.format("column0", "1", "column0"))) == 25
        assert len(await rows_for(choose.format("column0", "", "column0"))) == 50
        await page.run("at('search').focus()")
        for sign in "äpfel":
            await page.send("Input.insertText", text=sign)
        await page.wait_for("found.length === 1")
        assert await page.run("found[0][0]") == 9
        assert await rows_for("at('search').value = 'no such thing'; select()") == []
        assert await page.run("at('jsonl').disabled")
        assert await rows_for("at('search').value = '=1+1'; select()") == [5]
        shown = await page.run("[...document.querySelectorAll('#cards .text')].map(each => each.textContent)")
        assert f"=1+1 {HOSTILE}" in shown
        assert await page.run("document.querySelectorAll('#cards script, #cards img').length") == 0
        for kind in ("csv", "jsonl"):
            await page.run(f"at('{kind}').click()")
            until = time.monotonic() + 30
            while not (downloads / f"samples.{kind}").exists():
                assert time.monotonic() < until, page.said
                await page.run("new Promise(done => setTimeout(done, 50))")
        assert await page.run("at('told').textContent") == "1 samples as samples.jsonl."
        assert await page.run("document.title") == "Model against baseline: tuned"
        assert page.said == []

    in_browser(file.as_uri(), look, downloads)
    assert json.loads((downloads / "samples.jsonl").read_text(encoding="utf-8")) == {
        "row": 5,
        "prompt": "user: question 5",
        "reference": "reference 5",
        "answer": f"=1+1 {HOSTILE}",
        "baseline_answer": "before",
        "seconds": 0.4,
        "is_cut": False,
        "column.language": "de",
        "score.rougeL": 0.29,
        "change.rougeL": -0.21,
    }
    text = (downloads / "samples.csv").read_text(encoding="utf-8")
    (record,) = csv.DictReader(io.StringIO(text, newline=""))
    assert record["answer"] == f"'=1+1 {HOSTILE}"
    assert (record["score.rougeL"], record["change.rougeL"]) == ("0.29", "-0.21")


@needs_browser
def test_where_scripts_are_forbidden_the_page_says_so_and_shows_some(tmp_path):
    file = tmp_path / "report.html"
    write_report(content([0.9, 0.1], [0.5, 0.5]), file)

    async def look(page):
        await page.send("Emulation.setScriptExecutionDisabled", value=True)
        await page.reload()
        await page.wait_for("document.readyState === 'complete'")
        return await page.run("[document.getElementById('all').hidden, document.body.innerText]")

    is_hidden, text = in_browser(file.as_uri(), look)
    assert is_hidden
    assert "The page's script is not run here" in text
    assert "Row 1" in text and "Row 2" in text
