"""Pipelines of users on the local backend: what their steps get, give and are called, and where their packages go."""

from __future__ import annotations

import json
import re
import subprocess
import sysconfig
import threading
import time
from pathlib import Path

import pytest
from pipelines import two_steps
from planes import DATA_PYTHON, REPO
from wheels import make_wheel, repack_kfp

from airflow_provider_llmops.backends.pipelines.base import RunRequest
from airflow_provider_llmops.backends.pipelines.local.backend import LocalPipelineBackend
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.operators.kubeflow import KubeflowComponentOperator, KubeflowPipelineOperator
from airflow_provider_llmops.specs.pipeline import BoundPipeline, PipelineSpec

SITE_PACKAGES = Path(sysconfig.get_path("purelib", vars={"base": str(DATA_PYTHON.parent.parent)}))


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory) -> Path:
    """The users' pipelines, compiled with the data plane's own KFP."""
    directory = tmp_path_factory.mktemp("pipelines")
    subprocess.run([DATA_PYTHON, REPO / "tests" / "fakes" / "user_pipelines.py", directory], check=True)
    return directory


@pytest.fixture(scope="session")
def index(tmp_path_factory, pipelines) -> Path:
    """A directory of wheels."""
    directory = tmp_path_factory.mktemp("wheels")
    make_wheel(directory, "tiny-tool", "1.0", {"tiny_tool.py": "WORD = 'tiny'\n"})
    make_wheel(directory, "psutil", "0.1", {"psutil.py": "WORD = 'not the real one'\n"})
    version = re.search(r"kfp==([\d.]+)", (pipelines / "packaged.yaml").read_text())[1]
    repack_kfp(directory, SITE_PACKAGES, version)
    repack_kfp(directory, SITE_PACKAGES, "2.99.0")
    return directory


@pytest.fixture
def offline(monkeypatch, index) -> None:
    """Pip finds packages in that directory only."""
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))


def run(backend, source, name="run", **arguments):
    """Carry a pipeline out; returns the run, what it gave, and its log."""
    spec = source if isinstance(source, PipelineSpec) else PipelineSpec.load(source)
    run_id = backend.submit(RunRequest(display_name=name, pipeline=spec.bind(arguments)))
    deadline = time.monotonic() + 180
    while not (seen := backend.get(run_id)).state.is_terminal:
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return seen, backend.read_outputs(run_id), "\n".join(backend.read_log(run_id, 0)[0])


def installed() -> set[str]:
    return {path.name for path in SITE_PACKAGES.glob("*-info")}


def test_values_keep_their_types_and_every_step_has_a_name(backend, pipelines):
    seen, outputs, log = run(backend, pipelines / "everything.yaml")
    assert (seen.state, seen.error) == ("SUCCEEDED", None)
    assert json.dumps(outputs, sort_keys=True) == json.dumps(
        {
            "again": "again; None; [7, 8]; 0.5",
            "facts": {"n": 7, "ok": True},
            "halves": [1, 2],
            "part": 3.5,
            "told": "n is 7 and 7, rate 1; None; [7, 8]; 1.0",
            "whole": 7,
        }
    )
    assert dict(seen.tasks) == {
        "measure": "SUCCEEDED",
        "tell": "SUCCEEDED",
        "tell-2": "SUCCEEDED",
        "for-loop-2/0/half": "SUCCEEDED",
        "for-loop-2/1/half": "SUCCEEDED",
        "condition-branches-3/condition-4/tell-3": "SUCCEEDED",
        "condition-branches-3/condition-5": "SKIPPED",
    }
    assert "making an environment" not in log


def test_failed_item_of_a_loop_is_named_and_the_exit_handler_still_runs(backend, pipelines, tmp_path):
    seen, outputs, _ = run(backend, pipelines / "unlucky.yaml", report_to=str(tmp_path / "report"))
    assert (seen.state, seen.retryable, outputs) == ("FAILED", True, {})
    assert seen.error == "ValueError: 13 is unlucky"
    assert seen.failed_steps == ("exit-handler-1/for-loop-3/1/half",)
    assert seen.tasks["exit-handler-1/for-loop-3/0/half"] == "SUCCEEDED"
    assert seen.tasks["exit-handler-1/for-loop-3/1/half"] == "FAILED"
    assert "exit-handler-1/for-loop-3/2/half" not in seen.tasks
    assert seen.tasks["exit-handler-1/tell"] == "SKIPPED"
    assert seen.tasks["report"] == "SUCCEEDED"
    assert (tmp_path / "report").read_text() == "exit-handler-1 FAILED"


@pytest.mark.parametrize(
    ("fails", "state", "outputs", "attempts"), [(2, "SUCCEEDED", {"Output": 3}, 3), (3, "FAILED", {}, 3)]
)
def test_step_is_tried_again_as_often_as_was_compiled(
    backend, pipelines, tmp_path, fails, state, outputs, attempts
):
    counter = tmp_path / "counter"
    seen, given, log = run(backend, pipelines / "retried.yaml", counter=str(counter), fails=fails)
    assert (seen.state, given, len(counter.read_text())) == (state, outputs, attempts)
    assert "flaky: RuntimeError: attempt 1 fails; attempt 2 of 3 in 0 s" in log
    assert seen.error == (None if state == "SUCCEEDED" else "RuntimeError: attempt 3 fails")


def test_final_error_is_not_tried_again(backend, toy_spec):
    ir = json.loads(json.dumps(toy_spec.ir))
    ir["root"]["dag"]["tasks"]["toy"]["retryPolicy"] = {"maxRetryCount": 3, "backoffDuration": "0s"}
    spec = PipelineSpec(name="toy", ir=ir, digest=toy_spec.digest)
    seen, _, log = run(backend, spec, ending="refuse")
    assert (seen.retryable, log.count("toy: started")) == (False, 1)


def test_packages_of_a_step_get_an_environment_that_later_runs_use_again(backend, pipelines, offline, root):
    before = installed()
    seen, outputs, log = run(backend, pipelines / "packaged.yaml", name="first")
    assert (seen.error, outputs) == (None, {"Output": "tiny"})
    assert "packaged: making an environment with tiny-tool==1.0" in log
    assert "1 packages, on top of the data plane's" in log
    (environment,) = (root / "environments").glob("*/environment.json")
    used = (environment.parent / "used").stat().st_mtime_ns
    seen, outputs, log = run(backend, pipelines / "packaged.yaml", name="second")
    assert (seen.error, outputs) == (None, {"Output": "tiny"})
    assert "making" not in log
    assert (environment.parent / "used").stat().st_mtime_ns > used
    assert json.loads(environment.read_text())["packages"] == ["tiny-tool==1.0"]
    assert installed() == before


def test_another_kfp_runs_its_own_steps_and_replaces_nothing(backend, pipelines, offline, tmp_path):
    before = installed()
    text = re.sub(r"kfp==[\d.]+", "kfp==2.99.0", (pipelines / "retried.yaml").read_text())
    (tmp_path / "other.yaml").write_text(text)
    arguments = {"counter": str(tmp_path / "counter"), "fails": 0}
    seen, outputs, log = run(backend, tmp_path / "other.yaml", **arguments)
    assert (seen.error, outputs) == (None, {"Output": 1})
    assert "flaky: making an environment with kfp==2.99.0" in log
    assert installed() == before


def test_packages_that_would_replace_the_data_planes_stand_alone(backend, pipelines, offline):
    before = installed()
    seen, outputs, log = run(backend, pipelines / "replacing.yaml")
    assert (seen.error, outputs) == (None, {"Output": "not the real one"})
    assert re.search(r"it stands alone, because it would replace psutil [\d.]+ by 0.1 of the data plane", log)
    assert installed() == before


def test_environment_that_was_not_finished_is_made_again(backend, pipelines, offline, root):
    run(backend, pipelines / "packaged.yaml", name="first")
    (environment,) = (root / "environments").glob("*/environment.json")
    environment.unlink()
    seen, _, log = run(backend, pipelines / "packaged.yaml", name="second")
    assert (seen.error, "making an environment" in log) == (None, True)


def test_two_runs_at_once_make_one_environment(pipelines, offline, root):
    backend = LocalPipelineBackend(python=DATA_PYTHON, root=root, slots=2)
    answers = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(run(backend, pipelines / "packaged.yaml", name=n)))
        for n in ("one", "two")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(seen.error, outputs) for seen, outputs, _ in answers] == [(None, {"Output": "tiny"})] * 2
    assert sum(log.count("making an environment") for _, _, log in answers) == 1


def test_package_that_does_not_exist_is_a_final_error_that_names_it(backend, pipelines, offline):
    seen, _, _ = run(backend, pipelines / "missing.yaml")
    assert (seen.state, seen.retryable) == ("FAILED", False)
    assert seen.error.startswith("no-such-tool==1.0 cannot be installed for step missing: ")
    assert "No matching distribution found for no-such-tool==1.0" in seen.error


def test_index_that_does_not_answer_may_be_tried_again_and_its_password_is_nowhere(
    backend, pipelines, monkeypatch, root
):
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:hush@127.0.0.1:9/simple?token=hush")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    seen, _, _ = run(backend, pipelines / "missing.yaml")
    assert (seen.state, seen.retryable) == ("FAILED", True)
    assert seen.error.startswith(
        "no-such-tool==1.0 cannot be installed for step missing: the package index does"
    )
    assert "Connection refused" in seen.error
    kept = [path for path in root.rglob("*") if path.is_file() and b"hush" in path.read_bytes()]
    assert kept == []


def test_what_a_step_installs_while_it_runs_is_gone_with_it(
    backend, pipelines, offline, tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = installed()
    seen, outputs, _ = run(backend, pipelines / "installing.yaml")
    assert (seen.error, outputs) == (None, {"Output": "tiny"})
    assert installed() == before
    deadline = time.monotonic() + 30  # the state is written before the run's process tidies up
    while (left := list(tmp_path.glob("llmops-run-*"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    probe = [DATA_PYTHON, "-c", "import psutil; psutil.Process(); import tiny_tool"]
    answer = subprocess.run(probe, capture_output=True, text=True, check=False)
    assert answer.stderr.rstrip().endswith("ModuleNotFoundError: No module named 'tiny_tool'")


def finished(operator, context):
    """What an operator gives on a local connection."""
    operator.deferrable = False
    operator.poll_interval = 0.05
    return operator.execute(context)


def test_outputs_of_a_pipeline_are_on_xcom_with_their_types(pipelines, connections, context):
    operator = KubeflowPipelineOperator(
        task_id="task", pipeline=str(pipelines / "everything.yaml"), parameters={"n": 4}
    )
    value = finished(operator, context)
    outputs = {
        "again": "again; None; [7, 8]; 0.5",
        "facts": {"n": 4, "ok": True},
        "halves": [1, 2],
        "part": 2.0,
        "told": "n is 4 and 4, rate 1; None; [4, 5]; 1.0",
        "whole": 4,
    }
    assert json.dumps(value["outputs"], sort_keys=True) == json.dumps(outputs)
    assert {name: context["ti"].xcom[name] for name in outputs} == outputs
    assert value["steps"]["condition-branches-3/condition-4"] == "SKIPPED"
    assert value["steps"]["condition-branches-3/condition-5/tell-4"] == "SUCCEEDED"


def test_outputs_of_a_component_are_on_xcom(pipelines, connections, context, tmp_path):
    operator = KubeflowComponentOperator(
        task_id="task",
        component=str(pipelines / "flaky.yaml"),
        arguments={"counter": str(tmp_path / "counter"), "fails": 0},
    )
    value = finished(operator, context)
    assert (value["artifacts"], value["outputs"]) == ({}, {"Output": 1})
    assert context["ti"].xcom["Output"] == 1


def test_command_of_a_container_is_never_run_on_this_machine(backend, tmp_path, root):
    ir = two_steps()
    command = {"command": ["touch", str(tmp_path / "touched")], "args": [], "image": "alpine"}
    ir["deploymentSpec"]["executors"] = {
        name: {"container": command} for name in ("exec-report", "exec-train")
    }
    request = RunRequest(display_name="run", pipeline=BoundPipeline(spec=ir, parameters={}))
    with pytest.raises(ConfigurationError, match=r"^Step report is a container component"):
        backend.submit(request)
    assert not (root / "runs").exists()
