"""What a DAG's run took: summed, priced, and logged with the version that it has registered."""

from __future__ import annotations

import http.server
import json
import threading
from types import SimpleNamespace

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError
from airflow_provider_llmops.operators.spending import RunCostOperator
from airflow_provider_llmops.spending import energy_of, spent_by

TRAINED = {
    "component": "train_sft",
    "resources": {"seconds": 3600.0, "cpu_seconds": 5000.0, "peak_memory_bytes": 9},
    "details": {"budget": {"used": {"minutes": 30.0, "device_hours": 0.5, "tokens": 9000}}},
}
REGISTERED = {
    "component": "register_model",
    "resources": {"seconds": 1800.0},
    "details": {"run_id": "a1", "reused": False},
}
JUDGED = {"component": "evaluate_model", "resources": {"seconds": 0.0}, "metrics": {"judge_cost": 0.25}}


def test_what_tasks_say_that_they_took_is_added_up():
    results = [
        {"resources": {"seconds": 10.0, "cpu_seconds": 15.5, "peak_memory_bytes": 9}, "metrics": {"rows": 3}},
        {
            "resources": {"seconds": 2, "gpu_seconds": 7},
            "metrics": {"judge_cost": 0.5, "judge_prompt_tokens": 900},
            "details": {"budget": {"used": {"minutes": 3.0, "device_hours": 0.5, "tokens": 7000}}},
        },
        None,
        "an address",
        {"resources": {"seconds": True, "other": "text"}, "metrics": None},
    ]
    assert spent_by(results) == {
        "step_seconds": 12.0,
        "cpu_seconds": 15.5,
        "gpu_seconds": 7,
        "judge_cost": 0.5,
        "judge_prompt_tokens": 900,
        "device_hours": 0.5,
        "training_tokens": 7000,
    }


class Mlflow(http.server.BaseHTTPRequestHandler):
    """A server that has one run, and keeps what is logged."""

    def do_GET(self):
        newest = {each["key"]: each["value"] for each in self.server.logged}
        metrics = [{"key": name, "value": value} for name, value in newest.items()]
        self._answer({"run": {"info": {"run_id": "a1"}, "data": {"metrics": metrics}}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert (self.path, body["run_id"]) == ("/api/2.0/mlflow/runs/log-batch", "a1")
        self.server.logged += body["metrics"]
        self._answer({})

    def _answer(self, value):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def mlflow(monkeypatch):
    """The server, and the connection to it."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mlflow) as server:
        server.logged = []
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv(
            "AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": address})
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run_of(returned, states=(), **arguments):
    """What the task returns after tasks that have returned a list each, by task id or id and key."""
    pushed = {}

    def xcom_pull(task_ids, key="return_value"):
        (task_id,) = task_ids
        found = returned.get(task_id if key == "return_value" else (task_id, key))
        return [None] if found is None else found

    ti = SimpleNamespace(
        dag_id="dag",
        run_id="run",
        xcom_pull=xcom_pull,
        xcom_push=lambda key, value: pushed.update({key: value}),
        get_task_states=lambda dag_id, run_ids: {"run": dict(states)},
    )
    task_ids = [each for each in returned if isinstance(each, str)]
    dag = SimpleNamespace(task_ids=[*task_ids, "run_cost"])
    operator = RunCostOperator(task_id="run_cost", **arguments)
    try:
        return operator.execute({"ti": ti, "dag": dag})
    except ApiUnavailableError:
        return pushed["return_value"], "MLflow was away"


def test_run_is_summed_priced_and_logged_once(mlflow):
    returned = {"train": [TRAINED], "register": [REGISTERED], "judge": [JUDGED, JUDGED], "skipped": None}
    for _ in range(2):  # a retry logs nothing again
        assert run_of(returned, price_per_hour="2", watts_per_device=400) == {
            "spent": {
                "cpu_seconds": 5000.0,
                "device_hours": 0.5,
                "judge_cost": 0.5,
                "step_seconds": 5400.0,
                "training_tokens": 9000,
            },
            "price_per_hour": 2.0,
            "watts_per_device": 400.0,
            "cost": 3.5,
            "device_hours": 0.5,
            "energy_kwh": 0.2,
            "unknown": [],
            "mlflow_run_id": "a1",
        }
    logged = [(each["key"], each["value"]) for each in mlflow.logged]
    assert logged == [("cost", 3.5), ("device_hours", 0.5), ("energy_kwh", 0.2)]
    assert run_of({**returned, "judge": [JUDGED]}, price_per_hour=2)["cost"] == 3.25
    assert [(each["key"], each["value"]) for each in mlflow.logged[3:]] == [("cost", 3.25)]


def test_what_is_not_known_is_named_and_never_guessed():
    untold = {**TRAINED, "details": {}}
    found = run_of({"train": [untold], "other": None}, {"other": "failed", "train": "success"})
    assert [found[name] for name in ("cost", "device_hours", "energy_kwh", "mlflow_run_id")] == [None] * 4
    assert found["unknown"] == [
        "what tasks took that have failed: other",
        "cost: price_per_hour is not set",
        "device_hours of train_sft",
        "device_hours: no training has told any",
        "energy_kwh: nothing has measured it, and watts_per_device is not set",
    ]


def test_steps_that_were_joined_are_counted():
    joined = {"run_id": "r", "state": "SUCCEEDED", "steps": {"train": "SUCCEEDED", "lost": "FAILED"}}
    found = run_of({"joined": [joined], ("joined", "train"): [TRAINED]}, price_per_hour=1)
    assert (found["cost"], found["device_hours"]) == (1.0, 0.5)


def test_version_of_an_earlier_run_keeps_its_cost(mlflow):
    reused = {**REGISTERED, "details": {"run_id": "a1", "reused": True}}
    assert run_of({"register": [reused]}, price_per_hour=1)["mlflow_run_id"] is None
    assert mlflow.logged == []


def test_sums_are_there_where_mlflow_is_not(monkeypatch):
    monkeypatch.setenv(
        "AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": "http://127.0.0.1:9"})
    )
    found, why = run_of({"register": [REGISTERED]}, price_per_hour=1)
    assert (found["cost"], why) == (0.5, "MLflow was away")


def test_measured_energy_comes_before_that_by_watts():
    measured = {**TRAINED, "resources": {"energy_kwh": 0.3}}
    assert energy_of([measured, TRAINED], 400) == pytest.approx(0.5)
    assert energy_of([measured, TRAINED], None) == 0.3
    assert energy_of([JUDGED], 400) is None


@pytest.mark.parametrize("price", ["dear", "-1", "nan", "inf"])
def test_price_that_is_none_is_refused_by_its_name(price, monkeypatch):
    with pytest.raises(ConfigurationError, match=r"^price_per_hour is no number from 0"):
        run_of({}, price_per_hour=price)
    monkeypatch.setenv("AIRFLOW__LLMOPS__WATTS_PER_DEVICE", price)
    with pytest.raises(ConfigurationError, match=r"^watts_per_device is no number from 0"):
        run_of({})


def test_price_of_the_configuration_is_taken(monkeypatch):
    monkeypatch.setenv("AIRFLOW__LLMOPS__PRICE_PER_HOUR", "4")
    assert run_of({"train": [TRAINED]})["cost"] == 4.0
    assert run_of({"train": [TRAINED]}, price_per_hour=0)["cost"] == 0.0


def test_task_is_last_and_leaves_the_state_of_the_run_to_the_others():
    with DAG("d") as dag:
        EmptyOperator(task_id="a") >> [EmptyOperator(task_id="b"), EmptyOperator(task_id="c")]
        last = RunCostOperator.last_of(dag)
    assert last.upstream_task_ids == {"b", "c"}
    assert (last.is_teardown, last.on_failure_fail_dagrun, last.trigger_rule.value) == (
        True,
        False,
        "all_done_setup_success",
    )
