"""Rules held against comparisons: each outcome, both sides of each limit, and what nobody may take for a success."""

from __future__ import annotations

import contextlib
import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped
from comparisons import bounded, comparison, metric

from airflow_provider_llmops.comparison import read_comparison
from airflow_provider_llmops.exceptions import ConfigurationError, QualityGateFailed
from airflow_provider_llmops.gate import decide, read_rules
from airflow_provider_llmops.operators.evaluation import QualityGateOperator
from airflow_provider_llmops.xcom import MAX_XCOM_BYTES

NOT_WORSE = {"metric": "rougeL", "not_worse_by": 0.02}


def decided(rules, compared, confidence=0.95):
    return decide(read_rules(rules), read_comparison(compared), confidence)


# The lower bound of a number at 95 percent is 1.6449 standard errors below it.
@pytest.mark.parametrize(
    ("rule", "found", "outcome"),
    [
        ({"better_by": 0}, metric(0.5, 0.4, error=0.06), "pass"),
        ({"better_by": 0}, metric(0.5, 0.4, error=0.061), "undecided"),
        ({"better_by": 0.0345}, metric(0.5, 0.4), "undecided"),
        ({"better_by": 0.0342}, metric(0.5, 0.4), "pass"),
        ({"better_by": "0.0342"}, metric(0.5, 0.4), "pass"),
        ({"better_by": 0.166}, metric(0.5, 0.4), "fail"),
        ({"better_by": 0.165}, metric(0.5, 0.4), "undecided"),
        ({"better_by": 0}, metric(0.5, 0.5), "undecided"),
        ({"not_worse_by": 0.066}, metric(0.5, 0.5), "pass"),
        ({"not_worse_by": 0.065}, metric(0.5, 0.5), "undecided"),
        ({"not_worse_by": 0.02}, metric(0.4, 0.5), "fail"),
        ({"at_least": 0.434}, metric(0.5, None), "pass"),
        ({"at_least": 0.435}, metric(0.5, None), "undecided"),
        ({"at_least": 0.566}, metric(0.5, None), "fail"),
        ({"at_least": 0.565}, metric(0.5, None), "undecided"),
        ({"at_least": 0.434}, metric(0.5, 0.4), "pass"),
        ({"at_least": 0.434, "min_rows": 48}, metric(0.5, 0.4), "pass"),
        ({"at_least": 0.434, "min_rows": 49}, metric(0.5, 0.4), "undecided"),
        ({"at_least": 0.9, "min_rows": 49}, metric(0.5, 0.4), "undecided"),
    ],
)
def test_rule_is_decided_by_the_bound_and_not_by_the_number(rule, found, outcome):
    assert decided([{"metric": "rougeL", **rule}], comparison(rougeL=found)).outcome == outcome


@pytest.mark.parametrize(
    ("rule", "found", "outcome"),
    [
        ({"at_most": 20}, metric(18, None, error=1), "pass"),
        ({"at_most": 19.6}, metric(18, None, error=1), "undecided"),
        ({"at_most": 16}, metric(18, None, error=1), "fail"),
        ({"not_worse_by": 0.5}, metric(18, 20, error=1), "pass"),
        ({"better_by": 0.5}, metric(18, 20, error=1), "undecided"),
        ({"better_by": 0.5}, metric(17, 20, error=1), "pass"),
        ({"not_worse_by": 0.5}, metric(23, 20, error=1), "fail"),
    ],
)
def test_of_a_metric_that_is_better_the_lower_limits_are_turned_right(rule, found, outcome):
    compared = comparison(perplexity={**found, "higher_is_better": False})
    assert decided([{"metric": "perplexity", **rule}], compared).outcome == outcome


def test_decision_says_what_was_decided_by_which_rules_on_what_evidence():
    decision = decided(
        [{"metric": "rougeL", "better_by": 0.05}, {"metric": "chrf", "at_least": 30, "min_rows": 20}],
        comparison(rougeL=metric(0.5, 0.4), chrf=metric(40, 39, error=1)),
    )
    assert decision.to_json() == {
        "outcome": "undecided",
        "findings": [
            "rougeL 0.5 against 0.4, at least +0.05 asked for and +0.1 reached (interval 0.0216 to 0.1784, 48 rows): not enough evidence, "
            "about 36 more samples would decide.",
            "chrf 40, at least 30 asked for and 40 reached (interval 38.04 to 41.96, 48 rows).",
        ],
        "rules": {
            "confidence": 0.95,
            "rules": [
                {"metric": "rougeL", "better_by": 0.05},
                {"metric": "chrf", "at_least": 30.0, "min_rows": 20},
            ],
        },
        "evidence": {
            "rules": [
                {
                    "name": "rougeL",
                    "outcome": "undecided",
                    "rows": 48,
                    "value": 0.1,
                    "interval": [0.0216, 0.1784],
                    "candidate": 0.5,
                    "baseline": 0.4,
                },
                {"name": "chrf", "outcome": "pass", "rows": 48, "value": 40.0, "interval": [38.04, 41.96]},
            ]
        },
    }


def test_number_of_samples_that_would_decide_does():
    """The same difference on as many more rows, whose standard error is smaller by the root of their number."""
    (first, *_) = decided([{"metric": "m", "better_by": 0.05}], comparison(m=metric())).findings
    more = int(first.partition("about ")[2].partition(" ")[0])
    for rows, outcome in [(48 + more, "pass"), (48 + more - 2, "undecided")]:
        again = metric(error=0.04 * (48 / rows) ** 0.5, rows=rows)
        assert decided([{"metric": "m", "better_by": 0.05}], comparison(m=again)).outcome == outcome
    near = decided([{"metric": "m", "better_by": 0.0999}], comparison(m=metric())).findings[0]
    assert near.endswith("and it is so near to the limit that no number of samples may be enough.")


def test_one_broken_rule_of_many_is_broken_by_chance_more_often_and_is_asked_more():
    """With an error of 0.04 a difference of -0.08 is two standard errors away: enough for one rule, and too little for one of ten."""
    worse = metric(0.42, 0.5)
    assert decided([{"metric": "m", "not_worse_by": 0}], comparison(m=worse)).outcome == "fail"
    good = {f"m{number}": metric() for number in range(9)}
    rules = [{"metric": name, "not_worse_by": 0} for name in ("m", *good)]
    found = decided(rules, comparison(m=worse, **good))
    assert found.outcome == "undecided"
    # That all hold needs no correction: each of them has to.
    assert decided(rules[1:], comparison(m=worse, **good)).outcome == "pass"
    far = comparison(m=metric(0.3, 0.5), **good)
    assert decided(rules, far).outcome == "fail"


@pytest.mark.parametrize(
    ("rule", "found", "outcome", "reason"),
    [
        ({"better_by": -1}, metric(unscored=1), "undecided", "m has no score for 1 of 48 rows, any of which"),
        ({"not_worse_by": 0.1}, metric(0.1, 0.9, unscored=1), "fail", "the model is not good enough"),
        ({"better_by": -1}, metric(pairs_scored=40), "undecided", "m has no score for 8 of 48 rows"),
        ({"at_least": 0}, metric(None, None), "undecided", "m has no score for any of 48 rows"),
        (
            {"better_by": 0},
            {**metric(None), "baseline": {"value": 1, "low": 1, "high": 1}},
            "undecided",
            "any of 48",
        ),
        (
            {"at_least": 0.3},
            {
                **metric(0.9, None, unscored=8, worst_case=0.5),
                "candidate": {**bounded(0.5, 0.04), "value": 0.9, "high": 1},
            },
            "pass",
            "m 0.5, at least 0.3 asked for and 0.5 reached (8 rows without a score count as failed, 0.9 without them, 40 rows)",
        ),
        (
            {"at_least": 0.8},
            {
                **metric(0.9, None, unscored=8, worst_case=0.5),
                "candidate": {**bounded(0.5, 0.04), "value": 0.9, "high": 1},
            },
            "fail",
            "8 rows without a score count as failed",
        ),
        (
            {"at_least": 0.1},
            {**metric(unscored=1), "candidate": {**bounded(0.5, 0.04), "lower": [], "upper": []}},
            "undecided",
            "m has no score for 1 of 48 rows",
        ),
        (
            {"at_least": 0.1},
            {**metric(), "candidate": {**bounded(0.5, 0), "lower": [], "upper": []}},
            "undecided",
            "the same in nearly all of 48 rows",
        ),
    ],
)
def test_rows_without_a_score_never_count_as_passed(rule, found, outcome, reason):
    compared = comparison(m=found)
    compared["has_baseline"] = True
    decision = decided([{"metric": "m", **rule}], compared)
    assert decision.outcome == outcome
    assert reason in decision.findings[0]


def test_without_a_champion_absolute_limits_decide_and_nothing_else_passes():
    alone = comparison(rougeL=metric(0.5, None))
    decision = decided([NOT_WORSE, {"metric": "rougeL", "at_least": 0.3}], alone)
    assert decision.outcome == "pass"
    assert decision.findings[0] == "There is no champion to compare rougeL with; absolute limits decide."
    assert [each["value"] for each in decision.evidence["rules"]] == [0.5]
    nothing = decided([NOT_WORSE], alone)
    assert nothing.outcome == "undecided"
    assert "no absolute limit decides: add a rule with at_least or at_most" in nothing.findings[0]
    with pytest.raises(ConfigurationError, match=r"compared no metric 'rougel'"):
        decided([{"metric": "rougel", "better_by": 0}], alone)


def test_a_rule_for_each_task_is_about_those_that_have_its_metric():
    tasks = {"boolq": {"acc": metric(0.7, 0.7, error=0.005)}, "gsm8k": {"exact_match": metric(0.2, 0.5)}}
    compared = comparison(slices={"task": tasks}, acc=metric(0.7, 0.7))
    rule = {"metric": "acc", "not_worse_by": 0.02}
    assert decided([{**rule, "slice": {"task": "*"}}], compared).outcome == "pass"
    assert decided([{**rule, "slice": {"task": "gsm8k"}}], compared).outcome == "undecided"
    assert decided([{**rule, "metric": "exact_match", "slice": {"task": "*"}}], compared).outcome == "fail"


SLICES = {
    "language": {
        "en": {"rougeL": metric(0.5, 0.4, error=0.01)},
        "de": {"rougeL": metric(0.3, 0.4, error=0.01, rows=12)},
    }
}


def test_slice_is_judged_for_itself_and_each_value_by_a_rule_of_its_own():
    compared = comparison(slices=SLICES, rougeL=metric())
    rule = {**NOT_WORSE, "slice": {"language": "en"}}
    assert decided([rule], compared).outcome == "pass"
    decision = decided([{**NOT_WORSE, "slice": {"language": "*"}}], compared)
    assert decision.outcome == "fail"
    assert decision.findings[0].startswith("rougeL of language de 0.3 against 0.4, at least -0.02 asked for")
    assert [(each["name"], each["outcome"]) for each in decision.evidence["rules"]] == [
        ("rougeL of language de", "fail"),
        ("rougeL of language en", "pass"),
    ]
    absent = decided([{**NOT_WORSE, "slice": {"language": "fr"}}], compared)
    assert (absent.outcome, absent.findings[0][:20]) == ("undecided", "rougeL of language f")
    with pytest.raises(ConfigurationError, match=r"has no slices by 'langage' \(did you mean 'language'\?\)"):
        decided([{**NOT_WORSE, "slice": {"langage": "en"}}], compared)
    with pytest.raises(ConfigurationError, match=r"compared no metric 'chrf' by language"):
        decided([{**rule, "metric": "chrf"}], compared)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([], r"^rules must be a list of dicts, such as"),
        (None, r"^rules must be a list of dicts"),
        ("[]", r"^rules must be a list of dicts"),
        (["rougeL"], r"^rules\[0\] must be a dict"),
        (
            [NOT_WORSE, {"metric": "m", "atleast": 1}],
            r"^rules\[1\]: unknown 'atleast' \(did you mean 'at_least'\?\)",
        ),
        ([{"at_least": 1}], r"^rules\[0\]: metric must be a name, got None"),
        (
            [{"metric": "m"}],
            r"^rules\[0\] has no limit\. Give one of at_least, at_most, not_worse_by, better_by",
        ),
        (
            [{"metric": "m", "at_least": 1, "at_most": 2}],
            r"has at_least and at_most.*two limits are two rules",
        ),
        ([{"metric": "m", "at_least": "much"}], r"^rules\[0\]: at_least must be a finite number, got 'much'"),
        ([{"metric": "m", "at_least": float("nan")}], r"at_least must be a finite number"),
        ([{"metric": "m", "at_least": True}], r"at_least must be a finite number, got True"),
        ([{"metric": "m", "at_least": None}], r"at_least must be a finite number"),
        ([{"metric": "m", "not_worse_by": -0.1}], r"not_worse_by is -0\.1\. Give 0 or more, or better_by"),
        ([{"metric": "m", "at_least": 1, "slice": "de"}], r"slice must be one column with its value"),
        ([{"metric": "m", "at_least": 1, "slice": {"a": 1, "b": 2}}], r"slice must be one column"),
        ([{"metric": "m", "at_least": 1, "min_rows": 0}], r"min_rows must be a whole number from 1 on"),
        ([{"metric": "m", "at_least": 1, "min_rows": 1.5}], r"min_rows must be a whole number"),
    ],
)
def test_what_is_no_rule_is_refused_by_the_name_of_its_field(rules, message):
    with pytest.raises(ConfigurationError, match=message):
        read_rules(rules)


def test_limit_on_the_wrong_side_and_confidence_without_bounds_are_refused():
    with pytest.raises(
        ConfigurationError, match="rougeL is better the higher it is, so that at_most is no limit of it"
    ):
        decided([{"metric": "rougeL", "at_most": 1}], comparison(rougeL=metric()))
    with pytest.raises(
        ConfigurationError, match=r"confidence is 0\.97, .* bounds for 0\.9, 0\.95, 0\.99, 0\.999"
    ):
        decided([NOT_WORSE], comparison(rougeL=metric()), 0.97)
    sure = comparison(rougeL=metric(0.5, 0.4, error=0.045))
    outcomes = [decided([NOT_WORSE], sure, each).outcome for each in (0.9, 0.95, 0.99, 0.999)]
    assert outcomes == ["pass", "pass", "pass", "undecided"]


@pytest.mark.parametrize("each", [True, False])
def test_decision_on_many_rules_fits_into_xcom_with_the_broken_ones_first(each):
    values = {f"value {number:>50}": {"rougeL": metric(0.5, 0.4, error=0.01)} for number in range(50)}
    values[f"value {49:>50}"] = {"rougeL": metric(0.2, 0.4)}
    compared = comparison(slices={"language": values}, rougeL=metric())
    names = ["*"] if each else list(values)
    with pytest.raises(QualityGateFailed, match=r"^rougeL of language value +49 0\.2 against 0\.4"):
        run(rules=[{**NOT_WORSE, "slice": {"language": name}} for name in names], compared=compared)
    value = pushed["return_value"]
    assert len(json.dumps(value)) <= MAX_XCOM_BYTES
    assert (value["outcome"], len(value["findings"]), value["findings"][-1]) == (
        "fail",
        21,
        "... and 30 more.",
    )
    told = value["evidence"]
    assert told["rules"][0]["outcome"] == "fail"
    assert len(told["rules"]) + told["left_out"] == 50
    with pytest.raises(
        ConfigurationError, match="The rules are 51 with one for each value of a slice, and 50 at most"
    ):
        run(rules=[{**NOT_WORSE, "slice": {"language": "*"}}, NOT_WORSE], compared=compared)


pushed: dict = {}


def run(found=None, rules=(NOT_WORSE,), compared=None, **arguments):
    """The operator in a DAG: ``register`` where the gate is passed, ``tell`` and ``collect`` where it is not."""
    pushed.clear()
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        from airflow.providers.standard.operators.empty import EmptyOperator

        gate = QualityGateOperator(
            task_id="gate", comparison=compared or comparison(rougeL=found), rules=list(rules), **arguments
        )
        gate >> [EmptyOperator(task_id=name) for name in ("register", "tell", "collect")]
    ti = SimpleNamespace(task=gate, map_index=-1, xcom_push=lambda key, value: pushed.update({key: value}))
    return dag.get_task("gate").execute({"ti": ti})


BETTER, WORSE, UNKNOWN = metric(0.5, 0.4, error=0.02), metric(0.3, 0.4, error=0.02), metric(0.4, 0.4)


def test_passed_gate_returns_its_decision():
    assert run(BETTER)["outcome"] == "pass"
    assert pushed["return_value"]["outcome"] == "pass"
    assert "baseline" not in pushed["return_value"]


def test_decision_says_what_was_compared_with():
    assert run(BETTER, baseline="chat version 3")["baseline"] == "chat version 3"


EVALUATED = {"details": {"tracking": {"run_id": "0123456789abcdef0123456789abcdef"}}}


class Mlflow(BaseHTTPRequestHandler):
    """As much of MLflow as sets tags."""

    def do_POST(self):
        self.server.seen.append(
            (self.path, self.headers["Authorization"], self.rfile.read(int(self.headers["Content-Length"])))
        )
        self.send_response(self.server.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def mlflow(monkeypatch):
    with HTTPServer(("127.0.0.1", 0), Mlflow) as server:
        server.seen, server.status = [], 200
        threading.Thread(target=server.serve_forever, daemon=True).start()
        fields = {
            "conn_type": "mlflow",
            "host": "127.0.0.1",
            "port": server.server_port,
            "login": "u",
            "password": "secret",
        }
        monkeypatch.setenv("AIRFLOW_CONN_TRACKED", json.dumps(fields))
        yield server
        server.shutdown()


@pytest.mark.parametrize(("found", "outcome"), [(BETTER, "pass"), (WORSE, "fail"), (UNKNOWN, "undecided")])
def test_run_of_the_evaluation_in_mlflow_is_told_the_decision(found, outcome, mlflow):
    with contextlib.suppress(QualityGateFailed):
        run(found, evaluation=EVALUATED, mlflow_conn_id="tracked", baseline="chat version 3")
    ((path, login, body),) = mlflow.seen
    assert path == "/api/2.0/mlflow/runs/log-batch" and login == "Basic dTpzZWNyZXQ="
    told = json.loads(body)
    tags = {tag["key"]: tag["value"] for tag in told["tags"]}
    assert told["run_id"] == EVALUATED["details"]["tracking"]["run_id"]
    note = tags.pop("mlflow.note.content")
    assert note.startswith(f"**Gate: {outcome}**\n\n- rougeL 0.")
    assert tags == {"llmops.decision": outcome, "llmops.decision.baseline": "chat version 3"}


@pytest.mark.parametrize(
    "evaluation", [EVALUATED, {"details": {"tracking": {"not_logged": "it is down"}}}, {}]
)
def test_decision_holds_where_mlflow_does_not_take_it(evaluation, mlflow, capsys):
    mlflow.status = 500
    assert run(BETTER, evaluation=evaluation, mlflow_conn_id="tracked")["outcome"] == "pass"
    said = capsys.readouterr().out
    assert "The decision is not in MLflow" in said and "secret" not in said


@pytest.mark.parametrize(("found", "outcome"), [(WORSE, "fail"), (UNKNOWN, "undecided")])
def test_gate_that_is_not_passed_fails_after_it_has_pushed_its_decision(found, outcome):
    with pytest.raises(
        QualityGateFailed, match=r"^rougeL 0\.\d against 0\.4, at least -0\.02 asked for and "
    ):
        run(found)
    assert pushed["return_value"]["outcome"] == outcome
    assert pushed["return_value"]["rules"]["rules"] == [NOT_WORSE]


@pytest.mark.parametrize(("found", "option"), [(WORSE, "on_fail"), (UNKNOWN, "on_undecided")])
def test_outcome_skips_where_it_is_told_to_and_the_other_one_does_not(found, option):
    with pytest.raises(AirflowSkipException, match="The gate is not passed"):
        run(found, **{option: "skip"})
    assert pushed["return_value"]["outcome"] != "pass"
    with pytest.raises(QualityGateFailed):
        run(UNKNOWN if found is WORSE else WORSE, **{option: "skip"})


@pytest.mark.parametrize(
    ("found", "followed"),
    [(BETTER, {"register"}), (WORSE, {"tell"}), (UNKNOWN, {"collect"})],
)
def test_each_outcome_goes_its_own_way(found, followed):
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        run(found, on_fail="tell", on_undecided=["collect"])
    assert {task for task, _ in skipped.value.tasks} == {"register", "tell", "collect"} - followed
    assert set(pushed["skipmixin_key"]["followed"]) == followed
    assert pushed["return_value"]["outcome"] in ("pass", "fail", "undecided")


def test_one_outcome_may_branch_while_the_other_fails():
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        run(BETTER, on_undecided="collect")
    assert [task for task, _ in skipped.value.tasks] == ["collect"]
    with pytest.raises(QualityGateFailed):
        run(WORSE, on_undecided="collect")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on_fail": "regster"}, r"^on_fail: the DAG has no task 'regster' \(did you mean 'register'\?\)"),
        ({"on_undecided": []}, r"^on_undecided must be fail, skip, or ids of tasks, got \[\]"),
        ({"on_undecided": None}, r"^on_undecided must be fail, skip"),
        ({"confidence": "high"}, r"^confidence must be a finite number, got 'high'"),
        ({"confidence": 95}, r"^confidence must be between 0 and 1, such as 0\.95, got 95"),
        ({"rules": []}, r"^rules must be a list of dicts"),
        ({"mlflow_conn_id": "tracked"}, r"^mlflow_conn_id is given, and no evaluation"),
    ],
)
def test_gate_that_cannot_be_meant_is_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        run(BETTER, **arguments)


@pytest.mark.parametrize(
    "value", [None, {"rougeL": 0.5}, str(comparison(rougeL=BETTER)), {**comparison(), "schema_version": 1}]
)
def test_gate_decides_by_nothing_but_a_comparison(value):
    with pytest.raises(ConfigurationError, match=r"^The comparison is not one of an evaluation \("):
        QualityGateOperator(task_id="gate", comparison=value, rules=[NOT_WORSE]).execute({"ti": None})


def test_decision_on_many_rules_with_long_names_is_pushed_and_says_what_it_left_out():
    name = "数" * 15
    found = comparison(rougeL=metric(0.5, 0.1, rows=40))
    found["slices"] = {
        "source": {f"{name}{number}": {"rougeL": metric(0.5, 0.1, rows=40)} for number in range(16)}
    }
    rules = [
        {"metric": "rougeL", kind: 0.01, "slice": {"source": f"{name}{number}"}}
        for number in range(16)
        for kind in ("better_by", "at_least")
    ]
    decision = decided(rules, found).to_json()
    assert len(json.dumps(decision)) <= MAX_XCOM_BYTES
    assert decision["rules"]["left_out"] + len(decision["rules"]["rules"]) == 32
    assert decision["evidence"]["left_out"] + len(decision["evidence"]["rules"]) == 32
