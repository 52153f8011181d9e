"""Kubeflow Pipelines components: thin adapters around the library.

Each module holds one component, named like the library function that it calls. ``COMPONENTS`` lists them all;
``dev/compile_components`` compiles each into the specification that the Airflow provider ships.

An artifact that may be left out is annotated ``name: Input[Dataset] = None``: KFP's executor cannot instantiate
``Optional[Input[Dataset]]`` where the driver gives the artifact no type of its own, as on a cluster it does not.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

_NAMES = (
    "prepare_sample_data",
    "import_base_model",
    "validate_dataset",
    "train_sft",
    "train_reward",
    "train_dpo",
    "train_kto",
    "train_grpo",
    "train_rloo",
    "distill",
    "merge_adapter",
    "evaluate_model",
    "register_model",
    "deploy_model",
)

__all__ = ["COMPONENTS", *_NAMES]


@cache
def _component(name: str) -> Any:
    # When it is asked for: a step that runs one component has no use for the definitions of all the others.
    return getattr(import_module(f"{__name__}.{name}"), name)


def __getattr__(name: str) -> Any:
    if name != "COMPONENTS" and name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = {each: _component(each) for each in _NAMES} if name == "COMPONENTS" else _component(name)
    globals()[name] = found
    return found
