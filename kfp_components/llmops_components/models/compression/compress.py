"""Compress a model's weights, and measure what that wins and what it costs."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops_components.errors import ModelError, check_known
from llmops_components.models import loading
from llmops_components.models.comparing import Probe, difference
from llmops_components.models.compression.header import order_header
from llmops_components.models.compression.measuring import Measured, measure, read_texts, weight_bytes
from llmops_components.models.compression.methods import check_method, compressed_layers, method_of
from llmops_components.models.directory import check_model_directory, read_settings
from llmops_components.models.outputs import check_output, new_directory
from llmops_components.models.precision import DTYPES, answering
from llmops_components.models.probing import answers_alone, check_causal, name_of
from llmops_components.models.provenance import (
    PROVENANCE_FILE,
    TRAINING_LOG_FILE,
    describe_base,
    library_versions,
)
from llmops_components.models.saving import free_weights
from llmops_components.quiet import quiet_libraries
from llmops_components.results import StepReport
from llmops_components.state_files import write_json

_ANSWERING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_OF_A_SENTENCE_ENCODER = ("modules.json", "config_sentence_transformers.json", "1_Pooling")
_KEPT = (TRAINING_LOG_FILE, "*.png", "LICENSE*", "LICENCE*", "NOTICE*")  # the card speaks of them


@dataclass(frozen=True)
class _Layers:
    """Which parameters of a model are compressed.

    Args:
        compressed: Number of parameters that are.
        left: Of those that are not, how many there are in each kind of layer, most first.
        tied: Whether the embeddings are the head, too.
    """

    compressed: int
    left: Mapping[str, int]
    tied: bool

    @property
    def share(self) -> float:
        """Of all parameters, how many are compressed."""
        return self.compressed / (self.compressed + sum(self.left.values()))


def compress_model(
    base_model: str | os.PathLike[str],
    model: str | os.PathLike[str],
    *,
    method: str = "int8",
    dtype: str = "auto",
    dataset: str | os.PathLike[str] | None = None,
) -> StepReport:
    """Write a causal language model with compressed weights, as safetensors, and measure both models on this machine's CPU.

    Weights of linear layers are compressed; embeddings, the head and norms stay as they are. What was written is loaded again, and
    has to give the logits that the compressed model gave before.

    Args:
        base_model: Directory of the model: whole weights, an adapter merged in.
        model: Output directory.
        method: ``int8``: a byte for each weight and a scale for each row, by torchao.
        dtype: Type of what is left as it is: ``bfloat16``, ``float16``, ``float32``, or ``auto`` for the base model's own. Both models
            are measured in it, or in float32 where this machine has to emulate 16-bit numbers.
        dataset: Rows whose text the losses are of, the first 32: texts, or prompts with completions or references.

    Returns:
        Metrics, each with ``base_`` for the model before: ``weight_bytes``, ``load_seconds``, ``tokens_per_second``, and of a dataset
        ``loss``; ``compressed_share`` of the parameters, ``logit_difference`` (as a share of the logits' size). Details: ``method``,
        ``dtype``, ``uncompressed`` (parameters by kind of layer), ``tied_head``.

    Raises:
        ModelError: The model is compressed already, an adapter, no causal language model, or has nothing that can be compressed; or
            what was written is not what was compressed.
        SettingError: The method or dtype is not offered, or the output exists.
        DataError: The dataset cannot be used.
    """
    check_method(method)
    check_known([dtype], DTYPES, "dtype")
    check_output(model)
    base_directory = check_model_directory(base_model)
    _check_kind(base_directory)
    quiet_libraries()
    texts = read_texts(dataset, loading.load_tokenizer(base_directory)) if dataset is not None else []
    base = describe_base(base_directory)

    computing = "float32" if answering() == "float32" else dtype
    before, probe = _measure_base(base_directory, computing, texts)
    compressed, tokenizer = loading.load_model(base_directory, dtype=dtype, compress=method)
    layers = _layers_of(compressed.eval(), base_directory)
    expected = Probe.of(compressed, len(tokenizer)).logits
    # It takes weights out of their layers and computes with them itself, as recurrent models may.
    if expected is None:
        raise ModelError(
            f"{name_of(compressed)} cannot compute with weights compressed by {method}. Serve it as it is. Model: {base_directory}."
        )
    with new_directory(model) as directory:
        compressed.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        for file in directory.glob("*.safetensors"):
            order_header(file)
        dtype = str(compressed.dtype).removeprefix("torch.")
        del compressed
        _check_size(before.weight_bytes, weight_bytes(directory), base_directory, dtype)
        _check_written(directory, dtype, expected, where=model)
        after, apart = _measure_written(directory, computing, texts, probe)
        if not apart < 1:  # what is no number is not right either
            raise ModelError(
                f"The model does not survive {method}: its logits are {apart:.0%} apart from those before. Serve it as it is. Model: "
                f"{base_directory}."
            )
        _describe(base_directory, directory, base, method, dtype, layers, before, after)
    report = _report(before, after, layers, apart, {"method": method, "dtype": dtype})
    print(
        f"{method}: {before.weight_bytes:,} bytes of weights have become {after.weight_bytes:,}, "
        f"{before.tokens_per_second:.1f} tokens/s {after.tokens_per_second:.1f}",
        flush=True,
    )
    return report


def _check_kind(directory: Path) -> None:
    """Raise :class:`ModelError` for a model that is compressed already or does not answer, before anything is loaded."""
    config = read_settings(directory / "config.json") or {}
    if how := method_of(directory):
        raise ModelError(
            f"The model is compressed already ({how}): rounding it twice loses more. "
            f"Give the model that it was made from. Model: {directory}."
        )
    if any((directory / name).exists() for name in _OF_A_SENTENCE_ENCODER):
        raise ModelError(
            "The model is a sentence encoder, which gives vectors and no answers; only causal language models are compressed here. "
            f"Use it as it is: such models are small. Model: {directory}."
        )
    named = [str(name) for name in config.get("architectures") or ()]
    if named and not any(name.endswith(_ANSWERING) for name in named):
        raise ModelError(
            f"{', '.join(named)} is no causal language model, and only these are compressed here. Model: {directory}."
        )


def _measure_base(directory: Path, computing: str, texts: Sequence[Sequence[int]]) -> tuple[Measured, Probe]:
    with measure(directory) as measured:
        model, tokenizer = loading.load_model(directory, dtype=computing)
    check_causal(model.eval(), answers_alone(model))
    probe = Probe.of(model, len(tokenizer))
    if probe.logits is None:
        raise ModelError(f"{name_of(model)} cannot compute in {model.dtype} on a CPU. Give another dtype.")
    done = measured.ask(model, texts)
    free_weights(model)
    gc.collect()
    return done, probe


def _check_written(directory: Path, dtype: str, expected: Any, *, where: str | os.PathLike[str]) -> None:
    """Load what was written, which has to answer exactly as the model did that was written."""
    import torch

    gc.collect()
    model, tokenizer = loading.load_model(directory, dtype=dtype, compressed=True)
    if not torch.equal(Probe.of(model.eval(), len(tokenizer)).logits, expected):
        raise ModelError(
            f"The model in {where} is not the one that was compressed: loaded again, it gives other logits. Report it with the "
            "versions in provenance.json, and serve the model as it was."
        )


def _measure_written(
    directory: Path, computing: str, texts: Sequence[Sequence[int]], probe: Probe
) -> tuple[Measured, float]:
    gc.collect()
    with measure(directory) as measured:
        model, tokenizer = loading.load_model(directory, dtype=computing, compressed=True)
    apart = difference(probe.logits, Probe.of(model.eval(), len(tokenizer)).logits)
    return measured.ask(model, texts), apart


def _layers_of(model: Any, directory: Path) -> _Layers:
    compressed = {name: layer.weight.numel() for name, layer in compressed_layers(model)}
    left: Counter[str] = Counter()
    counted = set()
    for name, parameter in model.named_parameters():
        path, _, attribute = name.rpartition(".")
        if (path in compressed and attribute == "weight") or id(parameter) in counted:
            continue
        counted.add(id(parameter))
        left[type(model.get_submodule(path)).__name__] += parameter.numel()
    if not compressed:
        kinds = ", ".join(f"{kind} ({count:,})" for kind, count in left.most_common(4))
        raise ModelError(
            f"Nothing of {name_of(model)} can be compressed: torchao compresses the weights of nn.Linear, of which it has none besides "
            f"its head. Its parameters are in {kinds}. Serve it as it is. Model: {directory}."
        )
    return _Layers(
        sum(compressed.values()),
        dict(left.most_common()),
        tied=getattr(model.get_output_embeddings(), "weight", None) is model.get_input_embeddings().weight,
    )


def _check_size(before: int, after: int, directory: Path, dtype: str) -> None:
    if after >= before:
        raise ModelError(
            f"Compressing does not make the model smaller: {before:,} bytes of weights become {after:,}, since "
            f"what is left as it is takes {dtype}. Give dtype='auto', or serve the model as it is. Model: {directory}."
        )


def _report(
    before: Measured, after: Measured, layers: _Layers, apart: float, details: Mapping[str, Any]
) -> StepReport:
    findings = []
    others = {kind: count for kind, count in layers.left.items() if kind not in ("Embedding", "Linear")}
    if sum(others.values()) > layers.compressed:
        findings.append(
            f"Most of the model is left as it is: of its parameters {layers.share:.0%} are compressed, since the others are not in nn.Linear "
            f"but in {', '.join(list(others)[:3])}."
        )
    if after.tokens_per_second < before.tokens_per_second:
        findings.append(
            f"The compressed model answers slower on this CPU: {after.tokens_per_second:.1f} tokens a second instead of "
            f"{before.tokens_per_second:.1f}."
        )
    return StepReport(
        metrics={
            **{f"base_{name}": value for name, value in before.metrics().items()},
            **after.metrics(),
            "compressed_share": layers.share,
            "logit_difference": apart,
        },
        details={**details, "uncompressed": dict(layers.left), "tied_head": layers.tied},
        findings=findings,
    )


def _describe(
    base_directory: Path,
    directory: Path,
    base: Mapping[str, Any],
    method: str,
    dtype: str,
    layers: _Layers,
    before: Measured,
    after: Measured,
) -> None:
    """Write card and provenance. Nothing in them differs from run to run: the same model, compressed again, has the same digest."""
    from importlib.metadata import version

    for pattern in _KEPT:
        for file in base_directory.glob(pattern):
            (directory / file.name).write_bytes(file.read_bytes())
    (directory / "README.md").write_text(
        _card(base_directory, method, layers, before, after), encoding="utf-8"
    )
    write_json(
        directory / PROVENANCE_FILE,
        {
            "component": "compress_model",
            "base_model": base,
            "compression": {
                "method": method,
                "compressed_share": layers.share,
                "base_weight_bytes": before.weight_bytes,
                "weight_bytes": after.weight_bytes,
            },
            "dtype": dtype,
            "libraries": {**library_versions(), "torchao": version("torchao")},
        },
    )


def _card(directory: Path, method: str, layers: _Layers, before: Measured, after: Measured) -> str:
    """The card of the model that was compressed, with its licence and all that it says, behind what was done to it."""
    from huggingface_hub import ModelCard

    head, text = "library_name: transformers", ""
    if (directory / "README.md").is_file():
        try:
            card = ModelCard.load(directory / "README.md", ignore_metadata_errors=True)
            head, text = card.data.to_yaml() or head, card.text.strip()
        except Exception:  # a card that cannot be read is no reason against the model
            text = (directory / "README.md").read_text(encoding="utf-8", errors="replace")
    left = ", ".join(f"{kind} ({count:,} parameters)" for kind, count in list(layers.left.items())[:4])
    about = (
        f"Weights compressed with torchao ({method}): {layers.share:.0%} of the parameters, from {before.weight_bytes:,} to "
        f"{after.weight_bytes:,} bytes of weights. As they were: {left}. It is loaded with Transformers and torchao, and is no base for "
        f"training or merging. See `{PROVENANCE_FILE}`."
    )
    rest = f"\n# The model that was compressed\n\n{text}\n" if text else ""
    return f"---\n{head}\n---\n\n{about}\n{rest}"
