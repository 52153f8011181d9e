"""What is known of a model: where it came from, what it was made with, how large it is."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llmops_components.json_text import parse_json
from llmops_components.results import digest_of

PROVENANCE_FILE = "provenance.json"
TRAINING_LOG_FILE = "training_log.json"


def describe_base(base_model: Path) -> dict[str, Any]:
    """Digest of a base model and what an earlier step recorded of its origin."""
    known = base_model / PROVENANCE_FILE
    try:
        provenance = parse_json(known.read_text(encoding="utf-8")) if known.is_file() else None
    except (OSError, ValueError):
        provenance = None
    return {"digest": digest_of(base_model)[0], "provenance": provenance}


def library_versions() -> dict[str, str]:
    return {
        name: version(name) for name in ("torch", "transformers", "trl", "peft", "datasets", "accelerate")
    }


def count_parameters(model: Any) -> tuple[int, int]:
    """Trainable and all parameters of a model."""
    # DeepSpeed leaves an empty tensor of a parameter that is spread over the processes, and notes how large it was.
    sizes = [
        (getattr(parameter, "ds_numel", parameter.numel()), parameter.requires_grad)
        for parameter in model.parameters()
    ]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)


def lineage_of(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The records of a model and of those that it was made from, the first of all last.

    Args:
        provenance: Of the model.
    """
    found = [provenance]
    while "source" not in found[-1] and isinstance(base := found[-1].get("base_model"), Mapping):
        before = base.get("provenance")
        found.append(before if isinstance(before, Mapping) else {})
    return found


def card_licence(directory: Path) -> str | None:
    """The licence that a model card states in its YAML head; of one that the hub has no identifier for, its name.

    Args:
        directory: Model directory.
    """
    from huggingface_hub import ModelCard

    card = directory / "README.md"
    if not card.is_file():
        return None
    try:
        data = ModelCard.load(card, ignore_metadata_errors=True).data
        stated = data.license
    except Exception:  # a card that cannot be read says nothing of the licence; the model is still good
        return None
    return getattr(data, "license_name", None) or stated if stated == "other" else stated
