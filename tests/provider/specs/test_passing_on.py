"""What a component passes on to a library is in the library's types, or refused by name, before anything runs."""

from __future__ import annotations

import pytest
from airflow.sdk import DAG
from declared_values import CLASSES, REFUSED, VALUES

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.operators.evaluation import EvaluateModelOperator
from airflow_provider_llmops.operators.training import TrainGRPOOperator, TrainSFTOperator
from airflow_provider_llmops.specs.declared import converted
from airflow_provider_llmops.specs.passing_on import checked, is_same_release

INPUTS = {"dataset": "/d", "base_model": "/m"}


@pytest.mark.parametrize(("value", "kinds", "expected"), VALUES, ids=repr)
def test_value_becomes_what_is_declared_or_is_refused_by_name(value, kinds, expected):
    if expected is REFUSED:
        with pytest.raises(ConfigurationError, match=r"^args"):
            converted(value, kinds, "args", CLASSES)
        return
    found = converted(value, kinds, "args", CLASSES)
    assert repr(found) == repr(expected)  # 1 and 1.0 and True are equal


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.usefixtures("connections")
def test_numbers_of_templates_reach_the_component_as_numbers(native):
    with DAG("dag", schedule=None, render_template_as_native_obj=native):
        operator = TrainGRPOOperator(
            task_id="train",
            **INPUTS,
            training_args={
                "max_steps": "{{ params.steps }}",
                "temperature": "{{ params.one }}",
                "bf16": "{{ params.no }}",
            },
            peft_args={"r": "{{ params.steps }}", "target_modules": "{{ params.modules }}"},
            model_args={"quantization_config": {"load_in_4bit": "{{ not params.no }}"}},
            budget={"max_minutes": "{{ params.one }}"},
            rewards={"think_format_reward": "{{ params.half }}"},
            save_minutes="{{ params.half }}",
            processes="{{ params.one }}",
        )
    params = {"steps": 20, "one": 1, "half": 0.5, "no": False, "modules": ["q_proj", "v_proj"]}
    operator.render_template_fields({"task": operator, "params": params})
    bound = operator.bind().parameters
    kept = {name: bound[name] for name in bound if not name.endswith("_uri")}
    assert repr(dict(sorted(kept.items()))) == repr(
        {
            "budget": {"max_minutes": 1.0},
            "model_args": {"quantization_config": {"load_in_4bit": True}},
            "peft_args": {"r": 20, "target_modules": ["q_proj", "v_proj"]},
            "preset": "ddp",
            "processes": 1,
            "rewards": {"think_format_reward": 0.5},
            "save_minutes": 0.5,
            "training_args": {"max_steps": 20, "temperature": 1.0, "bf16": False},
        }
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"training_args": {"learning_rate": "fast"}},
            r"^training_args: learning_rate is 'fast', and takes a number\. Give it as such, without quotes\.$",
        ),
        (
            {"training_args": {"max_steps": True}},
            r"^training_args: max_steps is True, and takes a whole number",
        ),
        ({"peft_args": {"r": 2.5}}, r"^peft_args: r is 2\.5, and takes a whole number"),
        (
            {"model_args": {"quantization_config": {"load_in_4bit": "perhaps"}}},
            r"^model_args: quantization_config\.load_in_4bit is 'perhaps', and takes true or false",
        ),
        ({"budget": {"max_minutes": "long"}}, r"^budget: max_minutes is 'long', and takes a number"),
        (
            {"training_args": {"learning_rat": 1}},
            r"^training_args: unknown 'learning_rat' \(did you mean 'learning_rate'\?\)\. It is passed to trl\.SFTConfig",
        ),
        (
            {"training_args": {"max_seq_length": 1}},
            r"^training_args: 'max_seq_length' is no longer an argument\. It is called `max_length` now\.",
        ),
        (
            {"training_args": {"lora_r": 8}},
            r"^training_args: 'lora_r' is no argument of training_args\. Put it into peft_args as `r`\.",
        ),
        ({"training_args": {"target_modules": []}}, r"Put it into peft_args\."),
        ({"training_args": {"load_in_4bit": True}}, r"Put it into model_args: \{'quantization_config': "),
        ({"training_args": {"attn_implementation": "sdpa"}}, r"Put it into model_args\."),
        ({"training_args": {"use_peft": True}}, r"peft_args=\{'peft_type': None\}"),
        ({"training_args": {"num_generations": 4}}, r"It is an argument of train_grpo, train_rloo\."),
        ({"peft_args": {"learning_rate": 1}}, r"^peft_args: 'learning_rate' .* Put it into training_args\."),
        ({"model_args": {"torch_dtype": "auto"}}, r"^model_args: 'torch_dtype' is no longer an argument\."),
        (
            {"model_args": {"quantization_config": {"load_in_4bits": True}}},
            r"^model_args: quantization_config: unknown 'load_in_4bits' \(did you mean 'load_in_4bit'\?\)",
        ),
    ],
)
@pytest.mark.usefixtures("connections")
def test_wrong_field_is_named_before_anything_is_submitted(arguments, message):
    operator = TrainSFTOperator(task_id="train", **INPUTS, **arguments)
    with pytest.raises(ConfigurationError, match=message):
        operator.bind()


@pytest.mark.usefixtures("connections")
def test_fields_of_the_models_own_configuration_go_through():
    operator = TrainSFTOperator(
        task_id="train", **INPUTS, model_args={"attention_dropout": 0.1, "use_cache": False}
    )
    assert operator.bind().parameters["model_args"] == {"attention_dropout": 0.1, "use_cache": False}


@pytest.mark.usefixtures("connections")
def test_generation_arguments_are_checked():
    operator = EvaluateModelOperator(
        task_id="evaluate",
        model="/m",
        dataset="/d",
        generation_args={"max_new_tokens": "8", "temperature": 1},
    )
    assert repr(operator.bind().parameters["generation_args"]) == "{'max_new_tokens': 8, 'temperature': 1.0}"
    operator.generation_args = {"temperature": "hot"}
    with pytest.raises(
        ConfigurationError, match=r"^generation_args: temperature is 'hot', and takes a number or null"
    ):
        operator.bind()


def test_generation_arguments_that_their_docstring_leaves_out_go_through():
    found = checked(
        "evaluate_model", {"generation_args": {"prefill_chunk_size": 512, "begin_suppress_tokens": [1]}}
    )
    assert found == {"generation_args": {"prefill_chunk_size": 512, "begin_suppress_tokens": [1]}}


def test_arguments_of_vllm_are_left_to_it():
    given = {"training_args": {"use_vllm": True, "generation_kwargs": {"stop": ["x"], "seed": 1}}}
    assert checked("train_grpo", given) == given
    with pytest.raises(ConfigurationError, match="stop"):
        checked("train_grpo", {"training_args": {"generation_kwargs": {"stop": ["x"]}}})


def test_in_an_image_of_another_release_values_are_read_and_nothing_is_refused():
    """A newer library may have further fields, and take text where it took a number."""
    given = {"training_args": {"learning_rate": "auto", "max_steps": "20", "a_new_one": 1}}
    assert checked("train_sft", given, same_release=False) == {
        "training_args": {"learning_rate": "auto", "max_steps": 20, "a_new_one": 1}
    }


@pytest.mark.parametrize(
    ("image", "same"),
    [
        (None, True),
        ("llmops-components:0.1.0", True),
        ("registry.example.com:5000/team/components:0.1.0", True),
        ("registry.example.com:5000/team/components:0.1.0@sha256:abc", True),
        ("llmops-components:0.2.0", False),
        ("registry.example.com:5000/team/components", False),
        ("llmops-components@sha256:abc", False),
    ],
)
def test_copy_of_the_image_is_known_by_its_tag(image, same):
    assert is_same_release(image, "llmops-components:0.1.0") is same


def test_own_components_pass_through():
    assert checked("mine", {"training_args": {"x": "1"}}) == {"training_args": {"x": "1"}}
