"""What every step with a model shares: outputs that appear whole, loading with every weight checked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from llmops_components.errors import ModelError, SettingError, check_known
from llmops_components.json_text import parse_json
from llmops_components.models.arguments import build_quantization, check_model_args, declared_by
from llmops_components.passthrough.code import refuse_code
from llmops_components.passthrough.refusals import refusals
from llmops_components.passthrough.tables import FROM_PRETRAINED, typed
from llmops_components.results import digest_of

PROVENANCE_FILE = "provenance.json"
TRAINING_LOG_FILE = "training_log.json"
DTYPES = ("auto", "bfloat16", "float16", "float32")
TRL_VOCABULARY_MULTIPLE = 64  # of `trl.clone_chat_template`
# They may ask for a GPU, and change nothing of the weights.
_OF_THE_TRAINING_ALONE = ("attn_implementation", "quantization_config", "use_kernels")
TaskType = Literal["CAUSAL_LM", "SEQ_CLS"]


def quiet_libraries() -> None:
    """Switch off progress bars that redraw themselves: in a task log every redraw is another line."""
    import warnings

    import datasets
    import huggingface_hub.constants
    import transformers

    # TRL and PEFT still use names that Transformers is about to drop; a user can do nothing about that.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # PEFT looks for the base model where it came from to see whether its vocabulary was changed; ours never is.
    warnings.filterwarnings("ignore", message="Could not find a config file in")
    # It advises to untie the weights, which merging does.
    warnings.filterwarnings("ignore", message="Model (has|with) `tie_word_embeddings=True`")
    # TRL tells its authors of every trainer that is built; with no network that only takes time.
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def check_output(path: str | os.PathLike[str]) -> Path:
    """An output directory that may be written: it does not exist yet, or is empty."""
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SettingError(f"Output {target} exists and is not an empty directory. Give a new path.")
    return target


@contextmanager
def new_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A directory that appears under its name only when its content is complete.

    Args:
        path: Destination; it may exist when it is empty.

    Yields:
        The directory to write into, beside the destination.
    """
    target = check_output(path)
    aside = target.with_name(f".{target.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)  # left by a run that was killed while it wrote
    aside.mkdir(parents=True)
    try:
        yield aside
        aside.replace(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def load_model(
    directory: Path,
    model_args: Mapping[str, Any] | None = None,
    *,
    dtype: str,
    task: TaskType = "CAUSAL_LM",
    new_head: bool = False,
) -> tuple[Any, Any]:
    """Model and tokenizer from a directory, weights from safetensors only, every one of them in its place.

    Args:
        directory: Model directory.
        model_args: The caller's keyword arguments for ``from_pretrained``.
        dtype: Type of the weights unless the caller gives one.
        task: ``CAUSAL_LM``, or ``SEQ_CLS`` for a model with one number as output: a reward model.
        new_head: Whether the head may be missing in the weights, and is made anew.
    """
    import transformers
    from transformers import AutoConfig, AutoTokenizer

    refuse_code("model_args", model_args)  # before anything of the model is read
    given = {"dtype": dtype, "trust_remote_code": False, **(model_args or {})}
    check_known([given["dtype"]], DTYPES, "dtype")
    remote_code = {"trust_remote_code": given["trust_remote_code"]}
    is_reward = task == "SEQ_CLS"
    model_class = (
        transformers.AutoModelForSequenceClassification if is_reward else transformers.AutoModelForCausalLM
    )
    # Whatever a broken file makes the readers raise, the model is what is wrong.
    with refusals(f"The model in {directory} cannot be loaded", kind=ModelError):
        config = AutoConfig.from_pretrained(directory, **remote_code)
        check_model_args(given, config)
        given |= typed(given, "model_args", FROM_PRETRAINED, **declared_by(config))
        if quantization := build_quantization(given.pop("quantization_config", None)):
            given["quantization_config"] = quantization
        tokenizer = AutoTokenizer.from_pretrained(directory, **remote_code)
        with _errors_only():
            model, loading = model_class.from_pretrained(
                directory,
                use_safetensors=True,
                output_loading_info=True,
                **({"num_labels": 1} if is_reward else {}),
                **given,
            )
    check_weights(directory, loading, backbone=f"{model.base_model_prefix}." if new_head else "")
    return model, tokenizer


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


@contextmanager
def _errors_only() -> Iterator[None]:
    """Without Transformers' warning of a new head, which is what was asked for; the others are errors here."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def check_weights(directory: Path, loading: Mapping[str, Any], *, backbone: str = "") -> None:
    """Raise :class:`ModelError` unless the weights on disk were exactly those of the model.

    Transformers fills weights that are missing with random numbers, leaves out those that it does not know, and only
    warns of both.

    Args:
        directory: Model directory, for the message.
        loading: What ``from_pretrained(output_loading_info=True)`` says.
        backbone: Prefix of the names that are looked at; the others belong to a head that is made anew.
    """
    missing, unexpected = (
        sorted(name for name in loading[kind] if name.startswith(backbone))
        for kind in ("missing_keys", "unexpected_keys")
    )
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
