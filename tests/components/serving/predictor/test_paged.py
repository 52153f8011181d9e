"""OpenVINO answers what the model itself answers, for prompts that join and leave; what it cannot answer, torch does."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from architectures import answer_alone, make_model

torch = pytest.importorskip("torch")
pytest.importorskip("openvino")

from llmops_components.errors import ModelError  # noqa: E402
from llmops_components.models import probing  # noqa: E402
from llmops_components.models.probing import distance  # noqa: E402
from llmops_components.serving.predictor import choosing, paged  # noqa: E402
from llmops_components.serving.predictor.batching import Batcher  # noqa: E402
from llmops_components.serving.predictor.choosing import choose_engine  # noqa: E402
from llmops_components.serving.predictor.engines import Batch  # noqa: E402
from llmops_components.serving.predictor.exporting import NotExportableError, export  # noqa: E402
from llmops_components.serving.predictor.paged import PagedMaker  # noqa: E402
from llmops_components.serving.predictor.sampling import Sampling  # noqa: E402

FAKES = Path(__file__).parents[3] / "fakes"
PROMPTS = [
    "What colour is the sky?",
    "Hi",
    "The plum is",
    "What colour is the apple? Say what it does.",
    "Sun",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def ask(batcher: Batcher, tokenizer: Any, prompts: list[str], sampling: Sampling) -> list[str]:
    async def answers() -> list[str]:
        made = batcher.submit(tokenizer(prompts)["input_ids"], [sampling] * len(prompts))
        return list(await asyncio.gather(*(each.text() for each in made)))

    return asyncio.run(answers())


@pytest.mark.parametrize("architecture", ["gpt2", "mistral", "gemma3_text"])
def test_answers_what_the_model_answers_alone(architecture: str, tokenizer: Any) -> None:
    model = make_model(architecture, len(tokenizer))
    tokens = 70  # an answer takes several blocks
    expected = [answer_alone(model, tokenizer, prompt, tokens) for prompt in PROMPTS]
    assert len(set(expected)) > 2

    maker = choose_engine(model, "openvino")
    assert isinstance(maker, PagedMaker)
    batcher = Batcher(model, tokenizer, engine=maker, max_batch_size=4, max_model_len=128)
    batcher.start()
    try:
        assert ask(batcher, tokenizer, PROMPTS, Sampling(tokens, temperature=0)) == expected
        seeded = Sampling(8, temperature=1, seed=3)
        assert ask(batcher, tokenizer, PROMPTS, seeded) == ask(batcher, tokenizer, PROMPTS, seeded)
    finally:
        batcher.stop()


def test_a_window_of_attention_is_kept_to(tokenizer: Any) -> None:
    """The trial at the start is too short for the windows of real models."""
    model = make_model("mistral", len(tokenizer))
    text = " ".join(PROMPTS * 3)

    def with_window(tokens: int | None) -> str:
        model.config.sliding_window = tokens
        return answer_alone(model, tokenizer, text, 40)

    without, expected = with_window(None), with_window(8)
    assert expected != without
    batcher = Batcher(model, tokenizer, engine=PagedMaker(model), max_model_len=512)
    batcher.start()
    try:
        assert ask(batcher, tokenizer, [text], Sampling(40, temperature=0)) == [expected]
    finally:
        batcher.stop()


def test_a_window_that_only_the_mask_keeps_to_is_refused(tokenizer: Any) -> None:
    model = make_model("gpt2", len(tokenizer))
    model.config.sliding_window = 8
    with pytest.raises(NotExportableError, match="does not say how far it sees"):
        export(model)


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        (
            "rope_parameters",
            {"rope_type": "dynamic", "factor": 2.0},
            "codes positions by the length of the text",
        ),
        ("layer_types", ["full_attention", "chunked_attention"], "has layers of chunked_attention"),
        ("quantization_config", {"quant_method": "torchao"}, "weights are compressed"),
    ],
)
def test_what_a_short_trial_would_not_find_is_refused(setting: str, value: Any, why: str) -> None:
    model = make_model("mistral")
    setattr(model.config, setting, value)
    with pytest.raises(NotExportableError, match=f"^it.* {why}"):
        export(model)


def test_a_long_prompt_is_read_in_parts_while_others_are_answered(tokenizer: Any) -> None:
    model = make_model("mistral", len(tokenizer))
    short, long = _row(model, 3, 12), _row(model, 37, 4)
    engine = PagedMaker(model).with_parts(16)(model)
    engine.step([short])
    for read in range(3):  # 16, 16 and 5 tokens
        assert (len(short.logits), len(long.logits)) == (1 + read, 0)
        engine.step([long] if read == 0 else [])
    assert (len(short.logits), len(long.logits)) == (4, 1)
    while engine.rows:
        engine.step([])
    for row in (short, long):
        assert row.logits and distance(torch.stack(row.logits), row.alone.logits) < 1e-3


def test_prompts_are_read_in_their_order_as_far_as_there_is_room(tokenizer: Any) -> None:
    model = make_model("mistral", len(tokenizer))
    rows = [_row(model, length, 2) for length in (9, 9, 3)]
    engine = PagedMaker(model).with_parts(10)(model)
    engine.step(rows)
    assert [len(row.logits) for row in rows] == [1, 0, 0]
    engine.step([])
    assert [len(row.logits) for row in rows] == [2, 1, 0]
    engine.step([])
    assert [len(row.logits) for row in rows] == [2, 2, 1]


def test_a_prompt_whose_client_goes_is_not_read_to_its_end(tokenizer: Any) -> None:
    model = make_model("mistral", len(tokenizer))
    row = _row(model, 37, 4)
    engine = PagedMaker(model).with_parts(16)(model)
    engine.step([row])
    row.cancelled = True
    engine.step([])
    assert (engine.rows, row.logits, row.finish_reason) == ([], [], "cancelled")
    assert sorted(engine._pool._free) == list(range(engine._pool._size))


def _row(model: Any, length: int, tokens: int) -> Any:
    """A row that says what the model said alone, after a prompt of random tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "_NEW_TOKENS", tokens)
        return choosing._Replay(probing.answers_alone(model, [(0, length)])[0])


def test_the_model_is_what_it_was_after_its_export(tokenizer: Any) -> None:
    model = make_model("mistral", len(tokenizer))
    before = answer_alone(model, tokenizer, PROMPTS[0], 8)
    PagedMaker(model)
    assert answer_alone(model, tokenizer, PROMPTS[0], 8) == before


def test_blocks_come_back_and_what_the_pool_has_grown_beyond_a_bound_is_given_back(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paged, "_FIRST_BLOCKS", 1)
    monkeypatch.setattr(paged, "_KEPT_BLOCKS", 2)
    model = make_model("mistral", len(tokenizer))
    engine = PagedMaker(model)(model)
    for _ in range(2):
        rows = [choosing._Replay(each) for each in choosing.answers_alone(model)]
        engine.step(rows[:2])
        engine.step(rows[2:])
        gone = rows[0]
        engine.leave([gone])
        assert gone not in engine.rows
        rows[1].cancelled = True
        grown = engine._pool
        while engine.rows:
            engine.step([])
        assert rows[1].finish_reason == "cancelled"
        assert sorted(grown._free) == list(range(grown._size))
        assert grown._size == 4  # 37 tokens and more, and two short ones
        assert engine._pool._size == 1

    monkeypatch.setattr(paged, "_KEPT_BLOCKS", 4)
    pools = set()
    for _ in range(3):
        engine.step([choosing._Replay(each) for each in choosing.answers_alone(model)])
        while engine.rows:
            engine.step([])
        pools.add(id(engine._pool))
    assert (len(pools), engine._pool._size) == (1, 4)


_SIGNAL_AFTER_THE_LAST_MODEL = """
import signal, threading
from architectures import make_model
from llmops_components.serving.predictor.paged import PagedMaker
makers, taken = [PagedMaker(make_model("mistral"))], []
other = threading.Thread(target=makers.clear)
other.start()
other.join()
signal.signal(signal.SIGTERM, lambda *_: taken.append("SIGTERM"))
signal.raise_signal(signal.SIGTERM)
print(*taken)
"""


def test_a_signal_is_taken_where_the_last_model_has_gone_in_another_thread() -> None:
    """In a process of its own, which a segmentation fault would end."""
    done = subprocess.run(
        [sys.executable, "-c", _SIGNAL_AFTER_THE_LAST_MODEL],
        env={**os.environ, "PYTHONPATH": str(FAKES)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "SIGTERM\n"), done.stderr


@pytest.mark.parametrize("architecture", ["bloom", "mamba", "qwen3_moe"])
def test_what_cannot_be_exported_is_answered_by_torch(
    architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(architecture)
    with caplog.at_level("INFO"):
        assert choose_engine(model) is choose_engine(model, "torch")
    assert re.search(r"is answered by torch in float32: (?!torch is asked for)", caplog.text)
    with pytest.raises(ModelError, match=r"cannot be answered by OpenVINO: .* Leave the engine"):
        choose_engine(model, "openvino")


def test_the_log_and_the_metrics_say_what_answers_and_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert isinstance(choose_engine(make_model("mistral")), PagedMaker)
    said = r"10 of 10 greedy tokens are those of the model itself, and its logits are \d\S* apart .* 0\.001 at most"
    assert re.search(rf"\(model type mistral\) is answered by OpenVINO in float32: {said}", caplog.text)
    (sample,) = [each for metric in choosing.ENGINE.collect() for each in metric.samples]
    assert (sample.labels["engine"], sample.labels["dtype"]) == ("openvino", "float32")
    assert re.match(said, sample.labels["why"])


def test_an_export_that_answers_otherwise_is_not_used(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = paged.Paged._logits
    monkeypatch.setattr(paged.Paged, "_logits", lambda self, parts: logits(self, parts).roll(1, dims=-1))
    with caplog.at_level("INFO"):
        assert choose_engine(make_model("mistral")) is Batch
    assert "the exported model says other things (0 of 10 greedy tokens" in caplog.text


def test_one_other_token_in_32_bit_is_too_many(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("mistral")
    alone = choosing.answers_alone(model)
    alone[0].tokens[-1] = (alone[0].tokens[-1] + 1) % 8  # no token follows the last one
    monkeypatch.setattr(choosing, "answers_alone", lambda model: alone)
    with caplog.at_level("INFO"):
        assert choose_engine(model) is Batch
    assert "the exported model says other things (9 of 10 greedy tokens" in caplog.text


def test_torch_answers_where_the_weights_do_not_fit_twice(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("mistral")
    needed = 2 * sum(weight.nbytes for weight in model.parameters())
    monkeypatch.setattr(choosing, "free_bytes", lambda device: needed)
    assert isinstance(choose_engine(model), PagedMaker)
    monkeypatch.setattr(choosing, "free_bytes", lambda device: needed - 1)
    with caplog.at_level("INFO"):
        assert choose_engine(model) is Batch
    assert "its export may take 0.0 GiB more, and 0.0 GiB are free" in caplog.text


def test_without_the_package_torch_answers(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing.importlib.util, "find_spec", lambda name: None)
    with caplog.at_level("INFO"):
        assert choose_engine(make_model("mistral")) is Batch
    assert "the package openvino is not installed" in caplog.text


def test_whoever_serves_on_a_gpu_hears_what_is_made_for_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("mistral")
    monkeypatch.setattr(type(model), "device", property(lambda self: torch.device("cuda:0")), raising=False)
    monkeypatch.setattr(choosing, "answers_alone", lambda model: [])
    monkeypatch.setattr(choosing, "check_causal", lambda model, alone: None)
    monkeypatch.setattr(choosing, "_by_torch", lambda model, alone: Batch)
    assert choose_engine(model) is Batch
    assert (
        "is on cuda:0. This predictor is made for CPUs and slow on a GPU: serve models there with vLLM"
        in caplog.text
    )
