"""TrainJob manifests against Kubeflow Trainer's own models, the rules that they do not have, and against the entry point that they start."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
from jsonschema import Draft202012Validator
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
from planes import DATA_PYTHON, REPO
from tiny_model import colour_rows, write_rows

from airflow_provider_llmops.backends.trainjobs import request
from airflow_provider_llmops.backends.trainjobs.manifest import MAX_TRAIN_JOB_NAME, train_job
from airflow_provider_llmops.backends.trainjobs.training import LAUNCH_MODULE
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.operators.train_job import TrainJobOperator
from airflow_provider_llmops.settings.kubernetes import SHARED_MEMORY_PATH, StepSettings
from airflow_provider_llmops.specs.index import read_index

QUANTITY = {"type": "string", "pattern": r"^(\+|-)?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE])?$"}
TEXT = {"type": "string"}
LABELS = {
    "type": "object",
    "additionalProperties": {"type": "string", "pattern": "^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$"},
    "propertyNames": {
        "pattern": r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"
    },
}  # fmt: skip


def exactly(required: str = "", **properties):
    """Schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def each(schema, most):
    return {"type": "array", "items": schema, "maxItems": most}


KEY = exactly("key name", key=TEXT, name=TEXT)
VARIABLE = exactly(
    "name",
    name={"type": "string", "pattern": "^(?!PET_)"},  # the webhook refuses those of torchrun
    value=TEXT,
    valueFrom=exactly(secretKeyRef=KEY, configMapKeyRef=KEY),
)
VOLUME = exactly(
    "name",
    name=TEXT,
    persistentVolumeClaim=exactly("claimName", claimName=TEXT),
    secret=exactly("secretName", secretName=TEXT),
    configMap=exactly("name", name=TEXT),
    emptyDir=exactly(medium=TEXT, sizeLimit=QUANTITY),
)
POD = exactly(
    # The webhook refuses an env here for the container "node": it belongs to spec.trainer.
    containers=each(exactly("name", name={"const": "node"}, volumeMounts=each(
        exactly("name mountPath", name=TEXT, mountPath=TEXT), 128
    )), 64),
    volumes=each(VOLUME, 128),
    nodeSelector={"type": "object", "additionalProperties": TEXT},
    tolerations=each(exactly(
        key=TEXT, operator=TEXT, value=TEXT, effect=TEXT, tolerationSeconds={"type": "integer"}
    ), 128),
    imagePullSecrets=each(exactly("name", name=TEXT), 64),
    terminationGracePeriodSeconds={"type": "integer", "minimum": 0},
)  # fmt: skip
POD_TEMPLATE = exactly(
    metadata=exactly(labels=LABELS, annotations={"type": "object", "additionalProperties": TEXT}), spec=POD
)
REPLICATED_JOB = exactly(
    "name", name={"const": "node"}, template=exactly(spec=exactly(template=POD_TEMPLATE))
)
# What a TrainJob of ours has of trainjob-v1alpha1, with the rules that its CRD and webhook add.
SCHEMA = exactly(
    "apiVersion kind metadata spec",
    apiVersion={"const": "trainer.kubeflow.org/v1alpha1"},
    kind={"const": "TrainJob"},
    metadata=exactly(
        "name namespace",
        name={"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63},
        namespace=TEXT,
        labels=LABELS,
        annotations={"type": "object", "additionalProperties": TEXT},
    ),
    spec=exactly(
        "runtimeRef",
        runtimeRef=exactly(
            "name", name={"type": "string", "minLength": 1, "maxLength": 253}, apiGroup=TEXT, kind=TEXT
        ),
        activeDeadlineSeconds={"type": "integer", "minimum": 1},
        trainer=exactly(
            image={"type": "string", "maxLength": 500},
            command=each(TEXT, 128),
            args=each(TEXT, 128),
            env=each(VARIABLE, 128),
            numNodes={"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
            numProcPerNode={"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
            resourcesPerNode=exactly(
                requests={"type": "object", "additionalProperties": QUANTITY},
                limits={"type": "object", "additionalProperties": QUANTITY},
            ),
        ),
        runtimePatches=each(
            exactly(
                "manager",
                manager={"type": "string", "pattern": "^[a-z0-9.-]+/[A-Za-z0-9/._~-]+$"},
                trainingRuntimeSpec=exactly(
                    template=exactly(spec=exactly(replicatedJobs=each(REPLICATED_JOB, 100)))
                ),
            ),
            16,
        ),
    ),
)
EVERYTHING = {
    "image": "registry/llmops-components:1",
    "cpu_request": "500m",
    "cpu_limit": 8,
    "memory_request": "32Gi",
    "memory_limit": "64Gi",
    "accelerator_type": "nvidia.com/gpu",
    "accelerator_count": 8,
    "node_selector": {"pool": "gpu"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "toleration_seconds": 60}],
    "env": {"NCCL_DEBUG": "WARN"},
    "secrets_as_env": {"hub": {"token": "HF_TOKEN"}},
    "secrets_as_volumes": {"certificates": "/certificates"},
    "config_maps_as_env": {"site": {"proxy": "HTTPS_PROXY"}},
    "config_maps_as_volumes": {"templates": "/templates"},
    "persistent_volume_claims": {"shared": "/mnt/shared"},
    "shared_memory": "16Gi",
    "image_pull_secrets": ["registry"],
    "labels": {"kueue.x-k8s.io/queue-name": "team"},
    "annotations": {"example.com/owner": "us, all of us"},
}


def build(settings=None, **changed):
    arguments = {
        "namespace": "team",
        "token": "f" * 32,
        "image": "llmops-components:0.1.0",
        "command": ["python", "-m", "module"],
        "args": ["env:REQUEST"],
        "env": {"REQUEST": "{}"},
        "settings": StepSettings.of(settings or {}),
    }
    return train_job(changed.pop("name", "dag-task-0123456789ab"), **{**arguments, **changed})


def problems(manifest):
    found = Draft202012Validator(SCHEMA).iter_errors(json.loads(json.dumps(manifest)))
    return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in found]


def as_kubeflow_trainer_reads_it(manifest):
    """The manifest after a way through Kubeflow Trainer's models, which check types and drop what they do not know."""
    return TrainerV1alpha1TrainJob.from_dict(manifest).to_dict()


@pytest.fixture
def context():
    ti = SimpleNamespace(
        dag_id="Übung.π", run_id="r:1+0", task_id="group.train", map_index=3, try_number=1, max_tries=0
    )
    return {"ti": ti}


def test_manifest_with_every_setting_fits_the_schema():
    manifest = build(
        EVERYTHING, num_nodes=4, active_deadline_seconds=3600, annotations={"a": "b"}, labels={"a": "b"}
    )
    assert problems(manifest) == []
    trainer = manifest["spec"]["trainer"]
    assert trainer["image"] == "registry/llmops-components:1"
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (4, 8)
    assert trainer["resourcesPerNode"] == {
        "requests": {"cpu": "500m", "memory": "32Gi"},
        "limits": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "8"},
    }
    assert trainer["env"] == [
        {"name": "NCCL_DEBUG", "value": "WARN"},
        {"name": "REQUEST", "value": "{}"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
        {"name": "HTTPS_PROXY", "valueFrom": {"configMapKeyRef": {"name": "site", "key": "proxy"}}},
    ]
    labels = {"a": "b", "kueue.x-k8s.io/queue-name": "team", "llmops/token": "f" * 32}
    assert manifest["metadata"]["labels"] == labels
    (patch,) = manifest["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]
    assert pod["metadata"] == {"labels": labels, "annotations": {"example.com/owner": "us, all of us"}}
    assert pod["spec"] == {
        "terminationGracePeriodSeconds": 150,
        "volumes": [
            {"name": "shared", "persistentVolumeClaim": {"claimName": "shared"}},
            {"name": "certificates", "secret": {"secretName": "certificates"}},
            {"name": "templates", "configMap": {"name": "templates"}},
            {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
        ],
        "containers": [
            {
                "name": "node",
                "volumeMounts": [
                    {"name": "shared", "mountPath": "/mnt/shared"},
                    {"name": "certificates", "mountPath": "/certificates"},
                    {"name": "templates", "mountPath": "/templates"},
                    {"name": "dshm", "mountPath": SHARED_MEMORY_PATH},
                ],
            }
        ],
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}],
        "imagePullSecrets": [{"name": "registry"}],
    }


def test_manifest_with_no_setting_leaves_the_rest_to_the_runtime():
    manifest = build()
    assert problems(manifest) == []
    assert manifest["spec"]["trainer"] == {
        "image": "llmops-components:0.1.0",
        "command": ["python", "-m", "module"],
        "args": ["env:REQUEST"],
        "env": [{"name": "REQUEST", "value": "{}"}],
        "numNodes": 1,
    }
    assert manifest["spec"]["runtimeRef"] == {
        "apiGroup": "trainer.kubeflow.org",
        "kind": "ClusterTrainingRuntime",
        "name": "torch-distributed",
    }


@pytest.mark.parametrize(
    "manifest",
    [
        build(),
        build(
            EVERYTHING, num_nodes=4, active_deadline_seconds=3600, annotations={"a": "b"}, labels={"a": "b"}
        ),
        build({"accelerator_type": "nvidia.com/gpu"}, runtime="own", runtime_kind="TrainingRuntime"),
    ],
)
def test_the_models_of_kubeflow_trainer_know_all_of_a_manifest(manifest):
    assert as_kubeflow_trainer_reads_it(manifest) == manifest


def test_the_models_of_kubeflow_trainer_notice_a_field_that_it_does_not_have_and_a_wrong_type():
    manifest = build()
    manifest["spec"]["trainer"]["numProcesses"] = 2
    assert as_kubeflow_trainer_reads_it(manifest) == build()
    manifest["spec"]["trainer"]["numNodes"] = "2"
    with pytest.raises(ValueError, match="numNodes"):
        as_kubeflow_trainer_reads_it(manifest)


@pytest.mark.parametrize(
    ("settings", "processes"),
    [
        ({"cpu_limit": 8}, 1),  # Kubeflow Trainer would start one for each core
        ({"accelerator_type": "nvidia.com/gpu"}, 1),
        ({"accelerator_type": "nvidia.com/gpu", "accelerator_count": 4}, 4),
        ({"accelerator_type": "nvidia.com/gpu", "accelerator_count": 0}, 1),
    ],
)
def test_one_process_for_each_accelerator(settings, processes):
    assert build(settings)["spec"]["trainer"]["numProcPerNode"] == processes


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": {"image_pull_policy": "Always"}}, "cannot set image_pull_policy"),
        ({"settings": {"accelerator_count": 2}}, "accelerator_count needs an accelerator_type"),
        ({"settings": {"env": {"PET_NNODES": "3"}}}, "PET_NNODES cannot be set: Kubeflow Trainer tells"),
        ({"settings": {"secrets_as_env": {"s": {"k": "REQUEST"}}}}, "variable is set twice: REQUEST"),
        ({"name": "a" * (MAX_TRAIN_JOB_NAME + 1)}, "Invalid name of a TrainJob 'a"),
        ({"name": "1a"}, "Invalid name of a TrainJob '1a'"),
        ({"name": "a-"}, "Invalid name of a TrainJob 'a-'"),
        ({"namespace": "a.b"}, "Invalid namespace 'a.b'"),
    ],
)
def test_what_the_cluster_would_refuse_is_refused_here(changed, message):
    with pytest.raises(ConfigurationError) as caught:
        build(**changed)
    assert message in str(caught.value)


def test_longest_name_is_taken_and_leaves_room_for_its_pods():
    name = "a" * MAX_TRAIN_JOB_NAME
    assert problems(build(name=name)) == []
    assert len(f"{name}-dataset-initializer-0-0-abcde") == 63
    assert len(f"{name}-node-0-99999-abcde") <= 63


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "trainer", "numProcesses"), 2),
        (("spec", "trainer", "numNodes"), 0),
        (("spec", "podTemplateOverrides"), []),
        (("metadata", "name"), "Upper"),
    ],
)
def test_the_schema_of_this_test_refuses_what_kubeflow_trainer_does_not_know(path, value):
    manifest = build()
    target = manifest
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    assert len(problems(manifest)) == 1


def operator(shared="/mnt/shared", **changed):
    arguments = {
        "task_id": "train",
        "component": "train_sft",
        "arguments": {"dataset": f"{shared}/rows.jsonl", "base_model": f"{shared}/base"},
        "output_path": f"{shared}/out",
        "step_settings": {"persistent_volume_claims": {"shared": str(shared)}},
        "namespace": "team",
    }
    return TrainJobOperator(**{**arguments, **changed})


@pytest.mark.parametrize("dag_id", ["Übung.π", "2026", "a" * 250, "__"])
def test_ids_of_any_kind_give_a_manifest_that_fits(context, dag_id):
    context["ti"].dag_id = dag_id
    task = operator()
    manifest = task.manifest(context, uuid.uuid4().hex)
    assert problems(manifest) == []
    assert as_kubeflow_trainer_reads_it(manifest) == manifest
    assert manifest["metadata"]["annotations"]["llmops/dag-id"] == dag_id


@pytest.mark.parametrize("component", read_index()["trainings"])
def test_every_trainer_has_a_packaged_component_and_models_to_show(component):
    models = {"train_grpo": ["reward_model"], "train_rloo": ["reward_model"], "distill": ["teacher"]}
    arguments = dict.fromkeys(["dataset", "base_model", *models.get(component, [])], "/mnt/shared/x")
    asked = operator(component=component, arguments=arguments).training.request.document("j", "k")
    assert asked["arguments"]["model"] == "/mnt/shared/out/j/model"


def in_data_plane(code: str, **environment: str) -> str:
    answer = subprocess.run(
        [DATA_PYTHON, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_components_presets_and_outputs_are_those_of_the_entry_point():
    names = in_data_plane(
        "import json; from llmops_components.training import launch; "
        "print(json.dumps([launch.MODULE, sorted(launch.COMPONENTS), [*launch.PRESETS], launch.OUTPUTS]))"
    )
    trainings = read_index()["trainings"]
    (outputs,) = {tuple(request.models_of(name)) for name in trainings}
    assert json.loads(names) == [LAUNCH_MODULE, trainings, read_index()["presets"], list(outputs)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_nodes(manifest, errors: Path) -> list[subprocess.Popen]:
    """Start what the manifest says on each node, with the variables that Kubeflow Trainer adds."""
    trainer = manifest["spec"]["trainer"]
    port = free_port()
    nodes = []
    for rank in range(trainer["numNodes"]):
        environment = {
            **{item["name"]: item["value"] for item in trainer["env"]},
            "LLMOPS_ERROR_FILE": str(errors / str(rank)),
            "PET_NNODES": str(trainer["numNodes"]),
            "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
            "PET_NODE_RANK": str(rank),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        command = [DATA_PYTHON, *trainer["command"][1:], *trainer["args"]]
        nodes.append(
            subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return nodes


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """What all nodes mount: a model and rows."""
    shared = tmp_path_factory.mktemp("shared")
    subprocess.run([DATA_PYTHON, REPO / "tests" / "fakes" / "tiny_model.py", shared / "base"], check=True)
    write_rows(shared / "rows.jsonl", colour_rows(16))
    return shared


def test_two_nodes_of_a_manifest_train_one_model(context, volume, tmp_path):
    task = operator(
        volume,
        arguments={
            "dataset": f"{volume}/rows.jsonl",
            "base_model": f"{volume}/base",
            "training_args": {"max_steps": 2, "per_device_train_batch_size": 2, "bf16": False},
        },
        num_nodes=2,
        processes_per_node=1,
        preset="cpu",
    )
    manifest = task.manifest(context, uuid.uuid4().hex)
    nodes = start_nodes(manifest, tmp_path)
    said = [node.communicate(timeout=120)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    out = volume / "out" / manifest["metadata"]["name"]
    result = json.loads((out / "result.json").read_text())
    assert result["component"] == "train_sft"
    assert result["metrics"]["steps"] == 2
    assert (out / "model" / "model.safetensors").is_file()


def test_error_reaches_the_termination_log_that_cannot_be_replaced(context, volume, tmp_path):
    task = operator(
        volume,
        arguments={
            "dataset": f"{volume}/rows.jsonl",
            "base_model": f"{volume}/base",
            "training_args": {"lr_scheduler_type": "cosin"},
        },
        processes_per_node=1,
    )
    manifest = task.manifest(context, uuid.uuid4().hex)
    log = tmp_path / "termination-log"
    log.write_text("")
    code = (
        "from llmops_components.training import launch\n"
        "def refuse(path, value): raise PermissionError(path)\n"
        "launch.write_json = refuse\n"
        "launch.main(['env:LLMOPS_REQUEST'])"
    )
    variables = {item["name"]: item["value"] for item in manifest["spec"]["trainer"]["env"]}
    answer = subprocess.run(
        [DATA_PYTHON, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **variables, "LLMOPS_ERROR_FILE": str(log), "OMP_NUM_THREADS": "1"},
    )
    assert answer.returncode == 1, answer.stderr
    said = json.loads(log.read_text())
    assert (said["type"], said["retryable"]) == ("SettingError", False)
    assert "lr_scheduler_type" in said["message"]
