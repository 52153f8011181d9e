"""Batch inference over the real local backends: a service is deployed, a dataset answered by it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from attempts import clear
from planes import DATA_PYTHON
from test_deploy_operator import deploy

from airflow_provider_llmops.exceptions import ConfigurationError, InvalidInputError, QualityGateFailed
from airflow_provider_llmops.operators.inference import BatchInferenceOperator

pytestmark = pytest.mark.usefixtures("connections")


def lines_at(uri: str) -> list[dict]:
    return [json.loads(line) for line in Path(urlsplit(uri).path).read_text().splitlines()]


def test_rows_are_answered_by_a_deployed_service_that_wants_a_key(
    tiny_model, context, service, backend, tmp_path, root, monkeypatch
):
    file = tmp_path / "access.json"
    command = [DATA_PYTHON, "-m", "llmops_components.serving.access", "add", file, "airflow"]
    key = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    extra = {"python": str(DATA_PYTHON), "root": str(root), "access_file": str(file)}

    def connect(password: str) -> None:
        connection = {"conn_type": "kserve", "password": password, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_KSERVE_DEFAULT", json.dumps(connection))

    connect(key)
    facts = deploy(tiny_model, context)
    questions = [f"What colour is the {thing}?" for thing in ("sky", "sun", "coal", "plum")]
    dataset = tmp_path / "rows.jsonl"
    dataset.write_text("".join(json.dumps({"prompt": each}) + "\n" for each in (*questions, "")))

    def batch(context, **arguments):
        operator = BatchInferenceOperator(
            task_id="batch",
            dataset=str(dataset),
            url=facts["url"],
            model_name="tiny",
            request={"max_tokens": 4, "temperature": 0},
            deferrable=False,
            **{"poll_interval": 0.1, **arguments},
        )
        return operator.execute(clear(context))

    result = batch(context, min_answered=0.8)
    counts = {name: result["metrics"][name] for name in ("rows", "answered", "failed")}
    assert counts == {"rows": 5, "answered": 4, "failed": 1}
    pushed = context["ti"].xcom
    answers = lines_at(pushed["answers"])
    assert [row["prompt"] for row in answers] == questions
    assert {row["response"]["revision"] for row in answers} == {"00001"}
    assert {row["response"]["completion_tokens"] for row in answers} <= {1, 2, 3, 4}
    assert lines_at(pushed["rejected"]) == [
        {"line": 5, "reasons": ["prompt is empty"], "row": {"prompt": ""}}
    ]
    del pushed["answers"]

    with pytest.raises(QualityGateFailed, match=r"^4 of 5 rows are answered, and 1 of them must be"):
        batch(context)
    assert len(lines_at(pushed["answers"])) == 4

    connect("x" * 40)
    with pytest.raises(InvalidInputError, match="The service wants another API key: HTTP 401") as caught:
        batch(context)
    assert key not in str(caught.value) and "x" * 40 not in str(caught.value)
    kept = [path for path in root.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert kept == []


@pytest.mark.parametrize(
    ("connection", "environment"),
    [
        ({}, {}),
        ({"password": "sk-1"}, {"LLMOPS_SERVICE_KEY": "sk-1"}),
    ],
)
def test_key_of_the_connection_is_in_the_environment_alone(connection, environment, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_KSERVE_DEFAULT", json.dumps({"conn_type": "kserve", **connection}))
    operator = BatchInferenceOperator(task_id="batch", dataset="/d", url="http://127.0.0.1:1", model_name="m")
    assert operator.environment() == environment
    assert "sk-1" not in json.dumps(operator.arguments())


def test_certificates_are_verified_by_the_authority_of_the_connection_or_the_step_is_refused(
    tmp_path, monkeypatch
):
    import ssl

    authority = Path(ssl.get_default_verify_paths().cafile or "")
    if not authority.is_file():
        import certifi

        authority = Path(certifi.where())
    operator = BatchInferenceOperator(task_id="batch", dataset="/d", url="https://h", model_name="m")
    connection = {"conn_type": "kserve", "extra": {"ca_file": str(authority)}}
    monkeypatch.setenv("AIRFLOW_CONN_KSERVE_DEFAULT", json.dumps(connection))
    assert operator.environment() == {"LLMOPS_SERVICE_CA_FILE": str(authority)}
    connection["extra"] = {"verify_ssl": False}
    monkeypatch.setenv("AIRFLOW_CONN_KSERVE_DEFAULT", json.dumps(connection))
    operator = BatchInferenceOperator(task_id="batch", dataset="/d", url="https://h", model_name="m")
    with pytest.raises(ConfigurationError, match="Steps always verify certificates"):
        operator.environment()
