"""Kubeflow Pipelines components: thin adapters around the library.

Each module holds one component, named like the library function that it calls. ``COMPONENTS`` lists them all;
``dev/compile_components`` compiles each into the specification that the Airflow provider ships.

An artifact that may be left out is annotated ``name: Input[Dataset] = None``: KFP's executor cannot instantiate
``Optional[Input[Dataset]]`` where the driver gives the artifact no type of its own, as on a cluster it does not.
"""

# ruff: noqa: F401  (COMPONENTS finds what is imported here)
from __future__ import annotations

import os

# As KFP itself does: a step, in which KFP defines no components, has a use for its own helper alone.
if os.environ.get("_KFP_RUNTIME") != "true":
    from kfp.dsl.base_component import BaseComponent

    from llmops_components.kfp.batch_inference import batch_inference
    from llmops_components.kfp.check_model import check_model
    from llmops_components.kfp.collect_feedback import collect_feedback
    from llmops_components.kfp.collect_human_labels import collect_human_labels
    from llmops_components.kfp.compare_revisions import compare_revisions
    from llmops_components.kfp.compress_model import compress_model
    from llmops_components.kfp.deploy_model import deploy_model
    from llmops_components.kfp.diff_datasets import diff_datasets
    from llmops_components.kfp.distill import distill
    from llmops_components.kfp.evaluate_model import evaluate_model
    from llmops_components.kfp.evaluate_service import evaluate_service
    from llmops_components.kfp.explain_answers import explain_answers
    from llmops_components.kfp.fetch_dataset import fetch_dataset
    from llmops_components.kfp.fetch_model import fetch_model
    from llmops_components.kfp.import_base_model import import_base_model
    from llmops_components.kfp.merge_adapter import merge_adapter
    from llmops_components.kfp.monitor_data import monitor_data
    from llmops_components.kfp.prepare_dataset import prepare_dataset
    from llmops_components.kfp.prepare_safety_probes import prepare_safety_probes
    from llmops_components.kfp.prepare_sample_data import prepare_sample_data
    from llmops_components.kfp.profile_dataset import profile_dataset
    from llmops_components.kfp.publish_dataset import publish_dataset
    from llmops_components.kfp.record_evaluation import record_evaluation
    from llmops_components.kfp.register_model import register_model
    from llmops_components.kfp.run_benchmarks import run_benchmarks
    from llmops_components.kfp.set_alias import set_alias
    from llmops_components.kfp.train_dpo import train_dpo
    from llmops_components.kfp.train_grpo import train_grpo
    from llmops_components.kfp.train_kto import train_kto
    from llmops_components.kfp.train_reward import train_reward
    from llmops_components.kfp.train_rloo import train_rloo
    from llmops_components.kfp.train_sft import train_sft
    from llmops_components.kfp.validate_dataset import validate_dataset
    from llmops_components.kfp.write_review_sheet import write_review_sheet

    COMPONENTS: dict[str, BaseComponent] = {
        name: each for name, each in sorted(globals().items()) if isinstance(each, BaseComponent)
    }

    __all__ = ["COMPONENTS", *COMPONENTS]
