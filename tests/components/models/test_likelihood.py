"""Likelihoods of answers are those of the library's own loss, whatever else is in the batch."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from llmops_components.errors import DataError, ModelError, SettingError
from llmops_components.models.generation import encode_prompts
from llmops_components.models.likelihood import Likelihood, answer_likelihoods
from llmops_components.models.loading import load_to_answer
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MambaConfig

ROWS = [{"prompt": f"What colour is the {thing}?"} for thing in ("apple", "sky", "grass of home")]
CHATS = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
ANSWERS = ["The apple is red.", "Blue", "The grass is green. " * 4]
SMALL = {"vocab_size": 512, "hidden_size": 16, "num_hidden_layers": 2}
FAMILIES = {
    "llama": lambda: LlamaConfig(**SMALL, intermediate_size=32, num_attention_heads=2),
    "gpt2": lambda: GPT2Config(vocab_size=512, n_embd=16, n_layer=2, n_head=2, n_positions=256),
    "mamba": lambda: MambaConfig(**SMALL, state_size=4),
}


@pytest.fixture(scope="module")
def tokenizer(talkative_model):
    return load_to_answer(talkative_model)[1]


def by_the_librarys_loss(model, tokenizer, row, answer):
    """One row alone: the loss over the answer's tokens, times their number."""
    prompt = encode_prompts(tokenizer, [row])[0]
    text = tokenizer(answer, add_special_tokens=False)["input_ids"]
    labels = torch.tensor([[-100] * len(prompt) + text])
    with torch.inference_mode():
        loss = model(input_ids=torch.tensor([prompt + text]), labels=labels).loss
    return -loss.item() * len(text)


@pytest.mark.parametrize("rows", [ROWS, CHATS], ids=["text", "chat"])
@pytest.mark.parametrize("family", FAMILIES)
def test_likelihoods_are_those_of_the_librarys_loss(family, rows, tokenizer):
    config = FAMILIES[family]()
    config.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for size in (1, 16):
        found = answer_likelihoods(model, tokenizer, rows, ANSWERS, batch_size=size)
        for row, answer, each in zip(rows, ANSWERS, found, strict=True):
            assert each.tokens == len(tokenizer(answer, add_special_tokens=False)["input_ids"])
            assert each.log_probability == pytest.approx(
                by_the_librarys_loss(model, tokenizer, row, answer), rel=1e-4
            )


def test_answer_without_a_token_is_certain(talkative_model):
    assert answer_likelihoods(*load_to_answer(talkative_model), ROWS[:1], [""]) == [Likelihood(0.0, 0)]


@dataclass
class Without:
    """A tokenizer without a chat template."""

    chat_template: None = None
    name_or_path: str = "tiny"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"batch_size": 0}, SettingError, "batch_size is 0"),
        ({"rows": [{"prompt": ""}], "answers": ["x"]}, DataError, "The prompt of row 1 has no token"),
        ({"answers": ["x", "y", "red " * 3000]}, DataError, "Row 3 does not fit in the model's context"),
        ({"rows": CHATS, "tokenizer": Without()}, ModelError, "no chat template"),
    ],
)
def test_what_cannot_be_looked_at_is_named(given, error, message, talkative_model):
    model, tokenizer = load_to_answer(talkative_model)
    tokenizer.add_bos_token = False
    arguments = {"model": model, "tokenizer": tokenizer, "rows": ROWS, "answers": ANSWERS, **given}
    with pytest.raises(error, match=message):
        answer_likelihoods(**arguments)
