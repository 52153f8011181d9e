"""Which class of a library each dict of a component ends up in, and where a name belongs that it does not have.

``dev/compile_components`` writes :func:`index` beside the compiled components, where the provider reads it: so a wrong
value or name is answered before anything runs.
"""

from __future__ import annotations

import importlib
from collections import ChainMap
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from llmops_components.errors import SettingError, check_known
from llmops_components.passthrough.code import KERNELS, MODULES, SWITCHES, refuse_code
from llmops_components.passthrough.declared import Fields, Kinds, converted, fields_of
from llmops_components.passthrough.renamed import ELSEWHERE, REPLACED
from llmops_components.passthrough.training import Budget, TrackingSettings, TrainingOptions
from llmops_components.passthrough.trainings import TRAININGS

# Each training component's class of arguments in TRL.
CONFIGS = {component: f"trl.{method.config}" for component, method in sorted(TRAININGS.items())}
BASE = "transformers.TrainingArguments"
LORA, PROMPT_TUNING = "peft.LoraConfig", "peft.PromptTuningConfig"
QUANTIZATION, GENERATION = "transformers.BitsAndBytesConfig", "transformers.GenerationConfig"
FROM_PRETRAINED = "from_pretrained"
OWN: dict[str, type] = {"budget": Budget, "tracking": TrackingSettings}
# Keyword arguments of `from_pretrained` that make sense for a model on disk; it takes **kwargs, so there is no
# signature to ask. Fields of the model's own config (for example `attention_dropout`) are accepted as well.
MODEL_ARGS: dict[str, Kinds] = {
    "attn_implementation": ["any"],
    "device_map": ["any"],
    "dtype": ["str"],
    "max_memory": ["any"],
    "offload_folder": ["str"],
    "quantization_config": [{"fields": [QUANTIZATION]}],
    "trust_remote_code": ["bool"],
    "use_kernels": ["bool"],
}
# Classes that take more than they declare.
OPEN = (FROM_PRETRAINED,)
_TRAINING: dict[str, Kinds] = {
    "peft_args": [{"fields": [LORA, PROMPT_TUNING]}],
    "model_args": [{"fields": [FROM_PRETRAINED]}],
    "budget": [{"fields": ["budget"]}],
    "tracking": [{"fields": ["tracking"]}],
}
_OF_A_TRAINING = ("training_args", *_TRAINING, "quantization_config")
REWARDS: Kinds = [{"dict": ["float", {"dict": ["any"]}]}]
ARGUMENTS: dict[str, dict[str, Kinds]] = {
    **{
        component: {"training_args": [{"fields": [config]}], **_TRAINING}
        | ({"rewards": REWARDS} if TRAININGS[component].takes_rewards else {})
        for component, config in CONFIGS.items()
    },
    "evaluate_model": {"generation_args": [{"fields": [GENERATION]}]},
}


NAMES = (
    *CONFIGS.values(),
    BASE,
    LORA,
    PROMPT_TUNING,
    QUANTIZATION,
    GENERATION,
    FROM_PRETRAINED,
    *OWN,
)


class _Classes(dict[str, Fields]):
    """What each class declares of its fields. A library is imported when one of its classes is asked for."""

    def __missing__(self, name: str) -> Fields:
        self[name] = _fields(name)
        return self[name]


CLASSES = _Classes({FROM_PRETRAINED: MODEL_ARGS})


def _fields(name: str) -> Fields:
    if name in OWN:
        return fields_of(OWN[name])
    package, _, of = name.partition(".")
    found = fields_of(getattr(importlib.import_module(package), of))
    if name == GENERATION:  # its docstring, which its types come from, leaves some out
        from transformers import GenerationConfig

        taken = set(GenerationConfig().to_dict()) - {"transformers_version"}
        found |= {field: ["any"] for field in taken - found.keys() if not field.startswith("_")}
    if any(method.splits and name == f"trl.{method.config}" for method in TRAININGS.values()):
        found["per_device_train_batch_size"] = ["int", "auto"]
    if name in (LORA, PROMPT_TUNING):
        found["peft_type"] = ["str", "null"]
    if "generation_kwargs" in found:
        found["generation_kwargs"] = [{"fields": [GENERATION]}]
    return found


def qualified(declared: type) -> str:
    """The name of a class with its package, as the tables have it: ``trl.SFTConfig``."""
    return f"{declared.__module__.partition('.')[0]}.{declared.__name__}"


def typed(given: Mapping[str, Any] | None, argument: str, *names: str, **further: Kinds) -> dict[str, Any]:
    """The caller's values in the types that a class declares.

    Args:
        given: The values by name.
        argument: What they came in, for messages.
        names: The class, or several.
        further: Types of further fields.

    Raises:
        SettingError: A value is certainly not what is declared, or chooses code that is not allowed; the message names it.
    """
    if given is not None and not isinstance(given, Mapping):
        raise SettingError(f"{argument} is {given!r:.80}, and takes an object: names with their values.")
    kinds: Kinds = [{"fields": [*names, argument]}]
    refuse_code(argument, given)
    found: dict[str, Any] = converted(
        dict(given or {}), kinds, argument, ChainMap({argument: further}, CLASSES)
    )
    refuse_code(argument, found)  # what was text is an object now
    return found


def check_names(given: Iterable[str], valid: Iterable[str], argument: str, *names: str) -> None:
    """Raise :class:`SettingError` for names that a class does not have, and say what to do with them.

    Args:
        given: Names that the caller passed.
        valid: Names that are understood.
        argument: What they came in, for messages.
        names: The class, or several.
    """
    given, valid = list(given), set(valid)
    said = [
        f"{name!r} {sentence}"
        for name in given
        if name not in valid and (sentence := _answer(name, argument, *names))
    ]
    if said:
        raise SettingError(f"{argument}: {' '.join(said)}")
    check_known(given, valid, argument)


def _answer(name: str, argument: str, *names: str) -> str | None:
    for of in names:
        if sentence := answers_of(of).get(name):
            return f"is no longer an argument. {sentence}"
    if argument not in _OF_A_TRAINING:
        return None
    places = {"training_args": list(CONFIGS.values())} | {
        place: kinds[0]["fields"] for place, kinds in _TRAINING.items()
    }
    for place, of_place in places.items():
        if place != argument and any(name in CLASSES[of] for of in of_place):
            return f"is no argument of {argument}. Put it into {place}."
    if sentence := elsewhere().get(name):
        return f"is no argument of {argument}. {sentence}"
    return None


def answers_of(name: str) -> dict[str, str]:
    """What takes the place of arguments that a class once had, those that it inherited included."""
    of = name.rpartition(".")[2]
    return {**(REPLACED["TrainingArguments"] if name in CONFIGS.values() else {}), **REPLACED.get(of, {})}


@cache
def elsewhere() -> dict[str, str]:
    """Where names belong that are no field of any dict: of other classes, of TRL's command line, of the component."""
    from trl import ModelConfig, ScriptArguments

    found: dict[str, str] = {}
    shared = set.intersection(*(set(CLASSES[config]) for config in CONFIGS.values()))
    for component, config in CONFIGS.items():
        for name in set(CLASSES[config]) - shared:
            found[name] = (
                f"{found[name]}, {component}" if name in found else f"It is an argument of {component}"
            )
    found = {name: f"{sentence}." for name, sentence in found.items()}
    for name in fields_of(ScriptArguments):
        found[name] = "Leave it out: the rows are the input dataset, those held out eval_dataset."
    for name in fields_of(ModelConfig):
        if (short := name.removeprefix("lora_")) in CLASSES[LORA]:
            found[name] = f"Put it into peft_args as `{short}`."
    for name in CLASSES[QUANTIZATION]:
        found[name] = f"Put it into model_args: {{'quantization_config': {{'{name}': ...}}}}."
    for name in TrainingOptions.__annotations__:
        found[name] = "Give it beside training_args, as an argument of its own."
    return found | ELSEWHERE


def index() -> dict[str, Any]:
    """What the provider has to know of all this, as JSON."""
    return {
        "arguments": ARGUMENTS,
        "classes": {
            name: {
                "open": name in OPEN,
                "fields": dict(sorted(CLASSES[name].items())),
                "answers": dict(sorted(answers_of(name).items())),
            }
            for name in sorted(NAMES)
            if name != BASE
        },
        "elsewhere": dict(sorted(elsewhere().items())),
        "code": {"switches": SWITCHES, "kernels": list(KERNELS), "modules": MODULES},
    }
