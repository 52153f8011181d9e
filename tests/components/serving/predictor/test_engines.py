"""Models of many architectures answer in the predictor and in evaluation what they answer alone, or are refused by name."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from architectures import answer_alone, make_model
from tiny_model import make_tiny_model

torch = pytest.importorskip("torch")

from llmops_components.errors import ModelError  # noqa: E402
from llmops_components.models import probing  # noqa: E402
from llmops_components.models.generation import generate_answers  # noqa: E402
from llmops_components.models.loading import load_to_answer as load_model  # noqa: E402
from llmops_components.serving.predictor.batching import Batcher  # noqa: E402
from llmops_components.serving.predictor.choosing import choose_engine  # noqa: E402
from llmops_components.serving.predictor.engines import Batch, OneByOne  # noqa: E402
from llmops_components.serving.predictor.sampling import Sampling  # noqa: E402
from llmops_components.serving.predictor.server import load, parse_arguments  # noqa: E402

# How the predictor answers, and what evaluation may put into one batch of ``generate``.
EXPECTED = {
    "gpt2": (Batch, "padded"),
    "opt": (Batch, "padded"),
    "bloom": (Batch, "padded"),
    "mistral": (Batch, "padded"),
    "gemma3_text": (Batch, "padded"),
    "qwen3_moe": (Batch, "padded"),
    "mamba": (OneByOne, "padded"),
    "mamba2": (OneByOne, "padded"),
    "rwkv": (OneByOne, "alone"),
    "jamba": (OneByOne, "padded"),
    "lfm2": (OneByOne, "padded"),
    "recurrent_gemma": (OneByOne, "of one length"),
    "qwen3_next": (OneByOne, "padded"),
}
PROMPTS = [
    "What colour is the sky?",
    "Hi",
    "The plum is",
    "What colour is the apple? Say what it does in one sentence.",
    "What colour is the sun?",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model, padding_side="left")


@pytest.mark.parametrize("architecture", EXPECTED)
def test_prompts_beside_each_other_are_answered_as_alone(architecture: str, tokenizer: Any) -> None:
    model = make_model(architecture, len(tokenizer))
    engine, together = EXPECTED[architecture]
    expected = [answer_alone(model, tokenizer, prompt, 8) for prompt in PROMPTS]
    assert len(set(expected)) > 2

    assert choose_engine(model, "torch") is engine
    batcher = Batcher(model, tokenizer, engine=engine, max_batch_size=4, max_model_len=128)
    batcher.start()

    async def answers() -> list[str]:
        made = batcher.submit(tokenizer(PROMPTS)["input_ids"], [Sampling(8, temperature=0)] * len(PROMPTS))
        return list(await asyncio.gather(*(each.text() for each in made)))

    assert asyncio.run(answers()) == expected
    batcher.stop()

    assert probing.together(model) == together
    model.generation_config.eos_token_id = model.config.eos_token_id
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    answered = generate_answers(model, tokenizer, rows, generation_args={"max_new_tokens": 8})
    assert [answer.text for answer in answered] == [text.strip() for text in expected]


def test_an_encoder_is_no_causal_model() -> None:
    for check in (choose_engine, probing.together):
        with pytest.raises(
            ModelError, match=r"BertLMHeadModel \(model type bert\) is no causal language model"
        ):
            check(make_model("bert"))


def test_a_deep_model_is_no_encoder_though_its_kernels_round_apart(tmp_path: Path) -> None:
    """In 16 bit, 120 layers say otherwise token by token than as a whole; by how much depends on the processor."""
    directory = make_tiny_model(tmp_path / "deep", talkative=True, layers=120)
    model = load_model(directory)[0].to(torch.bfloat16)
    probing.check_causal(model, probing.answers_alone(model))


def test_a_model_that_diverged_is_told_from_an_encoder() -> None:
    model = make_model("gpt2")
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(torch.nan)
    for check in (choose_engine, probing.together):
        with pytest.raises(ModelError, match=r"GPT2LMHeadModel \(model type gpt2\) .* no numbers \(NaN\)"):
            check(model)


def test_a_model_that_cannot_generate_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("gpt2")
    monkeypatch.setattr(type(model), "forward", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(
        ModelError, match=r"GPT2LMHeadModel \(model type gpt2\) loads but cannot generate: Zero"
    ):
        choose_engine(model)


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_an_encoder_with_a_decoder_is_refused_before_it_loads(
    kind: str, tmp_path: Path, tiny_model: Path
) -> None:
    import shutil

    from transformers import CONFIG_MAPPING

    directory = Path(shutil.copytree(tiny_model, tmp_path / kind))
    CONFIG_MAPPING[kind](architectures=[f"{kind}ForConditionalGeneration"]).save_pretrained(directory)
    said = f"{kind}ForConditionalGeneration is an encoder with a decoder, which does not continue a prompt"
    with pytest.raises(ModelError, match=said):
        load(parse_arguments([f"--model_dir={directory}", "--model_name=m"]))
    with pytest.raises(ModelError, match=said):
        load_model(directory)


def test_a_model_served_one_by_one_streams_stops_and_samples_as_the_batch_does(tokenizer: Any) -> None:
    model = make_model("gpt2", len(tokenizer))
    settings = [
        Sampling(12, temperature=0),
        Sampling(12, temperature=1.5, seed=7, top_p=0.9),
        Sampling(12, temperature=0, repetition_penalty=1.5, min_tokens=4),
    ]

    def answers(engine: type) -> list[tuple[str, str | None, int]]:
        batcher = Batcher(model, tokenizer, engine=engine)
        batcher.start()

        async def ask() -> list[tuple[str, str | None, int]]:
            full = batcher.submit(tokenizer(PROMPTS[:3])["input_ids"], settings)
            texts = [await each.text() for each in full]
            stop = Sampling(12, temperature=0, stop=(texts[0][2:4],))
            (stopped,) = batcher.submit(tokenizer(PROMPTS[:1])["input_ids"], [stop])
            texts.append(await stopped.text())
            made = [*full, stopped]
            return [(t, g.finish_reason, g.completion_tokens) for t, g in zip(texts, made, strict=True)]

        found = asyncio.run(ask())
        batcher.stop()
        return found

    assert answers(OneByOne) == answers(Batch)
    assert answers(OneByOne)[-1][1] == "stop"


def test_a_client_that_goes_away_ends_an_answer_that_is_made_alone(tokenizer: Any) -> None:
    model = make_model("gpt2", len(tokenizer))
    batcher = Batcher(model, tokenizer, engine=OneByOne)
    batcher.start()

    async def ask() -> int:
        (long,) = batcher.submit([[5]], [Sampling(200, temperature=0, ignore_eos=True)])
        async for _ in long:
            break
        long.cancel()
        (after,) = batcher.submit([[5]], [Sampling(1, temperature=0)])
        await after.text()
        return long.completion_tokens

    assert asyncio.run(ask()) < 200
    batcher.stop()
