"""Batched generation: batches, order, stopping, and what is refused."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
from llmops_components.errors import DataError, ModelError, SettingError
from llmops_components.models import generation
from llmops_components.models.generation import Answer, generate_answers
from llmops_components.models.loading import load_to_answer as load_model

THINGS = ["apple", "sky", "grass", "sun", "snow", "coal", "carrot", "plum"]
CHATS = [
    [{"role": "user", "content": f"What colour is the {thing}?" + " Say what it does." * (3 * i % 5)}]
    for i, thing in enumerate(THINGS)
]


@pytest.fixture(scope="module")
def loaded(talkative_model: Path):
    return load_model(talkative_model)


def answers_of(loaded, prompts=CHATS, batch_size=16, **generation_args) -> list[Answer]:
    rows = [{"prompt": prompt} for prompt in prompts]
    return generate_answers(
        *loaded, rows, batch_size=batch_size, generation_args={"max_new_tokens": 12, **generation_args}
    )


def copy_of(model: Path, target: Path) -> Path:
    return Path(shutil.copytree(model, target))


def test_batches_and_order_do_not_change_greedy_answers(loaded):
    one_by_one = answers_of(loaded, batch_size=1)
    assert len({answer.text for answer in one_by_one}) > 1
    assert answers_of(loaded, batch_size=3) == one_by_one
    assert answers_of(loaded, batch_size=16) == one_by_one
    assert answers_of(loaded, CHATS[::-1], batch_size=3) == one_by_one[::-1]


def test_an_answer_is_what_plain_generate_gives(loaded):
    model, tokenizer = loaded
    text = tokenizer.apply_chat_template(CHATS[0], add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    output = model.generate(
        **inputs, do_sample=False, max_new_tokens=12, eos_token_id=tokenizer.eos_token_id, pad_token_id=0
    )
    expected = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert answers_of(loaded, CHATS[:1])[0].text == expected


def test_plain_text_prompts_are_not_put_into_the_chat_template(loaded):
    rendered = [
        loaded[1].apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in CHATS
    ]
    assert answers_of(loaded, rendered) == answers_of(loaded, CHATS)
    assert answers_of(loaded, [chat[0]["content"] for chat in CHATS]) != answers_of(loaded, CHATS)


def test_the_chat_template_alone_adds_special_tokens_to_chats(loaded):
    from tokenizers.processors import TemplateProcessing

    model, tokenizer = loaded
    starting = copy.deepcopy(tokenizer)
    starting.backend_tokenizer.post_processor = TemplateProcessing(
        "<|im_start|> $A", None, [("<|im_start|>", 1)]
    )
    texts = [chat[0]["content"] for chat in CHATS]
    assert answers_of((model, starting)) == answers_of(loaded)
    assert answers_of((model, starting), texts) == answers_of(
        loaded, [f"<|im_start|>{text}" for text in texts]
    )


def test_an_answer_stops_after_the_end_token_and_is_cut_at_the_limit(loaded):
    model, tokenizer = loaded
    text = tokenizer.apply_chat_template(CHATS[0], add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=12, eos_token_id=[], pad_token_id=0)[0]
    third = ids.tolist()[inputs["input_ids"].shape[1] :][2]

    (cut,) = answers_of(loaded, CHATS[:1])
    assert (cut.tokens, cut.finish_reason) == (12, "length")
    stopped = answers_of(loaded, CHATS, eos_token_id=third)[0]
    assert stopped.finish_reason == "stop"
    assert 1 <= stopped.tokens <= 3
    assert tokenizer.decode([third]) not in stopped.text


def test_a_stop_string_ends_the_answer_and_is_left_out(loaded):
    whole = answers_of(loaded, CHATS[:1])[0].text
    stop = next(character for character in whole[2:] if character.isascii() and character.isalpha())
    stopped = answers_of(loaded, CHATS, stop_strings=[stop])[0]
    assert stopped.text == whole.split(stop)[0].strip()
    assert stopped.finish_reason == "stop"
    assert stopped.tokens < 12


def test_generation_settings_of_the_checkpoint_are_not_used(loaded, talkative_model, tmp_path):
    directory = copy_of(talkative_model, tmp_path / "model")
    settings = json.loads((directory / "generation_config.json").read_text())
    (directory / "generation_config.json").write_text(
        json.dumps(settings | {"repetition_penalty": 9.0, "do_sample": True, "temperature": 3.0})
    )
    assert answers_of(load_model(directory)) == answers_of(loaded)
    assert answers_of(loaded, repetition_penalty=9.0) != answers_of(loaded)


def test_sampling_gives_the_same_answers_again(loaded):
    sampled = answers_of(loaded, do_sample=True, temperature=1.5)
    assert sampled == answers_of(loaded, do_sample=True, temperature=1.5)
    assert sampled != answers_of(loaded)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_token": 5}, r"generation_args: 'max_new_token' \(did you mean 'max_new_tokens'\?\)"),
        ({"max_length": 5}, "Unknown generation_args: 'max_length'"),
        ({"num_return_sequences": 2}, "Unknown generation_args: 'num_return_sequences'"),
        ({"max_new_tokens": -1}, "must be greater than 0"),
    ],
)
def test_bad_generation_arguments_are_refused(loaded, arguments, message):
    with pytest.raises(SettingError, match=message):
        generate_answers(*loaded, [{"prompt": CHATS[0]}], generation_args=arguments)


def test_a_batch_size_below_one_is_refused(loaded):
    with pytest.raises(SettingError, match="batch_size is 0"):
        answers_of(loaded, batch_size=0)


def test_a_prompt_may_fill_the_context_and_not_exceed_it(loaded):
    tokenizer = loaded[1]
    room = loaded[0].config.max_position_embeddings - 12
    fits = tokenizer.decode(tokenizer("a b c d e f g h " * 200)["input_ids"][:room])
    assert len(tokenizer(fits)["input_ids"]) == room
    assert len(answers_of(loaded, ["short", fits])) == 2
    with pytest.raises(
        DataError, match=rf"context of 512 tokens with 12 new tokens: row 2 \({room + 1} tokens\)\."
    ):
        answers_of(loaded, ["short", fits + "!"])


def test_chat_prompts_need_a_chat_template(talkative_model, tmp_path):
    directory = copy_of(talkative_model, tmp_path / "model")
    (directory / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template and the prompts are chat messages"):
        answers_of(load_model(directory))
    assert len(answers_of(load_model(directory), ["text"])) == 1


def test_progress_ends_with_all_prompts(loaded, capsys):
    answers_of(loaded, batch_size=3)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("generated 8/8  ")
    assert last.endswith(" tokens/s  eta 0:00:00")


def test_progress_is_told_of_whole_batches(loaded, capsys, monkeypatch):
    """Of the first of sixteen answers that are there one would reckon sixteen times too long."""
    monkeypatch.setattr(generation, "_PROGRESS_SECONDS", 0)
    answers_of(loaded, batch_size=3)
    told = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert told == ["3/8", "6/8", "8/8"]


def test_a_model_without_weights_is_refused(talkative_model, tmp_path):
    directory = copy_of(talkative_model, tmp_path / "model")
    (directory / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="weights"):
        load_model(directory)


def test_a_cut_off_weight_file_is_refused(talkative_model, tmp_path):
    directory = copy_of(talkative_model, tmp_path / "model")
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(directory)


def test_weights_that_lack_a_layer_are_refused_instead_of_filled_with_noise(talkative_model, tmp_path):
    from safetensors.torch import load_file, save_file

    directory = copy_of(talkative_model, tmp_path / "model")
    weights = load_file(directory / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights .* model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(directory)
