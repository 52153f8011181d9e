"""Both planes declare the same of a ``result.json``."""

from __future__ import annotations

import json
import subprocess

from planes import DATA_PYTHON

from airflow_provider_llmops.results import ResultRecord


def test_what_the_data_plane_writes_is_what_the_provider_reads():
    script = "import json; from llmops_components.result_schema import ResultRecord; print(json.dumps(ResultRecord.model_json_schema()))"
    answer = subprocess.run([DATA_PYTHON, "-c", script], check=True, capture_output=True, text=True)
    assert json.loads(answer.stdout) == ResultRecord.model_json_schema()
