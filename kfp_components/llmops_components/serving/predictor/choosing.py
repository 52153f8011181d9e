"""Which engine answers for a model: found out by asking the model when it is loaded, not guessed from its name."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from prometheus_client import Info

from llmops_components.errors import ModelError, shortened
from llmops_components.models.device_memory import free_bytes
from llmops_components.models.probing import (
    AloneAnswer,
    answers_alone,
    check_causal,
    distance,
    name_of,
    rounding_of,
)
from llmops_components.serving.predictor.engines import Batch, EngineMaker, OneByOne

logger = logging.getLogger(__name__)

EngineName = Literal["auto", "openvino", "torch"]

ENGINE = Info(
    "llmops_engine", "What computes the answers, with which type of numbers, and why this and no other"
)
_TITLES = {"openvino": "OpenVINO", "torch": "torch"}
_TRIED_PART_TOKENS = 16  # the longest prompt of the trial is read in three parts
_WEIGHTS_AGAIN = 2  # OpenVINO packs the weights anew beside torch's, and needs as much while it does
_GIB = 2**30


def choose_engine(model: Any, wanted: EngineName = "auto") -> EngineMaker:
    """The fastest engine that answers as the model's own ``generate`` does.

    That is OpenVINO on a CPU, for models that can be exported to it, else the batch, else one prompt after the other.

    Args:
        model: A causal language model of transformers.
        wanted: ``openvino`` has the model refused where OpenVINO cannot answer, ``torch`` leaves OpenVINO out.

    Raises:
        ModelError: The model cannot generate at all, or does not continue its prompt.
    """
    if model.device.type != "cpu":
        logger.warning(
            "%s is on %s. This predictor is made for CPUs and slow on a GPU: serve models there with vLLM, by KServe's huggingfaceserver.",
            name_of(model),
            model.device,
        )
    alone = answers_alone(model)
    check_causal(model, alone)
    maker, why = (None, "torch is asked for") if wanted == "torch" else _by_openvino(model, alone, wanted)
    if maker is None and wanted == "openvino":
        raise ModelError(
            f"{name_of(model)} cannot be answered by OpenVINO: {why}. Leave the engine to the predictor (auto), or name torch."
        )
    engine, dtype = "torch" if maker is None else "openvino", str(model.dtype).removeprefix("torch.")
    logger.info("%s is answered by %s in %s: %s.", name_of(model), _TITLES[engine], dtype, why)
    ENGINE.info({"engine": engine, "dtype": dtype, "why": why})
    return _by_torch(model, alone) if maker is None else maker


def _by_torch(model: Any, alone: Sequence[AloneAnswer]) -> EngineMaker:
    try:
        same = compare(Batch, model, alone).apart <= rounding_of(model)
        why = "does not answer in a batch as it does alone"
    except Exception as error:  # whatever a model's own code raises over a cache that is not its own
        same, why = False, f"fails in a batch ({type(error).__name__}: {error})"
    if same:
        return Batch
    logger.warning("%s %s: it answers one prompt after the other.", name_of(model), why)
    return OneByOne


def _by_openvino(
    model: Any, alone: Sequence[AloneAnswer], wanted: EngineName
) -> tuple[EngineMaker | None, str]:
    """OpenVINO's engine for a model if it answers as the model does, and why it is that or none."""
    if model.device.type != "cpu":
        return None, f"the model is on {model.device.type}, and OpenVINO is for CPUs here"
    if importlib.util.find_spec("openvino") is None:
        return None, "the package openvino is not installed"
    needed = _WEIGHTS_AGAIN * sum(weight.nbytes for weight in model.parameters())
    if wanted == "auto" and needed > (free := free_bytes(model.device)):
        return None, f"its export may take {needed / _GIB:.1f} GiB more, and {free / _GIB:.1f} GiB are free"
    try:
        from llmops_components.serving.predictor.exporting import NotExportableError
        from llmops_components.serving.predictor.paged import PagedMaker
    except ImportError as error:
        return None, f"the package openvino cannot be used here: {shortened(str(error), 200)}"
    try:
        maker = PagedMaker(model)
        found = compare(maker.with_parts(_TRIED_PART_TOKENS), model, alone)
    except NotExportableError as error:
        return None, str(error)
    except Exception as error:  # whatever tracing a model's own code, or its translation, raises
        words = shortened(str(error).strip().partition("\n")[0], 200)
        return None, f"its export failed ({type(error).__name__}: {words})"
    most = rounding_of(model)
    said = (
        f"{found.same_tokens} of {found.tokens} greedy tokens are those of the model itself, and its logits are "
        f"{found.apart:.1g} apart from the model's own, of {most:g} at most"
    )
    # In 16 bit rounding decides between two likely tokens, for torch in a batch and alone, too.
    exact = model.dtype == torch.float32
    fits = found.apart <= most and (found.same_tokens == found.tokens or not exact)
    return (maker if fits else None), said if fits else f"the exported model says other things ({said})"


@dataclass(frozen=True)
class Agreement:
    """What an engine says beside what the model said to the same prompts alone.

    Args:
        apart: How far logits are apart, relative to how much those of different tokens differ; of the worst prompt.
        tokens: Tokens that were compared.
        same_tokens: How many of them are the most likely ones for both.
    """

    apart: float
    tokens: int
    same_tokens: int


def compare(make: EngineMaker, model: Any, alone: Sequence[AloneAnswer]) -> Agreement:
    """Have an engine answer prompts that join and leave, and compare what each got with what it got alone.

    Args:
        make: Makes the engine.
        model: A causal language model of transformers.
        alone: What it said to each prompt alone, three at least.
    """
    rows = [_Replay(each) for each in alone]
    rows[1].max_tokens -= 2  # leaves before the others
    batch = make(model)
    batch.step(rows[:2])
    batch.step([])
    batch.step(rows[2:])
    while batch.rows:
        batch.step([])
    logits = [torch.stack(row.logits) for row in rows]
    tokens = [
        given == said
        for row, got in zip(rows, logits, strict=True)
        for given, said in zip(got.argmax(dim=-1).tolist(), row.alone.tokens[: row.max_tokens], strict=True)
    ]
    apart = (distance(got, row.alone.logits[: row.max_tokens]) for row, got in zip(rows, logits, strict=True))
    return Agreement(max(apart), len(tokens), sum(tokens))


class _Replay:
    """A row that chooses the tokens that the model chose alone, and keeps the logits that it is given."""

    takes_most_likely = False
    cancelled = False

    def __init__(self, alone: AloneAnswer) -> None:
        self.alone = alone
        self.ids = alone.prompt
        self.max_tokens = len(alone.tokens)
        self.finish_reason: str | None = None
        self.logits: list[torch.Tensor] = []

    def choose(self, logits: torch.Tensor) -> int:
        self.logits.append(logits.to("cpu", torch.float32, copy=True))  # an engine may use the place again
        return self.alone.tokens[len(self.logits) - 1]

    def feed(self, token: int) -> None:
        if len(self.logits) == self.max_tokens:
            self.finish_reason = "length"

    def finish(self, reason: str) -> None:
        self.finish_reason = reason
