"""Dicts of the caller into the libraries' own classes: declared types, names, and what the libraries refuse."""

from __future__ import annotations

import enum
import errno
import json
import re
from pathlib import Path
from typing import Any, Literal, Optional, Union

import httpx
import pytest
import torch
import transformers
import trl
from declared_values import CLASSES as TOY_CLASSES
from declared_values import REFUSED, VALUES
from llmops_components.errors import ModelError, SettingError
from llmops_components.models import arguments
from llmops_components.models.generation import generation_config
from llmops_components.passthrough.declared import converted, kinds_of
from llmops_components.passthrough.refusals import refusals
from llmops_components.passthrough.tables import ARGUMENTS, CLASSES, CONFIGS, index
from llmops_components.training import settings
from llmops_components.training.methods.sft import train_sft
from tiny_model import colour_rows, write_rows


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(("value", "kinds", "expected"), VALUES, ids=repr)
def test_value_becomes_what_is_declared_or_is_refused_by_name(value, kinds, expected):
    if expected is REFUSED:
        with pytest.raises(SettingError, match=r"^args"):
            converted(value, kinds, "args", TOY_CLASSES)
        return
    found = converted(value, kinds, "args", TOY_CLASSES)
    assert repr(found) == repr(expected)  # 1 and 1.0 and True are equal


@pytest.mark.parametrize(
    ("annotation", "kinds"),
    [
        (int, ["int"]),
        (Optional[float], ["float", "null"]),  # noqa: UP045 - as libraries write it
        (Union[str, list[int], None], ["str", {"list": ["int"]}, "null"]),  # noqa: UP007
        (dict[str, list[int]], [{"dict": [{"list": ["int"]}]}]),
        (bool | Literal["gaussian", "eva"], ["bool", "str"]),
        (Optional[Union[list[int], int]], ["int", {"list": ["int"]}, "null"]),  # noqa: UP045, UP007
        (Colour | str, ["str"]),
        (list[tuple[int, int]], [{"list": [{"list": ["any"]}]}]),
        (Any, ["any"]),
        (torch.dtype, ["any"]),
    ],
)
def test_annotation_is_read_as_its_alternatives(annotation, kinds):
    assert kinds_of(annotation) == kinds


def test_fields_are_those_of_the_libraries():
    chosen = {
        "trl.SFTConfig": ("learning_rate", "max_steps", "packing", "lr_scheduler_type", "report_to"),
        "peft.LoraConfig": ("r", "lora_dropout", "target_modules", "layers_to_transform"),
        "transformers.BitsAndBytesConfig": ("load_in_4bit", "llm_int8_threshold"),
        "transformers.GenerationConfig": ("temperature", "max_new_tokens", "eos_token_id", "stop_strings"),
        "budget": ("max_minutes",),
    }
    assert {name: [CLASSES[name][field] for field in fields] for name, fields in chosen.items()} == {
        "trl.SFTConfig": [["float"], ["int"], ["bool"], ["str"], ["str", {"list": ["str"]}, "null"]],
        "peft.LoraConfig": [
            ["int"],
            ["float"],
            ["str", {"list": ["str"]}, "null"],
            ["int", {"list": ["int"]}, "null"],
        ],
        "transformers.BitsAndBytesConfig": [["bool"], ["float"]],
        "transformers.GenerationConfig": [
            ["float", "null"],
            ["int", "null"],
            ["int", {"list": ["int"]}, "null"],
            ["str", {"list": ["str"]}, "null"],
        ],
        "budget": [["float", "null"]],
    }


def test_numbers_of_generation_that_the_library_wants_as_floats_are_declared_so():
    fields = CLASSES["transformers.GenerationConfig"]
    given = {name: 1 for name, kinds in fields.items() if "float" in kinds}
    assert len(given) >= 12
    known = {name: value for name, value in given.items() if name != "max_time"}
    typed = converted(known, [{"fields": ["transformers.GenerationConfig"]}], "generation_args", CLASSES)
    assert {type(value) for value in typed.values()} == {float}


def test_index_of_the_provider_is_what_the_libraries_declare():
    file = Path(__file__).parents[2] / "airflow_provider_llmops" / "components" / "index.json"
    written = json.loads(file.read_text())
    found = index()
    assert {name: written[name] for name in found} == found


def test_index_names_every_class_that_an_argument_ends_up_in():
    found = index()
    named = {
        of
        for arguments in found["arguments"].values()
        for kinds in arguments.values()
        for kind in kinds
        for of in kind.get("fields", ())
    }
    assert named <= found["classes"].keys()
    assert found["arguments"].keys() == ARGUMENTS.keys() == {*CONFIGS, "evaluate_model"}


def build(**given):
    return settings.build_config(
        trl.SFTConfig, given, what="training_args", defaults={}, fixed={"output_dir": "x", "use_cpu": True}
    )


def test_text_becomes_the_number_that_the_trainer_takes():
    config = build(learning_rate="2e-4", max_steps="20", bf16="False", save_steps=5.0, warmup_steps="0.1")
    assert (config.learning_rate, config.max_steps, config.bf16) == (2e-4, 20, False)
    assert (config.save_steps, config.warmup_steps) == (5, 0.1)
    lora = settings.build_peft({"r": "8", "lora_dropout": 0, "target_modules": "['q_proj', 'v_proj']"})
    assert (lora.r, type(lora.lora_dropout), lora.target_modules) == (8, float, {"q_proj", "v_proj"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": "fast"}, "training_args: learning_rate is 'fast', and takes a number."),
        ({"max_steps": 2.5}, "training_args: max_steps is 2.5, and takes a whole number."),
        ({"max_steps": "None"}, "training_args: max_steps is 'None', and takes a whole number."),
        ({"bf16": "sometimes"}, "training_args: bf16 is 'sometimes', and takes true or false or null."),
        (
            {"lr_scheduler_type": "cosin"},
            "training_args: lr_scheduler_type='cosin': cosin is not a valid SchedulerType",
        ),
        ({"optim": "adam_w"}, "training_args: optim='adam_w': adam_w is not a valid OptimizerNames"),
        ({"lora_r": 8}, "'lora_r' is no argument of training_args. Put it into peft_args as `r`."),
        ({"lora_alpha": 8}, "'lora_alpha' is no argument of training_args. Put it into peft_args"),
        ({"use_peft": True}, "peft_args={'peft_type': None}"),
        ({"load_in_4bit": True}, "Put it into model_args: {'quantization_config': {'load_in_4bit': ...}}."),
        ({"use_bnb_nested_quant": True}, "Put bnb_4bit_use_double_quant into model_args"),
        ({"attn_implementation": "sdpa"}, "Put it into model_args."),
        ({"quantization_config": {}}, "Put it into model_args."),
        ({"chat_template": "x"}, "Give `chat_template_path` to train_sft"),
        ({"dataset_name": "x"}, "Leave it out: the rows are the input dataset"),
        ({"model_name_or_path": "x"}, "Leave it out: the model is the input base_model."),
        ({"num_generations": 4}, "It is an argument of train_grpo, train_rloo."),
        ({"max_minutes": 4}, "Put it into budget."),
        ({"budget": {}}, "Give it beside training_args, as an argument of its own."),
        ({"learning_rat": 1}, "Unknown training_args: 'learning_rat' (did you mean 'learning_rate'?)"),
    ],
)
def test_wrong_training_argument_is_named_with_what_to_do(given, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        build(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": 1}, "'learning_rate' is no argument of peft_args. Put it into training_args."),
        ({"lora_r": 8}, "Put it into peft_args as `r`."),
        ({"load_in_8bit": True}, "{'quantization_config': {'load_in_8bit': ...}}"),
        ({"r": "many"}, "peft_args: r is 'many', and takes a whole number."),
        ({"r": 0}, "SFTTrainer refuses these settings"),
    ],
)
def test_wrong_adapter_argument_is_named_with_what_to_do(given, message, tiny_model, tmp_path):
    with pytest.raises(SettingError, match=re.escape(message)):
        train(tiny_model, tmp_path, peft_args=given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"load_in_4bit": True}, "{'quantization_config': {'load_in_4bit': ...}}"),
        ({"torch_dtype": "auto"}, "'torch_dtype' is no longer an argument. It is called `dtype` now."),
        ({"learning_rate": 1}, "Put it into training_args."),
    ],
)
def test_wrong_model_argument_is_named_with_what_to_do(given, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        arguments.check_model_args(given, transformers.LlamaConfig())


def test_generation_takes_text_and_says_what_it_does_not_take(tiny_model):
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    config = generation_config(
        {"max_new_tokens": "8", "temperature": 1, "do_sample": "true"}, model, tokenizer
    )
    assert (config.max_new_tokens, type(config.temperature), config.do_sample) == (8, float, True)
    for given, message in (
        ({"temperature": "hot"}, r"^generation_args: temperature is 'hot', and takes a number or null\."),
        ({"learning_rate": 1}, r"^Unknown generation_args: 'learning_rate'"),
        ({"max_new_tokens": -1}, r"^generation_args: .*max_new_tokens"),
    ):
        with pytest.raises(SettingError, match=message):
            generation_config(given, model, tokenizer)


def train(tiny_model, directory, **options):
    return train_sft(
        write_rows(directory / "rows.jsonl", colour_rows(4)),
        tiny_model,
        directory / "model",
        directory / "adapter",
        **{"training_args": {"bf16": False, "max_steps": 1}, **options},
    )


@pytest.mark.parametrize(
    "options",
    [
        {"peft_args": {"trainable_token_indices": [10**6]}},
        {"peft_args": {"target_modules": ["no_such_module"]}},
        {"peft_args": {"layers_to_transform": [99]}},
        {"peft_args": {"rank_pattern": {"q_proj": 0}}},
        {"training_args": {"bf16": False, "optim": "adamw_bnb_8bit", "max_steps": 1}},
        {"model_args": {"attn_implementation": "no_such_attention"}},
        {"model_args": {"attention_dropout": "a lot"}},
    ],
    ids=str,
)
def test_what_a_library_refuses_of_the_settings_is_final(tiny_model, tmp_path, options):
    with pytest.raises((SettingError, ModelError)) as refused:
        train(tiny_model, tmp_path, **options)
    assert refused.value.retryable is False


def raised_by_a_library(error: Exception) -> None:
    # As if a library had this line: what counts is the module that an exception comes from.
    exec("raise error", {"__name__": "trl.trainer", "error": error})  # noqa: S102


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        TypeError("'<' not supported"),
        KeyError("q_proj"),
        IndexError("index 5 is out of bounds"),
        RuntimeError("The size of tensor a must match"),
        ImportError("needs bitsandbytes"),
        FileNotFoundError(errno.ENOENT, "No such file", "template.jinja"),
        OSError("org/name is not a local folder and is not a valid model identifier"),
    ],
    ids=repr,
)
def test_what_a_library_raises_of_its_input_is_final(error):
    with pytest.raises(SettingError, match=r"^training_args: "), refusals("training_args"):
        raised_by_a_library(error)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("NCCL communicator was aborted"),
        OSError(errno.ENOSPC, "No space left on device"),
        ConnectionResetError(),
        httpx.ConnectTimeout("timed out"),
    ],
    ids=repr,
)
def test_what_the_machine_breaks_is_no_setting(error):
    with pytest.raises(type(error)), refusals("training_args"):
        raised_by_a_library(error)
    wrapped = OSError("We couldn't load the file")
    wrapped.__cause__ = error
    with pytest.raises(OSError, match="couldn't load"), refusals("training_args"):
        raised_by_a_library(wrapped)


def test_mistake_of_ours_is_no_setting():
    with pytest.raises(AttributeError), refusals("training_args"):
        exec("None.x", {"__name__": "llmops_components.training.driver"})  # noqa: S102
