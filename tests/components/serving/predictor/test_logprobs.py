"""Log probabilities of answers are those of the model's own logits, whoever makes them and however they are written."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from llmops_components.serving.http.refusals import RequestError
from llmops_components.serving.predictor import logprobs
from llmops_components.serving.predictor.batching import Batcher
from llmops_components.serving.predictor.engines import Batch, OneByOne
from llmops_components.serving.predictor.generation import Piece
from llmops_components.serving.predictor.logprobs import TokenScore, TokenTexts
from llmops_components.serving.predictor.requests import ChatRequest, ask, parse
from llmops_components.serving.predictor.sampling import Sampling

PROMPT = [30, 41, 52, 63]
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def loaded(talkative_model: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(talkative_model, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(talkative_model)


def answered(loaded: tuple[Any, Any], engine: type, *settings: Sampling) -> list[tuple[Piece, list[int]]]:
    batcher = Batcher(*loaded, engine=engine, max_model_len=64)
    batcher.start()

    async def run() -> list[tuple[Piece, list[int]]]:
        made = batcher.submit([PROMPT] * len(settings), list(settings))
        return [(await each.whole(), each.tokens) for each in made]

    found = asyncio.run(run())
    batcher.stop()
    return found


@pytest.mark.parametrize("engine", [Batch, OneByOne])
def test_log_probabilities_are_those_of_generate(loaded: tuple[Any, Any], engine: type) -> None:
    output = loaded[0].generate(
        torch.tensor([PROMPT]), max_new_tokens=8, do_sample=False, output_logits=True, return_dict_in_generate=True,
        eos_token_id=[], pad_token_id=0,
    )  # fmt: skip
    tokens = output.sequences[0, len(PROMPT) :].tolist()
    expected = torch.stack(output.logits)[:, 0].log_softmax(dim=-1)
    top = expected.topk(3)

    greedy = Sampling(8, temperature=0, ignore_eos=True, logprobs=3)
    # Penalties and temperature change what is chosen, not what the model thinks of it.
    forced = Sampling(8, temperature=0.3, seed=1, ignore_eos=True, logprobs=0, logit_bias=((tokens[0], 100),))
    (first, said), (second, _), (third, _) = answered(
        loaded, engine, greedy, forced, Sampling(8, temperature=0)
    )

    assert said == [each.token for each in first.scores] == tokens
    torch.testing.assert_close(
        torch.tensor([each.logprob for each in first.scores]),
        expected[range(8), tokens],
        atol=1e-4,
        rtol=1e-4,
    )
    assert [[token for token, _ in each.top] for each in first.scores] == top.indices.tolist()
    torch.testing.assert_close(
        torch.tensor([[value for _, value in each.top] for each in first.scores]),
        top.values,
        atol=1e-4,
        rtol=1e-4,
    )
    assert (second.scores[0].logprob, second.scores[0].top) == (
        pytest.approx(float(expected[0, tokens[0]]), abs=1e-4),
        (),
    )
    assert third.scores == []


def test_scores_belong_to_the_text_that_is_given_and_say_where_it_begins(loaded: tuple[Any, Any]) -> None:
    settings = {"max_tokens": 12, "temperature": 0, "ignore_eos": True, "logprobs": 0}
    ((full, tokens),) = answered(loaded, Batch, Sampling(**settings))
    decode = loaded[1].decode
    assert [each.offset for each in full.scores] == [
        len(decode(tokens[:at], skip_special_tokens=True).rstrip("\ufffd")) for at in range(12)
    ]
    stop = full.text[4:7]
    cut, kept = (
        answered(loaded, Batch, Sampling(**settings, stop=(stop,), include_stop_str_in_output=kept))[0][0]
        for kept in (False, True)
    )
    for piece in (cut, kept):
        assert piece.scores == [each for each in full.scores if each.offset < len(piece.text)]


def test_minus_infinity_is_written_as_a_number_and_no_number_fails() -> None:
    logits = torch.full((4,), -torch.inf)
    logits[2] = 1.0
    assert logprobs.score(logits, 2, 2, 0).top[1][1] == -9999.0


@pytest.mark.parametrize("kind", ["byte level", "byte fallback", "word pieces"])
def test_tokens_stand_for_the_bytes_of_the_text(kind: str, loaded: tuple[Any, Any]) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    text = "The sky, 你"
    if kind == "byte level":
        tokenizer = loaded[1]
    elif kind == "byte fallback":
        words = [
            "<unk>",
            *(f"<0x{byte:02X}>" for byte in range(256)),
            "▁",
            "T",
            "h",
            "e",
            "s",
            "k",
            "y",
            ",",
            "▁s",
        ]
        made = Tokenizer(
            models.BPE(
                {word: at for at, word in enumerate(words)},
                [("▁", "s")],
                unk_token="<unk>",  # noqa: S106
                byte_fallback=True,
            )
        )
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    else:
        words = ["[UNK]", "The", "sk", "##y", ",", "你"]
        made = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))  # noqa: S106
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece(cleanup=False)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    texts = TokenTexts(tokenizer)
    said = b"".join(map(texts.of, tokenizer(text, add_special_tokens=False)["input_ids"])).decode()
    assert said == (" The sk y , 你".replace("k y", "ky") if kind == "word pieces" else text)
    assert texts.of(10**6) == b""


def test_both_forms_write_characters_and_parts_of_them(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    part, letter = (
        tokenizer("你", add_special_tokens=False)["input_ids"][0],
        tokenizer.convert_tokens_to_ids("a"),
    )
    scores = [
        TokenScore(letter, -0.5, ((letter, -0.5), (part, -2.0)), 0),
        TokenScore(part, -2.0, ((letter, -0.5),), 1),
    ]
    texts = TokenTexts(tokenizer)
    a = {"token": "a", "logprob": -0.5, "bytes": [97]}
    cut = {"token": "\\xe4", "logprob": -2.0, "bytes": [0xE4]}
    assert logprobs.of_chat(scores, texts) == {
        "content": [a | {"top_logprobs": [a, cut]}, cut | {"top_logprobs": [a]}],
        "refusal": None,
    }
    assert logprobs.of_text(scores, texts) == {
        "tokens": ["a", "bytes:\\xe4"],
        "token_logprobs": [-0.5, -2.0],
        "top_logprobs": [{"a": -0.5, "bytes:\\xe4": -2.0}, {"a": -0.5, "bytes:\\xe4": -2.0}],
        "text_offset": [0, 1],
    }


def test_more_log_probabilities_than_a_server_should_write_are_refused(loaded: tuple[Any, Any]) -> None:
    idle = Batcher(*loaded, max_model_len=512)
    asked = parse(ChatRequest, CHAT | {"logprobs": True, "top_logprobs": 20, "n": 64})
    with pytest.raises(RequestError) as refused:
        ask(idle, [PROMPT], asked, max_tokens=200)
    assert (refused.value.message, refused.value.param) == (
        "The request asks for up to 268800 log probabilities; this server gives 200000 at once. Ask for fewer tokens, "
        "fewer answers or fewer log probabilities of each.",
        "logprobs",
    )
    assert not idle._waiting
