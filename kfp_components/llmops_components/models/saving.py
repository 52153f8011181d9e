"""Writing what was trained: the adapter, and the whole model with the adapter merged in, each read again and compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from llmops_components.errors import ModelError
from llmops_components.models.adapter_weights import merge
from llmops_components.models.comparing import Probe
from llmops_components.models.loading import TaskType, load_adapter, load_base_of_adapter, load_model
from llmops_components.models.outputs import new_directory
from llmops_components.models.precision import precision
from llmops_components.models.provenance import PROVENANCE_FILE, TRAINING_LOG_FILE, library_versions
from llmops_components.state_files import write_json
from llmops_components.uris import hub_name

_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def save_trained(
    trained: Any,
    tokenizer: Any,
    run: Mapping[str, Any],
    log: list[dict[str, Any]],
    *,
    base_model: Path,
    model_args: Mapping[str, Any] | None = None,
    model: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    task: TaskType = "CAUSAL_LM",
    card: Callable[[Path], Any],
) -> list[str]:
    """Write the adapter, if there is one, and the whole model with the adapter merged in.

    The trained model's weights are gone afterwards, so that there is memory to read what was written.

    Args:
        trained: The trainer's model.
        tokenizer: Its tokenizer.
        run: What ``provenance.json`` says of the run.
        log: The trainer's log, kept beside the model for charts.
        base_model: Directory that the model was loaded from.
        model_args: What was passed to ``from_pretrained``.
        model: Output directory of the merged model.
        adapter: Output directory of the adapter.
        task: Kind of model.
        card: Writes the model card into the directory of the model, or of the adapter where there is only that.

    Returns:
        Findings: what could not be written or compared, and why.

    Raises:
        ModelError: What was written is not what was trained. The adapter is kept if it is right.
    """
    from accelerate.utils import extract_model_from_parallel
    from peft import PeftModel

    # Without the training's mixed precision, in which only the trainer's own copy computes.
    trained = extract_model_from_parallel(trained, keep_fp32_wrapper=False)
    probe = Probe.of(trained, len(tokenizer))
    findings: list[str] = []

    def describe(directory: Path) -> None:
        write_json(directory / TRAINING_LOG_FILE, log)
        write_json(directory / PROVENANCE_FILE, {**run, "libraries": library_versions()})

    # Both appear together at the end: an adapter left by a run killed while merging would block its resumption.
    with ExitStack() as outputs:
        if isinstance(trained, PeftModel):
            directory = outputs.enter_context(new_directory(adapter))
            _save_adapter(trained, tokenizer, directory, run)
            describe(directory)
            special = {name: getattr(trained.config, name, None) for name in _SPECIAL_TOKENS}
            generation = getattr(trained, "generation_config", None)
            quantized = _is_quantized(trained)
            dtype = precision(full=False)[0] if quantized else str(trained.dtype).removeprefix("torch.")
            free_weights(trained)
            base = load_base_of_adapter(base_model, tokenizer, model_args=model_args, dtype=dtype, task=task)
            trained = load_adapter(base, directory, of=base_model)
            if quantized:  # whole weights answer a little otherwise
                probe = Probe.of(trained, len(tokenizer))
            else:
                findings += probe.check(trained, f"The adapter in {adapter}")
            if trained.active_peft_config.is_prompt_learning:
                card(directory)
                return [
                    *findings,
                    "A tuned prompt cannot be merged into the weights, so only the adapter was written: load it beside "
                    "its base model with peft.",
                ]
            trained = merge(trained)
            for name, token in special.items():
                setattr(trained.config, name, token)
            if generation is not None:
                trained.generation_config = generation
        try:
            with new_directory(model) as directory:
                findings += write_model(
                    trained,
                    tokenizer,
                    directory,
                    probe,
                    task=task,
                    where=model,
                    trust_remote_code=(model_args or {}).get("trust_remote_code", False),
                )
                describe(directory)
                card(directory)
        except ModelError:
            outputs.close()  # the adapter is right, and all that there is of the training
            raise
    return findings


def write_model(
    model: Any,
    tokenizer: Any,
    directory: Path,
    probe: Probe,
    *,
    task: TaskType = "CAUSAL_LM",
    where: str | os.PathLike[str],
    trust_remote_code: bool = False,
) -> list[str]:
    """Write a whole model and its tokenizer, then read the model again, since weights are tied when they are loaded.

    Args:
        model: The model; its weights are gone afterwards.
        tokenizer: Its tokenizer.
        directory: Directory to write into.
        probe: How the model that was trained answers.
        task: Kind of model.
        where: What to call the directory in messages.
        trust_remote_code: Whether code that the model brings may run, as it did when the model was loaded.

    Returns:
        Findings: what could not be compared, and why.

    Raises:
        ModelError: The model answers otherwise, or does so once it is loaded from the directory.
    """
    model.config.use_cache = True  # the trainer switches it off for itself; generating without it is slow
    findings = probe.check(model, f"The whole model for {where}")
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    free_weights(model)
    read, _ = load_model(directory, {"trust_remote_code": trust_remote_code}, dtype="auto", task=task)
    return findings or probe.check(read, f"The model in {where}")


def free_weights(model: Any) -> None:
    """Give the memory of a model's weights back; the model is of no use afterwards."""
    if not _is_quantized(model):  # these cannot be moved, and are small
        model.to("meta")


def _is_quantized(model: Any) -> bool:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return bool(getattr(inner, "is_quantized", False))


def _save_adapter(trained: Any, tokenizer: Any, directory: Path, run: Mapping[str, Any]) -> None:
    provenance = run["base_model"]["provenance"] or {}
    config = trained.peft_config["default"]
    # PEFT records the path that the base was loaded from, which means nothing on another machine, and keeps the
    # modules in a set, whose order differs from process to process and with it the adapter's digest.
    source = str(provenance.get("source", "base_model"))
    origin = hub_name(source) or source
    config.base_model_name_or_path = origin
    trained.get_base_model().name_or_path = trained.config._name_or_path = origin  # for its model card
    # The caller may have given a regular expression.
    for name in ("target_modules", "modules_to_save"):
        if isinstance(getattr(config, name, None), set):
            setattr(config, name, sorted(getattr(config, name)))
    trained.save_pretrained(directory)
    # The training may have given it another chat template or another token to stop at.
    tokenizer.save_pretrained(directory)
    if getattr(trained, "generation_config", None) is not None:
        trained.generation_config.save_pretrained(directory)
