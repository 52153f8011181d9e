"""What chooses code is allowed by whoever runs the component, and by nobody else."""

import json
import shutil
from pathlib import Path

import pytest
from llmops_components.errors import SettingError
from llmops_components.models.directory import check_model_directory
from llmops_components.models.embeddings import embed
from llmops_components.models.loading import load_model
from llmops_components.passthrough.code import refuse_code
from llmops_components.passthrough.tables import LORA, typed

SHAPES = json.loads((Path(__file__).parent.parent / "shapes/code.json").read_text("utf-8"))


@pytest.mark.parametrize(("given", "name"), SHAPES["refused"], ids=str)
def test_argument_that_chooses_code_is_refused_and_named(given, name, monkeypatch):
    monkeypatch.delenv("LLMOPS_ALLOWED_CODE", raising=False)
    with pytest.raises(SettingError, match=r"^model_args: \w+ \w+ .*not allowed here") as refused:
        refuse_code("model_args", given)
    assert f"add {name!r} to the environment variable LLMOPS_ALLOWED_CODE" in str(refused.value)
    monkeypatch.setenv("LLMOPS_ALLOWED_CODE", f"other, {name}")
    refuse_code("model_args", given)


@pytest.mark.parametrize("given", SHAPES["kept"], ids=str)
def test_other_arguments_need_no_leave(given, monkeypatch):
    monkeypatch.delenv("LLMOPS_ALLOWED_CODE", raising=False)
    refuse_code("model_args", given)


def test_organisation_and_package_stand_for_what_is_in_them(monkeypatch):
    monkeypatch.setenv("LLMOPS_ALLOWED_CODE", "kernels-community,my")
    refuse_code("x", {"attn_implementation": "kernels-community/flash-attn3", "megatron_core": "my.module"})
    with pytest.raises(SettingError, match="'kernels-community-too/x'"):
        refuse_code("x", {"attn_implementation": "kernels-community-too/x"})


def test_model_is_not_read_before_its_code_is_allowed(tmp_path):
    with pytest.raises(SettingError, match="model_args: trust_remote_code runs code that a model brings"):
        load_model(tmp_path / "missing", {"trust_remote_code": True}, dtype="float32")


def test_adapter_names_no_module_that_is_imported_later():
    with pytest.raises(SettingError, match="peft_args: auto_mapping names a module"):
        typed({"auto_mapping": {"parent_library": "os"}}, "peft_args", LORA)


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_model_whose_configuration_names_kernels_is_refused(field, tiny_model, tmp_path, monkeypatch):
    monkeypatch.delenv("LLMOPS_ALLOWED_CODE", raising=False)
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"text_config": {field: "somebody/kernel"}}))
    with pytest.raises(
        SettingError, match=r"config\.json of model .*: (attn|experts)_implementation names kernels"
    ):
        check_model_directory(model)
    monkeypatch.setenv("LLMOPS_ALLOWED_CODE", "somebody/kernel")
    assert check_model_directory(model) == model


def test_embedding_model_whose_configuration_names_kernels_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("LLMOPS_ALLOWED_CODE", raising=False)
    (tmp_path / "config.json").write_text('{"attn_implementation": "somebody/kernel"}')
    with pytest.raises(SettingError, match=r"config\.json of model .*: attn_implementation names kernels"):
        embed(["text"], tmp_path)


def test_code_that_a_model_names_beside_what_is_built_in_is_not_run_and_needs_no_leave(tiny_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling.Mine"}}))
    assert check_model_directory(model) == model


def test_text_that_becomes_an_object_is_looked_into_as_well():
    with pytest.raises(SettingError, match="trust_remote_code runs code"):
        typed({"tokenizer_kwargs": '{"trust_remote_code": true}'}, "peft_args", "peft.PromptTuningConfig")
