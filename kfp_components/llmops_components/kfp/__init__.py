"""Kubeflow Pipelines components: thin adapters around the library.

Each module holds one component, named like the library function that it calls. ``COMPONENTS`` lists them all;
``dev/compile_components`` compiles each into the specification that the Airflow provider ships.
"""

from __future__ import annotations

from kfp.dsl.base_component import BaseComponent

from llmops_components.kfp.deploy_model import deploy_model
from llmops_components.kfp.evaluate_model import evaluate_model
from llmops_components.kfp.import_base_model import import_base_model
from llmops_components.kfp.prepare_sample_data import prepare_sample_data
from llmops_components.kfp.register_model import register_model
from llmops_components.kfp.train_sft import train_sft
from llmops_components.kfp.validate_dataset import validate_dataset

COMPONENTS: dict[str, BaseComponent] = {
    "prepare_sample_data": prepare_sample_data,
    "import_base_model": import_base_model,
    "validate_dataset": validate_dataset,
    "train_sft": train_sft,
    "evaluate_model": evaluate_model,
    "register_model": register_model,
    "deploy_model": deploy_model,
}

__all__ = ["COMPONENTS", *COMPONENTS]
