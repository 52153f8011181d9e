"""Kubernetes settings of steps: what is accepted, and what they become."""

from __future__ import annotations

import copy

import pytest
import yaml
from airflow.sdk import DAG
from pipelines import container, nested, task, two_steps

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.operators.kubeflow import KubeflowPipelineOperator
from airflow_provider_llmops.operators.train_job import TrainJobOperator
from airflow_provider_llmops.settings.kubernetes import StepSettings, Toleration, settings_by_step
from airflow_provider_llmops.settings.steps import apply_settings
from airflow_provider_llmops.specs.pipeline import BoundPipeline

ALL = {
    "image": "registry.example/train:2",
    "cpu_request": "500m",
    "cpu_limit": 2,
    "memory_request": "1536Mi",
    "memory_limit": "16Gi",
    "accelerator_type": "nvidia.com/gpu",
    "accelerator_count": 2,
    "node_selector": {"pool": "gpu", "zone": "b"},
    "tolerations": [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoExecute", "toleration_seconds": 60},
    ],
    "env": {"A": "b"},
    "secrets_as_env": {"hub": {"token": "HF_TOKEN", "user": "HF_USER"}},
    "secrets_as_volumes": {"certs": "/etc/certs"},
    "config_maps_as_env": {"settings": {"level": "LOG_LEVEL"}},
    "config_maps_as_volumes": {"files": "/etc/files"},
    "persistent_volume_claims": {"cache": "/cache"},
    "shared_memory": "8Gi",
    "image_pull_secrets": ["registry"],
    "image_pull_policy": "IfNotPresent",
    "labels": {"team": "nlp"},
    "annotations": {"owner": "Ada"},
}

# Written by kfp 2.17.0 and kfp-kubernetes 2.17.0 for the same settings, made with task.set_cpu_request("500m"),
# kubernetes.add_toleration(...), kubernetes.mount_pvc(...) and so on; shared memory with empty_dir_mount.
OFFICIAL_CONTAINER = yaml.safe_load("""
args:
- '{{$}}'
command:
- echo
env:
- name: A
  value: b
image: registry.example/train:2
resources:
  accelerator:
    count: '2'
    resourceCount: '2'
    resourceType: nvidia.com/gpu
    type: nvidia.com/gpu
  cpuLimit: 2.0
  cpuRequest: 0.5
  memoryLimit: 17.179869184
  memoryRequest: 1.610612736
  resourceCpuLimit: '2'
  resourceCpuRequest: 500m
  resourceMemoryLimit: 16Gi
  resourceMemoryRequest: 1536Mi
""")
OFFICIAL_PLATFORM = yaml.safe_load("""
platforms:
  kubernetes:
    deploymentSpec:
      executors:
        exec-train:
          configMapAsEnv:
          - configMapName: settings
            configMapNameParameter:
              runtimeValue:
                constant: settings
            keyToEnv:
            - configMapKey: level
              envVar: LOG_LEVEL
            optional: false
          configMapAsVolume:
          - configMapName: files
            configMapNameParameter:
              runtimeValue:
                constant: files
            mountPath: /etc/files
            optional: false
          emptyDirMounts:
          - medium: Memory
            mountPath: /dev/shm
            sizeLimit: 8Gi
            volumeName: dshm
          imagePullPolicy: IfNotPresent
          imagePullSecret:
          - secretName: registry
            secretNameParameter:
              runtimeValue:
                constant: registry
          nodeSelector:
            labels:
              pool: gpu
              zone: b
          podMetadata:
            annotations:
              owner: Ada
            labels:
              team: nlp
          pvcMount:
          - constant: cache
            mountPath: /cache
            pvcNameParameter:
              runtimeValue:
                constant: cache
          secretAsEnv:
          - keyToEnv:
            - envVar: HF_TOKEN
              secretKey: token
            - envVar: HF_USER
              secretKey: user
            optional: false
            secretName: hub
            secretNameParameter:
              runtimeValue:
                constant: hub
          secretAsVolume:
          - mountPath: /etc/certs
            optional: false
            secretName: certs
            secretNameParameter:
              runtimeValue:
                constant: certs
          tolerations:
          - effect: NoSchedule
            key: nvidia.com/gpu
            operator: Exists
          - effect: NoExecute
            key: spot
            operator: Equal
            tolerationSeconds: '60'
            value: 'yes'
""")


def bound(ir=None, platform=None) -> BoundPipeline:
    return BoundPipeline(spec=ir or two_steps(), parameters={}, platform=platform)


def executors(pipeline: BoundPipeline) -> dict:
    return pipeline.spec["deploymentSpec"]["executors"]


def configs(pipeline: BoundPipeline) -> dict:
    return pipeline.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def platform(**by_executor) -> dict:
    return {"platforms": {"kubernetes": {"deploymentSpec": {"executors": by_executor}}}}


def images(pipeline: BoundPipeline, component=None, path="") -> dict[str, str]:
    """Image of each container step by path, read as the API server reads it: task, component, executor."""
    found = {}
    for name, item in (component or pipeline.spec["root"])["dag"]["tasks"].items():
        target = pipeline.spec["components"][item["componentRef"]["name"]]
        if "dag" in target:
            found |= images(pipeline, target, f"{path}{name}/")
        else:
            found[path + name] = executors(pipeline)[target["executorLabel"]]["container"]["image"]
    return found


def test_settings_are_compiled_as_the_official_sdks_compile_them():
    expected = two_steps()
    expected["deploymentSpec"]["executors"]["exec-train"]["container"] = OFFICIAL_CONTAINER
    result = apply_settings(bound(), {"train": ALL})
    assert result == BoundPipeline(spec=expected, parameters={}, platform=OFFICIAL_PLATFORM)


def test_the_pipeline_that_was_given_is_left_alone():
    before = bound(platform=copy.deepcopy(OFFICIAL_PLATFORM))
    apply_settings(before, ALL)
    assert before == bound(platform=OFFICIAL_PLATFORM)


@pytest.mark.parametrize("settings", [None, {}, {"*": {}}, {"train": StepSettings()}, StepSettings()])
def test_no_settings_change_nothing(settings):
    for ir in (two_steps(), nested()):
        assert apply_settings(bound(ir), settings) == bound(ir)
    assert apply_settings(bound(platform=OFFICIAL_PLATFORM), settings) == bound(platform=OFFICIAL_PLATFORM)


def test_settings_for_all_steps_reach_every_container_at_any_depth():
    assert images(apply_settings(bound(nested()), {"image": "x"})) == {
        "first/report": "x",
        "first/train": "x",
        "second/report": "x",
        "second/train": "x",
        "train": "x",
    }


def test_what_is_closer_to_the_step_wins_and_shared_components_are_copied():
    result = apply_settings(
        bound(nested()), {"*": {"image": "all"}, "train": {"image": "name"}, "first/train": {"image": "path"}}
    )
    assert images(result) == {
        "first/report": "all",
        "first/train": "path",
        "second/report": "all",
        "second/train": "name",
        "train": "name",
    }
    assert sorted(result.spec["components"]) == [
        "comp-report",
        "comp-train",
        "comp-train-2",
        "comp-two-steps",
        "comp-two-steps-2",
    ]
    assert sorted(executors(result)) == ["exec-report", "exec-train", "exec-train-2"]


def test_a_copied_executor_keeps_what_was_compiled_for_it_on_every_platform():
    compiled = {"nodeSelector": {"labels": {"a": "b"}}}
    before = platform(**{"exec-train": compiled})
    before["platforms"]["other"] = {"deploymentSpec": {"executors": {"exec-train": {"x": 1}}}}
    result = apply_settings(bound(nested(), before), {"first/train": {"node_selector": {"c": "d"}}})
    assert configs(result) == {
        "exec-train": {"nodeSelector": {"labels": {"a": "b", "c": "d"}}},
        "exec-train-2": compiled,
    }
    assert result.platform["platforms"]["other"]["deploymentSpec"]["executors"] == {
        "exec-train": {"x": 1},
        "exec-train-2": {"x": 1},
    }


def test_importers_and_volume_operations_stay_as_they_are():
    ir = two_steps()
    for name, executor in (("import", {"importer": {}}), ("make", container("argostub/createpvc"))):
        ir["components"][f"comp-{name}"] = {"executorLabel": f"exec-{name}"}
        ir["deploymentSpec"]["executors"][f"exec-{name}"] = executor
        ir["root"]["dag"]["tasks"][name] = task(f"comp-{name}")
    result = apply_settings(bound(ir), ALL)
    assert sorted(configs(result)) == ["exec-report", "exec-train"]
    assert executors(result)["exec-import"] == {"importer": {}}
    assert executors(result)["exec-make"] == container("argostub/createpvc")
    with pytest.raises(
        ConfigurationError, match=r"Step 'import' is an importer.*Steps that have: report, train"
    ):
        apply_settings(bound(ir), {"import": ALL})


def test_new_settings_replace_compiled_ones_for_the_same_variable_path_or_label():
    compiled = apply_settings(bound(), {"train": ALL})
    result = apply_settings(
        compiled,
        {
            "train": {
                "env": {"HF_USER": "ada"},
                "secrets_as_env": {"other": {"key": "A"}},
                "persistent_volume_claims": {"models": "/cache/"},
                "shared_memory": "1Gi",
                "labels": {"team": "cv", "x": "y"},
                "tolerations": [Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")],
                "image_pull_secrets": ["registry"],
            }
        },
    )
    config = configs(result)["exec-train"]
    before = configs(compiled)["exec-train"]
    assert executors(result)["exec-train"]["container"]["env"] == [{"name": "HF_USER", "value": "ada"}]
    assert [(item["secretName"], item["keyToEnv"]) for item in config["secretAsEnv"]] == [
        ("hub", [{"envVar": "HF_TOKEN", "secretKey": "token"}]),
        ("other", [{"envVar": "A", "secretKey": "key"}]),
    ]
    assert [(mount["constant"], mount["mountPath"]) for mount in config["pvcMount"]] == [
        ("models", "/cache/")
    ]
    assert [mount["sizeLimit"] for mount in config["emptyDirMounts"]] == ["1Gi"]
    assert config["podMetadata"] == {"annotations": {"owner": "Ada"}, "labels": {"team": "cv", "x": "y"}}
    for unchanged in ("tolerations", "imagePullSecret", "nodeSelector", "configMapAsEnv", "secretAsVolume"):
        assert config[unchanged] == before[unchanged]


def test_a_node_selector_is_not_shadowed_by_a_compiled_one_from_a_parameter():
    compiled = platform(
        **{"exec-train": {"nodeSelector": {"nodeSelectorJson": {"componentInputParameter": "s"}}}}
    )
    result = apply_settings(bound(platform=compiled), {"train": {"node_selector": {"a": "b"}}})
    assert configs(result) == {"exec-train": {"nodeSelector": {"labels": {"a": "b"}}}}


@pytest.mark.parametrize(
    ("compiled", "settings", "expected"),
    [
        ({}, {"accelerator_type": "nvidia.com/gpu"}, ("nvidia.com/gpu", "1")),
        (ALL, {"accelerator_count": 4}, ("nvidia.com/gpu", "4")),
        (ALL, {"accelerator_type": "amd.com/gpu"}, ("amd.com/gpu", "2")),
        (ALL, {"accelerator_count": 0}, None),
        ({}, {"accelerator_count": 0}, None),
    ],
)
def test_accelerators_are_set_changed_and_taken_away(compiled, settings, expected):
    result = apply_settings(apply_settings(bound(), {"train": compiled}), {"train": settings})
    accelerator = executors(result)["exec-train"]["container"].get("resources", {}).get("accelerator")
    if expected is None:
        assert accelerator is None
    else:
        kind, count = expected
        assert accelerator == {"type": kind, "resourceType": kind, "count": count, "resourceCount": count}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"trian": {}},
            r"has no step 'trian' \(did you mean 'train'\?\)\. Its steps: first/report, first/train",
        ),
        ({"first": {"image": "x"}}, "Step 'first' is a group of steps, which has no settings"),
        ({"third/train": {"image": "x"}}, r"has no step 'third/train' \(did you mean 'first/train'"),
        ({"train": {"imge": "x"}}, r"Settings of step 'train': .* no 'imge' \(did you mean 'image'\?\)"),
        ({"imge": "x"}, r"either for all steps or by step; 'imge' \(did you mean 'image'\?\) = 'x'"),
        ({"image": "x", "train": {}}, "either for all steps or by step; 'image'"),
        ("train", "must be StepSettings or a dict"),
        (
            {"train": {"accelerator_count": 1}},
            "Settings of step .*train': accelerator_count needs an accelerator_type",
        ),
    ],
)
def test_wrong_steps_and_settings_are_named_with_the_nearest(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        apply_settings(bound(nested()), settings)


def test_a_request_above_the_compiled_limit_is_refused():
    compiled = apply_settings(bound(), {"memory_limit": "1Gi"})
    with pytest.raises(
        ConfigurationError, match="'report': memory_request 2Gi is more than memory_limit 1Gi"
    ):
        apply_settings(compiled, {"memory_request": "2Gi"})
    both = apply_settings(
        compiled,
        {"*": {"memory_request": "2Gi"}, "train": {"memory_limit": "4Gi"}, "report": {"memory_limit": "2Gi"}},
    )
    assert executors(both)["exec-train"]["container"]["resources"]["resourceMemoryLimit"] == "4Gi"


def test_settings_that_a_component_would_drop_in_silence_are_refused():
    ir = two_steps()
    ir["components"]["comp-train"]["taskConfigPassthroughs"] = [{"field": "RESOURCES"}]
    assert images(apply_settings(bound(ir), {"train": {"cpu_limit": 1, "image": "x"}}))["train"] == "x"
    with pytest.raises(
        ConfigurationError, match=r"Step 'train' .* does not take tolerations: .*KUBERNETES_TOLERATIONS"
    ):
        apply_settings(bound(ir), {"train": {"tolerations": [{"operator": "Exists"}]}})


def test_pipelines_in_pipelines_that_multiply_are_refused():
    ir = two_steps()
    inner = "comp-train"
    for level in range(40):
        ir["components"][f"comp-{level}"] = {"dag": {"tasks": {"a": task(inner), "b": task(inner)}}}
        inner = f"comp-{level}"
    ir["root"]["dag"]["tasks"] = {"a": task(inner)}
    with pytest.raises(ConfigurationError, match="more than 10000 steps"):
        apply_settings(bound(ir), {"image": "x"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image": "my image"}, "image must be the name of a container image, got 'my image'"),
        ({"cpu_limit": "2 cores"}, "cpu_limit must be an amount such as 500m"),
        ({"cpu_limit": 0}, "cpu_limit must be more than zero"),
        ({"cpu_limit": True}, "cpu_limit must be an amount"),
        ({"cpu_limit": "-1"}, "cpu_limit must be an amount"),
        ({"memory_limit": "16GB"}, "memory_limit must be an amount"),
        ({"memory_limit": "16K"}, "thousands with a small k"),
        ({"memory_limit": "512m"}, "Did you mean Mi"),
        ({"cpu_request": "1500m", "cpu_limit": 1}, "cpu_request 1500m is more than cpu_limit 1"),
        ({"accelerator_type": "T4"}, "accelerator_type must be a resource such as nvidia.com/gpu, got 'T4'"),
        ({"accelerator_count": "2"}, "accelerator_count must be a whole number"),
        ({"accelerator_count": -1}, "accelerator_count must be a whole number"),
        ({"node_selector": {"gpu": True}}, r"node_selector\['gpu'\] must be text, got True; quote it"),
        ({"node_selector": {"a b": "c"}}, "node_selector: key must be a qualified name"),
        ({"node_selector": ["gpu"]}, "node_selector must be a dict"),
        ({"labels": {"a": "b c"}}, r"labels\['a'\] must be at most 63 letters"),
        ({"annotations": {"a": 1}}, r"annotations\['a'\] must be text"),
        ({"tolerations": {"key": "a"}}, "tolerations must be a list"),
        ({"tolerations": ["a"]}, "The toleration must be a dict, got 'a'"),
        ({"tolerations": [{"kye": "a"}]}, r"'kye' \(did you mean 'key'\?\)"),
        (
            {"tolerations": [{"key": "a", "effect": "NoRun"}]},
            "effect must be one of NoSchedule, PreferNoSchedule",
        ),
        ({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}, "takes no value"),
        ({"tolerations": [{"effect": "NoSchedule"}]}, "without a key needs the operator Exists"),
        ({"tolerations": [{"key": "a", "toleration_seconds": 5}]}, "needs the effect NoExecute"),
        ({"env": {"A": 1}}, r"env\['A'\] must be text"),
        ({"env": {"1A": "b"}}, "environment variable must be letters"),
        ({"secrets_as_env": {"hub": "HF_TOKEN"}}, r"secrets_as_env\['hub'\] must be a dict"),
        ({"secrets_as_env": {"hub": {"token": "HF-TOKEN"}}}, "environment variable must be letters"),
        (
            {"secrets_as_env": {"Hub": {"token": "A"}}},
            "secrets_as_env: name must be a DNS name in lower case",
        ),
        ({"secrets_as_env": {"hub": {"a/b": "A"}}}, r"secrets_as_env\['hub'\]: key must be"),
        (
            {"env": {"A": "b"}, "secrets_as_env": {"hub": {"t": "A"}}},
            "The same environment variable is set twice: A",
        ),
        ({"persistent_volume_claims": {"c": "cache"}}, "must be an absolute path"),
        ({"persistent_volume_claims": {"c.d": "/cache"}}, "name must be at most 63 lower-case letters"),
        ({"persistent_volume_claims": {"a": "/x", "b": "/x/"}}, "The same mount path is set twice: /x"),
        (
            {"persistent_volume_claims": {"a": "/x"}, "secrets_as_volumes": {"a": "/y"}},
            "The same volume name",
        ),
        ({"persistent_volume_claims": {"a": "/dev/shm"}, "shared_memory": "1Gi"}, "The same mount path"),  # noqa: S108
        ({"image_pull_secrets": "registry"}, "image_pull_secrets must be a list of names"),
        ({"image_pull_policy": "Sometimes"}, "image_pull_policy must be one of Always, IfNotPresent, Never"),
    ],
)
def test_values_that_kubernetes_would_refuse_are_refused_first(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        StepSettings.of(settings)


def test_settings_are_read_from_a_dict_or_taken_as_they_are():
    ready = StepSettings(image="x", tolerations=[Toleration(operator="Exists")])
    assert StepSettings.of(ready) is ready
    assert (
        StepSettings.of({"image": "x", "cpu_limit": None, "tolerations": [{"operator": "Exists"}]}) == ready
    )
    assert settings_by_step({"image": "x"}) == {"*": StepSettings(image="x")}
    assert settings_by_step({"train": {"image": "x"}, "*": ready}) == {
        "train": StepSettings(image="x"),
        "*": ready,
    }


WITH_TEMPLATES = {
    "env": {"DAY": "{{ ds }}", "LEVEL": "INFO"},
    "persistent_volume_claims": {"claim": "/mnt/{{ run_id }}"},
    "annotations": {"run": "{{ run_id }}"},
    "accelerator_count": 0,
    "tolerations": ALL["tolerations"],
}
RENDERED = {
    **WITH_TEMPLATES,
    "env": {"DAY": "2026-01-02", "LEVEL": "INFO"},
    "persistent_volume_claims": {"claim": "/mnt/manual"},
    "annotations": {"run": "manual"},
}


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    ("given", "names"),
    [
        (StepSettings.of(WITH_TEMPLATES), ["*"]),
        (WITH_TEMPLATES, ["*"]),
        ({"train": StepSettings.of(WITH_TEMPLATES), "*": WITH_TEMPLATES}, ["train", "*"]),
    ],
)
def test_templates_are_rendered_wherever_settings_are_given(native, given, names):
    with DAG("dag", schedule=None, render_template_as_native_obj=native):
        tasks = [
            KubeflowPipelineOperator(task_id="pipeline", pipeline="p.yaml", step_settings=given),
            TrainJobOperator(
                task_id="train_job", component="c", arguments={}, output_path="/o", step_settings=given
            ),
        ]
    for task_ in tasks:
        task_.render_template_fields({"task": task_, "ds": "2026-01-02", "run_id": "manual"})
        assert settings_by_step(task_.step_settings) == dict.fromkeys(names, StepSettings.of(RENDERED))


def test_rendered_settings_hold_only_what_was_given():
    task_ = KubeflowPipelineOperator(
        task_id="t", pipeline="p.yaml", step_settings=StepSettings(env={"DAY": "{{ ds }}"})
    )
    task_.render_template_fields({"task": task_, "ds": "2026-01-02"})
    assert task_.step_settings == {"env": {"DAY": "2026-01-02"}}
