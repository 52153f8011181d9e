"""Documents that others have written may be nested without an end: they are refused as what they are."""

import json
import shutil
from pathlib import Path

import pytest
from llmops_components.errors import MAX_CHARACTERS, DataError, InputError, ModelError
from llmops_components.json_text import MAX_DEPTH, parse_json
from llmops_components.local.values import select
from llmops_components.models.directory import check_model_directory
from llmops_components.models.embeddings import embed
from llmops_components.models.importing import import_base_model
from llmops_components.models.loading import load_chat_tokenizer
from llmops_components.models.loading import load_to_answer as load_model
from llmops_components.serving.predictor.requests import Message

DEPTHS = [MAX_DEPTH + 1, 990, 100_000]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("depth", DEPTHS)
def test_text_that_is_nested_too_deeply_is_no_json(depth):
    for text in (nested(depth), nested(depth).encode(), '{"a":' * depth + "1" + "}" * depth):
        with pytest.raises(json.JSONDecodeError, match=f"^Nested more than {MAX_DEPTH} deep"):
            parse_json(text)


@pytest.mark.parametrize("text", ["1", "[]", '{"a": [1, {"b": null}]}', nested(MAX_DEPTH)])
def test_other_text_is_what_it_says(text):
    assert parse_json(text) == json.loads(text)


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "given"))


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_model_whose_settings_are_nested_too_deeply_is_refused(name, depth, model, tmp_path):
    (model / name).write_text(f'{{"model_type": "llama", "a": {nested(depth)}}}')
    for use in (
        lambda: check_model_directory(model),
        lambda: embed(["a"], model),
        lambda: import_base_model(tmp_path / "model", source=str(model)),
    ):
        with pytest.raises(
            ModelError, match=rf"^{name} of the model is not valid JSON: Nested more than 200 deep"
        ):
            use()


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json"])
def test_model_whose_tokenizer_is_nested_too_deeply_is_refused(name, model):
    (model / name).write_text(f'{{"model_type": "llama", "a": {nested(100_000)}}}')
    for use in (load_model, load_chat_tokenizer):
        with pytest.raises(ModelError, match="cannot be loaded: "):
            use(model)


def test_index_of_weights_that_is_nested_too_deeply_is_refused(model):
    (model / "model.safetensors.index.json").write_text(nested(100_000))
    with pytest.raises(ModelError, match="is not a safetensors index"):
        check_model_directory(model)


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": "wide"},
        {"num_hidden_layers": ["x"]},
        {"id2label": "x"},
        {"rope_parameters": "x" * 100_000},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_that_transformers_refuses_are_the_models_fault(settings, model, tmp_path):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | settings))
    for use in (lambda: load_model(model), lambda: import_base_model(tmp_path / "model", source=str(model))):
        with pytest.raises(ModelError) as refused:
            use()
        assert len(str(refused.value)) < 5000


def test_item_of_a_loop_that_is_nested_too_deeply_is_refused():
    with pytest.raises(InputError, match=r"^A loop's item cannot be read: Nested more than"):
        select(nested(100_000), 'parseJson(string_value)["a"]')


def test_arguments_of_a_tool_that_are_nested_too_deeply_stay_text():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": nested(100_000)}}
    message = Message(role="assistant", content=None, tool_calls=[call])
    assert message.for_template()["tool_calls"] == [call]


def test_message_is_cut_in_its_middle_where_it_is_long():
    said = str(DataError(f"The beginning {'x' * 100_000} what to do."))
    assert said.startswith("The beginning ") and said.endswith(" what to do.")
    assert len(said) <= MAX_CHARACTERS
