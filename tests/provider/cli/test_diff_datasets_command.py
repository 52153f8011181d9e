"""``llmops diff-datasets``: what the data plane finds, as text and as JSON."""

from __future__ import annotations

import json

from planes import DATA_PYTHON

from airflow_provider_llmops.cli import main


def test_differences_are_printed_and_what_cannot_be_compared_is_told(monkeypatch, tmp_path, capsys):
    extra = {"python": str(DATA_PYTHON), "root": str(tmp_path)}
    monkeypatch.setenv("AIRFLOW_CONN_KUBEFLOW_DEFAULT", json.dumps({"conn_type": "kubeflow", "extra": extra}))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").write_text('{"text": "a"}\n')
    (tmp_path / "new").write_text('{"text": "b"}\n{"text": "a"}\n')
    assert main(["diff-datasets", "old", "new"]) == 0
    assert "    + text: b\n" in capsys.readouterr().out
    assert main(["diff-datasets", "old", "new", "--json", "--examples", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"]["added"], found["examples"]) == (1, [])
    assert main(["diff-datasets", "old", "other", "--python", str(DATA_PYTHON)]) == 1
    assert capsys.readouterr().err.startswith("llmops: The dataset does not exist: ")
    assert main(["diff-datasets", "old", "new", "--conn-id", "nowhere"]) == 1
    assert "connection 'nowhere' cannot be used" in capsys.readouterr().err
