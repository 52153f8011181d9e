"""The output of a component of ours, as its executor prints it in a pod, says why it failed and whether for good."""

from __future__ import annotations

import json
import subprocess

import pytest
import yaml
from executor_logs import leave_log
from planes import DATA_PYTHON, REPO

from airflow_provider_llmops.backends.last_words import read_last_words
from airflow_provider_llmops.backends.pipelines.kubeflow.logs import read_failed_outputs


@pytest.fixture(scope="module")
def container(tmp_path_factory):
    """Command and arguments of the toy component's container."""
    target = tmp_path_factory.mktemp("toy") / "toy.yaml"
    subprocess.run([DATA_PYTHON, REPO / "tests" / "fakes" / "toy_component.py", target], check=True)
    (executor,) = yaml.safe_load(target.read_text())["deploymentSpec"]["executors"].values()
    return executor["container"]


@pytest.fixture
def output_of(container, tmp_path):
    """What the component prints, read from where the launcher leaves it."""

    def output_of(ending):
        outputs = {
            name: {
                "artifacts": [
                    {"name": name, "type": {"schemaTitle": "system.Artifact"}, "uri": f"{tmp_path}/{name}"}
                ]
            }
            for name in ("echo", "result")
        }
        executor_input = {
            "inputs": {"parameterValues": {"ending": ending, "text": "hello"}},
            "outputs": {"artifacts": outputs, "outputFile": f"{tmp_path}/output_metadata.json"},
        }
        arguments = [
            json.dumps(executor_input) if argument == "{{$}}" else argument for argument in container["args"]
        ]
        command = [str(DATA_PYTHON) if part == "python3" else part for part in container["command"]]
        if command[0] == "sh":
            command[2] = command[2].replace("python3", str(DATA_PYTHON))
        run = subprocess.run(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
        )
        assert run.returncode
        leave_log(tmp_path / "root", "toy-run", "r1", "toy", run.stdout)
        (output,) = read_failed_outputs([f"{tmp_path}/root/toy-run/r1/toy"], None)
        return output

    return output_of


def test_error_on_purpose_is_final_and_says_all(output_of):
    words = read_last_words(output_of("refuse").text)
    assert (words.reason, words.is_final, words.on_purpose) == ("row 3: completion is empty", True, True)
    assert words.lines == ("working on hello", "DataError: row 3: completion is empty")


def test_crash_is_its_exception_and_may_pass(output_of):
    words = read_last_words(output_of("crash").text)
    assert (words.reason, words.is_final, words.on_purpose) == ("RuntimeError: something broke", False, False)
    assert words.lines[-1] == "RuntimeError: something broke"
