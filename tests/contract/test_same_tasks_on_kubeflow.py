"""The same operators on this machine and on a Kubeflow connection: only the connection differs.

The cluster is the fake API server, and what its pods would do is done by the data plane's own interpreter: it is given
the specification that arrived over HTTP.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fresh_kfp_api import fresh_kfp_api
from kfp_api import FakeKfpApi
from object_store import object_store
from planes import DATA_PYTHON

from airflow_provider_llmops.backends.pipelines.base import RunRequest
from airflow_provider_llmops.backends.pipelines.kubeflow.backend import KubeflowPipelineBackend
from airflow_provider_llmops.backends.pipelines.local.backend import LocalPipelineBackend
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.operators.data import PrepareSampleDataOperator, ValidateDatasetOperator
from airflow_provider_llmops.specs.pipeline import PipelineSpec


class Disk:
    """A pipeline root that workers and pods share."""

    fields: dict[str, str] = {}

    def __init__(self, directory: Path) -> None:
        self.address, self._directory = f"file://{directory}", directory

    def fetch(self, address: str, aside: Path) -> str:
        return address

    def keep(self, outputs: Path, place: str) -> None:
        shutil.copytree(outputs, self._directory / place)


class Bucket:
    """A pipeline root in an object store, with which the launcher of a pod exchanges files."""

    def __init__(self, client: Any, name: str) -> None:
        self._client, self._name = client, name
        self.address = f"s3://{name}/llmops"
        self.fields = {"storage_conn_id": "pod_store"}

    def fetch(self, address: str, aside: Path) -> str:
        key = address.removeprefix(f"s3://{self._name}/")
        (aside / key).parent.mkdir(parents=True, exist_ok=True)
        self._client.download_file(self._name, key, str(aside / key))
        return str(aside / key)

    def keep(self, outputs: Path, place: str) -> None:
        for file in outputs.rglob("*"):
            if file.is_file():
                key = f"llmops/{place}/{file.relative_to(outputs)}"
                self._client.upload_file(str(file), self._name, key)


class Cluster:
    """Carries out the runs of a fake API server, and leaves their outputs where a cluster's steps would."""

    def __init__(self, api: FakeKfpApi, conn_id: str, directory: Path, root: Disk | Bucket) -> None:
        self.api = api
        self.root = root
        self.aside = directory / "aside"
        self.machine = LocalPipelineBackend(python=DATA_PYTHON, root=directory / "machine")
        self.server: KubeflowPipelineBackend = KubeflowPipelinesHook(conn_id).backend
        api.on_run_created = self.carry_out

    def carry_out(self, run) -> None:
        spec = self.server.read_version(run["pipeline_version_reference"])
        # The API knows one kind of number; a cluster's driver goes by the declared types, as binding does.
        parsed = PipelineSpec("", spec, "")
        given = dict(run["runtime_config"]["parameters"])
        for name in parsed.bind(given).artifact_parameters:
            given[name] = self.root.fetch(given[name], self.aside)
        run_id = self.machine.submit(RunRequest(run["display_name"], parsed.bind(given)))
        while not (done := self.machine.get(run_id)).state.is_terminal:
            time.sleep(0.1)
        for task in (self.machine._runs / run_id / "artifacts").glob("*/*"):
            self.root.keep(task, f"{spec['pipelineInfo']['name']}/{run['run_id']}/{task.name}/attempt-1")
        self.api.finish(run["run_id"], str(done.state), tasks=dict(done.tasks))


def execute(operator, xcom):
    """Run a task to its end, as its only attempt."""
    values = {}
    ti = SimpleNamespace(
        dag_id="dag", run_id="manual", task_id=operator.task_id, map_index=-1, try_number=1, max_tries=1
    )
    ti.xcom_push = lambda key, value: xcom.__setitem__(key, value)
    store = SimpleNamespace(get=values.get, set=values.__setitem__, delete=lambda key: values.pop(key, None))
    return operator.execute({"ti": ti, "task_state_store": store})


def run_both_tasks(conn_id):
    """Data is made and validated; what XCom gets, without what differs from run to run."""
    common = {"kubeflow_conn_id": conn_id, "deferrable": False, "poll_interval": 0.1}
    xcom: dict[str, str] = {}
    made = execute(
        PrepareSampleDataOperator(
            task_id="make", train_rows=16, preference_rows=4, evaluation_rows=8, seed=3, **common
        ),
        xcom,
    )
    checked = execute(
        ValidateDatasetOperator(
            task_id="check", dataset=xcom["train"], dataset_format="prompt_completion", **common
        ),
        xcom,
    )
    stable = [
        {
            "metrics": value["metrics"],
            "passed": value["passed"],
            "digests": {name: value["artifacts"][name]["digest"] for name in names},
        }
        for value, names in ((made, ("train", "evaluation")), (checked, ("validated", "rejected")))
    ]
    return stable, sorted(xcom)


@pytest.fixture(params=["disk", "bucket"])
def root(request, tmp_path, monkeypatch):
    """Where the steps of the cluster keep their outputs."""
    if request.param == "disk":
        yield Disk(tmp_path / "root")
        return
    with object_store(DATA_PYTHON) as store:
        monkeypatch.setenv("AIRFLOW_CONN_POD_STORE", store.connection())
        yield Bucket(store.make_bucket("artifacts"), "artifacts")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """What the tasks give on this machine."""
    local = {"python": str(DATA_PYTHON), "root": str(tmp_path_factory.mktemp("local"))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_HERE", json.dumps({"conn_type": "kubeflow", "extra": local}))
        return run_both_tasks("here")


def test_only_the_connection_differs(tmp_path, monkeypatch, here, root):
    with fresh_kfp_api() as api:
        cluster = {"pipeline_root": root.address, "image": "registry.example.com/llmops:1", **root.fields}
        monkeypatch.setenv(
            "AIRFLOW_CONN_THERE", json.dumps({"conn_type": "kubeflow", "host": api.url, "extra": cluster})
        )
        Cluster(api, "there", tmp_path, root)
        there, keys_there = run_both_tasks("there")
    expected, keys_here = here
    assert there == expected
    # A page is linked where a web server has it: Airflow's those of this machine, Kubeflow's the run's and those in a bucket.
    pages = {"data_docs_url", "_link_DataDocsLink"}
    assert pages <= {*keys_here}
    assert keys_there == sorted({*keys_here, "run_url", "_link_PipelineRunLink"} - pages)
    assert expected[1]["metrics"]["rows"] == 16
