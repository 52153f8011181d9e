"""How the next token of an answer is chosen: one prompt's settings, carried out by Transformers' own processors.

Names and meanings are those of OpenAI's API and, where it has none, of vLLM's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

if TYPE_CHECKING:
    from llmops_components.serving.predictor.grammars import Grammar

_SEEDS = 2**63
_COLDEST = 1e-5  # below it dividing by the temperature overflows, and the most likely token is as good as certain; vLLM's


@dataclass(frozen=True)
class Sampling:
    """How one prompt is answered.

    Args:
        max_tokens: Most tokens to generate.
        temperature: 0, or less than 1e-5, takes the most likely token every time.
        top_p: Sample from the smallest set of tokens that holds this much probability.
        top_k: Sample from this many tokens; 0 for all.
        min_p: Sample from tokens that are at least this likely, relative to the most likely one.
        repetition_penalty: Divides the scores of tokens that the prompt or the answer has; 1 for none.
        presence_penalty: Taken from the scores of tokens that the answer has.
        frequency_penalty: Taken from the scores of tokens as often as the answer has them.
        logit_bias: Token ids and what is added to their scores.
        min_tokens: No end of any kind before this many tokens.
        stop: Strings that end the answer.
        stop_token_ids: Tokens that end the answer, beside the model's own.
        include_stop_str_in_output: Whether the string that ended the answer is part of it.
        skip_special_tokens: Whether special tokens are left out of the text.
        ignore_eos: Whether the model's own end tokens are tokens like others.
        seed: Makes sampling repeatable.
        logprobs: Number of the most likely tokens whose log probabilities come with that of each token of the answer;
            None for no log probabilities at all.
        grammar: The form that the answer must have.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None
    grammar: Grammar | None = None


class Sampler:
    """Chooses the tokens of one answer.

    Args:
        sampling: The settings.
        prompt_ids: Token ids of the prompt.
        end_tokens: Tokens that end the answer.
    """

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int], end_tokens: frozenset[int]) -> None:
        self._sampling = sampling
        self._ids = torch.tensor([prompt_ids])
        self._prompt_length = len(prompt_ids)
        self._penalties = self._make_penalties(end_tokens)
        self._warpers = self._make_warpers()
        self._changes_scores = bool(
            self._penalties or sampling.logit_bias or sampling.presence_penalty or sampling.frequency_penalty
        )
        self._constraint = None if sampling.grammar is None else sampling.grammar.begin()
        seed = random.getrandbits(63) if sampling.seed is None else sampling.seed % _SEEDS
        self._random = torch.Generator().manual_seed(seed)

    @property
    def takes_most_likely(self) -> bool:
        """Whether the choice is the token with the highest score, so that it can be made for many rows at once."""
        return self._sampling.temperature < _COLDEST and not self._changes_scores and self._constraint is None

    @property
    def has_ended(self) -> bool:
        """Whether the answer has the form that it must have, and nothing can follow."""
        return self._constraint is not None and self._constraint.ended

    def choose(self, logits: torch.Tensor) -> int:
        """The next token.

        Args:
            logits: The model's score of every token.
        """
        scores = logits.to("cpu", torch.float32, copy=True)[None]
        scores = self._penalties(self._ids, self._with_openai_penalties(scores))
        if self._constraint is not None:
            scores = self._constraint.allow(scores)
        if self._sampling.temperature < _COLDEST:
            token = int(scores[0].argmax())
        else:
            probabilities = self._warpers(self._ids, scores).softmax(dim=-1)
            token = int(torch.multinomial(probabilities[0], 1, generator=self._random))
        if self._constraint is not None:
            self._constraint.take(token)
        if self._changes_scores:
            self._ids = torch.cat([self._ids, torch.tensor([[token]])], dim=1)
        return token

    def _make_penalties(self, end_tokens: frozenset[int]) -> LogitsProcessorList:
        made = LogitsProcessorList()
        if self._sampling.repetition_penalty != 1:
            made.append(RepetitionPenaltyLogitsProcessor(self._sampling.repetition_penalty))
        if self._sampling.min_tokens and end_tokens:
            made.append(
                MinNewTokensLengthLogitsProcessor(
                    self._prompt_length, self._sampling.min_tokens, sorted(end_tokens)
                )
            )
        return made

    def _make_warpers(self) -> LogitsProcessorList:
        """In the order that ``generate`` has them in."""
        made = LogitsProcessorList()
        if self._sampling.temperature >= _COLDEST and self._sampling.temperature != 1:
            made.append(TemperatureLogitsWarper(float(self._sampling.temperature)))
        if self._sampling.top_k:
            made.append(TopKLogitsWarper(self._sampling.top_k))
        if self._sampling.top_p < 1:
            made.append(TopPLogitsWarper(self._sampling.top_p))
        if self._sampling.min_p:
            made.append(MinPLogitsWarper(self._sampling.min_p))
        return made

    def _with_openai_penalties(self, scores: torch.Tensor) -> torch.Tensor:
        """OpenAI's bias and penalties, which Transformers does not have."""
        for token, bias in self._sampling.logit_bias:
            scores[0, token] += bias
        if self._sampling.presence_penalty or self._sampling.frequency_penalty:
            said, times = self._ids[0, self._prompt_length :].unique(return_counts=True)
            scores[0, said] -= self._sampling.presence_penalty + self._sampling.frequency_penalty * times
        return scores
