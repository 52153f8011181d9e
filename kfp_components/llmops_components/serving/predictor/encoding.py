"""Prompts become token ids beside the event loop, and only where they may fit: reading a large one takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from llmops_components.serving.http.refusals import RequestError
from llmops_components.serving.predictor.batching import Batcher
from llmops_components.serving.predictor.threads import SideThread

# Most characters that one token stands for, where the vocabulary has none that is longer: for tokenizers with a token for
# whatever they do not know.
_LONGEST_TOKEN = 256
_MAX_WAITING_CHARACTERS = 8 << 20
_Answer = TypeVar("_Answer")


class PromptEncoder:
    """Makes token ids of prompts, one request after the other.

    Args:
        tokenizer: The model's tokenizer.
        batcher: What answers, and knows how much it takes.
    """

    def __init__(self, tokenizer: Any, batcher: Batcher) -> None:
        self._tokenizer = tokenizer
        self._batcher = batcher
        longest = max(_LONGEST_TOKEN, *map(len, tokenizer.get_vocab()))
        self._max_characters = batcher.max_model_len * longest
        self._thread = SideThread("encoder", max_waiting=_MAX_WAITING_CHARACTERS, what="prompts")

    async def encode(
        self,
        prompts: Sequence[str | list[int]],
        *,
        add_special_tokens: bool,
        answers: int = 1,
        field: str = "prompt",
    ) -> list[list[int]]:
        """Token ids of prompts that are text or token ids already.

        Args:
            prompts: The prompts.
            add_special_tokens: Whether text gets the special tokens with which the model's prompts begin.
            answers: How often each is to be answered.
            field: What the request calls the prompts.
        """
        self._batcher.check_count(len(prompts), answers, field)

        def read() -> list[list[int]]:
            return [
                self._tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"]
                if isinstance(prompt, str)
                else prompt
                for prompt in prompts
            ]

        return await self.in_thread(read, [prompt for prompt in prompts if isinstance(prompt, str)], field)

    async def in_thread(self, read: Callable[[], _Answer], texts: Sequence[str], field: str) -> _Answer:
        """What a function makes of texts, while the server goes on answering others.

        Args:
            read: The function.
            texts: What it reads; refused where one is too long for the model whatever it says.
            field: What the request calls them.
        """
        if too_long := next((text for text in texts if len(text) > self._max_characters), None):
            raise RequestError(
                400,
                f"This model's context is {self._batcher.max_model_len} tokens; {len(too_long)} characters do not fit. "
                "Shorten the prompt.",
                param=field,
                code="context_length_exceeded",
            )
        return await self._thread.run(read, sum(map(len, texts)))
