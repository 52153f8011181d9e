"""Rows as the trainers see them: refused with their number, or trained on with a finding that says what is lost."""

from __future__ import annotations

import json
import shutil
from itertools import count
from pathlib import Path

import pytest
from chat_templates import chat_template
from llmops_components.data.sources import open_source
from llmops_components.errors import DataError, ModelError
from llmops_components.training.methods.dpo import train_dpo
from llmops_components.training.methods.grpo import train_grpo
from llmops_components.training.methods.kto import train_kto
from llmops_components.training.methods.reward import train_reward
from llmops_components.training.methods.sft import train_sft
from llmops_components.training.rows import check_columns
from tiny_model import CHAT_TEMPLATE, colour_rows, preference_rows, write_rows

ARGS = {"bf16": False, "max_steps": 1, "per_device_train_batch_size": 2}
SYSTEM = {"role": "system", "content": "Be brief."}
WITHOUT_REASONING = CHAT_TEMPLATE.replace(
    "message['content'] +", "message['content'].split('</think>')[-1] +"
)
NEVER_ENDING = CHAT_TEMPLATE.replace("message['content'] + '<|im_end|>'", "message['content']")


def with_template(model: Path, directory: Path, template: str) -> Path:
    shutil.copytree(model, directory)
    (directory / "chat_template.jinja").write_text(template)
    return directory


@pytest.fixture
def train(tiny_model, tmp_path, monkeypatch):
    """Train on rows, with the tiny model or one with another chat template."""

    monkeypatch.setenv("LLMOPS_REWARD_MODULES", "toy_rewards")
    runs = count()

    def run(method, rows, template: str | None = None, **training_args):
        directory = tmp_path / str(next(runs))
        directory.mkdir()
        model = with_template(tiny_model, directory / "base", template) if template else tiny_model
        return method(
            write_rows(directory / "rows.jsonl", rows),
            model,
            directory / "model",
            directory / "adapter",
            training_args=ARGS | ({"num_generations": 2} if method is train_grpo else {}) | training_args,
            **({"rewards": {"toy_rewards:brevity": 1.0}} if method is train_grpo else {}),
        )

    return run


def conversations(number: int) -> list[dict]:
    return [{"messages": row["prompt"] + row["completion"]} for row in colour_rows(number)]


@pytest.mark.parametrize(
    ("method", "rows"),
    [
        (train_sft, colour_rows(4)),
        (train_dpo, preference_rows(4)),
        (train_kto, preference_rows(4)),
        (train_reward, preference_rows(4)),
        (train_grpo, [{"prompt": row["prompt"]} for row in colour_rows(4)]),
    ],
)
def test_row_with_a_system_message_that_the_template_refuses_is_named_by_every_trainer(train, method, rows):
    rows[2] = {**rows[2], "prompt": [SYSTEM, *rows[2]["prompt"]]}
    with pytest.raises(DataError) as raised:
        train(method, rows, chat_template("gemma"))
    assert str(raised.value).startswith(
        "Row 3: the chat template refuses message 1 of prompt (system): System role not supported. Correct the row"
    )
    assert not raised.value.retryable


def test_refused_row_of_a_streamed_dataset_is_named(train, monkeypatch):
    monkeypatch.setenv("LLMOPS_STREAM_BYTES", "100")
    rows = colour_rows(4)
    rows[2]["prompt"].insert(0, SYSTEM)
    with pytest.raises(DataError, match=r"^Row 3: the chat template refuses message 1 of prompt \(system\)"):
        train(train_sft, rows, chat_template("gemma"))


def test_content_parts_are_trained_on_as_their_text(train, tmp_path):
    plain = colour_rows(4)
    parts = [
        {
            field: [
                {**m, "content": [{"type": "text", "text": m["content"][:5]}, {"text": m["content"][5:]}]}
                for m in messages
            ]
            for field, messages in row.items()
        }
        for row in plain
    ]
    logs = []
    for i, rows in enumerate((plain, parts)):
        assert train(train_sft, rows, max_steps=2, logging_steps=1).findings == []
        logs.append(json.loads((tmp_path / str(i) / "model" / "training_log.json").read_text()))
    first, second = ([entry["loss"] for entry in log if "loss" in entry] for log in logs)
    assert len(first) == 2
    assert first == second


def test_rows_of_which_the_template_leaves_something_out_are_named(train):
    rows = colour_rows(4)
    rows[1]["completion"][0]["content"] = "<think>\nApples.\n</think>\n\nRed."
    report = train(train_sft, rows, WITHOUT_REASONING)
    assert report.findings == [
        "1 of 4 rows have text that the chat template leaves out, so that the model never sees it: row 2: the reasoning of "
        "message 1 of completion (assistant). Change these rows, or set training_args={'chat_template_path': ...}."
    ]


@pytest.mark.parametrize(
    ("method", "rows"),
    [
        (train_sft, colour_rows(4)),
        (train_dpo, preference_rows(4)),
        (train_kto, preference_rows(4)),
    ],
)
def test_answers_that_never_end_are_a_finding(train, method, rows):
    answers = {train_sft: 4, train_dpo: 8, train_kto: 8}[method]
    [finding] = train(method, rows, NEVER_ENDING).findings
    assert finding == (
        f"{answers} of {answers} texts looked at do not end in a token that ends generation, so that the model never learns "
        "to stop: they end in '.', and generation ends at '<|im_end|>'. Use a chat template that writes such a token after "
        "each answer."
    )


def test_end_token_that_generation_does_not_stop_at_can_be_set(train):
    template = CHAT_TEMPLATE.replace("<|im_end|>", "<|endoftext|>")
    [finding] = train(train_sft, colour_rows(4), template).findings
    assert finding.endswith(
        "they end in '<|endoftext|>', and generation ends at '<|im_end|>'. Use a chat template that writes such a token "
        "after each answer, or set training_args={'eos_token': '<|endoftext|>'}."
    )


def test_set_end_token_is_one_that_ends(train):
    template = CHAT_TEMPLATE.replace("<|im_end|>", "<|endoftext|>")
    assert train(train_sft, colour_rows(4), template, eos_token="<|endoftext|>").findings == []  # noqa: S106


@pytest.mark.parametrize("more", [{}, {"packing": True, "max_length": 64}])
def test_rows_that_end_are_no_finding(train, more):
    texts = [
        {"prompt": row["prompt"][0]["content"], "completion": row["completion"][0]["content"]}
        for row in colour_rows(4)
    ]
    assert train(train_sft, texts, **more).findings == []


def test_never_ending_rows_show_in_a_packed_dataset(train):
    [finding] = train(train_sft, colour_rows(4), NEVER_ENDING, packing=True, max_length=64).findings
    assert finding.startswith("4 of 4 texts looked at do not end in a token that ends generation")


MARKED = CHAT_TEMPLATE.replace(
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}",
    "{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\\n' }}",
)


def test_questions_in_the_loss_are_a_finding_that_says_how_to_learn_answers_only(train):
    whole = "The loss counts whole conversations, questions too, since the rows have messages. To learn answers only, "
    assert train(train_sft, conversations(4)).findings == [
        whole + "give rows of prompt and completion: the chat template does not mark answers."
    ]
    assert train(train_sft, conversations(4), MARKED).findings == [
        whole + "set training_args={'assistant_only_loss': True}, or give rows of prompt and completion."
    ]
    assert train(train_sft, conversations(4), MARKED, assistant_only_loss=True).findings == []


def test_text_needs_a_token_to_end_with(train, tiny_model, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "endless")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    for method, row in (
        (train_sft, {"prompt": "a", "completion": "b"}),
        (train_dpo, {"prompt": "a", "chosen": "b", "rejected": "c"}),
    ):
        data = write_rows(tmp_path / "text.jsonl", [row])
        with pytest.raises(ModelError, match=r"^The tokenizer has no end token \(eos_token\)"):
            method(data, model, tmp_path / "model", tmp_path / "adapter", training_args=ARGS)


def test_what_a_trainer_does_not_read_of_rows_is_a_finding(train):
    rows = [
        {"prompt": row["prompt"], "chat_template_kwargs": {"enable_thinking": False}}
        for row in colour_rows(4)
    ]
    assert train(train_grpo, rows).findings[:1] == [
        "chat_template_kwargs of the rows are not read: GRPOTrainer renders all prompts alike. Set chat_template_kwargs in "
        "training_args, where it has them."
    ]


def test_margin_in_some_rows_only_is_refused_by_the_trainer_that_reads_it(train):
    rows = preference_rows(4)
    rows[1]["margin"] = 0.5
    with pytest.raises(DataError) as raised:
        train(train_reward, rows)
    assert str(raised.value).startswith(
        "margin is missing in 3 of 4 rows (row 1, row 3, row 4); it is taken in all rows or in none. Fill the column"
    )
    assert train(train_dpo, rows).metrics["steps"] == 1


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]},
            "line 1: messages has a content part of the type 'image'; only text is taken",
        ),
        (
            {"messages": conversations(1)[0]["messages"], "images": ["x.png"]},
            "line 1: images holds pictures, sound or video; only text is taken here",
        ),
        (
            {"prompt": "a", "completions": ["b"], "labels": [True]},
            "The rows are for stepwise supervision (prompt, completions, labels), which no step here takes",
        ),
    ],
)
def test_what_no_trainer_takes_is_refused_by_name(train, row, problem):
    with pytest.raises(DataError) as raised:
        train(train_sft, [row])
    assert problem in str(raised.value)


def test_names_of_what_reward_functions_get_are_refused_only_where_they_get_columns(tmp_path):
    rows = [{"prompt": "a", "completion_ids": [1]}, {"prompt": "a", "completions": ["b"]}]
    named = open_source(write_rows(tmp_path / "named.jsonl", rows), ["prompt_only"])
    with pytest.raises(DataError, match=r"^completions is the name of what the trainers hand to reward"):
        check_columns(named, None)
    check_columns(named, ("prompt",))
    check_columns(open_source(write_rows(tmp_path / "ids.jsonl", rows[:1]), ["prompt_only"]), None)
