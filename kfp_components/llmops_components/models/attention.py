"""What a model computes attention with, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def attention_by(model: Any, implementation: str) -> Iterator[None]:
    """Another implementation of attention; afterwards as before, whatever has changed it meanwhile.

    Args:
        model: A model of transformers.
        implementation: A name that ``set_attn_implementation`` knows.
    """
    before = model.config._attn_implementation
    try:
        if implementation != before:
            model.set_attn_implementation(implementation)
        yield
    finally:
        if model.config._attn_implementation != before:
            model.set_attn_implementation(before)
