"""train_sft on a tiny model: it trains what it should, the same as TRL does, and says clearly what is wrong."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from llmops_components.errors import DataError, ModelError, SettingError
from llmops_components.results import digest_of
from llmops_components.training.methods.sft import train_sft
from tiny_model import colour_rows, write_rows
from tiny_training import same_course
from weight_watch import WeightWatch

EXACT = {"bf16": False, "logging_steps": 1, "learning_rate": 1e-2, "max_steps": 8}
FLOAT32 = {"dtype": "float32"}
FULL = {"peft_type": None}


def losses(model: Path) -> list[tuple[int, float]]:
    log = json.loads((model / "training_log.json").read_text())
    return [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]


def weights(directory: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")


def test_lora_moves_every_adapter_weight_and_merging_equals_base_plus_adapter(tiny_model, sft_rows, tmp_path):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    watch = WeightWatch()
    report = train_sft(
        sft_rows,
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=EXACT,
        model_args=FLOAT32,
        callbacks=[watch],
    )

    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == 2 * 7 * 2  # A and B of seven linear layers in each of two blocks
    assert len(watch.trainable) == len(adapter)
    assert watch.moved == watch.trainable

    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    with_adapter = PeftModel.from_pretrained(base, tmp_path / "adapter")
    frozen = {n: w for n, w in with_adapter.state_dict().items() if "lora_" not in n}
    original = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    assert {n for n, w in frozen.items() if not torch.equal(w, original[_plain(n)])} == set()

    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    inputs = tokenizer("What colour is the sky?", return_tensors="pt")
    with torch.no_grad():
        expected, actual = with_adapter(**inputs).logits, merged(**inputs).logits
        untrained = AutoModelForCausalLM.from_pretrained(tiny_model)(**inputs).logits
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(actual, untrained, atol=1e-2)

    assert report.metrics["trainable_parameters"] == sum(weight.numel() for weight in adapter.values())
    assert report.metrics["total_parameters"] == 98_560 + report.metrics["trainable_parameters"]
    assert (report.metrics["steps"], report.metrics["epochs"]) == (8, 1.0)
    assert report.passed is True
    assert report.findings == []


def _plain(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer", "")


def test_outputs_are_complete_and_name_their_origin(tiny_model, sft_rows, tmp_path):
    train_sft(sft_rows, tiny_model, tmp_path / "model", tmp_path / "adapter", training_args=EXACT)

    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "provenance.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_curves.png",
        "training_log.json",
    ]
    assert json.loads((tmp_path / "model" / "config.json").read_text())["use_cache"] is True
    provenance = json.loads((tmp_path / "model" / "provenance.json").read_text())
    assert provenance["dataset"] == {
        "digest": digest_of(sft_rows)[0],
        "rows": 32,
        "format": "prompt_completion (conversational)",
    }
    assert provenance["base_model"] == {"digest": digest_of(tiny_model)[0], "provenance": None}
    assert provenance["training_args"]["learning_rate"] == 1e-2
    assert sorted(provenance["libraries"]) == [
        "accelerate",
        "datasets",
        "peft",
        "torch",
        "transformers",
        "trl",
    ]
    written = [f for f in tmp_path.rglob("*") if f.is_file() and f.suffix in (".json", ".md")]
    assert [f.name for f in written if str(tiny_model) in f.read_text()] == []
    assert [f.name for f in tmp_path.iterdir() if f.name.startswith(".")] == []


@pytest.mark.learns
def test_full_training_learns_the_task(tiny_model, sft_rows, tmp_path, seed):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report = train_sft(
        sft_rows,
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=EXACT
        | {"max_steps": 300, "learning_rate": 2e-3, "per_device_train_batch_size": 8, "seed": seed},
        peft_args=FULL,
    )

    assert report.metrics["first_loss"] > 5
    assert report.metrics["final_loss"] < 0.5
    before, after = weights(tiny_model), weights(tmp_path / "model")
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    assert not (tmp_path / "adapter").exists()

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    question = [{"role": "user", "content": "What colour is the grass?"}]
    inputs = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**inputs, max_new_tokens=20)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True).strip() == "The grass is green."


def test_loss_trace_is_that_of_a_plain_trl_script(tiny_model, sft_rows, tmp_path):
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    train_sft(
        sft_rows,
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=EXACT,
        model_args=FLOAT32,
    )

    plain = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32"),
        args=SFTConfig(
            output_dir=str(tmp_path / "plain"),
            use_cpu=True,
            bf16=False,
            logging_steps=1,
            learning_rate=1e-2,
            max_steps=8,
            per_device_train_batch_size=4,
            lr_scheduler_type="cosine",
            warmup_steps=0,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=load_dataset("json", data_files=str(sft_rows), split="train", cache_dir=str(tmp_path)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    plain.train()
    expected = [(entry["step"], entry["loss"]) for entry in plain.state.log_history if "loss" in entry]
    assert len(expected) == 8
    assert losses(tmp_path / "model") == same_course(expected)


def test_same_run_twice_writes_the_same_bytes(tiny_model, sft_rows, tmp_path):
    for name in ("one", "two"):
        train_sft(sft_rows, tiny_model, tmp_path / name, tmp_path / f"{name}-adapter", training_args=EXACT)

    assert digest_of(tmp_path / "one") == digest_of(tmp_path / "two")
    assert digest_of(tmp_path / "one-adapter") == digest_of(tmp_path / "two-adapter")


def test_run_killed_midway_resumes_to_the_same_loss_trace(tiny_model, sft_rows, tmp_path, capfd):
    settings = EXACT | {"max_steps": 40, "save_steps": 5}
    train_sft(
        sft_rows, tiny_model, tmp_path / "whole", tmp_path / "a", training_args=settings, model_args=FLOAT32
    )
    script = textwrap.dedent(
        f"""
        import time
        from llmops_components.training.callbacks import progress
        from llmops_components.training.methods.sft import train_sft

        def slow(self, args, state, control, **kwargs):  # so that the kill lands in the middle
            time.sleep(0.05)

        progress.ProgressCallback.on_step_begin = slow
        train_sft({str(sft_rows)!r}, {str(tiny_model)!r}, {str(tmp_path / "model")!r}, {str(tmp_path / "b")!r},
                  training_args={settings!r}, model_args={FLOAT32!r}, checkpoints={str(tmp_path / "checkpoints")!r})
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 13/"):
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait(timeout=60) == -signal.SIGKILL
    process.stdout.close()
    assert not (tmp_path / "model").exists()
    (tmp_path / "checkpoints" / "checkpoint-99").mkdir()  # one that was being written

    report = train_sft(
        sft_rows,
        tiny_model,
        tmp_path / "model",
        tmp_path / "b",
        training_args=settings,
        model_args=FLOAT32,
        checkpoints=tmp_path / "checkpoints",
    )

    assert report.details["resumed_from"] == "checkpoint-10"
    assert len(losses(tmp_path / "whole")) == 40
    assert losses(tmp_path / "model") == losses(tmp_path / "whole")
    assert weights(tmp_path / "model").keys() == weights(tmp_path / "whole").keys()
    assert report.metrics["steps"] == 40
    assert "step 11/40" in capfd.readouterr().out


def test_checkpoints_of_another_run_are_not_mixed_in(tiny_model, sft_rows, tmp_path):
    arguments = {"training_args": EXACT, "checkpoints": tmp_path / "checkpoints"}
    train_sft(sft_rows, tiny_model, tmp_path / "m1", tmp_path / "a1", **arguments)

    arguments["training_args"] = EXACT | {"learning_rate": 1e-3}
    with pytest.raises(SettingError, match=r"another run \(different: training_args\)"):
        train_sft(sft_rows, tiny_model, tmp_path / "m2", tmp_path / "a2", **arguments)


def test_progress_has_a_line_for_each_logging_step(tiny_model, sft_rows, tmp_path, capfd):
    train_sft(sft_rows, tiny_model, tmp_path / "model", tmp_path / "adapter", training_args=EXACT)

    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(lines) == 8
    form = r"step \d/8  loss \d\.\d{3}  lr \d\.\de[-+]\d\d  \d+ tokens/s  eta 0:00:\d\d"
    assert [line for line in lines if not re.fullmatch(form, line)] == []


def test_evaluation_rows_give_an_evaluation_loss(tiny_model, sft_rows, tmp_path):
    report = train_sft(
        sft_rows,
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=EXACT | {"logging_steps": 3},
        eval_dataset=write_rows(tmp_path / "eval.jsonl", colour_rows(4)),
    )

    assert 0 < report.metrics["eval_loss"] < report.metrics["first_loss"]
    trace = losses(tmp_path / "model")
    assert [step for step, _ in trace] == [1, 3, 6, 8]  # the last step is logged though 8 is no multiple of 3
    mean = sum(loss * n for (_, loss), n in zip(trace, (1, 2, 3, 2), strict=True)) / 8
    assert report.metrics["train_loss"] == pytest.approx(mean)
    assert report.metrics["final_loss"] == trace[-1][1]


def test_diverged_loss_is_an_error(tiny_model, sft_rows, tmp_path):
    with pytest.raises(
        SettingError, match=r"Training diverged: the loss at step \d is (nan|inf).*Lower learning_rate"
    ):
        train_sft(
            sft_rows,
            tiny_model,
            tmp_path / "model",
            tmp_path / "adapter",
            training_args=EXACT | {"learning_rate": 1e30, "warmup_steps": 0, "max_grad_norm": 0.0},
            peft_args=FULL,
        )
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"training_args": {"lerning_rate": 1}},
            r"training_args: 'lerning_rate' \(did you mean 'learning_rate'\?\)",
        ),
        ({"training_args": {"output_dir": "/x"}}, "training_args: output_dir cannot be set"),
        ({"training_args": {"hub_token": "secret"}}, "training_args: hub_token cannot be set"),
        ({"training_args": {"save_strategy": "steps"}}, "training_args: save_strategy cannot be set"),
        (
            {"training_args": {"lr_scheduler_type": "cosin"}},
            "training_args: lr_scheduler_type='cosin': .*cosin",
        ),
        ({"peft_args": {"lora_alfa": 1}}, r"peft_args: 'lora_alfa' \(did you mean 'lora_alpha'\?\)"),
        ({"peft_args": {"peft_type": "IA3"}}, "peft_type='IA3' is not supported"),
        ({"peft_args": {"peft_type": None, "r": 8}}, "r has no effect with peft_type=None"),
        ({"model_args": {"dtyp": "float32"}}, r"model_args: 'dtyp' \(did you mean 'dtype'\?\)"),
        ({"model_args": {"dtype": "float8"}}, "Unknown dtype: 'float8'"),
    ],
)
def test_wrong_settings_are_named(tiny_model, sft_rows, tmp_path, settings, message):
    with pytest.raises(SettingError, match=message):
        train_sft(sft_rows, tiny_model, tmp_path / "model", tmp_path / "adapter", **settings)
    assert not (tmp_path / "model").exists()


def test_row_without_completion_is_named_by_line(tiny_model, tmp_path):
    rows = colour_rows(3)
    rows[1] = {"prompt": rows[1]["prompt"]}
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(
        DataError, match=r"^Rows cannot be used: line 2: completion is missing.*rows\.jsonl as "
    ):
        train_sft(path, tiny_model, tmp_path / "model", tmp_path / "adapter")


def test_empty_dataset_is_an_error(tiny_model, tmp_path):
    with pytest.raises(DataError, match="has no rows"):
        train_sft(
            write_rows(tmp_path / "rows.jsonl", []), tiny_model, tmp_path / "model", tmp_path / "adapter"
        )


def test_preference_rows_are_refused(tiny_model, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    with pytest.raises(DataError, match="needs prompt_completion or language_modeling"):
        train_sft(path, tiny_model, tmp_path / "model", tmp_path / "adapter")


def test_prompts_that_leave_no_room_for_the_completion_are_an_error(tiny_model, sft_rows, tmp_path):
    with pytest.raises(
        DataError, match=r"No row of .*rows.jsonl has a token of the completion within max_length=8"
    ):
        train_sft(
            sft_rows,
            tiny_model,
            tmp_path / "model",
            tmp_path / "adapter",
            training_args=EXACT | {"max_length": 8},
        )


def test_rows_that_trl_drops_are_a_finding(tiny_model, tmp_path):
    rows = colour_rows(4)
    rows[2]["prompt"][0]["content"] = "What colour is the sky? " * 10
    report = train_sft(
        write_rows(tmp_path / "rows.jsonl", rows),
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=EXACT | {"max_length": 40},
    )
    assert report.findings == ["1 of 4 rows were left out: they do not fit into max_length=40."]


def test_rows_that_are_cut_are_a_finding(tiny_model, sft_rows, tmp_path):
    report = train_sft(
        sft_rows,
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=EXACT | {"max_length": 18},
    )
    assert report.findings == ["32 of 32 rows reach max_length=18 and were cut there."]


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("model.safetensors", r"has no \*\.safetensors weights"),
        ("config.json", "has no config.json"),
        ("tokenizer.json", "has no tokenizer"),
        ("chat_template.jinja", "has no chat template"),
    ],
)
def test_incomplete_model_directory_is_named(tiny_model, sft_rows, tmp_path, removed, message):
    broken = Path(shutil.copytree(tiny_model, tmp_path / "broken"))
    (broken / removed).unlink()
    with pytest.raises(ModelError, match=message):
        train_sft(sft_rows, broken, tmp_path / "model", tmp_path / "adapter", training_args=EXACT)


def test_pickled_weights_are_refused(tiny_model, sft_rows, tmp_path):
    broken = Path(shutil.copytree(tiny_model, tmp_path / "broken"))
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle, which is never loaded"):
        train_sft(sft_rows, broken, tmp_path / "model", tmp_path / "adapter")


def test_cut_off_weights_are_an_error(tiny_model, sft_rows, tmp_path):
    broken = Path(shutil.copytree(tiny_model, tmp_path / "broken"))
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        train_sft(sft_rows, broken, tmp_path / "model", tmp_path / "adapter", training_args=EXACT)


@pytest.mark.parametrize("taken", ["model", "adapter"])
def test_output_that_holds_something_is_refused_before_training(tiny_model, sft_rows, tmp_path, capfd, taken):
    (tmp_path / taken).mkdir()
    (tmp_path / taken / "precious").write_text("x")
    with pytest.raises(SettingError, match="is not an empty directory"):
        train_sft(sft_rows, tiny_model, tmp_path / "model", tmp_path / "adapter", training_args=EXACT)
    assert (tmp_path / taken / "precious").read_text() == "x"
    assert "step 1/" not in capfd.readouterr().out


def test_regular_expression_for_target_modules_survives_in_the_adapter(tiny_model, sft_rows, tmp_path):
    train_sft(
        sft_rows,
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=EXACT,
        peft_args={"target_modules": ".*q_proj"},
    )
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == ".*q_proj"
    assert config["base_model_name_or_path"] == "base_model"


def test_failure_while_merging_leaves_no_adapter_behind(tiny_model, sft_rows, tmp_path, monkeypatch):
    from peft import PeftModel

    def fail(self, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(PeftModel, "merge_and_unload", fail, raising=False)
    with pytest.raises(RuntimeError, match="out of memory"):
        train_sft(sft_rows, tiny_model, tmp_path / "model", tmp_path / "adapter", training_args=EXACT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sft_rows.jsonl"]
