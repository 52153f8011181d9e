"""Whether what was saved is what was trained: a few tokens through both, and their logits compared.

Merging and loading can change a model without an error: an adapter on the embeddings of a model that uses them as its
head too changes both when it is merged, and weights that a configuration calls tied are tied when they are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from llmops_components.errors import ModelError

ROWS, TOKENS = 8, 16
# How far the logits of one model, computed in two ways, may be apart, as a share of their size. With 30 layers it is 3e-6,
# 0.004 and 0.035, most of it weights rounded after the merge; a GPU may compute float32 with the fraction of float16.
TOLERANCE = {"float32": 0.015, "float16": 0.02, "bfloat16": 0.12}
_CHUNK = 4096
# Rewards that are kept near zero are sums of larger numbers, whose rounding errors do not become smaller with them.
_SMALL_REWARD = 0.05


@dataclass(frozen=True)
class Probe:
    """Tokens, and what a model makes of them.

    Args:
        tokens: Ids, of shape (rows, tokens).
        vocabulary: Tokens of the tokenizer; what lies beyond them is padding of the matrices, and random.
        logits: What the model says, on the CPU, in float32; None if it cannot compute where it lies.
    """

    tokens: Any
    vocabulary: int
    logits: Any

    @classmethod
    def of(cls, model: Any, vocabulary: int) -> Probe:
        """Ask a model.

        Args:
            model: A causal language model or a classifier, with or without an adapter.
            vocabulary: Number of tokens in its tokenizer.
        """
        vocabulary = min(vocabulary, model.get_input_embeddings().weight.shape[0])
        tokens = _choose_tokens(model, vocabulary)
        return cls(tokens, vocabulary, _logits(model, tokens, vocabulary))

    def check(self, model: Any, what: str) -> list[str]:
        """Ask another model the same, which has to answer alike.

        Args:
            model: The other model.
            what: What it is, for messages.

        Returns:
            Findings: that the two could not be compared.

        Raises:
            ModelError: It answers otherwise.
        """
        logits = _logits(model, self.tokens, self.vocabulary)
        if self.logits is None or logits is None:
            return [
                f"{what} was not compared with the model that was trained: it cannot compute on this device."
            ]
        dtype = str(model.dtype).removeprefix("torch.")
        allowed = TOLERANCE.get(dtype, TOLERANCE["bfloat16"])
        apart = difference(self.logits, logits)
        if not apart <= allowed:  # what is no number is not right either
            raise ModelError(
                f"{what} is not the model that was trained: its logits are {apart:.2%} apart from those, where rounding in "
                f"{dtype} explains {allowed:.2%}. Train without what is special in peft_args (modules, tokens, tied weights), "
                "or in float32 (model_args={'dtype': 'float32'})."
            )
        return []


def difference(expected: Any, found: Any) -> float:
    """How far logits are apart, as a share of the expected ones' size: the median of all positions.

    A constant added to all logits of a position says nothing, and one position may fall to another expert by a
    rounding error.

    Args:
        expected: Logits, of shape (rows, positions, tokens), or (rows, 1) of a reward model.
        found: Others of the same shape.
    """
    if expected.shape != found.shape:
        return float("inf")
    if expected.shape[-1] == 1:
        size = expected.norm().clamp(min=_SMALL_REWARD * expected.numel() ** 0.5)
        return float((found - expected).norm() / size)
    expected, found = (each - each.mean(-1, keepdim=True) for each in (expected, found))
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).median())


def _logits(model: Any, tokens: Any, vocabulary: int) -> Any:
    import torch

    tokens = tokens.to(model.device)
    try:
        with _evaluating(model), torch.inference_mode(), _in_one_type(model):
            logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    except (RuntimeError, NotImplementedError):  # a kernel that this device or type does not have
        return None
    return logits[..., :vocabulary].float().cpu()


def _in_one_type(model: Any) -> AbstractContextManager[Any]:
    """Have modules that were trained as copies in 32 bit compute with the rest of a model in 16 bit, as in training."""
    import torch

    mixed = model.dtype in (torch.float16, torch.bfloat16) and any(
        "modules_to_save" in name and parameter.dtype == torch.float32
        for name, parameter in model.named_parameters()
    )
    return torch.autocast(model.device.type, dtype=model.dtype) if mixed else nullcontext()


def _choose_tokens(model: Any, vocabulary: int) -> Any:
    """The tokens whose embeddings the adapter changes most, if it changes any, in turn with any others."""
    import torch

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary, (ROWS, TOKENS), generator=generator)
    changed = _most_changed(model, vocabulary)
    if len(changed):
        places = tokens[:, ::2]
        places.copy_(
            changed.repeat(places.numel() // len(changed) + 1)[: places.numel()].reshape(places.shape)
        )
    padding = getattr(model.config, "pad_token_id", None)
    # A classifier takes a row to end before its padding.
    return (
        torch.where(tokens == padding, (tokens + 1) % vocabulary, tokens) if padding is not None else tokens
    )


def _most_changed(model: Any, vocabulary: int) -> Any:
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    embeddings = model.get_input_embeddings()
    if not isinstance(embeddings, BaseTunerLayer | AuxiliaryTrainingWrapper):
        return torch.empty(0, dtype=torch.long)
    changes = []
    with _evaluating(model), torch.inference_mode():
        for some in torch.arange(vocabulary, device=model.device).split(_CHUNK):
            after = embeddings(some)
            with model.disable_adapter():
                changes.append((after - embeddings(some)).float().norm(dim=-1).cpu())
    size, which = torch.cat(changes).topk(min(vocabulary, ROWS * TOKENS // 2))
    return which[size > 0]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)
