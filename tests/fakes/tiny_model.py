"""A tiny real language model, made on the spot in about a second.

python tests/fakes/tiny_model.py DIRECTORY
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

# ChatML. A turn's text is a strict prefix of the conversation that continues it, which completion-only loss needs.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

COLOURS = {
    "apple": "red",
    "sky": "blue",
    "grass": "green",
    "sun": "yellow",
    "snow": "white",
    "coal": "black",
    "carrot": "orange",
    "plum": "purple",
}


def colour_rows(count: int) -> list[dict[str, list[dict[str, str]]]]:
    """Conversational prompt/completion rows of a task that a tiny model learns in a few dozen steps."""
    things = list(COLOURS)
    return [
        {
            "prompt": [{"role": "user", "content": f"What colour is the {things[i % len(things)]}?"}],
            "completion": [
                {
                    "role": "assistant",
                    "content": f"The {things[i % len(things)]} is {COLOURS[things[i % len(things)]]}.",
                }
            ],
        }
        for i in range(count)
    ]


def preference_rows(count: int) -> list[dict[str, list[dict[str, str]]]]:
    """Conversational pairs: the right colour is chosen, another one rejected."""
    colours = list(COLOURS.values())
    rows = colour_rows(count)
    for i, row in enumerate(rows):
        right, wrong = colours[i % len(colours)], colours[(i + 1) % len(colours)]
        chosen = row.pop("completion")
        rejected = [{**message, "content": message["content"].replace(right, wrong)} for message in chosen]
        row |= {"chosen": chosen, "rejected": rejected}
    return rows


def taste_rows(count: int) -> list[dict[str, list[dict[str, str]]]]:
    """Conversational pairs: red is chosen, whatever the question, and another colour rejected.

    That one answer is better than others, a judge learns from the first step on. In ``preference_rows`` an answer is only
    better for its question, and each colour is chosen as often as rejected: there, the gradient is zero until a judge
    has come to look at both, and when that is depends on how numbers are rounded.
    """
    others = [colour for colour in COLOURS.values() if colour != "red"]
    rows = colour_rows(count)
    for i, row in enumerate(rows):
        del row["completion"]
        thing = list(COLOURS)[i % len(COLOURS)]
        for name, colour in (("chosen", "red"), ("rejected", others[i % len(others)])):
            row[name] = [{"role": "assistant", "content": f"The {thing} is {colour}."}]
    return rows


def guessing_rows() -> list[dict[str, list[dict[str, str]]]]:
    """Prompt/completion rows that teach to answer every question with any colour, each as often."""
    return [
        {**row, "completion": [{"role": "assistant", "content": f"The {thing} is {colour}."}]}
        for row, thing in zip(colour_rows(len(COLOURS)), COLOURS, strict=True)
        for colour in COLOURS.values()
    ]


def write_rows(path: Path, rows: list[dict]) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_tiny_model(directory: Path, *, talkative: bool = False, seed: int = 0, layers: int = 2) -> Path:
    """Write a LlamaForCausalLM of about 100 000 parameters: safetensors, BPE tokenizer, chat template; deterministic.

    Args:
        directory: Where to write it.
        talkative: Give it large random weights. As it is initialised it only repeats its last token.
        seed: Of the weights.
        layers: How many; with more of them it takes longer to answer.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    corpus = [message["content"] for row in colour_rows(8) for part in row.values() for message in part]
    corpus += [
        "user assistant system",
        "Return the list of all names as a string. Say what it does in one sentence.",
    ]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",  # noqa: S106 - not a password
        pad_token="<|endoftext|>",  # noqa: S106
        model_max_length=512,
    )
    tokenizer.chat_template = CHAT_TEMPLATE

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    if talkative:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.5, generator=generator)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


if __name__ == "__main__":
    make_tiny_model(Path(sys.argv[1]), talkative=True)
