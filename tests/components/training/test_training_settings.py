"""Configurations from plain dicts: names of old, wrong names, adapters, quantization."""

from __future__ import annotations

import dataclasses
import re

import peft
import pytest
import transformers
import trl
from llmops_components.errors import SettingError
from llmops_components.models import arguments
from llmops_components.passthrough.renamed import REPLACED
from llmops_components.passthrough.tables import MODEL_ARGS, answers_of
from llmops_components.training import settings

TRL_CONFIGS = sorted(name for name in REPLACED if hasattr(trl, name))
CLASSES = {
    **{name: getattr(trl, name) for name in TRL_CONFIGS},
    "LoraConfig": peft.LoraConfig,
    "PromptTuningConfig": peft.PromptTuningConfig,
}


def fields_of(name: str) -> set[str]:
    if name == "from_pretrained":
        return set(MODEL_ARGS)
    return {field.name for field in dataclasses.fields(CLASSES[name])}


def entries(name: str) -> dict[str, str]:
    return answers_of(f"trl.{name}" if name in TRL_CONFIGS else name)


def test_every_trainer_has_a_table():
    stable = {
        "SFTConfig",
        "RewardConfig",
        "DPOConfig",
        "KTOConfig",
        "GRPOConfig",
        "RLOOConfig",
        "DistillationConfig",
    }
    assert set(TRL_CONFIGS) == stable
    assert REPLACED.keys() - stable == {
        "TrainingArguments",
        "LoraConfig",
        "PromptTuningConfig",
        "from_pretrained",
    }


@pytest.mark.parametrize("name", [*CLASSES, "from_pretrained"])
def test_what_takes_the_place_of_an_old_argument_exists_and_the_old_one_does_not(name):
    valid = fields_of(name)
    # Arguments of one trainer that all share a table with; where a name is valid, it is never looked up.
    own = {old: text for old, text in entries(name).items() if old not in valid}
    assert {old for old in REPLACED[name] if old in valid} == set()
    named = {old: re.findall(r"`(\w+)`", text) for old, text in own.items()}
    assert {old: new for old, names in named.items() for new in names if new not in valid} == {}


@pytest.mark.parametrize("name", TRL_CONFIGS)
def test_arguments_that_all_trainers_once_had_are_gone_from_them(name):
    assert set(REPLACED["TrainingArguments"]) & fields_of(name) == set()
    assert dataclasses.fields(transformers.TrainingArguments)


@pytest.mark.parametrize(
    ("config", "old", "message"),
    [
        (
            "SFTConfig",
            "max_seq_length",
            "'max_seq_length' is no longer an argument. It is called `max_length` now.",
        ),
        ("DPOConfig", "evaluation_strategy", "It is called `eval_strategy` now."),
        ("DPOConfig", "max_prompt_length", "Set `max_length`, which counts prompt and completion together."),
        ("GRPOConfig", "max_seq_length", "Set `max_completion_length`; prompts are never cut."),
        ("RLOOConfig", "rloo_k", "It is called `num_generations` now."),
        ("RLOOConfig", "kl_coef", "It is called `beta` now."),
        ("KTOConfig", "tokenizer", "Leave it out: the tokenizer is the base model's."),
        ("RewardConfig", "warmup_ratio", "Set `warmup_steps` to a number below 1: it is the ratio then."),
    ],
)
def test_old_argument_is_answered_with_the_new_one(config, old, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        settings.build_config(
            getattr(trl, config), {old: 1}, what="training_args", defaults={}, fixed={"output_dir": "x"}
        )


def test_dtype_of_old_is_answered_for_the_model():
    config = transformers.LlamaConfig()
    with pytest.raises(
        SettingError, match=r"model_args: 'torch_dtype' is no longer an argument\. It is called `dtype`"
    ):
        arguments.check_model_args({"torch_dtype": "auto"}, config)
    arguments.check_model_args({"dtype": "auto", "attention_dropout": 0.1}, config)


def test_adapters_are_the_classes_of_peft():
    lora = settings.build_peft({"r": 4, "use_dora": True})
    assert (type(lora), lora.r, lora.use_dora, lora.task_type) == (peft.LoraConfig, 4, True, "CAUSAL_LM")
    prompt = settings.build_peft({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 7}, "SEQ_CLS")
    assert (type(prompt), prompt.num_virtual_tokens, prompt.task_type) == (
        peft.PromptTuningConfig,
        7,
        "SEQ_CLS",
    )
    assert settings.build_peft({"peft_type": None}) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"peft_type": "PROMPT_TUNING", "r": 4}, "Unknown peft_args: 'r'"),
        ({"peft_type": "LOHA"}, "Use 'LORA' or 'PROMPT_TUNING', or None for all weights"),
        ({"task_type": "SEQ_CLS"}, "task_type cannot be set"),
        ({"lora_r": 8}, "'lora_r' is no argument of peft_args. Put it into peft_args as `r`."),
        ({"load_in_4bit": True}, "Put it into model_args: {'quantization_config': {'load_in_4bit': ...}}."),
    ],
)
def test_wrong_adapter_is_named(given, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        settings.build_peft(given)


def test_quantization_without_a_gpu_is_an_error(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        SettingError, match="needs a GPU and bitsandbytes, and this machine has no CUDA device"
    ):
        arguments.build_quantization({"load_in_4bit": True})


def test_quantization_without_its_package_is_an_error(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingError, match="the package bitsandbytes is not installed"):
        arguments.build_quantization({"load_in_4bit": True})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"load_in_4bits": True}, r"'load_in_4bits' \(did you mean 'load_in_4bit'\?\)"),
        ("4bit", "has to be an object"),
    ],
)
def test_wrong_quantization_is_named(given, message):
    with pytest.raises(SettingError, match=message):
        arguments.build_quantization(given)


def test_four_bits_are_those_of_qlora(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(arguments, "precision", lambda full: ("bfloat16", {"bf16": True}))
    quantization = arguments.build_quantization({"load_in_4bit": True, "bnb_4bit_use_double_quant": False})
    assert quantization.load_in_4bit is True
    assert quantization.bnb_4bit_quant_type == "nf4"
    assert quantization.bnb_4bit_use_double_quant is False
    assert arguments.build_quantization(None) is None


@pytest.mark.parametrize(
    ("given", "planned"),
    [
        ({}, ("steps", 0.1, "steps", 0.1, True)),
        ({"save_steps": 20}, ("steps", 20, "steps", 20, True)),
        ({"eval_steps": 20}, ("steps", 20, "steps", 20, True)),
        ({"eval_strategy": "epoch"}, ("epoch", 0.1, "epoch", 0.1, True)),
        ({"save_strategy": "best"}, ("steps", 0.1, None, None, None)),
        ({"eval_strategy": "no"}, ("steps", 0.1, None, None, None)),
        ({"load_best_model_at_end": False}, ("steps", 0.1, None, None, None)),
        ({"save_steps": 20, "eval_steps": 15}, ("steps", 0.1, None, None, None)),
    ],
)
def test_checkpoints_are_judged_where_they_are_saved_unless_the_caller_plans_otherwise(given, planned):
    defaults = settings.checkpoint_defaults(given, "eval_loss")
    names = ("save_strategy", "save_steps", "eval_strategy", "eval_steps", "load_best_model_at_end")
    assert tuple(defaults.get(name) for name in names) == planned


def test_without_rows_held_out_no_checkpoint_is_the_best():
    assert settings.checkpoint_defaults({}, None) == settings.CHECKPOINT_DEFAULTS


def test_floats_of_generation_are_given_back(tmp_path):
    from trl import GRPOConfig

    config = settings.build_config(
        GRPOConfig,
        {"temperature": 1, "generation_kwargs": {"top_p": 1, "top_k": 5}, "bf16": False, "use_cpu": True},
        what="training_args",
        defaults={},
        fixed={"output_dir": str(tmp_path)},
    )
    assert (config.temperature, config.generation_kwargs) == (1.0, {"top_p": 1.0, "top_k": 5})
    assert type(config.generation_kwargs["top_p"]) is float
