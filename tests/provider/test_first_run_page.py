"""The page about the first run on Kubeflow is true: its rights are those that the code needs, its settings those that are read.

That the rights suffice is shown by every other test: the fake clusters refuse what they do not cover.
"""

from __future__ import annotations

import json
import re
import runpy
import shlex

import cluster_rights
import yaml
from planes import REPO

from airflow_provider_llmops.backends.pipelines.kubeflow.root import check_root
from airflow_provider_llmops.backends.pipelines.kubeflow.settings import DEFAULT_TOKEN_FILE
from airflow_provider_llmops.backends.serving.kserve.rights import RIGHTS, WATCH_RIGHTS

PAGE = cluster_rights.PAGE.read_text(encoding="utf-8")
SOURCES = [path.read_text(encoding="utf-8") for path in (REPO / "airflow_provider_llmops").rglob("*.py")]

# The Kubernetes client's names for what it reads.
RESOURCES = {"pod_log": "pods/log", "pod": "pods", "event": "events", "config_map": "configmaps"}
CORE_CALL = re.compile(rf"\b(list|read|create|delete|patch|replace)_namespaced_({'|'.join(RESOURCES)})\b")
# Upstream checks these rights of ``pipelines.kubeflow.org``: backend/src/apiserver/server in kubeflow/pipelines.
PIPELINES_CALL = re.compile(r"\.(run|pipeline|experiment)_service_([a-z]+)_|\.upload_(pipeline)_version\b")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def granted(group: str) -> set[tuple[str, str]]:
    """Verbs and resources of an API group that the roles of the page grant."""
    return {
        (verb, resource)
        for kind in cluster_rights.roles()
        for of_group, resource, verb, _ in cluster_rights.granted(kind)
        if of_group == group
    }


def config_map() -> dict[str, str]:
    documents = [document for block in blocks("yaml") for document in yaml.safe_load_all(block)]
    (found,) = (document for document in documents if document.get("kind") == "ConfigMap")
    assert found["metadata"]["name"] == "kfp-launcher"
    return found["data"]


def connections() -> dict[str, dict]:
    """The connections that the page adds, by id."""
    (shell,) = (block for block in blocks("bash") if "airflow connections add" in block)
    commands = [shlex.split(command) for command in re.split(r"\n(?=\S+ )", shell)]
    return {
        words[3]: json.loads(words[5]) for words in commands if words[:3] == ["airflow", "connections", "add"]
    }


def test_the_role_grants_what_the_code_calls_of_pods_events_and_config_maps_and_no_more():
    called = {
        ("get" if verb == "read" else verb, RESOURCES[what])
        for source in SOURCES
        for verb, what in CORE_CALL.findall(source)
    }
    of_services = {(verb, right) for verb, right in (*RIGHTS, *WATCH_RIGHTS) if "." not in right}
    assert granted("") == called | of_services


def test_the_role_grants_the_rights_to_services_that_the_connections_test_asks_for():
    for group in ("apps", "serving.kserve.io"):
        asked = {
            (verb, right.partition(".")[0])
            for verb, right in (*RIGHTS, *WATCH_RIGHTS)
            if right.endswith(f".{group}")
        }
        assert granted(group) == asked


def test_the_role_grants_what_the_code_calls_of_kubeflow_pipelines_and_no_more():
    called = {
        ("create", "pipelines") if upload else (verb, f"{kind}s")
        for source in SOURCES
        for kind, verb, upload in PIPELINES_CALL.findall(source)
    }
    assert granted("pipelines.kubeflow.org") == called


def test_the_token_is_mounted_where_the_connection_looks_for_it():
    (pod,) = (
        document
        for block in blocks("yaml")
        for document in yaml.safe_load_all(block)
        if "volumes" in document
    )
    (volume,) = pod["volumes"]
    (source,) = (each["serviceAccountToken"] for each in volume["projected"]["sources"])
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert mount["name"] == volume["name"]
    assert f"{mount['mountPath']}/{source['path']}" == DEFAULT_TOKEN_FILE
    assert connections()["kubeflow_default"]["extra"]["auth"] == "token_file"
    assert f"--serviceaccount team:{pod['serviceAccountName']}" in PAGE


def test_the_role_grants_what_is_done_with_training():
    runtimes = ("trainingruntimes", "clustertrainingruntimes")
    assert granted("trainer.kubeflow.org") == {
        *((verb, "trainjobs") for verb in ("create", "get", "delete")),
        *((verb, what) for verb in ("get", "list") for what in runtimes),
    }


def test_one_config_map_alone_may_be_read():
    path = "/api/v1/namespaces/team/configmaps/{}"
    assert cluster_rights.refusal("GET", path.format("kfp-launcher")) is None
    refusal = cluster_rights.refusal("GET", path.format("passwords"))
    assert refusal is not None
    assert refusal["code"] == 403


def test_settings_for_steps_have_the_fields_that_upstream_reads():
    # S3ProviderDefault, S3Credentials and S3SecretRef in backend/src/v2/config/s3.go of kubeflow/pipelines.
    settings = yaml.safe_load(config_map()["providers"])["s3"]["default"]
    assert set(settings) <= {
        "endpoint",
        "credentials",
        "region",
        "disableSSL",
        "forcePathStyle",
        "maxRetries",
    }
    assert settings["credentials"]["fromEnv"] is False
    assert set(settings["credentials"]["secretRef"]) == {"secretName", "accessKeyKey", "secretKeyKey"}


def test_steps_can_write_below_the_root_with_the_settings_of_the_page():
    settings = config_map()
    assert check_root(settings["defaultPipelineRoot"], settings, "team") is None
    assert check_root(settings["defaultPipelineRoot"], None, "team") is not None


def test_connections_are_what_the_hook_reads_and_fit_the_cluster(monkeypatch):
    from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook

    for name, connection in connections().items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
    settings = KubeflowPipelinesHook().backend.settings
    assert settings.namespace == cluster_rights.roles()["Role"]["metadata"]["namespace"]
    assert settings.pipeline_root == config_map()["defaultPipelineRoot"]
    assert settings.storage_conn_id in connections()
    assert settings.kubernetes_conn_id in connections()


def test_the_first_dag_can_be_read(tmp_path):
    (code,) = blocks("python")
    (tmp_path / "first_run.py").write_text(code, encoding="utf-8")
    data = runpy.run_path(str(tmp_path / "first_run.py"))["data"]
    assert data.dag.task_dict["validate"].upstream_task_ids == {"data"}
