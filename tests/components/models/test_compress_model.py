"""compress_model: what torchao makes of the weights, loaded again exactly; whoever cannot take it says so, and nothing broken loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from architectures import make_model
from llmops_components.errors import DataError, ModelError, SettingError
from llmops_components.evaluation.evaluate import evaluate_model
from llmops_components.evaluation.rewards import score_rewards
from llmops_components.models.checks.check import check_model
from llmops_components.models.comparing import Probe, difference
from llmops_components.models.compression.compress import compress_model
from llmops_components.models.compression.header import order_header
from llmops_components.models.embeddings import embed
from llmops_components.models.importing import import_base_model
from llmops_components.models.loading import load_base_of_adapter, load_model, load_to_answer
from llmops_components.models.merging import merge_adapter
from llmops_components.results import digest_of
from llmops_components.serving.predictor.server import load, parse_arguments
from llmops_components.training.methods.distill import distill
from llmops_components.training.methods.reward import train_reward
from llmops_components.training.methods.sft import train_sft
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_model import colour_rows, preference_rows, write_rows

UP = "model.layers.0.mlp.up_proj"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
ROWS = [{"prompt": row["prompt"], "reference": "The sky is blue."} for row in colour_rows(3)]


@pytest.fixture(scope="session")
def made(talkative_model, tmp_path_factory):
    """A compressed model, and what is said of it."""
    directory = tmp_path_factory.mktemp("compressed")
    rows = write_rows(directory / "rows.jsonl", colour_rows(4))
    report = compress_model(talkative_model, directory / "model", dataset=rows)
    return directory / "model", report


@pytest.fixture(scope="session")
def compressed(made) -> Path:
    return made[0]


def family(model_type: str, tiny_model: Path, directory: Path) -> Path:
    """A tiny model of another architecture, with the tiny model's tokenizer."""
    make_model(model_type, vocab_size=400).save_pretrained(directory)
    for name in TOKENIZER_FILES:
        shutil.copyfile(tiny_model / name, directory / name)
    return directory


def compressed_by_torchao(directory: Path) -> torch.nn.Module:
    """The same by torchao itself: every nn.Linear but the head."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype="float32")
    head = model.get_output_embeddings()
    quantize_(
        model,
        Int8WeightOnlyConfig(),
        filter_fn=lambda module, name: isinstance(module, torch.nn.Linear) and module is not head,
    )
    return model.eval()


def assert_is(directory: Path, expected: torch.nn.Module) -> None:
    """A written model has the tensors of another one, and answers exactly like it."""
    loaded, tokenizer = load_model(directory, dtype="float32", compressed=True)
    found, weights = loaded.state_dict(), expected.state_dict()
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        assert type(found[name]) is type(weight), name
        for part in ("qdata", "scale", "zero_point"):
            if hasattr(weight, part):
                assert torch.equal(getattr(found[name], part), getattr(weight, part)), name
        if type(weight) is torch.Tensor:
            assert torch.equal(found[name], weight), name
    probe = Probe.of(expected, len(tokenizer))
    assert torch.equal(Probe.of(loaded.eval(), len(tokenizer)).logits, probe.logits)


def test_weights_are_those_of_torchao_and_both_models_are_measured(made, talkative_model):
    directory, report = made
    assert_is(directory, compressed_by_torchao(talkative_model))
    before, after = ((path / "model.safetensors").stat().st_size for path in (talkative_model, directory))
    metrics = report.metrics
    assert (metrics["base_weight_bytes"], metrics["weight_bytes"]) == (before, after)
    assert after < before / 2
    assert 0.7 < metrics["compressed_share"] < 0.8
    assert 0 < metrics["logit_difference"] < 0.1
    assert 0 < abs(metrics["loss"] - metrics["base_loss"]) < 0.2
    assert (
        min(metrics[f"{of}{name}"] for of in ("", "base_") for name in ("tokens_per_second", "load_seconds"))
        > 0
    )
    assert report.details == {
        "method": "int8",
        "dtype": "float32",
        "uncompressed": {"Embedding": 383 * 64, "LlamaRMSNorm": 5 * 64},
        "tied_head": True,
    }


def test_loss_is_that_of_transformers(made, talkative_model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(talkative_model)
    model = AutoModelForCausalLM.from_pretrained(talkative_model, dtype="float32")
    total, tokens = 0.0, 0
    for row in colour_rows(4):
        text = tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False)
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        total += float(model(input_ids=ids, labels=ids).loss.detach()) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    assert made[1].metrics["base_loss"] == pytest.approx(total / tokens, rel=1e-5)


@pytest.mark.parametrize("model_type", ["mistral", "gemma3_text", "opt", "qwen3_moe"])
def test_other_families_are_compressed_as_torchao_does_it(model_type, tiny_model, tmp_path):
    base = family(model_type, tiny_model, tmp_path / "base")
    report = compress_model(base, tmp_path / "model")
    assert_is(tmp_path / "model", compressed_by_torchao(base))
    assert report.metrics["weight_bytes"] < report.metrics["base_weight_bytes"]
    experts = [finding for finding in report.findings if "Most of the model is left as it is" in finding]
    assert bool(experts) == (model_type == "qwen3_moe")  # whose experts are no nn.Linear


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        (
            "gpt2",
            r"Nothing of GPT2LMHeadModel .* can be compressed.* Its parameters are in Conv1D \(25,152\)",
        ),
        ("mamba", r"MambaForCausalLM .* cannot compute with weights compressed by int8"),
        ("bert", r"BertLMHeadModel .* is no causal language model"),
    ],
)
def test_family_that_cannot_be_compressed_is_refused(model_type, message, tiny_model, tmp_path):
    base = family(model_type, tiny_model, tmp_path / "base")
    with pytest.raises(ModelError, match=message):
        compress_model(base, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_same_model_compressed_again_has_the_same_digest(compressed, talkative_model, tmp_path):
    # What is noted in the file comes in another order in every process.
    file = shutil.copyfile(compressed / "model.safetensors", tmp_path / "model.safetensors")
    with safe_open(file, framework="pt") as weights:
        notes = dict(reversed(list(weights.metadata().items())))
    save_file(load_file(file), file, metadata=notes)
    order_header(Path(file))
    assert digest_of(file) == digest_of(compressed / "model.safetensors")
    compress_model(talkative_model, tmp_path / "again")
    assert digest_of(tmp_path / "again") == digest_of(compressed)


def test_header_of_another_length_is_put_in_order_too(tmp_path):
    file, tensor = tmp_path / "model.safetensors", torch.arange(6.0).reshape(2, 3)
    save_file({"b": tensor, "a": tensor + 1}, file, metadata={"z": "1", "a": "2"})
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    spaced = json.dumps(json.loads(content[8 : 8 + length])).encode()  # with spaces
    spaced += b" " * (-len(spaced) % 8)
    file.write_bytes(len(spaced).to_bytes(8, "little") + spaced + content[8 + length :])
    order_header(file)
    assert len(file.read_bytes()) < len(spaced) + 8 + 48
    assert [torch.equal(load_file(file)[name], tensor + add) for name, add in (("b", 0), ("a", 1))] == [
        True
    ] * 2
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.safetensors"]


def test_origin_licence_and_card_come_along(talkative_model, tmp_path):
    base = Path(shutil.copytree(talkative_model, tmp_path / "base"))
    (base / "README.md").write_text(
        "---\nlicense: other\nlicense_name: acme\ntags:\n- chat\n---\n\n# Tiny\n\nIt is tiny.\n"
    )
    (base / "provenance.json").write_text('{"component": "train_sft"}')
    (base / "LICENSE.txt").write_text("Do as you like.")
    compress_model(base, tmp_path / "model", dtype="bfloat16")
    made = tmp_path / "model"
    provenance = json.loads((made / "provenance.json").read_text())
    assert provenance["component"] == "compress_model"
    assert provenance["base_model"] == {
        "digest": digest_of(base)[0],
        "provenance": {"component": "train_sft"},
    }
    assert provenance["compression"]["method"] == "int8"
    assert (provenance["dtype"], "torchao" in provenance["libraries"]) == ("bfloat16", True)
    card = (made / "README.md").read_text()
    assert card.startswith(
        "---\nlicense: other\nlicense_name: acme\ntags:\n- chat\n---\n\nWeights compressed with torchao (int8)"
    )
    assert card.endswith("# The model that was compressed\n\n# Tiny\n\nIt is tiny.\n")
    assert (made / "LICENSE.txt").read_text() == "Do as you like."
    assert load_file(made / "model.safetensors")["model.embed_tokens.weight"].dtype == torch.bfloat16
    seen = check_model(made, tmp_path / "report.json", allowed_licenses=["acme"], scan=False)
    assert (seen.passed, seen.findings) == (True, [])
    assert seen.metrics["parameters"] == 98_560  # without the scales


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_computes_in_the_type_that_is_asked_for(compressed, dtype):
    whole, tokenizer = load_model(compressed, dtype="float32", compressed=True)
    other, _ = load_model(compressed, dtype=dtype, compressed=True)
    found = Probe.of(other.eval(), len(tokenizer))
    expected = Probe.of(whole.eval(), len(tokenizer))
    assert other(input_ids=found.tokens).logits.dtype == getattr(torch, dtype)
    assert 0 < difference(expected.logits, found.logits) < 0.05


def test_it_is_evaluated_beside_the_model_that_it_was_made_from(compressed, talkative_model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    settings = {"metric_names": ["rougeL"], "generation_args": {"max_new_tokens": 4}}
    evaluate_model(talkative_model, rows, tmp_path / "base.jsonl", tmp_path / "base.html", **settings)
    report = evaluate_model(
        compressed,
        rows,
        tmp_path / "scores.jsonl",
        tmp_path / "report.html",
        baseline_scores=tmp_path / "base.jsonl",
        **settings,
    )
    assert report.comparison.metrics["rougeL"].rows_scored == 3
    model = compressed_by_torchao(talkative_model)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(compressed)
    answers = [json.loads(line)["answer"] for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    for row, answer in zip(ROWS, answers, strict=True):
        ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=4, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert tokenizer.decode(out, skip_special_tokens=True).strip() == answer


def test_it_can_be_imported_as_it_is(compressed, tmp_path):
    report = import_base_model(tmp_path / "model", source=str(compressed), dtype="auto")
    assert (report.metrics["parameters"], report.details["dtype"]) == (98_560, "int8")
    load_to_answer(tmp_path / "model")
    with pytest.raises(SettingError, match="is quantized and cannot be cast to bfloat16"):
        import_base_model(tmp_path / "other", source=str(compressed))


NO_BASE: dict[str, Callable[[Path, Path, Path], object]] = {
    "sft": lambda model, rows, out: train_sft(rows, model, out / "m", out / "a"),
    "reward": lambda model, rows, out: train_reward(
        write_rows(out / "pairs.jsonl", preference_rows(4)), model, out / "m", out / "a"
    ),
    "full": lambda model, rows, out: train_sft(
        rows, model, out / "m", out / "a", peft_args={"peft_type": None}
    ),
    "adapter": lambda model, rows, out: load_base_of_adapter(model, None, dtype="float32"),
    "rewards": lambda model, rows, out: score_rewards(model, ["a"], ["b"]),
    "embeddings": lambda model, rows, out: embed(["a text"], model),
    "compressing": lambda model, rows, out: compress_model(model, out / "m"),
}


@pytest.mark.parametrize("use", NO_BASE)
def test_it_is_no_base_for_what_needs_whole_weights(compressed, tmp_path, use):
    rows = write_rows(tmp_path / "rows.jsonl", colour_rows(4))
    message = r"is no base for .*: its weights are rounded \(int8\)\. Give the model that it was made from"
    if use == "compressing":
        message = r"is compressed already \(int8\): .* Give the model that it was made from"
    with pytest.raises(ModelError, match=message):
        NO_BASE[use](compressed, rows, tmp_path)
    assert not (tmp_path / "m").exists()


def test_it_is_no_teacher_and_no_base_to_merge_into(compressed, talkative_model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", colour_rows(4))
    with pytest.raises(ModelError, match="is no base for training, merging or scoring"):
        distill(rows, talkative_model, compressed, tmp_path / "m", tmp_path / "a")
    adapter = tmp_path / "adapter"
    from peft import LoraConfig, get_peft_model

    get_peft_model(load_model(talkative_model, dtype="float32")[0], LoraConfig(r=2)).save_pretrained(adapter)
    with pytest.raises(ModelError, match="is no base for training, merging or scoring"):
        merge_adapter(compressed, adapter, tmp_path / "m")


@pytest.fixture
def changed(compressed, tmp_path):
    """A copy whose tensors, notes on them and configuration were changed."""

    def change(edit: Callable[[dict, dict, dict], object]) -> Path:
        directory = Path(shutil.copytree(compressed, tmp_path / "changed"))
        file, config = directory / "model.safetensors", json.loads((directory / "config.json").read_text())
        with safe_open(file, framework="pt") as weights:
            notes = weights.metadata()
        tensors = load_file(file)
        edit(tensors, notes, config)
        save_file(tensors, file, metadata=notes)
        (directory / "config.json").write_text(json.dumps(config))
        return directory

    return change


def note(notes: dict, old: str, new: str) -> None:
    assert old in notes[f"{UP}.weight"]
    notes[f"{UP}.weight"] = notes[f"{UP}.weight"].replace(old, new)


def without_part(part: str) -> Callable[[dict, dict, dict], object]:
    return lambda tensors, notes, config: tensors.pop(f"{UP}._weight_{part}")


FAULTS: dict[str, tuple[Callable[[dict, dict, dict], object], str]] = {
    "no weight": (without_part("qdata"), f"the qdata of {UP}.weight is missing"),
    "no scale": (without_part("scale"), f"the scale of {UP}.weight is missing"),
    "no zero point": (without_part("zero_point"), f"the zero_point of {UP}.weight is missing"),
    "no norm": (
        lambda t, n, c: t.pop("model.norm.weight"),
        r"lacks 1 weights .* example model\.norm\.weight",
    ),
    "not noted and not there": (
        lambda t, n, c: (
            [t.pop(f"{UP}._weight_{part}") for part in ("qdata", "scale", "zero_point")],
            n.update(
                tensor_names=json.dumps([x for x in json.loads(n["tensor_names"]) if x != f"{UP}.weight"])
            ),
        ),
        rf"lacks 1 weights .* example {UP}\.weight",
    ),
    "a weight too many": (
        lambda t, n, c: t.update({"model.layers.7.mlp.up_proj.weight": torch.ones(2, 2)}),
        r"has 1 weights that its config\.json does not ask for",
    ),
    "whole weight instead": (
        lambda t, n, c: (
            [t.pop(f"{UP}._weight_{part}") for part in ("qdata", "scale", "zero_point")],
            t.update({f"{UP}.weight": torch.ones(128, 64)}),
        ),
        f"the qdata of {UP}.weight is missing",
    ),
    "another shape": (
        lambda t, n, c: (
            t.update(
                {
                    f"{UP}._weight_qdata": torch.ones(3, 5, dtype=torch.int8),
                    f"{UP}._weight_scale": torch.ones(3, 1),
                    f"{UP}._weight_zero_point": torch.zeros(3, 1, dtype=torch.int8),
                }
            ),
            note(n, "[1, 64]", "[1, 5]"),
        ),
        rf"weights of another shape .* example {UP}\.weight: \(3, 5\) instead of \(128, 64\)",
    ),
    "scale of another shape": (
        lambda t, n, c: t.update({f"{UP}._weight_scale": torch.ones(3, 1)}),
        rf"the scale of {UP}\.weight has the shape \(3, 1\) instead of \(128, 1\)",
    ),
    "another type": (
        lambda t, n, c: t.update({f"{UP}._weight_qdata": t[f"{UP}._weight_qdata"].float()}),
        f"the qdata of {UP}.weight is of type F32 instead of I8",
    ),
    "other blocks": (lambda t, n, c: note(n, "[1, 64]", "[1, 32]"), f"{UP}.weight is stored in another way"),
    "another class": (
        lambda t, n, c: note(n, "Int8Tensor", "Float8Tensor"),
        f"{UP}.weight is stored in another way",
    ),
    "rounded activations": (
        lambda t, n, c: note(n, '"act_quant_kwargs": null', '"act_quant_kwargs": {"_type": "evil"}'),
        f"{UP}.weight is stored in another way",
    ),
    "a field too many": (
        lambda t, n, c: note(n, '"reduce_range"', '"act_pre_scale": {"_type": "evil"}, "reduce_range"'),
        f"{UP}.weight is stored in another way",
    ),
    "no type of numbers": (
        lambda t, n, c: note(n, '"float32"', '"int64"'),
        f"{UP}.weight has a type that is none of",
    ),
    "no notes": (
        lambda t, n, c: (n.clear(), n.update(format="pt")),
        "does not say how its weights are compressed",
    ),
    "no note of one": (lambda t, n, c: n.pop(f"{UP}.weight"), "does not say how its weights are compressed"),
    "another way": (
        lambda t, n, c: c["quantization_config"]["quant_type"]["default"].update(
            _type="Int4WeightOnlyConfig"
        ),
        r"in a way that is not offered here \(torchao Int4WeightOnlyConfig\)",
    ),
    "compressed embeddings": (
        lambda t, n, c: c["quantization_config"].update(include_input_output_embeddings=True),
        "in a way that is not offered here",
    ),
    "not called compressed": (lambda t, n, c: c.pop("quantization_config"), "lacks 14 weights"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_model_is_refused_by_its_fault(changed, fault):
    edit, message = FAULTS[fault]
    directory = changed(edit)
    with pytest.raises(ModelError, match=message):
        load_to_answer(directory)


@pytest.mark.parametrize("fault", ["no scale", "another type", "no notes"])
def test_broken_model_passes_no_check_and_is_neither_imported_nor_served(changed, tmp_path, fault):
    edit, message = FAULTS[fault]
    directory = changed(edit)
    with pytest.raises(ModelError, match=message):
        load(parse_arguments(["--model_name=m", f"--model_dir={directory}"]))
    with pytest.raises(ModelError, match=message):
        import_base_model(tmp_path / "out", source=str(directory), dtype="auto")
    seen = check_model(directory, tmp_path / "report.json", scan=False)
    assert (seen.passed, seen.details["checks"]["weights"]) == (False, "failed")


def test_file_that_is_cut_off_is_refused(changed, tmp_path):
    directory = changed(lambda t, n, c: None)
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"Weight file model\.safetensors cannot be read"):
        load_to_answer(directory)


def test_model_in_several_files_is_read_and_a_lost_one_is_missed(talkative_model, tmp_path):
    model, tokenizer = load_model(talkative_model, dtype="float32", compress="int8")
    expected = Probe.of(model.eval(), len(tokenizer))
    model.save_pretrained(tmp_path / "model", max_shard_size="60KB")
    tokenizer.save_pretrained(tmp_path / "model")
    files = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len(files) > 1
    again, _ = load_model(tmp_path / "model", dtype="float32", compressed=True)
    assert torch.equal(Probe.of(again.eval(), len(tokenizer)).logits, expected.logits)
    files[-1].unlink()
    with pytest.raises(ModelError, match=f"lacks 1 of {len(files)} weight files"):
        load_to_answer(tmp_path / "model")


def adapter_only(directory: Path) -> None:
    (directory / "config.json").rename(directory / "adapter_config.json")


def pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def sentence_encoder(directory: Path) -> None:
    (directory / "modules.json").write_text("[]")


def reward_model(directory: Path) -> None:
    config = (directory / "config.json").read_text()
    (directory / "config.json").write_text(config.replace("ForCausalLM", "ForSequenceClassification"))


def quantized_elsewhere(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "gptq"}})
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (adapter_only, "It holds an adapter: merge it with its base model"),
        (pickled, r"pytorch_model\.bin is a pickle, which is never loaded"),
        (sentence_encoder, "is a sentence encoder, which gives vectors and no answers"),
        (reward_model, "LlamaForSequenceClassification is no causal language model"),
        (quantized_elsewhere, r"is compressed already \(gptq\)"),
    ],
)
def test_what_is_no_whole_causal_model_is_refused(tiny_model, tmp_path, change, message):
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    change(base)
    with pytest.raises(ModelError, match=message):
        compress_model(base, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "int4"}, "'int4' is not offered: torchao packs 4-bit weights for GPUs alone.* Use int8"),
        (
            {"method": "gguf"},
            "'gguf' is not offered: no maintained package converts a model to GGUF.* Use int8",
        ),
        ({"method": "int9"}, r"Unknown method: 'int9' \(did you mean 'int8'\?\)"),
        ({"dtype": "float8"}, "Unknown dtype: 'float8'"),
    ],
)
def test_settings_that_are_not_offered_are_refused(tiny_model, tmp_path, settings, message):
    with pytest.raises(SettingError, match=message):
        compress_model(tiny_model, tmp_path / "model", **settings)


def test_what_is_left_must_not_make_it_larger(tiny_model, tmp_path):
    base = family("mistral", tiny_model, tmp_path / "base")
    make_model("mistral", vocab_size=400).to(torch.bfloat16).save_pretrained(base)
    with pytest.raises(
        ModelError, match=r"does not make the model smaller.* takes float32\. Give dtype='auto'"
    ):
        compress_model(base, tmp_path / "model", dtype="float32")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (preference_rows(2), "this step needs language_modeling or prompt_completion or evaluation"),
        ([{"text": "a"}], "No row of the dataset has two tokens"),
    ],
)
def test_dataset_without_a_loss_is_refused(tiny_model, tmp_path, rows, message):
    dataset = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=message):
        compress_model(tiny_model, tmp_path / "model", dataset=dataset)


def test_conversations_need_a_chat_template(tiny_model, tmp_path):
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    (base / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match="the model's tokenizer has no chat template"):
        compress_model(base, tmp_path / "model", dataset=write_rows(tmp_path / "rows.jsonl", ROWS))
