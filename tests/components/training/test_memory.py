"""What a training needs is known before it is tried, and what it does not get it does without, at the same losses."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import transformers
from datasets import Dataset
from llmops_components.errors import SettingError
from llmops_components.models import device_memory
from llmops_components.models.device_memory import free_bytes
from llmops_components.training import memory
from llmops_components.training.lengths import longest_row
from llmops_components.training.memory import WouldNotFit, check_fits, saved_bytes
from llmops_components.training.methods.dpo import train_dpo
from llmops_components.training.methods.sft import train_sft
from llmops_components.training.survival import within_memory
from tiny_model import preference_rows, write_rows
from tiny_training import same_course, sft_trainer
from transformers import TrainingArguments

FAMILIES = {
    "LlamaConfig": {"num_key_value_heads": 2, "intermediate_size": 176},
    "Qwen2Config": {"num_key_value_heads": 2, "intermediate_size": 160},
    "GPT2Config": {},
    "GPTNeoXConfig": {"intermediate_size": 256},
    "Gemma2Config": {"num_key_value_heads": 2, "intermediate_size": 128, "head_dim": 16},
}
SETTINGS = {"max_steps": 4, "logging_steps": 1, "learning_rate": 1e-2}
FLOAT32 = {"dtype": "float32"}


def kept_by(model, rows: int, tokens: int) -> int:
    """Bytes that autograd keeps for a batch, weights aside."""
    own = {each.untyped_storage().data_ptr() for each in [*model.parameters(), *model.buffers()]}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(input_ids=torch.ones((rows, tokens), dtype=torch.long), use_cache=False)
    return sum(each.nbytes() for place, each in kept.items() if place not in own)


class Built:
    """As much of a trainer as is looked at."""

    def __init__(self, model, batch: int = 4, dataset: Dataset | None = None, **args) -> None:
        self.model, self.train_dataset = model, dataset
        self.accelerator = SimpleNamespace(autocast=nullcontext)
        self.args = TrainingArguments(use_cpu=True, report_to="none", per_device_train_batch_size=batch)
        for name, value in {"max_length": 256, **args}.items():
            setattr(self.args, name, value)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_adapted", [False, True], ids=["all weights", "adapter"])
def test_what_a_batch_keeps_is_what_a_few_tokens_keep_many_times(family, is_adapted):
    config = getattr(transformers, family)(
        vocab_size=99, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, **FAMILIES[family]
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    if is_adapted:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    before = torch.get_rng_state()
    row = saved_bytes(Built(model), 256)
    assert torch.equal(torch.get_rng_state(), before)
    assert row * 4 == pytest.approx(kept_by(model, 4, 256), rel=0.15)


def test_batch_that_would_not_fit_is_told_with_what_it_takes_and_what_is_free(tiny_model, monkeypatch):
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**20)
    with pytest.raises(
        WouldNotFit, match=r"a batch of 4 with up to 256 tokens each would take 0\.0\d+ GiB, and 0\.000977"
    ):
        check_fits(Built(model))
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**40)
    check_fits(Built(model))
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    check_fits(Built(model, max_length=None))  # nothing says how long rows are: it is tried


def test_longest_row_is_that_of_the_data_and_both_answers_of_a_pair_count(tiny_model, tmp_path):
    rows = Dataset.from_dict({"input_ids": [[1] * 7, [1] * 30]})
    assert longest_row(Built(None, dataset=rows)) == 30
    assert longest_row(Built(None, dataset=rows, max_length=None)) == 30
    assert longest_row(Built(None, dataset=rows, packing=True)) == 256
    pairs = Dataset.from_dict({"prompt_ids": [[1] * 5], "chosen_ids": [[1] * 6], "rejected_ids": [[1] * 2]})
    assert longest_row(Built(None, dataset=pairs)) == 22
    assert longest_row(Built(None, dataset=Dataset.from_dict({"prompt": ["a"]}))) == 256
    assert longest_row(Built(None, dataset=rows.to_iterable_dataset())) == 256
    assert longest_row(sft_trainer(tiny_model, tmp_path)) < 60


def test_memory_of_a_container_is_that_of_its_limit(monkeypatch, tmp_path):
    cpu = torch.device("cpu")
    monkeypatch.setattr(device_memory, "_CGROUP", tmp_path)
    assert free_bytes(cpu) > 2**20
    for name, text in {"max": "max", "current": "700", "stat": "anon 300\ninactive_file 400"}.items():
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    assert free_bytes(cpu) > 2**20
    (tmp_path / "memory.max").write_text("1000\n")
    assert free_bytes(cpu) == 700


def losses(model):
    log = json.loads((model / "training_log.json").read_text())
    return [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]


def test_training_for_which_the_memory_is_short_computes_activations_anew_at_the_same_losses(
    tiny_model, sft_rows, tmp_path, monkeypatch, capsys
):
    def train(name, **settings):
        return train_sft(
            sft_rows,
            tiny_model,
            tmp_path / name,
            tmp_path / f"{name}-adapter",
            training_args=SETTINGS | settings,
            model_args=FLOAT32,
        )

    plain = train("plain")
    kept = {
        "activation_checkpointing": False,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
    }
    assert plain.details["memory"] == kept and plain.findings == []
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1)
    short = train("short")
    assert short.details["memory"] == kept | {"activation_checkpointing": True}
    assert (
        "Memory did not suffice" in short.findings[0] and "activation_checkpointing=True" in short.findings[0]
    )
    assert "would take" in capsys.readouterr().out
    assert losses(tmp_path / "short") == same_course(losses(tmp_path / "plain"))
    assert "Memory did not suffice" in (tmp_path / "short" / "README.md").read_text()
    chosen = train("chosen", activation_checkpointing=False)  # the caller knows better
    assert chosen.details["memory"] == kept and chosen.findings == []


def test_pairs_are_measured_too(tiny_model, tmp_path, monkeypatch):
    rows = write_rows(tmp_path / "pairs.jsonl", preference_rows(8))
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1)
    said = train_dpo(rows, tiny_model, tmp_path / "m", tmp_path / "a", training_args=SETTINGS)
    assert said.details["memory"]["activation_checkpointing"] is True


def test_activations_go_before_the_batch(tmp_path):
    seen = []

    def build(changed):
        seen.append(changed)
        settings = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 1} | changed
        return TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **settings)

    def train(args):
        raise MemoryError

    with pytest.raises(SettingError, match="Out of memory") as raised:
        within_memory(build, train, may_recompute=True)
    anew = {"activation_checkpointing": True}
    halved = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    assert seen == [{}, anew, anew | halved]
    assert "activation_checkpointing" not in str(raised.value)  # it would not help
    seen.clear()
    with pytest.raises(SettingError, match="set activation_checkpointing=True"):
        within_memory(build, train)
    assert seen == [{}, halved]


def test_several_processes_which_cannot_try_again_compute_anew_on_a_gpu(monkeypatch):
    from llmops_components.training.settings import training_defaults

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert training_defaults({})["activation_checkpointing"] is False
    assert "activation_checkpointing" not in training_defaults({"gradient_checkpointing": True})
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert training_defaults({})["activation_checkpointing"] is True
