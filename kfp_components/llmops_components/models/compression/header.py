"""Weight files that are the same whenever they hold the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

_LENGTH_BYTES = 8
_ALIGNED_BYTES = 8


def order_header(file: Path) -> None:
    """Put what a safetensors file notes of its weights in order.

    safetensors writes these notes, by which torchao finds its weights again, in an order that differs from process to process, and with
    them the digest of the model. See https://github.com/huggingface/safetensors#format.

    Args:
        file: A safetensors file.
    """
    with file.open("r+b") as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        header = json.loads(opened.read(length))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % _ALIGNED_BYTES)
        if len(text) == length:
            opened.seek(_LENGTH_BYTES)
            opened.write(text)
            return
        aside = file.with_suffix(".ordered")
        with aside.open("wb") as other:
            other.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
            opened.seek(_LENGTH_BYTES + length)
            shutil.copyfileobj(opened, other)
    aside.replace(file)
