"""Whoever loads a model holds every weight against its config: missing, without a place, of another shape."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from pathlib import Path

import llmops_components
import pytest
import torch
from architectures import make_model
from llmops_components.errors import ModelError
from llmops_components.models.embeddings import embed
from llmops_components.models.importing import import_base_model
from llmops_components.models.loading import (
    check_all_weights,
    load_adapter,
    load_encoder,
    load_model,
    load_to_answer,
)
from llmops_components.models.precision import answering, half, precision, serving
from llmops_components.serving.predictor.server import load, parse_arguments
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

NORM, UP = "layers.1.post_attention_layernorm.weight", "layers.1.mlp.up_proj.weight"


def _serve(directory: Path) -> None:
    load(parse_arguments(["--model_name=m", f"--model_dir={directory}"]))


DOORS: dict[str, Callable[[Path], object]] = {
    "training": lambda directory: load_model(directory, dtype="float32"),
    "reward model": lambda directory: load_model(directory, dtype="float32", task="SEQ_CLS", new_head=True),
    "evaluation": load_to_answer,
    "predictor": _serve,
    "embeddings": lambda directory: embed(["a text"], directory),
    "import": lambda directory: import_base_model(directory.parent / "out", source=str(directory)),
}
FAULTS = {
    "missing": (lambda t: t.pop(f"model.{UP}"), rf"lacks 1 weights .* for example (model\.)?{UP}"),
    "without a place": (
        lambda t: t.update({"model.layers.7.mlp.up_proj.weight": t[f"model.{UP}"].clone()}),
        r"has 1 weights that its config\.json does not ask for, for example (model\.)?layers\.7",
    ),
    "of another shape": (
        lambda t: t.update({f"model.{NORM}": torch.ones(3)}),
        rf"has 1 weights of another shape .* for example (model\.)?{NORM}: \(3,\) instead of \(\d+,\)\. Save the whole",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("door", DOORS)
def test_weights_that_are_not_those_of_the_config_are_refused(tiny_model, tmp_path, door, fault):
    edit, message = FAULTS[fault]
    directory = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        DOORS[door](directory)
    assert not (tmp_path / "out").exists()


def test_adapter_with_a_weight_of_another_shape_or_without_a_place_is_refused(tiny_model, tmp_path):
    base = load_model(tiny_model, dtype="float32")[0]
    get_peft_model(base, LoraConfig(r=2, target_modules="all-linear")).save_pretrained(tmp_path / "adapter")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    name = next(name for name in weights if "up_proj.lora_A" in name)
    for wrong, message in (
        (weights | {name: torch.zeros(2, 3)}, "does not fit the model in BASE: RuntimeError"),
        ({of: tensor for of, tensor in weights.items() if of != name}, f"1 weights are missing .* {name}"),
        (weights | {f"{name}.twice": weights[name].clone()}, f"1 weights are missing or .* {name}.twice"),
    ):
        save_file(wrong, tmp_path / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=message):
            load_adapter(load_model(tiny_model, dtype="float32")[0], tmp_path / "adapter", of="BASE")


def test_encoder_may_have_a_head_beside_it_and_no_pooler(tiny_model, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_model / name).read_bytes())
    make_model("bert").save_pretrained(tmp_path)  # with the head for a language, without the pooler
    encoder, _ = load_encoder(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    asked = {name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith("pooler.")}
    assert sorted(asked) == sorted(name.removeprefix("bert.") for name in stored if name.startswith("bert."))
    assert all(torch.equal(tensor, stored[f"bert.{name}"]) for name, tensor in asked.items())


def test_import_takes_what_is_no_language_model_as_it_is(tiny_model, tmp_path):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    source = Path(shutil.copytree(tiny_model, tmp_path / "judge"))
    judge = AutoModelForSequenceClassification.from_config(
        AutoConfig.from_pretrained(tiny_model, num_labels=1)
    )
    judge.save_pretrained(source)
    report = import_base_model(tmp_path / "model", source=str(source), dtype="auto")
    assert report.details["architecture"] == type(judge).__name__
    assert load_file(tmp_path / "model" / "model.safetensors").keys() == judge.state_dict().keys()


def test_trust_in_a_models_code_that_is_switched_off_in_words_is_off(tiny_model, tmp_path):
    directory = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    config = (
        (directory / "config.json").read_text().replace("{", '{"auto_map": {"AutoConfig": "evil.Config"},', 1)
    )
    (directory / "config.json").write_text(config)
    (directory / "evil.py").write_text("raise SystemExit('ran')")
    model, _ = load_model(directory, {"trust_remote_code": "false"}, dtype="float32")
    assert type(model).__module__.startswith("transformers.")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, ("bfloat16", "auto", "bfloat16", ("bfloat16", {"bf16": True}))),
        ({"avx512_bf16": False, "avx2": True}, (None, "float32", "float32", ("float32", {"bf16": False}))),
    ],
)
def test_one_policy_says_which_type_weights_take(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (half(), answering(), serving(), precision(full=False)) == expected
    assert precision(full=True) == (
        "float32",
        {"bf16": "avx512_bf16" in capabilities and capabilities["avx512_bf16"]},
    )


def test_one_module_loads_models_and_tokenizers():
    package = Path(llmops_components.__file__).parent
    found = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("from_pretrained", "from_config"):
                found.add(file.relative_to(package).as_posix())
    assert found == {"models/loading.py"}


def test_encoder_without_its_pooler_is_imported(tmp_path):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    check_all_weights(tmp_path)


def test_masks_that_old_models_saved_beside_their_weights_are_no_weights(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    old = {"transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(load_file(file) | old, file, metadata={"format": "pt"})
    check_all_weights(tmp_path)
