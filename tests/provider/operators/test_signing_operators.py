"""A model is signed with the key of a connection when it is registered, and checked with one before it is served."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from attempts import clear
from planes import DATA_PYTHON
from signing_keys import make_key, public_of

from airflow_provider_llmops.exceptions import ConfigurationError, QualityGateFailed
from airflow_provider_llmops.operators.evaluation import CheckModelOperator
from airflow_provider_llmops.operators.registry import RegisterModelOperator

PRIVATE = make_key()


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for name, fields in (
        ("SIGNER", {"password": PRIVATE}),
        ("CHECKER", {"extra": {"public_key": public_of(PRIVATE)}}),
    ):
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps({"conn_type": "model_signing", **fields}))
    monkeypatch.setenv(
        "AIRFLOW_CONN_MLFLOW_DEFAULT",
        json.dumps({"conn_type": "mlflow", "host": "https://mlflow.example.com"}),
    )


def test_private_key_goes_into_the_steps_environment_and_nowhere_else():
    signed = RegisterModelOperator(task_id="r", model="/m", model_name="m", signing_conn_id="signer")
    assert signed.arguments()["sign"] is True
    assert signed.environment() == {"LLMOPS_SIGNING_KEY": PRIVATE}
    lines = [line for line in PRIVATE.splitlines() if not line.startswith("-")]
    assert not [line for line in lines if line in json.dumps(signed.arguments())]
    unsigned = RegisterModelOperator(task_id="u", model="/m", model_name="m")
    assert (unsigned.arguments()["sign"], unsigned.environment()) == (False, {})
    with pytest.raises(ConfigurationError, match="'checker' has no private key"):
        RegisterModelOperator(
            task_id="c", model="/m", model_name="m", signing_conn_id="checker"
        ).environment()


def test_public_key_is_given_or_a_connections():
    def arguments(**given):
        return CheckModelOperator(task_id="c", model="/m", **given).arguments()

    public = public_of(PRIVATE)
    assert arguments(signing_conn_id="checker")["public_key"] == public
    assert arguments(signing_conn_id="signer")["public_key"] == public
    assert arguments(public_key=public)["public_key"] == public
    assert arguments(signing_conn_id="")["public_key"] is None
    with pytest.raises(ConfigurationError, match="public_key is a private key"):
        arguments(public_key=PRIVATE)
    with pytest.raises(ConfigurationError, match="Leave one out"):
        arguments(public_key=public, signing_conn_id="checker")


@pytest.mark.usefixtures("connections")
def test_model_passes_until_somebody_puts_a_file_beside_those_that_were_signed(
    tiny_model, context, backend, root, tmp_path
):
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (tmp_path / "key.pem").write_text(PRIVATE)
    sign = ["-m", "model_signing", "sign", "key", model, "--signature", tmp_path / "model.sig"]
    subprocess.run([DATA_PYTHON, *sign, "--private_key", tmp_path / "key.pem"], check=True)

    def check(conn_id):
        operator = CheckModelOperator(
            task_id="check",
            model=str(model),
            signature=str(tmp_path / "model.sig"),
            signing_conn_id=conn_id,
            scan=False,
            deferrable=False,
            poll_interval=0.1,
        )
        return operator.execute(clear(context))

    done = check("signer")
    assert done["details"]["checks"]["signature"] == "passed"
    assert done["details"]["signed_by"].startswith("sha256:")
    (model / "notes.txt").write_text("more")
    with pytest.raises(QualityGateFailed, match=r"^notes\.txt was not signed with the model\."):
        check("checker")
    report = json.loads(Path(urlsplit(context["ti"].xcom["report"]).path).read_text())
    assert report["checks"]["signature"]["outcome"] == "failed"
    # Who checks with a connection that can sign has given the step no private key.
    lines = [line.encode() for line in PRIVATE.splitlines() if not line.startswith("-")]
    files = [file.read_bytes() for file in root.rglob("*") if file.is_file()]
    assert not [line for line in lines for content in files if line in content]
