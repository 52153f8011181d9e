"""A model is checked on the real local backend before it is served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from attempts import clear

from airflow_provider_llmops.exceptions import QualityGateFailed
from airflow_provider_llmops.operators.evaluation import CheckModelOperator

pytestmark = pytest.mark.usefixtures("connections")


def test_model_passes_until_somebody_puts_a_file_beside_it(tiny_model, context, backend, tmp_path):
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))

    def check(**arguments):
        operator = CheckModelOperator(
            task_id="check", model=str(model), deferrable=False, poll_interval=0.1, **arguments
        )
        return operator.execute(clear(context))

    def report():
        return json.loads(Path(urlsplit(context["ti"].xcom["report"]).path).read_text())

    digest = check()["details"]["digest"]
    assert report()["passed"]
    assert check(model_digest=digest, max_parameters=str(10**9))["passed"]
    (model / "training_args.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(QualityGateFailed, match=r"^training_args\.bin is a pickle") as failure:
        check(model_digest=digest, scan=False)
    assert report()["checks"]["digest"]["outcome"] == "failed"
    assert "report: " in str(failure.value)
