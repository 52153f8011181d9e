"""The batcher in-process, on the tiny float32 model."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from llmops_components.serving.http.refusals import RequestError  # noqa: E402
from llmops_components.serving.predictor.batching import Batcher  # noqa: E402
from llmops_components.serving.predictor.generation import Generation  # noqa: E402
from llmops_components.serving.predictor.sampling import Sampling  # noqa: E402

PROMPTS = [
    "What colour is the sky?",
    "Hi",
    "The plum is",
    "What colour is the apple? Say what it does in one sentence.",
]


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    # Untrained and with tied embeddings it repeats its last token whatever came before; larger weights make every
    # token depend on all others and on their positions, so that a wrong mask or position changes the text.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.mul_(10)
    return model, AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def batcher(loaded: tuple[Any, Any]) -> Iterator[Batcher]:
    made = Batcher(*loaded, max_batch_size=4, max_queue_length=6, max_model_len=128)
    made.start()
    yield made
    made.stop()


def ids(batcher: Batcher, text: str) -> list[int]:
    return batcher._tokenizer.encode(text).ids


async def answer(batcher: Batcher, text: str, sampling: Sampling) -> str:
    (generation,) = batcher.submit([ids(batcher, text)], [sampling])
    return await generation.text()


@pytest.mark.parametrize("text", [*PROMPTS, "\u00e9\u4f60"])
def test_greedy_text_is_that_of_generate(batcher: Batcher, loaded: tuple[Any, Any], text: str) -> None:
    model, tokenizer = loaded
    prompt = tokenizer(text, return_tensors="pt")
    expected = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt["input_ids"].shape[1] :]

    got = asyncio.run(answer(batcher, text, Sampling(max_tokens=24, temperature=0)))

    assert got == tokenizer.decode(expected, skip_special_tokens=True)
    assert len(set(expected.tolist())) > 5


def test_greedy_rows_say_the_same_alone_and_in_a_batch_that_others_join_and_leave(batcher: Batcher) -> None:
    settings = [Sampling(max_tokens=tokens, temperature=0) for tokens in (40, 7, 23, 31)]

    async def alone() -> list[str]:
        return [await answer(batcher, prompt, how) for prompt, how in zip(PROMPTS, settings, strict=True)]

    async def together() -> list[str]:
        async def later(index: int) -> str:
            await asyncio.sleep(0.004 * index)
            return await answer(batcher, PROMPTS[index % 4], settings[index % 4])

        return list(await asyncio.gather(*(later(index) for index in range(6))))

    expected = asyncio.run(alone())
    assert asyncio.run(together()) == [*expected, *expected[:2]]


def test_greedy_and_sampled_rows_share_a_batch(batcher: Batcher) -> None:
    async def together() -> list[str]:
        greedy = Sampling(max_tokens=20, temperature=0)
        hot = Sampling(max_tokens=20, temperature=2.0)
        return list(
            await asyncio.gather(*(answer(batcher, PROMPTS[0], how) for how in (greedy, hot, greedy)))
        )

    first, sampled, second = asyncio.run(together())

    assert first == second == asyncio.run(answer(batcher, PROMPTS[0], Sampling(max_tokens=20, temperature=0)))
    assert sampled != first


def test_a_seed_repeats_a_sampled_answer_whoever_else_is_in_the_batch(batcher: Batcher) -> None:
    seeded = Sampling(max_tokens=20, temperature=1.5, top_p=0.9, seed=7)

    async def crowded() -> str:
        others = [answer(batcher, PROMPTS[1], Sampling(max_tokens=9, temperature=1.5)) for _ in range(3)]
        return (await asyncio.gather(answer(batcher, PROMPTS[0], seeded), *others))[0]

    alone = asyncio.run(answer(batcher, PROMPTS[0], seeded))
    assert asyncio.run(crowded()) == alone
    assert asyncio.run(answer(batcher, PROMPTS[0], Sampling(20, 1.5, 0.9, seed=8))) != alone


def test_a_tiny_top_p_leaves_only_the_most_likely_token(batcher: Batcher) -> None:
    greedy = asyncio.run(answer(batcher, PROMPTS[2], Sampling(max_tokens=20, temperature=0)))

    assert asyncio.run(answer(batcher, PROMPTS[2], Sampling(20, temperature=1.0, top_p=1e-6))) == greedy


@pytest.mark.parametrize(
    "extreme", [{"temperature": 1e-38}, {"temperature": 1e-5}, {"top_p": 5e-324}, {"min_p": 1.0}]
)
def test_the_extremes_of_a_setting_take_the_most_likely_token(
    batcher: Batcher, extreme: dict[str, float]
) -> None:
    greedy = asyncio.run(answer(batcher, PROMPTS[2], Sampling(max_tokens=20, temperature=0)))

    assert asyncio.run(answer(batcher, PROMPTS[2], Sampling(20, **extreme))) == greedy


def test_an_answer_whose_next_token_cannot_be_chosen_fails_alone(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmops_components.serving.predictor.sampling import Sampler

    choose = Sampler.choose

    def choose_until_the_third(self: Sampler, logits: torch.Tensor) -> int:
        if self._sampling.seed == 3 and self._ids.shape[1] > self._prompt_length + 2:
            raise RuntimeError("probability tensor contains nan")
        return choose(self, logits)

    monkeypatch.setattr(Sampler, "choose", choose_until_the_third)

    async def ask_all() -> list[str | BaseException]:
        prompts = [ids(batcher, text) for text in PROMPTS[:3]]
        settings = [Sampling(8, 0.0), Sampling(8, seed=3, presence_penalty=0.1), Sampling(8, seed=4)]
        made = batcher.submit(prompts, settings)
        return await asyncio.gather(*(each.text() for each in made), return_exceptions=True)

    first, failed, third = asyncio.run(ask_all())
    assert isinstance(failed, RequestError)
    assert (failed.status, str(failed.__cause__)) == (500, "probability tensor contains nan")
    assert first == asyncio.run(answer(batcher, PROMPTS[0], Sampling(8, 0.0)))
    assert third == asyncio.run(answer(batcher, PROMPTS[2], Sampling(8, seed=4)))


def test_streamed_pieces_stop_before_a_stop_string_that_spans_tokens(batcher: Batcher) -> None:
    full = asyncio.run(answer(batcher, PROMPTS[0], Sampling(max_tokens=30, temperature=0)))
    stop = full[5:9]

    async def pieces() -> tuple[list[str], Generation]:
        how = Sampling(max_tokens=30, temperature=0, stop=(stop,))
        (generation,) = batcher.submit([ids(batcher, PROMPTS[0])], [how])
        return [piece.text async for piece in generation], generation

    got, generation = asyncio.run(pieces())
    assert "".join(got) == full[: full.index(stop)]
    assert generation.finish_reason == "stop"


def test_each_row_ends_at_its_own_length(batcher: Batcher) -> None:
    async def lengths() -> list[tuple[int, str | None]]:
        how = [Sampling(max_tokens=tokens, temperature=0) for tokens in (1, 5, 12)]
        made = batcher.submit([ids(batcher, PROMPTS[0])] * 3, how)
        await asyncio.gather(*(generation.text() for generation in made))
        return [(generation.completion_tokens, generation.finish_reason) for generation in made]

    assert asyncio.run(lengths()) == [(1, "length"), (5, "length"), (12, "length")]


def test_a_cancelled_row_frees_its_place(batcher: Batcher) -> None:
    async def run() -> int:
        long = batcher.submit([ids(batcher, PROMPTS[0])] * 4, [Sampling(max_tokens=100, temperature=0)] * 4)
        for generation in long:
            generation.cancel()
        await answer(batcher, PROMPTS[1], Sampling(max_tokens=2, temperature=0))
        return max(generation.completion_tokens for generation in long)

    assert asyncio.run(run()) < 100


def test_prompts_that_were_all_cancelled_while_they_waited_are_no_batch(loaded: tuple[Any, Any]) -> None:
    made = Batcher(*loaded, max_model_len=128)
    steps = []
    engine = made._make_engine(loaded[0])
    step = engine.step
    engine.step = lambda new: (steps.append(len(new)), step(new))[1]  # type: ignore[method-assign]
    made._make_engine = lambda _: engine

    async def run() -> str:
        for generation in made.submit([[5], [6]], [Sampling(1), Sampling(1)]):
            generation.cancel()
        made.start()
        await asyncio.sleep(0.2)
        return await answer(made, PROMPTS[0], Sampling(max_tokens=1, temperature=0))

    assert asyncio.run(run())
    made.stop()
    assert steps[0] == 1


def test_more_instances_than_the_queue_holds_are_refused_for_good(loaded: tuple[Any, Any]) -> None:
    from llmops_components.serving.predictor.encoding import PromptEncoder
    from llmops_components.serving.predictor.model import LanguageModel

    idle = Batcher(*loaded, max_queue_length=2)
    model = LanguageModel("tiny", idle, PromptEncoder(loaded[1], idle))
    with pytest.raises(RequestError, match=r"asks for 3 answers; this server takes 2 at once\. Send several"):
        asyncio.run(model.predict({"instances": ["a", "b", "c"]}))
    assert not idle._waiting


def test_a_full_queue_is_refused_with_429_and_when_to_retry(loaded: tuple[Any, Any]) -> None:
    idle = Batcher(*loaded, max_queue_length=2)  # never started: nothing leaves the queue

    async def fill() -> None:
        idle.submit([[5], [5]], [Sampling(1), Sampling(1)])
        idle.submit([[5]], [Sampling(1)])

    with pytest.raises(RequestError) as refused:
        asyncio.run(fill())
    assert (refused.value.status, refused.value.code, refused.value.retry_after_seconds) == (
        429,
        "queue_full",
        1,
    )
    assert "2 prompts wait, 2 may" in str(refused.value)


@pytest.mark.parametrize(("prompt_tokens", "accepted"), [(118, True), (119, False)])
def test_prompt_and_answer_must_fit_the_context(batcher: Batcher, prompt_tokens: int, accepted: bool) -> None:
    async def submit() -> str:
        (generation,) = batcher.submit([[5] * prompt_tokens], [Sampling(max_tokens=10, temperature=0)])
        return await generation.text()

    if accepted:
        asyncio.run(submit())
        return
    with pytest.raises(RequestError) as refused:
        asyncio.run(submit())
    assert refused.value.status == 400
    assert str(refused.value) == (
        "This model's context is 128 tokens; the request needs 129 (119 in the prompt and 10 for the answer). "
        "Shorten the prompt or lower max_tokens."
    )


def first_tokens(
    loaded: tuple[Any, Any], requests: list[list[tuple[int, int]]], **limits: Any
) -> list[tuple[int, int]]:
    """Numbers of the prompts whose answers begin and end, in order; each request has prompts of a length and an answer's."""
    made = Batcher(*loaded, max_model_len=512, **limits)
    order: list[tuple[int, int]] = []

    async def run() -> None:
        rows: list[Generation] = []
        for request in requests:
            prompts = [[5] * prompt for prompt, _ in request]
            settings = [Sampling(tokens, temperature=0, ignore_eos=True) for _, tokens in request]
            rows += made.submit(prompts, settings)
        numbers = {id(row): number for number, row in enumerate(rows)}
        feed = Generation.feed

        is_noted = threading.Lock()  # whoever waits for a row goes on from within ``feed``

        def noted(row: Generation, token: int) -> None:
            with is_noted:
                feed(row, token)
                if row.completion_tokens == 1 or row.finish_reason:
                    order.append((numbers[id(row)], row.completion_tokens))

        Generation.feed = noted  # type: ignore[method-assign]
        try:
            made.start()
            await asyncio.gather(*(row.text() for row in rows))
            with is_noted:
                pass
        finally:
            Generation.feed = feed  # type: ignore[method-assign]

    asyncio.run(run())
    made.stop()
    return order


def test_a_first_token_waits_for_a_share_of_others_and_not_for_their_ends(loaded: tuple[Any, Any]) -> None:
    order = first_tokens(loaded, [[(4, 100)], [(4, 100)], [(4, 100)], [(4, 3)]], max_batch_size=2)
    assert [number for number, tokens in order if tokens == 1] == [0, 1, 2, 3]
    ends = [number for number, tokens in order if tokens > 1]
    assert (ends[0], sorted(ends)) == (3, [0, 1, 2, 3])


def test_an_answer_that_gave_its_place_up_says_what_it_would_have_said(loaded: tuple[Any, Any]) -> None:
    def texts(size: int) -> list[str]:
        made = Batcher(*loaded, max_batch_size=size, max_model_len=256)

        async def run() -> list[str]:
            settings = [
                Sampling(90, temperature=0),
                Sampling(80, seed=4, temperature=1.2, repetition_penalty=1.1),
                Sampling(70, temperature=0, stop=("zzz",), ignore_eos=True),
            ]
            rows = [
                row
                for text, how in zip(PROMPTS, settings, strict=False)
                for row in made.submit([ids(made, text)], [how])
            ]
            made.start()
            return list(await asyncio.gather(*(row.text() for row in rows)))

        said = asyncio.run(run())
        made.stop()
        return said

    assert texts(1) == texts(2) == texts(3)


def test_a_request_of_many_prompts_takes_turns_with_others(loaded: tuple[Any, Any]) -> None:
    order = first_tokens(loaded, [[(4, 1)] * 4, [(4, 1)], [(4, 1)]], max_batch_size=1)
    assert [number for number, _ in order] == [0, 1, 4, 2, 5, 3]


def test_prompts_are_let_in_by_the_tokens_that_they_may_take(loaded: tuple[Any, Any]) -> None:
    sizes: list[list[int]] = []
    made = Batcher(*loaded, max_batch_size=8, max_model_len=100, max_batch_total_tokens=100)
    engine = made._make_engine(loaded[0])
    step = engine.step

    def noted(new: list[Generation]) -> None:
        sizes.append([row.needs for row in (*engine.rows, *new)])
        step(new)

    engine.step = noted  # type: ignore[method-assign]
    made._make_engine = lambda _: engine  # type: ignore[assignment,return-value]

    async def run() -> None:
        rows = [
            row
            for prompt, tokens in ((20, 10), (20, 10), (40, 10), (90, 10), (5, 5))
            for row in made.submit([[5] * prompt], [Sampling(tokens, temperature=0, ignore_eos=True)])
        ]
        made.start()
        await asyncio.gather(*(row.text() for row in rows))

    asyncio.run(run())
    made.stop()
    assert max(len(rows) * max(rows) for rows in sizes) <= 100
    together = [rows for at, rows in enumerate(sizes) if at == 0 or rows != sizes[at - 1]]
    assert together == [[30, 30], [50], [100], [10]]  # the large one is not passed by the small one behind it


def test_a_request_that_takes_too_long_is_given_up(loaded: tuple[Any, Any]) -> None:
    idle = Batcher(*loaded, request_timeout_seconds=0.05)

    async def wait() -> str:
        (generation,) = idle.submit([[5]], [Sampling(1)])
        try:
            return await generation.text()
        finally:
            assert generation.cancelled

    started = time.monotonic()
    with pytest.raises(RequestError) as refused:
        asyncio.run(wait())
    assert (refused.value.status, refused.value.code) == (504, "timeout")
    assert time.monotonic() - started < 5


def test_a_failing_forward_pass_fails_its_requests_and_not_the_next(
    batcher: Batcher, loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(type(loaded[0]), "forward", broken)
        with pytest.raises(RequestError) as failed:
            asyncio.run(answer(batcher, PROMPTS[0], Sampling(3)))
    assert failed.value.status == 500
    assert asyncio.run(answer(batcher, PROMPTS[1], Sampling(max_tokens=3, temperature=0)))
