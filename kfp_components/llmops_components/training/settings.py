"""Configurations of TRL, PEFT and Transformers from the plain dicts that a pipeline hands over."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from llmops_components.errors import SettingError
from llmops_components.passthrough.refusals import culprits, refusals
from llmops_components.passthrough.tables import (
    LORA,
    PROMPT_TUNING,
    check_names,
    qualified,
    typed,
)
from llmops_components.processes import process_count

PEFT_TYPES = ("LORA", "PROMPT_TUNING")

# Kept small on disk: training can go on from the last checkpoint, earlier ones are of no use to a pipeline.
CHECKPOINT_DEFAULTS: dict[str, Any] = {"save_strategy": "steps", "save_steps": 0.1, "save_total_limit": 1}
# No schedule but that of the minutes; the Trainer saves at the last step as well.
FOR_A_RETRY: dict[str, Any] = {"save_steps": 10**9, "save_total_limit": 1}
_SCHEDULES = ("steps", "epoch")


def build_config(
    config_class: type,
    given: Mapping[str, Any] | None,
    *,
    what: str,
    defaults: Mapping[str, Any],
    fixed: Mapping[str, Any],
) -> Any:
    """A configuration dataclass from the caller's dict.

    Args:
        config_class: For example ``trl.SFTConfig``.
        given: The caller's values; unknown names are errors.
        what: Name of the argument that ``given`` came in, for messages.
        defaults: Values used where the caller gives none.
        fixed: Values that the component sets itself; the caller may not.
    """
    given = dict(given or {})
    if taken := sorted(set(given) & set(fixed)):
        raise SettingError(f"{what}: {', '.join(taken)} cannot be set, the component sets it. Leave it out.")
    name = qualified(config_class)
    names = {field.name for field in dataclasses.fields(config_class) if field.init} - set(fixed)
    check_names(given, names, what, name)
    given = typed(given, what, name)

    def build(some: Mapping[str, Any]) -> Any:
        with refusals(what):
            return config_class(**{**defaults, **some, **fixed})

    try:
        return build(given)
    except SettingError as error:
        raise SettingError(_naming_culprits(str(error), what, given, build)) from error.__cause__


def _naming_culprits(
    message: str, what: str, given: Mapping[str, Any], build: Callable[[Mapping[str, Any]], Any]
) -> str:
    """An error's message with the names of the values that it is about."""

    def builds(some: Mapping[str, Any]) -> bool:
        try:
            build(some)
        except Exception:  # whatever it is, it does not work without the one left out either
            return False
        return True

    reason = message.removeprefix(f"{what}: ")
    named = ", ".join(f"{name}={given[name]!r:.80}" for name in culprits(given, reason, builds))
    return f"{what}: {named}: {reason}" if named else message


def training_defaults(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Training arguments that suit a pipeline step, whichever the trainer; the caller's values win."""
    import torch

    on_gpu = torch.cuda.is_available()

    defaults: dict[str, Any] = {
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 0.02,  # about fifty lines, however long the run is
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # or a diverged loss is logged as the last good one
        # All that is trained takes part in each loss. Several processes need not look for what does not, which costs
        # a walk through the graph for every batch.
        "ddp_find_unused_parameters": False,
    }
    if not on_gpu:
        defaults |= {"use_cpu": True, "dataloader_pin_memory": False}
    if decides_on_recomputing(given):
        # One process tries without, which is up to 1.7 times as fast. Several cannot try again where memory runs out.
        defaults["activation_checkpointing"] = on_gpu and process_count() > 1
    return defaults


def decides_on_recomputing(given: Mapping[str, Any] | None) -> bool:
    """Whether it is left to us if activations are computed anew instead of being kept.

    Args:
        given: The caller's training arguments.
    """
    return not {"activation_checkpointing", "gradient_checkpointing"} & set(given or {})


def checkpoint_defaults(given: Mapping[str, Any], judged_by: str | None) -> dict[str, Any]:
    """When checkpoints are saved, and, where there are rows held out, that the best one is taken in the end.

    For that each checkpoint has to be evaluated. A caller who plans both saving and evaluating decides that alone.

    Args:
        given: The caller's training arguments.
        judged_by: Figure of the evaluation by which checkpoints are compared; None without rows held out.
    """
    if judged_by is None or not given.get("load_best_model_at_end", True):
        return CHECKPOINT_DEFAULTS
    plans = [plan for plan in ("save", "eval") if {f"{plan}_strategy", f"{plan}_steps"} & given.keys()]
    if len(plans) == 2:
        return CHECKPOINT_DEFAULTS | {"metric_for_best_model": judged_by}
    plan = plans[0] if plans else "save"
    strategy = given.get(f"{plan}_strategy", "steps")
    if strategy not in _SCHEDULES:
        return CHECKPOINT_DEFAULTS
    steps = given.get(f"{plan}_steps", CHECKPOINT_DEFAULTS["save_steps"])
    return CHECKPOINT_DEFAULTS | {
        "save_strategy": strategy,
        "save_steps": steps,
        "save_total_limit": 2,  # the best and the last; of 1 the Trainer deletes the last one at its end
        "eval_strategy": strategy,
        "eval_steps": steps,
        "load_best_model_at_end": True,
        "metric_for_best_model": judged_by,
    }


def fixed_args(output_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Training arguments that a component sets itself. Publishing is another step's job, and its token a secret."""
    return {
        "output_dir": str(output_dir),
        "model_init_kwargs": None,
        "resume_from_checkpoint": None,
        "push_to_hub": False,
        "hub_token": None,
    }


def build_peft(peft_args: Mapping[str, Any] | None, task_type: str = "CAUSAL_LM") -> Any | None:
    """The adapter's configuration, or None for training all weights.

    Args:
        peft_args: Keyword arguments of ``peft.LoraConfig``, or with ``{"peft_type": "PROMPT_TUNING"}`` those of
            ``peft.PromptTuningConfig``; ``{"peft_type": None}`` trains all weights.
        task_type: ``CAUSAL_LM``, or ``SEQ_CLS`` for a reward model, whose new head is then trained as well.
    """
    from peft import LoraConfig, PromptTuningConfig

    given = typed(peft_args, "peft_args", LORA, PROMPT_TUNING)
    kind = given.pop("peft_type", "LORA")
    if kind is None:
        if given:
            raise SettingError(
                f"peft_args: {', '.join(given)} has no effect with peft_type=None (all weights)."
            )
        return None
    if kind not in PEFT_TYPES:
        raise SettingError(
            f"peft_args: peft_type={kind!r} is not supported. Use {' or '.join(map(repr, PEFT_TYPES))}, or None for "
            "all weights."
        )
    fixed = {"task_type": task_type}
    if kind == "PROMPT_TUNING":
        defaults: dict[str, Any] = {"num_virtual_tokens": 20}
        return build_config(PromptTuningConfig, given, what="peft_args", defaults=defaults, fixed=fixed)
    # https://thinkingmachines.ai/blog/lora/: all linear layers, alpha 32, and ten times the rate of full training.
    defaults = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
    return build_config(LoraConfig, given, what="peft_args", defaults=defaults, fixed=fixed)
