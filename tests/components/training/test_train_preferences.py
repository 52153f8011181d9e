"""train_reward, train_dpo and train_kto on a tiny model: what they train, what they report, what they refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from llmops_components.errors import DataError, SettingError
from llmops_components.training.methods.dpo import train_dpo
from llmops_components.training.methods.kto import train_kto
from llmops_components.training.methods.reward import train_reward
from tiny_model import colour_rows, preference_rows, taste_rows, write_rows
from tiny_training import same_course
from transformers import TrainerCallback
from weight_watch import WeightWatch

EXACT = {"bf16": False, "logging_steps": 1, "learning_rate": 5e-3, "max_steps": 8}
LEARN = {"bf16": False, "logging_steps": 10, "max_steps": 40, "per_device_train_batch_size": 8}
FLOAT32 = {"dtype": "float32"}
FULL = {"peft_type": None}
TRAINERS = {"train_reward": train_reward, "train_dpo": train_dpo, "train_kto": train_kto}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", preference_rows(32))


@pytest.fixture(scope="module")
def tastes(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("tastes") / "tastes.jsonl", taste_rows(56))


def losses(model: Path) -> list[tuple[int, float]]:
    log = json.loads((model / "training_log.json").read_text())
    return [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]


@pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
@pytest.mark.parametrize("peft_args", [None, {"use_dora": True}, FULL], ids=["lora", "dora", "full"])
def test_every_trainable_weight_moves_and_no_frozen_one(tiny_model, pairs, tmp_path, train, peft_args):
    watch = WeightWatch()
    train(
        pairs,
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=EXACT,
        peft_args=peft_args,
        model_args=FLOAT32,
        callbacks=[watch],
    )

    assert watch.moved == watch.trainable
    blocks = 2 * 7  # seven linear layers in each of two blocks
    head = int(train is train_reward)
    if peft_args is FULL:
        assert watch.frozen == set()
        assert not (tmp_path / "adapter").exists()
    else:
        parts = 3 if peft_args else 2
        assert len([name for name in watch.trainable if "lora_" in name]) == parts * blocks
        assert len(watch.trainable) == parts * blocks + head
        assert len(watch.frozen) == 20 + head  # the base model, and the new head as it was before
        assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.learns
@pytest.mark.parametrize("peft_args", [None, FULL], ids=["lora", "full"])
def test_reward_model_learns_which_answer_is_better(tiny_model, tastes, tmp_path, seed, peft_args):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    report = train_reward(
        tastes,
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=LEARN | {"learning_rate": 2e-3, "seed": seed},
        peft_args=peft_args,
        eval_dataset=tastes,
    )

    metrics = report.metrics
    assert metrics["first_loss"] == pytest.approx(math.log(2), abs=0.1)  # the head is random, and small
    assert abs(metrics["first_margin"]) < 0.2
    assert metrics["final_loss"] < 0.3
    assert (metrics["final_accuracy"], metrics["eval_accuracy"]) == (pytest.approx(1, abs=0.05), 1.0)
    assert metrics["final_margin"] > 2
    assert metrics["eval_margin"] > 2

    judge, loading = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    row = taste_rows(1)[0]
    texts = [
        tokenizer.apply_chat_template(row["prompt"] + row[key], tokenize=False)
        for key in ("chosen", "rejected")
    ]
    with torch.no_grad():
        chosen, rejected = judge(**tokenizer(texts, return_tensors="pt", padding=True)).logits[:, 0]
    assert chosen > rejected + 1


@pytest.mark.learns
@pytest.mark.parametrize("peft_args", [None, FULL], ids=["lora", "full"])
def test_dpo_margins_and_accuracies_rise(tiny_model, tastes, tmp_path, seed, peft_args):
    report = train_dpo(
        tastes,
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=LEARN | {"learning_rate": 1e-3 if peft_args else 5e-3, "seed": seed},
        peft_args=peft_args,
        eval_dataset=tastes,
    )

    metrics = report.metrics
    assert metrics["first_loss"] == pytest.approx(0.693, abs=0.001)  # the policy still is the reference
    assert metrics["first_margin"] == pytest.approx(0, abs=1e-3)
    assert metrics["final_loss"] < 0.5
    assert (metrics["final_accuracy"], metrics["eval_accuracy"]) == (1, 1)
    assert metrics["final_margin"] > 0.4
    assert metrics["eval_margin"] > 0.4


@pytest.mark.learns
@pytest.mark.parametrize("form", ["pairs", "labels"])
def test_kto_sets_good_answers_apart_from_bad_ones(tiny_model, tastes, tmp_path, seed, form):
    """Good answers all before bad ones, as in the file here, teach nothing unless they are mixed."""
    dataset = tastes
    if form == "labels":
        rows = taste_rows(56)
        dataset = write_rows(
            tmp_path / "labels.jsonl",
            [{"prompt": row["prompt"], "completion": row["chosen"], "label": True} for row in rows]
            + [{"prompt": row["prompt"], "completion": row["rejected"], "label": False} for row in rows],
        )
    report = train_kto(
        dataset,
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=LEARN | {"learning_rate": 5e-3, "seed": seed},
        eval_dataset=dataset,
    )

    metrics = report.metrics
    assert metrics["first_loss"] == pytest.approx(0.5, abs=0.001)
    assert metrics["final_loss"] < 0.49
    assert metrics["first_margin"] == pytest.approx(0, abs=1e-3)
    assert metrics["final_margin"] > 0.1
    assert metrics["final_chosen_reward"] > 0 > metrics["final_rejected_reward"]
    assert metrics["eval_margin"] > 0.1
    assert metrics["epochs"] == pytest.approx(40 * 8 / 112)  # each pair is two rows


def test_dpo_loss_trace_is_that_of_a_plain_trl_script(tiny_model, pairs, tmp_path):
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    train_dpo(
        pairs, tiny_model, tmp_path / "model", tmp_path / "adapter", training_args=EXACT, model_args=FLOAT32
    )

    plain = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32"),
        args=DPOConfig(
            output_dir=str(tmp_path / "plain"),
            use_cpu=True,
            bf16=False,
            logging_steps=1,
            learning_rate=5e-3,
            max_steps=8,
            per_device_train_batch_size=4,
            lr_scheduler_type="cosine",
            warmup_steps=0,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=load_dataset("json", data_files=str(pairs), split="train", cache_dir=str(tmp_path)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    plain.train()
    expected = [(entry["step"], entry["loss"]) for entry in plain.state.log_history if "loss" in entry]
    assert len(expected) == 8
    assert losses(tmp_path / "model") == same_course(expected)


def test_reward_loss_trace_is_that_of_a_plain_trl_script(tiny_model, pairs, tmp_path):
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
    from trl import RewardConfig, RewardTrainer

    train_reward(
        pairs, tiny_model, tmp_path / "model", tmp_path / "adapter", training_args=EXACT, model_args=FLOAT32
    )

    set_seed(42)  # the head is random; 42 is the default of RewardConfig.seed
    plain = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1, dtype="float32"),
        args=RewardConfig(
            output_dir=str(tmp_path / "plain"),
            use_cpu=True,
            bf16=False,
            logging_steps=1,
            learning_rate=5e-3,
            max_steps=8,
            per_device_train_batch_size=4,
            lr_scheduler_type="cosine",
            warmup_steps=0,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=load_dataset("json", data_files=str(pairs), split="train", cache_dir=str(tmp_path)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="SEQ_CLS"),
    )
    plain.train()
    expected = [(entry["step"], entry["loss"]) for entry in plain.state.log_history if "loss" in entry]
    assert len(expected) == 8
    assert losses(tmp_path / "model") == same_course(expected)


class StopAt(TrainerCallback):
    """Ends the training in the middle of it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
def test_training_that_was_stopped_goes_on_to_the_same_losses(tiny_model, pairs, tmp_path, train):
    settings = {"training_args": EXACT | {"save_steps": 2, "max_steps": 12}, "model_args": FLOAT32}
    train(pairs, tiny_model, tmp_path / "whole", tmp_path / "a", **settings)
    settings["checkpoints"] = tmp_path / "checkpoints"
    with pytest.raises(KeyboardInterrupt):
        train(pairs, tiny_model, tmp_path / "model", tmp_path / "b", callbacks=[StopAt(5)], **settings)
    assert not (tmp_path / "model").exists()
    report = train(pairs, tiny_model, tmp_path / "model", tmp_path / "b", **settings)
    assert report.details["resumed_from"] == "checkpoint-4"
    assert len(losses(tmp_path / "whole")) == 12
    assert losses(tmp_path / "model") == losses(tmp_path / "whole")


def test_new_head_is_trained_exactly_in_mixed_precision(tiny_model, pairs, tmp_path):
    """In 16 bit, updates smaller than a 256th of a weight are rounded away."""
    import torch

    class Types(TrainerCallback):
        def on_train_end(self, args, state, control, model, **kwargs):
            self.trained = {p.dtype for p in model.parameters() if p.requires_grad}
            self.frozen = {p.dtype for p in model.parameters() if not p.requires_grad}

    types = Types()
    train_reward(
        pairs,
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=EXACT | {"bf16": True, "max_steps": 2},
        model_args={"dtype": "bfloat16"},
        callbacks=[types],
    )
    assert (types.trained, types.frozen) == ({torch.float32}, {torch.bfloat16})


@pytest.mark.parametrize("plain", [False, True], ids=["conversational", "plain"])
@pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
def test_preferences_without_a_prompt_of_their_own_are_the_same(tiny_model, tmp_path, train, plain):
    explicit = preference_rows(8)
    if plain:
        explicit = [
            {key: "".join(message["content"] + " " for message in value) for key, value in row.items()}
            for row in explicit
        ]
    implicit = [{key: row["prompt"] + row[key] for key in ("chosen", "rejected")} for row in explicit]
    for name, rows in (("explicit", explicit), ("implicit", implicit)):
        train(
            write_rows(tmp_path / f"{name}.jsonl", rows),
            tiny_model,
            tmp_path / name,
            tmp_path / f"{name}-adapter",
            training_args=EXACT | {"max_steps": 2},
            model_args=FLOAT32,
        )
    if plain and train is not train_reward:
        # Where a plain prompt ends is guessed from where the answers differ, so what is trained on is not the same.
        assert len(losses(tmp_path / "implicit")) == 2
    else:
        assert losses(tmp_path / "implicit") == losses(tmp_path / "explicit")


@pytest.mark.parametrize("train", [train_reward, train_dpo])
def test_rows_without_pairs_are_refused(tiny_model, tmp_path, train):
    path = write_rows(tmp_path / "rows.jsonl", colour_rows(4))
    with pytest.raises(
        DataError, match=r"^The rows are in the format prompt_completion .*; this step needs preference\."
    ):
        train(path, tiny_model, tmp_path / "model", tmp_path / "adapter")


def test_bad_row_is_named_with_format_and_field(tiny_model, tmp_path):
    rows = preference_rows(4)
    del rows[2]["rejected"]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    message = r"^Rows cannot be used: line 3: rejected is missing\..* Dataset: .*rows\.jsonl as preference \(conversational\)\.$"
    with pytest.raises(DataError, match=message):
        train_dpo(path, tiny_model, tmp_path / "model", tmp_path / "adapter")


def test_pairs_that_do_not_fit_are_a_finding(tiny_model, tmp_path):
    rows = preference_rows(4)
    rows[1]["prompt"][0]["content"] = "What colour is the sky? " * 10
    report = train_dpo(
        write_rows(tmp_path / "rows.jsonl", rows),
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=EXACT | {"max_length": 40, "max_steps": 1},
    )
    assert report.findings == ["1 of 4 rows were left out: they do not fit into max_length=40."]


def test_reward_model_cannot_tune_a_prompt(tiny_model, pairs, tmp_path):
    with pytest.raises(SettingError, match="train_reward cannot tune a prompt"):
        train_reward(
            pairs,
            tiny_model,
            tmp_path / "model",
            tmp_path / "adapter",
            peft_args={"peft_type": "PROMPT_TUNING"},
        )


@pytest.mark.parametrize("train", [train_dpo, train_kto])
def test_prompt_tuning_learns_and_leaves_an_adapter_only(tiny_model, pairs, tmp_path, train):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    watch = WeightWatch()
    report = train(
        pairs,
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=EXACT | {"learning_rate": 0.5},
        peft_args={"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4},
        callbacks=[watch],
    )
    assert watch.moved == watch.trainable == {"prompt_encoder.default.embedding.weight"}
    assert report.metrics["trainable_parameters"] == 4 * 64
    assert not (tmp_path / "model").exists()
    assert report.findings == [
        "A tuned prompt cannot be merged into the weights, so only the adapter was written: load it beside its base "
        "model with peft."
    ]
    assert sorted(file.name for file in (tmp_path / "adapter").glob("*.json")) == [
        "adapter_config.json",
        "generation_config.json",
        "provenance.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_log.json",
    ]
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert PeftModel.from_pretrained(base, tmp_path / "adapter").active_peft_config.num_virtual_tokens == 4
