"""The model card: complete, parsed by Hugging Face, true in its code, and silent about this machine."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from llmops_components.training.model_card import write_model_card

RUN = {
    "component": "train_dpo",
    "dataset": {"digest": "sha256:" + "ab" * 32, "rows": 1500, "format": "preference (conversational)"},
    "base_model": {
        "digest": "sha256:" + "cd" * 32,
        "provenance": {
            "component": "train_sft",
            "base_model": {
                "digest": "sha256:ef",
                "provenance": {"source": "hf://org/tiny-1B", "license": "Apache-2.0", "revision": "abc123"},
            },
        },
    },
    "training_args": {
        "learning_rate": 2e-5,
        "report_to": "none",
        "logging_steps": 0.02,
        "hub_token": "hf_" + "x" * 30,
        "chat_template_path": "/home/ann/templates/chat.jinja",
    },
    "peft_args": {"r": 8, "use_dora": True},
    "model_args": {"dtype": "float32"},
}
METRICS = {"train_loss": 0.512345, "steps": 1200, "tokens_per_second": 12345.6, "eval_loss": 0.5}
LOG = [{"step": step, "loss": 1 / step, "learning_rate": 1e-4} for step in range(1, 9)]
PAPER = {
    "title": "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
    "id": "2305.18290",
}


def table(card: str, section: str) -> dict[str, str]:
    """The rows of the table in a section."""
    text = card.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    return dict(rows[2:])  # without head and rule


def test_card_says_what_the_model_was_made_from_and_how(tmp_path):
    path = write_model_card(
        tmp_path,
        run=RUN,
        metrics=METRICS,
        log_history=LOG,
        dataset_name="/mnt/volume/preferences.jsonl",
        paper=PAPER,
        used={"minutes": 12.5, "device_hours": 1.667, "tokens": 2_000_000, "cost": 4.2},
        findings=["3 of 1500 rows were left out."],
    )

    card = ModelCard.load(path)
    assert path == tmp_path / "README.md"
    assert card.data.to_dict() == {
        "license": "apache-2.0",
        "base_model": "org/tiny-1B",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["trl", "dpo"],
    }
    text = card.text
    assert [line for line in text.splitlines() if line.startswith("#") and "directory" not in line] == [
        "# Direct Preference Optimization (DPO) of hf://org/tiny-1B",
        "## Use",
        "## Limits",
        "## Data",
        "## Base model",
        "## Method",
        "## Figures",
        "## Environment",
    ]
    assert table(text, "Data") == {
        "source": "preferences.jsonl",
        "digest": "sha256:" + "ab" * 32,
        "rows": "1500",
        "format": "preference (conversational)",
    }
    assert table(text, "Base model") == {
        "origin": "hf://org/tiny-1B",
        "licence": "Apache-2.0",
        "digest": "sha256:" + "cd" * 32,
        "trained before with": "train_sft",
        "revision": "abc123",
    }
    assert table(text, "Method") == {
        "training_args.learning_rate": "2e-05",
        "training_args.hub_token": "***",
        "training_args.chat_template_path": "chat.jinja",
        "peft_args.r": "8",
        "peft_args.use_dora": "True",
        "model_args.dtype": "float32",
    }
    assert (
        "[Direct Preference Optimization: Your Language Model is Secretly a Reward Model](https://arxiv.org/abs/2305.18290)"
        in text
    )
    assert "https://arxiv.org/abs/2402.09353" in text
    assert table(text, "Figures") == {
        "train_loss": "0.5123",
        "steps": "1,200",
        "eval_loss": "0.5",
    }
    assert "![Curves of the training](training_curves.png)" in text
    assert "- 3 of 1500 rows were left out." in text
    environment = table(text, "Environment")
    assert {"python", "device", "torch", "transformers", "trl"} < set(environment)
    assert environment["tokens per second"] == "12,346"
    assert (environment["used: minutes"], environment["used: device hours"], environment["used: cost"]) == (
        "12.5",
        "1.667",
        "4.2",
    )
    assert (tmp_path / "training_curves.png").read_bytes().startswith(b"\x89PNG")


def test_no_path_and_no_secret_of_the_machine_is_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "correct-horse")
    run = RUN | {
        "base_model": {"digest": "sha256:x", "provenance": {"source": f"file://{tmp_path}/base"}},
        "rewards": {"mine:correct-horse": 1.0, "reward_model": f"see {Path.home()}/x.py, and {Path.cwd()}"},
    }
    text = write_model_card(
        tmp_path,
        run=run,
        metrics=METRICS,
        dataset_name=str(tmp_path / "a b" / "rows.jsonl"),
        findings=[f"{tmp_path}/x"],
    ).read_text()

    hidden = [
        str(tmp_path),
        str(Path.home()) + "/",
        str(Path.cwd()),
        "correct-horse",
        "x" * 30,
        "/home/",
        "/tmp/",  # noqa: S108
    ]
    assert [word for word in hidden if word in text] == []
    assert table(text, "Base model")["origin"] == "base"


@pytest.mark.parametrize(
    "data_format", ["language_modeling (plain text)", "prompt_completion (conversational)"]
)
def test_code_in_the_card_runs(tiny_model, tmp_path, monkeypatch, capsys, data_format):
    directory = shutil.copytree(tiny_model, tmp_path / "model")
    run = RUN | {"component": "train_sft", "dataset": {"format": data_format}}
    run_code(write_model_card(directory, run=run, metrics={}), monkeypatch)
    capsys.readouterr()


def test_code_in_the_card_of_a_reward_model_runs(tiny_model, tmp_path, monkeypatch, capsys):
    from transformers import AutoModelForSequenceClassification

    directory = shutil.copytree(tiny_model, tmp_path / "model")
    AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1).save_pretrained(directory)
    path = write_model_card(directory, run=RUN | {"component": "train_reward"}, metrics={}, task="SEQ_CLS")
    capsys.readouterr()
    run_code(path, monkeypatch)

    float(capsys.readouterr().out)
    assert ModelCard.load(path).data.pipeline_tag == "text-classification"
    assert "Its scores order answers to the same prompt." in path.read_text()


def run_code(card: Path, monkeypatch) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", card.read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(card.parent)
    (card.parent / "example.py").write_text(code)
    runpy.run_path("example.py")


def test_same_training_writes_the_same_card(tmp_path):
    written = []
    for name in ("one", "three"):
        (tmp_path / name).mkdir()
        metrics = METRICS | {"tokens_per_second": 100.0 * len(name)}
        write_model_card(tmp_path / name, run=RUN, metrics=metrics, log_history=LOG)
        written.append([(file.name, file.read_bytes()) for file in sorted((tmp_path / name).iterdir())])
    assert written[0] == written[1]
    assert [name for name, _ in written[0]] == ["README.md", "training_curves.png"]


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("MIT", {"license": "mit"}),
        ("My Own 1.0", {"license": "other", "license_name": "my own 1.0"}),
        (None, {"license": "unknown"}),
    ],
)
def test_licence_is_one_that_the_hub_knows_or_named(tmp_path, licence, expected):
    run = RUN | {"base_model": {"digest": "d", "provenance": {"source": "package://x", "license": licence}}}
    data = ModelCard.load(write_model_card(tmp_path, run=run, metrics={})).data.to_dict()
    assert {key: data[key] for key in data if key.startswith("license")} == expected
    assert "base_model" not in data  # the hub knows no package


@pytest.mark.parametrize(
    ("peft", "model_args", "said", "papers"),
    [
        ({}, {}, "a LoRA merged", ["2203.02155", "2106.09685"]),
        ({"peft_type": None}, {}, "all weights trained", ["2203.02155"]),
        ({"peft_type": "PROMPT_TUNING"}, {}, "a prompt tuned", ["2203.02155", "2104.08691"]),
        (
            {"r": 4},
            {"quantization_config": {"load_in_4bit": True}},
            "a LoRA",
            ["2203.02155", "2106.09685", "2305.14314"],
        ),
    ],
)
def test_method_and_its_papers(tmp_path, peft, model_args, said, papers):
    run = RUN | {"component": "train_sft", "peft_args": peft, "model_args": model_args}
    text = write_model_card(tmp_path, run=run, metrics={}).read_text()
    assert said in text
    assert re.findall(r"arxiv\.org/abs/([\d.]+)", text) == papers


def test_hub_dataset_is_in_the_front_matter(tmp_path):
    dataset = {
        "source": "hf://datasets/org/rows",
        "revision": "abc",
        "rows": 10,
        "config": None,
        "format": "x",
    }
    path = write_model_card(tmp_path, run=RUN | {"dataset": dataset}, metrics={})
    assert ModelCard.load(path).data.datasets == ["org/rows"]
    assert table(path.read_text(), "Data") == {
        "source": "hf://datasets/org/rows",
        "revision": "abc",
        "rows": "10",
        "format": "x",
    }


def test_a_value_cannot_break_the_table(tmp_path):
    run = RUN | {"peft_args": {"target_modules": "a|b\n## c"}}
    text = write_model_card(tmp_path, run=run, metrics={}).read_text()
    assert "| peft_args.target_modules | a\\|b ## c |" in text
