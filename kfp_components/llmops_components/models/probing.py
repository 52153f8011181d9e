"""Whether a model answers a prompt among others as it answers it alone: tried with random tokens, not guessed from its name.

Attention over padded rows takes a mask, so most models can be batched. A recurrent model may read padding like text,
some hybrids keep a state that cannot be put together from rows, and an encoder looks at tokens that are yet to come.
Logits are compared, with a tolerance: where two tokens are about equally likely, rounding decides between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import GenerationConfig, LogitsProcessor

from llmops_components.errors import ModelError

# Beginnings and ends of prompts in one random text: of mixed length, not in order, each the beginning of the longest ...
_MIXED = ((0, 3), (0, 37), (0, 14))
_OF_ONE_LENGTH = ((0, 9), (9, 18), (18, 27))  # ... and with nothing in common but the length.
_NEW_TOKENS = 4
_SCORED = (3, 37, 14)  # lengths of the texts that a classifier is tried with
# Tried with random models of 130 architectures: rounding makes up to 1e-4 in 32 bit and 0.05 in 16 bit; wrong masks,
# positions and states make 0.25 and more, tokens that are yet to come 0.2 and more. Scores of 70: 3e-6 and 0.02; 0.07.
_ROUNDING = 1e-3
_ROUNDING_IN_16_BIT = 0.1
_ROUNDING_OF_SCORES_IN_16_BIT = 0.05

Together = Literal["padded", "of one length", "alone"]


@dataclass(frozen=True)
class AloneAnswer:
    """What a model said after a prompt that nothing stood beside.

    Args:
        prompt: Token ids of the prompt.
        tokens: The most likely tokens that follow it.
        logits: What the model gave for every token, a row for each of ``tokens``.
    """

    prompt: list[int]
    tokens: list[int]
    logits: torch.Tensor


def name_of(model: Any) -> str:
    """Class and type of a model, for messages.

    Args:
        model: A model of transformers.
    """
    return f"{type(model).__name__} (model type {model.config.model_type})"


def answers_alone(model: Any, spans: Sequence[tuple[int, int]] = _MIXED) -> list[AloneAnswer]:
    """Ask a model for a few tokens after random prompts, one at a time and by its own ``generate``.

    Args:
        model: A causal language model of transformers.
        spans: Beginning and end of each prompt in one random text.

    Raises:
        ModelError: The model fails at it.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    source = torch.Generator().manual_seed(0)
    text = torch.randint(vocabulary, (max(end for _, end in spans),), generator=source).tolist()
    prompts = [text[begin:end] for begin, end in spans]
    try:
        return [AloneAnswer(prompt, *_generate(model, [prompt], _NEW_TOKENS)[0]) for prompt in prompts]
    except Exception as error:  # whatever a model's own code raises
        raise ModelError(
            f"{name_of(model)} loads but cannot generate: {type(error).__name__}: {error}"
        ) from error


def check_causal(model: Any, alone: Sequence[AloneAnswer]) -> None:
    """Raise :class:`ModelError` where tokens that are yet to come change what a model says, as in an encoder.

    Two texts of one length with the same beginning are computed by the same kernels, so that a deep model in 16 bit
    rounds alike. A model whose logits are no numbers is refused too.

    Args:
        model: A language model of transformers.
        alone: What it said to prompts alone, which are beginnings of the longest of them.
    """
    if any(each.logits.isnan().any() for each in alone):
        raise ModelError(
            f"{name_of(model)} loads, but its logits are no numbers (NaN), as those of a model whose training diverged. Use "
            "an earlier checkpoint of it, or train again with a lower learning_rate."
        )
    whole = max((each.prompt for each in alone), key=len)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    said = _logits(model, whole)
    apart = []
    for length in {len(each.prompt) for each in alone} - {len(whole)}:
        otherwise = whole[:length] + [(token + 1) % vocabulary for token in whole[length:]]
        here = slice(length - 1, length)
        apart.append(distance(_logits(model, otherwise)[here], said[here]))
    if max(apart) > rounding_of(model):
        raise ModelError(
            f"{name_of(model)} is no causal language model: what it says to a text changes with the words behind it. "
            "Models that were trained to fill gaps, such as BERT, cannot continue a prompt."
        )


def _logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Logits behind each token of a text."""
    rows = torch.tensor([list(ids)], device=model.device)
    with torch.inference_mode():
        return model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits[0]


def together(model: Any) -> Together:
    """How prompts may be put into one batch of ``generate`` so that each is answered as it would be alone.

    Args:
        model: A causal language model of transformers.

    Raises:
        ModelError: The model cannot generate at all, or is no causal one.
    """
    alone = answers_alone(model)
    check_causal(model, alone)
    if _agrees_in_batch(model, alone):
        return "padded"
    return "of one length" if _agrees_in_batch(model, answers_alone(model, _OF_ONE_LENGTH)) else "alone"


def check_answers_in_batch(model: Any, trainer: str) -> None:
    """Raise :class:`ModelError` where a model answers a prompt otherwise when longer ones stand beside it.

    Args:
        model: A causal language model of transformers.
        trainer: What answers prompts of all lengths in one batch, for the message.
    """
    if _is_in_parts(model):
        return
    with _evaluating(model):
        how = together(model)
    if how != "padded":
        raise ModelError(
            f"{name_of(model)} answers a prompt otherwise when a longer one stands beside it, since it reads the padding "
            f"like text. {trainer} answers prompts in batches, so it would learn from answers that the model does not give "
            "by itself. Use a model with attention, or train this one on given answers (SFT, DPO, KTO)."
        )


def check_scores_in_batch(model: Any, tokenizer: Any) -> None:
    """Raise :class:`ModelError` where a classifier scores a text otherwise when a longer one stands beside it.

    Args:
        model: A sequence classifier of transformers.
        tokenizer: Its tokenizer, with the token that fills shorter rows.
    """
    if _is_in_parts(model):
        return
    with _evaluating(model):
        try:
            rows = _random_texts(model, tokenizer)
            width = max(map(len, rows))
            alone = torch.cat([_scores(model, [row], [row]) for row in rows])
            beside = _scores(
                model, [row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows], rows
            )
        except Exception as error:  # whatever a model's own code raises
            raise ModelError(
                f"{name_of(model)} loads but cannot score a text: {type(error).__name__}: {error}"
            ) from error
    if alone.isnan().any():
        raise ModelError(
            f"{name_of(model)} loads, but its scores are no numbers (NaN), as those of a model whose training diverged. Use "
            "an earlier checkpoint of it, or train again with a lower learning_rate."
        )
    apart = float((beside - alone).norm() / alone.norm().clamp(min=1e-9))
    if not apart <= rounding_of(model, _ROUNDING_OF_SCORES_IN_16_BIT):
        raise ModelError(
            f"{name_of(model)} scores a text otherwise when a longer one stands beside it, {apart:.0%} apart in a trial "
            "with random tokens: it does not tell padding from text. Rewards would depend on what they are computed "
            "with. Base the reward model on another kind of model."
        )


def _random_texts(model: Any, tokenizer: Any) -> list[list[int]]:
    """Texts of mixed length that end as the model's texts do, and hold no padding."""
    end_of_model = getattr(model.config.get_text_config(), "eos_token_id", None)
    ends = [token for token in (tokenizer.eos_token_id, end_of_model) if isinstance(token, int)][:1]
    special = {tokenizer.pad_token_id, *ends}
    words = [token for token in range(model.get_input_embeddings().weight.shape[0]) if token not in special]
    source = torch.Generator().manual_seed(0)
    return [
        [words[index] for index in torch.randint(len(words), (length,), generator=source).tolist()] + ends
        for length in _SCORED
    ]


def _is_in_parts(model: Any) -> bool:
    """Whether DeepSpeed has spread its weights over the processes, so that this one alone cannot ask it."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def rounding_of(model: Any, of_16_bit: float = _ROUNDING_IN_16_BIT) -> float:
    """How far rounding alone may have what a model says be apart (:func:`distance`).

    Args:
        model: The model.
        of_16_bit: The bound where it computes in 16 bit.
    """
    in_16_bit = model.dtype != torch.float32 or torch.is_autocast_enabled(model.device.type)
    return of_16_bit if in_16_bit else _ROUNDING


def _scores(model: Any, ids: Sequence[Sequence[int]], rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Scores of rows that are padded on the right to ``ids``."""
    mask = [[1] * len(row) + [0] * (len(padded) - len(row)) for padded, row in zip(ids, rows, strict=True)]
    with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
        ).logits
    return logits.float().cpu()


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without dropout; afterwards as before."""
    was = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in was.items():
            module.training = training


def _agrees_in_batch(model: Any, alone: Sequence[AloneAnswer]) -> bool:
    """Whether ``generate`` over all prompts at once, padded on the left, gives what it gave each alone."""
    tokens = [each.tokens for each in alone]
    try:
        rows = _generate(model, [each.prompt for each in alone], len(tokens[0]), tokens)
    except Exception:  # whatever a model's own code raises
        return False
    return all(
        distance(logits, each.logits) <= rounding_of(model)
        for (_, logits), each in zip(rows, alone, strict=True)
    )


def distance(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """How far logits are apart, relative to how much those of different tokens differ: the median of the steps.

    A single step may differ by rounding alone where it sends a token to another expert.

    Args:
        logits: A row for each step.
        expected: The same, from elsewhere.
    """

    def centred(rows: torch.Tensor) -> torch.Tensor:
        rows = rows.detach().cpu().double()
        return rows - rows.mean(dim=-1, keepdim=True)

    reference = centred(expected)
    apart = (centred(logits) - reference).norm(dim=-1) / reference.norm(dim=-1).clamp(min=1e-9)
    return float(apart.nan_to_num(nan=torch.inf).median())


def left_padded(rows: Sequence[Sequence[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids in one rectangle, shorter rows filled on the left, and the mask that says which are real.

    Args:
        rows: Token ids by row.
        device: Device of the model.
    """
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


@contextmanager
def without_own_settings(model: Any) -> Iterator[None]:
    """Have ``generate`` fill gaps with its defaults, not with the penalties and end tokens that the checkpoint brings.

    Args:
        model: A model of transformers.
    """
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _generate(
    model: Any, prompts: Sequence[list[int]], new_tokens: int, said: Sequence[list[int]] | None = None
) -> list[tuple[list[int], torch.Tensor]]:
    """Tokens and logits that follow each prompt; with ``said`` the logits on the way to tokens that are given."""
    ids, mask = left_padded(prompts, model.device)
    with without_own_settings(model):
        output = model.generate(
            ids,
            attention_mask=mask,
            generation_config=GenerationConfig(
                max_new_tokens=new_tokens,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            ),
            logits_processor=[] if said is None else [_Given(said, ids.shape[1])],
        )
    logits = torch.stack(output.logits, dim=1).float().cpu()
    return list(zip(output.sequences[:, ids.shape[1] :].tolist(), logits, strict=True))


class _Given(LogitsProcessor):
    """Leaves ``generate`` no other tokens than the given ones."""

    def __init__(self, tokens: Sequence[list[int]], start: int) -> None:
        self._tokens, self._start = tokens, start

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        only = torch.full_like(scores, -torch.inf)
        for row, tokens in enumerate(self._tokens):
            only[row, tokens[input_ids.shape[1] - self._start]] = 0
        return only
