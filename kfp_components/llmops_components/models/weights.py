"""Whether the weights on disk are those that a model's config asks for: no one more, no one less, each of its shape."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmops_components.errors import ModelError

# Masks that GPT-2, GPT-J and GPT-Neo once saved beside their weights.
_OLD_MASK = re.compile(r"\.attn(?:\.attention)?\.(?:bias|masked_bias)$")


def check_weights(
    directory: Path, loading: Mapping[str, Any], *, looked_at: Callable[[str], bool] = lambda name: True
) -> None:
    """Raise :class:`ModelError` unless the weights on disk were exactly those of the model.

    Transformers fills weights that are missing with random numbers, leaves out those that it does not know, and only
    warns of both.

    Args:
        directory: Model directory, for the message.
        loading: What ``from_pretrained(output_loading_info=True)`` says.
        looked_at: Of a name, whether it matters; others belong to a head that is made anew, or is asked for nothing.
    """
    missing, unexpected = (
        sorted(filter(looked_at, loading[kind])) for kind in ("missing_keys", "unexpected_keys")
    )
    unexpected = [name for name in unexpected if not _OLD_MASK.search(name)]
    if missing:
        raise ModelError(
            f"Model {directory} lacks {len(missing)} weights that its config.json asks for, for example {missing[0]}. "
            "Save the whole model again, or correct its config.json."
        )
    if unexpected:
        raise ModelError(
            f"Model {directory} has {len(unexpected)} weights that its config.json does not ask for, for example "
            f"{unexpected[0]}. It is another kind of model, or an adapter that was not merged: save it with "
            "save_pretrained(), or correct its config.json."
        )
    if other := sorted(
        (name, tuple(found), tuple(asked)) for name, found, asked in loading["mismatched_keys"]
    ):
        name, found, asked = other[0]
        raise ModelError(
            f"Model {directory} has {len(other)} weights of another shape than its config.json asks for, for example "
            f"{name}: {found} instead of {asked}. Save the whole model again, or correct its config.json."
        )
