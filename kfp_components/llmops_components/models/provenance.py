"""What is known of a model: where it came from, what it was made with, how large it is."""

from __future__ import annotations

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
