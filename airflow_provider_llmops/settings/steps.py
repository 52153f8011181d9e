"""Give the steps of a pipeline their Kubernetes settings: which step gets which, and copies where steps share."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown
from airflow_provider_llmops.settings.executor import check_limits, write_config, write_container
from airflow_provider_llmops.settings.kubernetes import ALL_STEPS, StepSettings, settings_by_step
from airflow_provider_llmops.specs.ir import unused_name
from airflow_provider_llmops.specs.pipeline import BoundPipeline

# Stand-ins for what the driver does itself, making and deleting volumes; there is no container to set anything on.
_NO_CONTAINERS = ("argostub/createpvc", "argostub/deletepvc")

# Pipelines in pipelines multiply: a small file can stand for more steps than there is memory.
MAX_STEPS = 10_000

# What a component must declare to pass on, if it declares any such thing; the driver drops the rest in silence.
_PASSED_ON = {
    "RESOURCES": (
        "cpu_request",
        "cpu_limit",
        "memory_request",
        "memory_limit",
        "accelerator_type",
        "accelerator_count",
    ),
    "ENV": ("env", "secrets_as_env", "config_maps_as_env"),
    "KUBERNETES_NODE_SELECTOR": ("node_selector",),
    "KUBERNETES_TOLERATIONS": ("tolerations",),
    "KUBERNETES_VOLUMES": ("persistent_volume_claims", "secrets_as_volumes", "config_maps_as_volumes"),
}


def apply_settings(
    pipeline: BoundPipeline, settings: StepSettings | Mapping[str, Any] | None
) -> BoundPipeline:
    """Give the steps of a pipeline their Kubernetes settings.

    A step is named by its task's name, at any depth, or by its path (``inner/train``) if the name is not enough. ``"*"``
    stands for all steps; what is closer to the step wins.

    :param pipeline: is left as it is
    :param settings: for all container steps, or by step; dicts are read by :meth:`.StepSettings.of`
    :raises ConfigurationError: there is no such step, or a value that Kubernetes would refuse
    """
    if not settings:
        return pipeline
    by_step = settings_by_step(settings)
    writer = _Writer(pipeline, by_step)
    writer.check_names()
    return replace(pipeline, spec=writer.write(), platform=writer.platform or None)


class _Writer:
    """Rewrites the components from the root down; a component that is used twice with different settings is copied."""

    def __init__(self, pipeline: BoundPipeline, by_step: Mapping[str, StepSettings]) -> None:
        self.by_step = by_step
        self.ir = copy.deepcopy(pipeline.spec)
        self.platform: dict[str, Any] = copy.deepcopy(pipeline.platform or {})
        self._before = pipeline
        self._components: dict[tuple[str, tuple[str, ...]], str] = {}
        self._executors: dict[tuple[str, tuple[str, ...]], str] = {}

    def check_names(self) -> None:
        steps, others = _steps(self._before.spec)
        valid = {ALL_STEPS, *steps, *(path.rpartition("/")[2] for path in steps)}
        for name in self.by_step:
            if name not in valid and name in others:
                raise ConfigurationError(
                    f"Step {name!r} is {others[name]}, which has no settings. Steps that have: {', '.join(steps)}."
                )
        if unknown := describe_unknown(self.by_step, valid):
            raise ConfigurationError(f"The pipeline has no step {unknown}. Its steps: {', '.join(steps)}.")

    def write(self) -> dict[str, Any]:
        self._write_tasks(self.ir["root"], ())
        return self.ir

    def _write_tasks(self, component: dict[str, Any], path: tuple[str, ...]) -> tuple[str, ...]:
        """Point each task at the component with its settings; returns what the tasks point at."""
        tasks = component["dag"]["tasks"]
        for name in sorted(tasks):
            reference = tasks[name]["componentRef"]
            tasks[name]["componentRef"] = {
                **reference,
                "name": self._component(reference["name"], (*path, name)),
            }
        return tuple(tasks[name]["componentRef"]["name"] for name in sorted(tasks))

    def _component(self, name: str, path: tuple[str, ...]) -> str:
        component = copy.deepcopy(self._before.spec["components"][name])
        variant: tuple[str, ...]
        if "dag" in component:
            variant = self._write_tasks(component, path)
        else:
            variant = self._levels(path) if self._is_container(component) else ()
            _check_passed_on(component, [self.by_step[level] for level in variant], path)
            component["executorLabel"] = self._executor(component["executorLabel"], variant, path)
        return _place(self._components, self.ir["components"], name, variant, component)

    def _is_container(self, component: Mapping[str, Any]) -> bool:
        return _why_no_container(self._before.spec, component) is None

    def _levels(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """Names under which the caller gave this step settings, the most general first."""
        levels = dict.fromkeys((ALL_STEPS, path[-1], "/".join(path)))
        return tuple(level for level in levels if level in self.by_step)

    def _executor(self, label: str, variant: tuple[str, ...], path: tuple[str, ...]) -> str:
        executors = self.ir["deploymentSpec"]["executors"]
        executor = copy.deepcopy(self._before.spec["deploymentSpec"]["executors"][label])
        place = _place(self._executors, executors, label, variant, executor)
        if executors[place] is executor:
            config = self._move_platform(label, place)
            try:
                for level in variant:
                    write_container(executor["container"], self.by_step[level])
                    write_config(config, executor["container"], self.by_step[level])
                if variant:
                    check_limits(executor["container"].get("resources", {}))
            except ConfigurationError as error:
                raise ConfigurationError(f"Settings of step {'/'.join(path)!r}: {error}") from error
            if config:
                _kubernetes_executors(self.platform)[place] = config
        return place

    def _move_platform(self, label: str, place: str) -> dict[str, Any]:
        """Copy an executor's settings on every platform to its new place; returns those for Kubernetes."""
        config: dict[str, Any] = {}
        for name, platform in (self._before.platform or {}).get("platforms", {}).items():
            compiled = platform.get("deploymentSpec", {}).get("executors", {}).get(label)
            if compiled is not None:
                moved = copy.deepcopy(compiled)
                self.platform["platforms"][name]["deploymentSpec"]["executors"][place] = moved
                if name == "kubernetes":
                    config = moved
        return config


def _place(
    known: dict[tuple[str, tuple[str, ...]], str],
    target: dict[str, Any],
    name: str,
    variant: tuple[str, ...],
    value: dict[str, Any],
) -> str:
    """Name of a variant of a component or an executor, which is put there if it is new.

    The first variant keeps the name, the others get names of their own.

    :param known: names of the variants that there are, by name and variant
    :param target: where they are, by name; a new one is put there
    :param name: the compiled one's
    :param variant: what tells the variants apart
    :param value: this variant
    """
    if (name, variant) not in known:
        is_first = all(other != name for other, _ in known)
        known[name, variant] = name if is_first else unused_name(name, target)
        target[known[name, variant]] = value
    return known[name, variant]


def _steps(ir: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Paths of the container steps; and what each other task is, by name and by path."""
    steps: list[str] = []
    others: dict[str, str] = {}

    def visit(component: Mapping[str, Any], path: tuple[str, ...]) -> None:
        for name, task in sorted(component["dag"]["tasks"].items()):
            if len(steps) + len(others) > MAX_STEPS:
                raise ConfigurationError(f"The pipeline has more than {MAX_STEPS} steps.")
            target = ir["components"][task["componentRef"]["name"]]
            what = "a group of steps" if "dag" in target else _why_no_container(ir, target)
            if what is None:
                steps.append("/".join((*path, name)))
                continue
            others[name] = others["/".join((*path, name))] = what
            if "dag" in target:
                visit(target, (*path, name))

    visit(ir["root"], ())
    return steps, others


def _why_no_container(ir: Mapping[str, Any], component: Mapping[str, Any]) -> str | None:
    executor = ir["deploymentSpec"]["executors"][component["executorLabel"]]
    if "container" not in executor:
        return f"an {next(iter(executor), 'unknown executor')}"
    if executor["container"].get("image") in _NO_CONTAINERS:
        return "done by Kubeflow Pipelines itself"
    return None


def _check_passed_on(
    component: Mapping[str, Any], settings: Sequence[StepSettings], path: tuple[str, ...]
) -> None:
    passed_on = {item.get("field") for item in component.get("taskConfigPassthroughs", [])}
    if not passed_on:
        return
    for kind, names in _PASSED_ON.items():
        given = [name for name in names for item in settings if getattr(item, name) not in (None, (), [], {})]
        if given and kind not in passed_on:
            raise ConfigurationError(
                f"Step {'/'.join(path)!r} hands its settings on and does not take {', '.join(given)}: its component would "
                f"need {kind} among its task_config_passthroughs."
            )


def _kubernetes_executors(platform: dict[str, Any]) -> dict[str, Any]:
    kubernetes = platform.setdefault("platforms", {}).setdefault("kubernetes", {})
    executors: dict[str, Any] = kubernetes.setdefault("deploymentSpec", {}).setdefault("executors", {})
    return executors
