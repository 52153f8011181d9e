"""Merge an adapter into its base model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llmops_components.errors import ModelError, check_known
from llmops_components.models import loading
from llmops_components.models.adapter_weights import merge
from llmops_components.models.comparing import Probe
from llmops_components.models.directory import ADAPTER_WEIGHTS, check_model_directory, read_settings
from llmops_components.models.outputs import check_output, new_directory
from llmops_components.models.precision import DTYPES
from llmops_components.models.provenance import (
    PROVENANCE_FILE,
    TRAINING_LOG_FILE,
    count_parameters,
    describe_base,
    library_versions,
)
from llmops_components.models.saving import write_model
from llmops_components.quiet import quiet_libraries
from llmops_components.results import StepReport, digest_of
from llmops_components.state_files import write_json


def merge_adapter(
    base_model: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    model: str | os.PathLike[str],
    *,
    dtype: str = "auto",
) -> StepReport:
    """Write a base model with an adapter's change added to its weights, as safetensors.

    Args:
        base_model: Directory of the model that the adapter was trained on.
        adapter: Directory of the PEFT adapter.
        model: Output directory.
        dtype: Type to merge and store in: ``bfloat16``, ``float16``, ``float32``, or ``auto`` for the base model's own.

    Returns:
        Metrics: ``adapter_parameters``, ``total_parameters``. Details: ``peft_type``.

    Raises:
        ModelError: The adapter is of another model, cannot be merged, or a file is missing or broken.
        SettingError: The dtype is unknown, or the output exists.
    """
    check_known([dtype], DTYPES, "dtype")
    check_output(model)
    base_directory, adapter_directory = check_model_directory(base_model), Path(adapter)
    config = _adapter_config(adapter_directory)
    base = describe_base(base_directory)
    _check_base(adapter_directory, base["digest"])

    quiet_libraries()
    task: loading.TaskType = "SEQ_CLS" if config.get("task_type") == "SEQ_CLS" else "CAUSAL_LM"
    has_tokenizer = (adapter_directory / "tokenizer_config.json").is_file()
    tokenizer = loading.load_tokenizer(adapter_directory if has_tokenizer else base_directory)
    whole = loading.load_base_of_adapter(base_directory, tokenizer, dtype=dtype, task=task)
    adapted = loading.load_adapter(whole, adapter_directory, of=base_directory)
    adapter_parameters = sum(
        parameter.numel() for name, parameter in adapted.named_parameters() if _is_adapter(name)
    )
    probe = Probe.of(adapted, len(tokenizer))
    merged = merge(adapted)
    _generate_as_trained(merged, adapter_directory)
    total = count_parameters(merged)[1]
    with new_directory(model) as directory:
        findings = write_model(merged, tokenizer, directory, probe, task=task, where=model)
        _copy_training(adapter_directory, directory, base, dtype)
    print(f"Merged {adapter_parameters:,} parameters of a {config['peft_type']} into {total:,}", flush=True)
    return StepReport(
        metrics={"adapter_parameters": adapter_parameters, "total_parameters": total},
        details={"peft_type": config["peft_type"]},
        findings=findings,
    )


def _generate_as_trained(merged: Any, adapter: Path) -> None:
    """Where generation stops, and how it samples, as the training left it."""
    if (trained := loading.load_generation_config(adapter)) is not None:
        merged.generation_config = trained
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(merged.config, name, getattr(trained, name))


def _is_adapter(name: str) -> bool:
    return "lora_" in name or "modules_to_save" in name


def _adapter_config(directory: Path) -> dict[str, Any]:
    file = directory / "adapter_config.json"
    if not file.is_file():
        raise ModelError(f"{directory} is not an adapter: it has no adapter_config.json.")
    if not (directory / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"Adapter {directory} has no {ADAPTER_WEIGHTS}. Save it with save_pretrained().")
    config = read_settings(file) or {}
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"The adapter in {directory} is a {config.get('peft_type')}, which cannot be merged into weights: only a "
            "LORA can. Load it beside its base model with peft."
        )
    return config


def _check_base(adapter: Path, digest: str) -> None:
    """An adapter fits every model of the same shape, and makes nonsense of all but its own."""
    trained_on = ((read_settings(adapter / PROVENANCE_FILE) or {}).get("base_model") or {}).get("digest")
    if trained_on and trained_on != digest:
        raise ModelError(
            f"The adapter in {adapter} was trained on another model (digest {trained_on}, the base model's is {digest}). "
            "Give the model that it was trained on."
        )


def _copy_training(adapter: Path, directory: Path, base: dict[str, Any], dtype: str) -> None:
    for name in (TRAINING_LOG_FILE,):
        if (adapter / name).is_file():
            (directory / name).write_bytes((adapter / name).read_bytes())
    write_json(
        directory / PROVENANCE_FILE,
        {
            "component": "merge_adapter",
            "base_model": base,
            "adapter": {
                "digest": digest_of(adapter)[0],
                "training": read_settings(adapter / PROVENANCE_FILE),
            },
            "dtype": dtype,
            "libraries": library_versions(),
        },
    )
