"""Log probabilities of tokens, as the model itself has them: before temperature, penalties and any required form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

_SMALLEST = -9999.0  # in place of minus infinity, which JSON does not have; OpenAI's and vLLM's


@dataclass(frozen=True)
class TokenScore:
    """A token that was chosen, and what else might have been.

    Args:
        token: Its id.
        logprob: Natural logarithm of its probability.
        top: The most likely tokens at this place with theirs, the most likely first.
        offset: Characters of the answer before it.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    offset: int


def score(logits: torch.Tensor, token: int, most: int, offset: int) -> TokenScore:
    """Log probability of a token.

    Args:
        logits: The model's score of every token.
        token: The one that was chosen.
        most: Number of the most likely tokens to name.
        offset: Characters of the answer before it.
    """
    logprobs = logits.to("cpu", torch.float32).log_softmax(dim=-1).clamp(min=_SMALLEST)
    values, tokens = logprobs.topk(min(most, len(logprobs)))
    top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return TokenScore(token, float(logprobs[token]), top, offset)


class TokenTexts:
    """The bytes that each token stands for, which may be a part of a character only.

    Args:
        tokenizer: The model's tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.of = cache(self._of)

    def _of(self, token: int) -> bytes:
        written = self._tokenizer.convert_ids_to_tokens(token)
        if written is None:  # models have more rows than their tokenizer has tokens
            return b""
        decoder = self._tokenizer.backend_tokenizer.decoder
        if token in self._tokenizer.added_tokens_decoder or decoder is None:
            return written.encode()
        if written.startswith("<0x") and len(written) == 6:  # SentencePiece's bytes
            return bytes([int(written[3:5], 16)])
        if (plain := _of_byte_level(written)) is not None and _has_byte_level(self._tokenizer):
            return plain
        # Between two others it keeps the space that decoders take from the first word.
        return decoder.decode([written, written]).encode()[len(decoder.decode([written]).encode()) :]


@cache
def _bytes_of_letters() -> dict[str, int]:
    """GPT-2's alphabet: a printable letter for each byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + at): byte for at, byte in enumerate(others)}


def _of_byte_level(written: str) -> bytes | None:
    letters = _bytes_of_letters()
    return (
        bytes(letters[letter] for letter in written) if all(letter in letters for letter in written) else None
    )


def _has_byte_level(tokenizer: Any) -> bool:
    return "ByteLevel" in repr(tokenizer.backend_tokenizer.decoder)


def of_chat(scores: list[TokenScore], texts: TokenTexts) -> dict[str, Any]:
    """Log probabilities in the form of chat completions.

    Args:
        scores: One for each token.
        texts: What tokens stand for.
    """

    def written(token: int, logprob: float) -> dict[str, Any]:
        raw = texts.of(token)
        return {"token": _shown(raw), "logprob": logprob, "bytes": list(raw)}

    content = [
        written(each.token, each.logprob) | {"top_logprobs": [written(*other) for other in each.top]}
        for each in scores
    ]
    return {"content": content, "refusal": None}


def of_text(scores: list[TokenScore], texts: TokenTexts) -> dict[str, Any]:
    """Log probabilities in the form of completions, where the chosen token is among the most likely ones in any case.

    Args:
        scores: One for each token.
        texts: What tokens stand for.
    """

    def written(token: int) -> str:
        raw = texts.of(token)
        return _shown(raw) if _is_text(raw) else f"bytes:{_shown(raw)}"

    return {
        "tokens": [written(each.token) for each in scores],
        "token_logprobs": [each.logprob for each in scores],
        "top_logprobs": [
            {written(token): logprob for token, logprob in (*each.top, (each.token, each.logprob))}
            for each in scores
        ],
        "text_offset": [each.offset for each in scores],
    }


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _shown(raw: bytes) -> str:
    """Text, or the escaped bytes of a part of a character, as OpenAI has it."""
    return raw.decode() if _is_text(raw) else "".join(f"\\x{byte:02x}" for byte in raw)
