"""Merge an adapter into its base model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llmops_components.errors import ModelError, check_known
from llmops_components.models import loading as common
from llmops_components.models.adapter_weights import merge
from llmops_components.models.comparing import Probe
from llmops_components.models.directory import check_model_directory, read_settings
from llmops_components.models.saving import write_model
from llmops_components.results import StageReport, digest_of
from llmops_components.state_files import write_json

_WEIGHTS = "adapter_model.safetensors"


def merge_adapter(
    base_model: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    model: str | os.PathLike[str],
    *,
    dtype: str = "auto",
) -> StageReport:
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
    check_known([dtype], common.DTYPES, "dtype")
    common.check_output(model)
    base_directory, adapter_directory = check_model_directory(base_model), Path(adapter)
    config = _adapter_config(adapter_directory)
    base = common.describe_base(base_directory)
    _check_base(adapter_directory, base["digest"])

    common.quiet_libraries()
    task: common.TaskType = "SEQ_CLS" if config.get("task_type") == "SEQ_CLS" else "CAUSAL_LM"
    tokenizer = _tokenizer(adapter_directory, base_directory)
    whole = common.load_base_of_adapter(base_directory, tokenizer, dtype=dtype, task=task)
    adapted = _load_adapter(whole, adapter_directory, base_directory)
    adapter_parameters = sum(
        parameter.numel() for name, parameter in adapted.named_parameters() if _is_adapter(name)
    )
    probe = Probe.of(adapted, len(tokenizer))
    merged = merge(adapted)
    _generate_as_trained(merged, adapter_directory)
    total = common.count_parameters(merged)[1]
    with common.new_directory(model) as directory:
        findings = write_model(merged, tokenizer, directory, probe, task=task, where=model)
        _copy_training(adapter_directory, directory, base, dtype)
    print(f"Merged {adapter_parameters:,} parameters of a {config['peft_type']} into {total:,}", flush=True)
    return StageReport(
        metrics={"adapter_parameters": adapter_parameters, "total_parameters": total},
        details={"peft_type": config["peft_type"]},
        findings=findings,
    )


def _tokenizer(adapter: Path, base_model: Path) -> Any:
    """The adapter's tokenizer; the base model's if it was saved without one."""
    from transformers import AutoTokenizer

    directory = adapter if (adapter / "tokenizer_config.json").is_file() else base_model
    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # whatever a broken file makes the readers raise
        raise ModelError(
            f"The tokenizer in {directory} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def _generate_as_trained(merged: Any, adapter: Path) -> None:
    """Where generation stops, and how it samples, as the training left it."""
    from transformers import GenerationConfig

    if (adapter / "generation_config.json").is_file():
        merged.generation_config = GenerationConfig.from_pretrained(adapter)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(merged.config, name, getattr(merged.generation_config, name))


def _load_adapter(whole: Any, adapter: Path, base_model: Path) -> Any:
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    try:
        adapted = PeftModel.from_pretrained(whole, adapter, use_safetensors=True)
        with safe_open(adapter / _WEIGHTS, framework="pt") as weights:
            given = set(weights.keys())
    except Exception as error:  # whatever a broken file makes the readers raise, the adapter is what is wrong
        raise ModelError(
            f"The adapter in {adapter} does not fit the model in {base_model}: {type(error).__name__}: {error}"
        ) from error
    # PEFT only warns of weights that have no place and of places that have no weights.
    if odd := sorted(given ^ set(get_peft_model_state_dict(adapted))):
        raise ModelError(
            f"The adapter in {adapter} does not fit the model in {base_model}: {len(odd)} weights are missing or have no "
            f"place, for example {odd[0]}."
        )
    return adapted


def _is_adapter(name: str) -> bool:
    return "lora_" in name or "modules_to_save" in name


def _adapter_config(directory: Path) -> dict[str, Any]:
    file = directory / "adapter_config.json"
    if not file.is_file():
        raise ModelError(f"{directory} is not an adapter: it has no adapter_config.json.")
    if not (directory / _WEIGHTS).is_file():
        raise ModelError(f"Adapter {directory} has no {_WEIGHTS}. Save it with save_pretrained().")
    config = read_settings(file) or {}
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"The adapter in {directory} is a {config.get('peft_type')}, which cannot be merged into weights: only a "
            "LORA can. Load it beside its base model with peft."
        )
    return config


def _check_base(adapter: Path, digest: str) -> None:
    """An adapter fits every model of the same shape, and makes nonsense of all but its own."""
    trained_on = ((read_settings(adapter / common.PROVENANCE_FILE) or {}).get("base_model") or {}).get(
        "digest"
    )
    if trained_on and trained_on != digest:
        raise ModelError(
            f"The adapter in {adapter} was trained on another model (digest {trained_on}, the base model's is {digest}). "
            "Give the model that it was trained on."
        )


def _copy_training(adapter: Path, directory: Path, base: dict[str, Any], dtype: str) -> None:
    for name in (common.TRAINING_LOG_FILE,):
        if (adapter / name).is_file():
            (directory / name).write_bytes((adapter / name).read_bytes())
    write_json(
        directory / common.PROVENANCE_FILE,
        {
            "component": "merge_adapter",
            "base_model": base,
            "adapter": {
                "digest": digest_of(adapter)[0],
                "training": read_settings(adapter / common.PROVENANCE_FILE),
            },
            "dtype": dtype,
            "libraries": common.library_versions(),
        },
    )
