"""The one place where models and tokenizers are loaded: from safetensors alone, with every weight in its place.

Who asks says which type the weights take (:mod:`.precision`) and what the model is for; a lint test holds that nobody else calls
``from_pretrained``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unittest.mock import patch

from llmops_components.errors import ModelError, check_known
from llmops_components.models.arguments import build_quantization, check_model_args, declared_by
from llmops_components.models.compression.methods import (
    METHODS,
    check_compressed_model,
    check_loaded_weights,
    check_stored_weights,
    check_whole_model,
    method_of,
    torchao_config,
)
from llmops_components.models.directory import ADAPTER_WEIGHTS, check_model_directory, refuse_chosen_code
from llmops_components.models.precision import DTYPES, EMBEDDING, answering
from llmops_components.models.weights import check_weights
from llmops_components.passthrough.code import refuse_code
from llmops_components.passthrough.refusals import refusals
from llmops_components.passthrough.tables import FROM_PRETRAINED, typed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRL_VOCABULARY_MULTIPLE = 64  # of `trl.clone_chat_template`
# They may ask for a GPU, and change nothing of the weights.
_OF_THE_TRAINING_ALONE = ("attn_implementation", "quantization_config", "use_kernels")
TaskType = Literal["CAUSAL_LM", "SEQ_CLS"]


def load_config(directory: Path, *, trust_remote_code: bool = False) -> Any:
    """A model's ``config.json``, once it is known to choose no code that is not allowed here.

    Args:
        directory: Model directory.
        trust_remote_code: Whether code that the model brings may run.

    Raises:
        ModelError: It cannot be read.
        SettingError: It chooses kernels or other code that is not allowed here.
    """
    from transformers import AutoConfig

    refuse_chosen_code(directory)
    with refusals(f"Transformers cannot read the model's config.json in {directory}", kind=ModelError):
        return AutoConfig.from_pretrained(directory, **_access(trust_remote_code))


def load_tokenizer(directory: Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer in a directory.

    Args:
        directory: Model directory, or an adapter's.
        trust_remote_code: Whether code that the model brings may run.

    Raises:
        ModelError: It cannot be loaded.
    """
    from transformers import AutoTokenizer

    with _refusals("tokenizer", directory):
        return AutoTokenizer.from_pretrained(directory, **_access(trust_remote_code))


def load_chat_tokenizer(directory: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that talks: one with a chat template.

    Args:
        directory: Model directory.

    Raises:
        ModelError: It is no model, or its tokenizer cannot be loaded or has no chat template.
    """
    tokenizer = load_tokenizer(check_model_directory(directory))
    if not tokenizer.chat_template:
        raise ModelError(
            "The tokenizer has no chat template, and the rows are conversations. Use an instruction-tuned model, or rows "
            f"of plain text. Model: {os.fspath(directory)}."
        )
    return tokenizer


def load_model(
    directory: Path,
    model_args: Mapping[str, Any] | None = None,
    *,
    dtype: str,
    task: TaskType = "CAUSAL_LM",
    new_head: bool = False,
    compressed: bool = False,
    compress: str | None = None,
) -> tuple[Any, Any]:
    """Model and tokenizer from a directory, weights from safetensors only, every one of them in its place.

    Args:
        directory: Model directory.
        model_args: The caller's keyword arguments for ``from_pretrained``.
        dtype: Type of the weights unless the caller gives one.
        task: ``CAUSAL_LM``, or ``SEQ_CLS`` for a model with one number as output: a reward model.
        new_head: Whether the head may be missing in the weights, and is made anew.
        compressed: Whether it may be a compressed model, as one that only answers may.
        compress: How to compress the weights as they are loaded; None leaves them as they are.

    Raises:
        ModelError: It cannot be loaded, its weights are not those of its config, it does not continue a text, or it is compressed.
        SettingError: ``model_args`` are wrong, or code is chosen that is not allowed here.
    """
    import transformers

    refuse_code("model_args", model_args)  # before anything of the model is read
    given = {"dtype": dtype, "trust_remote_code": False, **(model_args or {})}
    check_known([given["dtype"]], DTYPES, "dtype")
    access = typed({"trust_remote_code": given["trust_remote_code"]}, "model_args", FROM_PRETRAINED)
    config = load_config(directory, **access)
    if not compressed:
        check_whole_model(directory, "training, merging or scoring")
    is_compressed = compress is not None or (compressed and check_compressed_model(directory))
    with _refusals("model", directory):
        check_model_args(given, config)
        given |= typed(given, "model_args", FROM_PRETRAINED, **declared_by(config))
        if quantization := build_quantization(given.pop("quantization_config", None)):
            given["quantization_config"] = quantization
        if compress is not None:
            given["quantization_config"] = torchao_config(compress)
    is_reward = task == "SEQ_CLS"
    if not is_reward:
        _refuse_encoders(config, directory)
    tokenizer = load_tokenizer(directory, **access)
    kind = transformers.AutoModelForSequenceClassification if is_reward else transformers.AutoModelForCausalLM
    model, loading = _load(
        kind,
        directory,
        **({"num_labels": 1} if is_reward else {}),
        **(given | _access(given["trust_remote_code"])),
    )
    backbone = f"{model.base_model_prefix}." if new_head else ""
    check_weights(directory, loading, looked_at=lambda name: name.startswith(backbone))
    if is_compressed:
        check_loaded_weights(model, directory)
    return model, tokenizer


def load_to_answer(directory: str | os.PathLike[str]) -> tuple[Any, Any]:
    """A model that is to answer prompts in batches, on the GPUs if there are any, and its tokenizer.

    Args:
        directory: Directory with ``config.json``, safetensors weights and tokenizer files.

    Raises:
        ModelError: The directory does not hold such a model, or weights are missing in it.
    """
    path = check_model_directory(directory)

    import torch

    model, tokenizer = load_model(
        path,
        {"device_map": "auto"} if torch.cuda.is_available() else None,
        dtype=answering(),
        compressed=True,
    )
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer


def load_encoder(directory: Path) -> tuple[Any, Any]:
    """A model without its head, which gives a vector for every token, and its tokenizer.

    Args:
        directory: Directory with ``config.json``, safetensors weights and tokenizer files.

    Raises:
        ModelError: It cannot be loaded, or its weights are not those of its config.
        SettingError: Its configuration chooses kernels or other code that is not allowed here.
    """
    from transformers import AutoModel

    load_config(directory)
    check_whole_model(directory, "embeddings")
    tokenizer = load_tokenizer(directory)
    model, loading = _load(AutoModel, directory, dtype=EMBEDDING, **_access(False))
    # A head that the checkpoint has beside them, and a pooler that it lacks, are asked for nothing.
    own = {name for name, _ in model.named_children()} - {"pooler"} | {model.base_model_prefix}
    check_weights(directory, loading, looked_at=lambda name: name.partition(".")[0] in own)
    return model.eval(), tokenizer


def load_base_of_adapter(
    directory: Path,
    tokenizer: Any,
    *,
    model_args: Mapping[str, Any] | None = None,
    dtype: str,
    task: TaskType = "CAUSAL_LM",
) -> Any:
    """The whole-precision model that an adapter belongs to, with room for the tokens that its training added.

    Args:
        directory: Model directory.
        tokenizer: The adapter's tokenizer.
        model_args: What the training passed to ``from_pretrained``; what decides how it computes is left out.
        dtype: Type of the weights unless ``model_args`` gives one.
        task: See :func:`load_model`; a head comes with the adapter.
    """
    given = {name: value for name, value in (model_args or {}).items() if name not in _OF_THE_TRAINING_ALONE}
    model, _ = load_model(directory, given, dtype=dtype, task=task, new_head=task == "SEQ_CLS")
    if task == "SEQ_CLS":  # which has to know where a row ends
        ends = (tokenizer.pad_token_id, tokenizer.eos_token_id, model.config.pad_token_id)
        model.config.pad_token_id = next((token for token in ends if token is not None), None)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=TRL_VOCABULARY_MULTIPLE)
    return model


def load_adapter(base: Any, directory: Path, *, of: str | os.PathLike[str]) -> Any:
    """A model with an adapter on it, every weight of the adapter in its place.

    Args:
        base: The model that the adapter was trained on.
        directory: Directory of the adapter.
        of: What to call the model in messages.

    Raises:
        ModelError: The adapter cannot be loaded or does not fit the model.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    where = f"The adapter in {directory} does not fit the model in {of}"
    with refusals(where, kind=ModelError):
        adapted = PeftModel.from_pretrained(base, directory, use_safetensors=True)
        with safe_open(directory / ADAPTER_WEIGHTS, framework="pt") as weights:
            given = set(weights.keys())
    # PEFT only warns of weights that have no place and of places that have no weights.
    if odd := sorted(given ^ set(get_peft_model_state_dict(adapted))):
        raise ModelError(f"{where}: {len(odd)} weights are missing or have no place, for example {odd[0]}.")
    return adapted


def load_generation_config(directory: Path) -> Any:
    """Where generation stops and how it samples, as a directory has it; None if it says nothing of that."""
    from transformers import GenerationConfig

    if not (directory / "generation_config.json").is_file():
        return None
    with _refusals("generation_config.json", directory):
        return GenerationConfig.from_pretrained(directory, local_files_only=True)


def load_gguf(file: Path, dtype: str) -> tuple[Any, Any]:
    """Model and tokenizer from a GGUF file, its weights unpacked.

    Args:
        file: The file.
        dtype: Type of the weights.

    Raises:
        ModelError: It cannot be read, or its weights are not those of its architecture.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, name = file.parent, file.name
    with refusals(f"GGUF file {file} cannot be read", kind=ModelError), _parse_gguf_once():
        config = AutoConfig.from_pretrained(folder, gguf_file=name, **_access(False))
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, config=config, **_access(False))
        unpacked, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=name,
            config=config,
            dtype=dtype,
            quantization_config=GgufConfig(gguf_file=name, dequantize=True),
            output_loading_info=True,
            **_access(False),
        )
    check_weights(file, loading)
    # A model loaded from GGUF counts as quantized and cannot be saved; a fresh one that takes over its tensors can.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = getattr(torch, dtype)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    model.load_state_dict(unpacked.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = unpacked.generation_config
    return model, tokenizer


@contextmanager
def _parse_gguf_once() -> Iterator[None]:
    """Transformers parses the whole GGUF file for the config, for the tokenizer and for the weights, and builds the
    table of tensor names once for every module. Sharing them halves the time; without effect, it still works."""
    import gguf

    with ExitStack() as stack:
        for name in ("GGUFReader", "get_tensor_name_map"):
            stack.enter_context(patch.object(gguf, name, cache(getattr(gguf, name))))
        module = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
        stack.enter_context(patch.object(module, "tqdm", partial(module.tqdm, disable=True)))
        yield


# Models that answer, or score answers: each weight of theirs is used.
_CHECKED_WHOLE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForSequenceClassification")


def check_all_weights(directory: Path) -> None:
    """Hold all weights of a model against its config, without the memory that they take.

    Left out are quantized weights, which need the packages and the device that they were made for, models whose
    architecture is code of their own, which is not run here, and encoders, which are used without some of their weights.

    Args:
        directory: Model directory.

    Raises:
        ModelError: A weight is missing, of another shape, or has no place.
    """
    import transformers

    config = load_config(directory)
    if method_of(directory) in METHODS:
        check_stored_weights(directory)
    named = next(iter(config.architectures or ()), None)
    kind = getattr(transformers, named, None) if isinstance(named, str) else None
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        kind = None
    is_encoder = kind is not None and not named.endswith(_CHECKED_WHOLE)
    if hasattr(config, "quantization_config") or (kind is None and hasattr(config, "auto_map")) or is_encoder:
        return
    _, loading = _load(
        kind or transformers.AutoModelForCausalLM, directory, device_map={"": "meta"}, **_access(False)
    )
    check_weights(directory, loading)


def _load(kind: Any, directory: Path, **given: Any) -> tuple[Any, Any]:
    """A model and what Transformers says of its weights; what it would only warn of, :func:`check_weights` refuses."""
    with _refusals("model", directory), _quietly():
        model, loading = kind.from_pretrained(
            directory,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are named afterwards
            output_loading_info=True,
            **given,
        )
    return model, loading


def _refusals(what: str, directory: Path) -> AbstractContextManager[None]:
    """Whatever a broken file makes the readers raise, the model is what is wrong."""
    return refusals(f"The {what} in {directory} cannot be loaded", kind=ModelError)


def _access(trust_remote_code: bool) -> dict[str, bool]:
    # Code of the model's own may lie in another repository of the hub.
    return {"trust_remote_code": trust_remote_code, "local_files_only": not trust_remote_code}


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Transformers' warning of a new head, which is what was asked for; the others are errors here. Nor is there a
    progress bar, which would be a line of the log each time that it is drawn."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _refuse_encoders(config: Any, directory: Path) -> None:
    """Refuse a model that reads its prompt with an encoder and does not continue it.

    Transformers loads some of them as causal models all the same, with the encoder left out.
    """
    if config.is_encoder_decoder:
        named = ", ".join(config.architectures or []) or f"model type {config.model_type}"
        raise ModelError(
            f"{named} is an encoder with a decoder, which does not continue a prompt; a causal language model is needed. "
            f"Model: {directory}."
        )
