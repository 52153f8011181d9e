"""What the trainers share: check a model directory, build configurations from plain dicts, load, resume, save."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llmops_components.errors import InputError, ModelError, SettingError, check_known
from llmops_components.results import digest_of, write_json

PROVENANCE_FILE = "provenance.json"
TRAINING_LOG_FILE = "training_log.json"
RUN_FILE = "run.json"
DTYPES = ("auto", "bfloat16", "float16", "float32")

# Keyword arguments of `from_pretrained` that make sense for a model on disk; it takes **kwargs, so there is no
# signature to ask. Fields of the model's own config (for example `attention_dropout`) are accepted as well.
MODEL_ARGS = (
    "attn_implementation",
    "device_map",
    "dtype",
    "max_memory",
    "offload_folder",
    "quantization_config",
    "trust_remote_code",
    "use_kernels",
)
_LOGGED = (
    "step",
    "epoch",
    "loss",
    "learning_rate",
    "grad_norm",
    "mean_token_accuracy",
    "num_tokens",
    "eval_loss",
)


def quiet_libraries() -> None:
    """Switch off progress bars that redraw themselves: in a task log every redraw is another line."""
    import warnings

    import datasets
    import transformers

    # TRL and PEFT still use names that Transformers is about to drop; a user can do nothing about that.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # PEFT looks for the base model where it came from to see whether its vocabulary was changed; ours never is.
    warnings.filterwarnings("ignore", message="Could not find a config file in")
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


def build_config(
    config_class: type,
    given: Mapping[str, Any] | None,
    *,
    what: str,
    defaults: Mapping[str, Any],
    fixed: Mapping[str, Any],
) -> Any:
    """A configuration dataclass from the caller's dict.

    Args:
        config_class: For example ``trl.SFTConfig``.
        given: The caller's values; unknown names are errors.
        what: Name of the argument that ``given`` came in, for messages.
        defaults: Values used where the caller gives none.
        fixed: Values that the component sets itself; the caller may not.
    """
    given = dict(given or {})
    if taken := sorted(set(given) & set(fixed)):
        raise SettingError(f"{what}: {', '.join(taken)} cannot be set, the component sets it. Leave it out.")
    names = {field.name for field in dataclasses.fields(config_class) if field.init} - set(fixed)
    check_known(given, names, what)
    try:
        return config_class(**{**defaults, **given, **fixed})
    except (TypeError, ValueError, KeyError) as error:
        raise SettingError(f"{what} is not valid: {error}") from error


def precision(full: bool) -> tuple[str, dict[str, bool]]:
    """Type of the weights and mixed precision that suit this machine.

    Frozen weights can be 16 bit; weights that are trained need float32, or small updates are rounded away.

    Args:
        full: Whether all weights are trained, instead of an adapter.

    Returns:
        The dtype's name and ``bf16`` / ``fp16`` for the training arguments.
    """
    import torch

    if torch.cuda.is_available():
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        half, mixed = ("bfloat16", {"bf16": True}) if bf16 else ("float16", {"bf16": False, "fp16": True})
        return ("float32" if full else half), mixed
    # Without these instructions bfloat16 is emulated on a CPU and slower than float32.
    if any(present for name, present in torch.cpu.get_capabilities().items() if "bf16" in name):
        return ("float32" if full else "bfloat16"), {"bf16": True}
    return "float32", {"bf16": False}


def training_defaults(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Training arguments that suit a pipeline step, whichever the trainer; the caller's values win."""
    import torch

    on_gpu = torch.cuda.is_available()

    defaults: dict[str, Any] = {
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 0.02,  # about fifty lines, however long the run is
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # or a diverged loss is logged as the last good one
    }
    if not on_gpu:
        defaults |= {"use_cpu": True, "dataloader_pin_memory": False}
    if "gradient_checkpointing" not in (given or {}):  # its older name, which would lose against ours
        # Trades time for memory that the models one trains on a CPU do not need.
        defaults["activation_checkpointing"] = on_gpu
    return defaults


def load_model(directory: Path, model_args: Mapping[str, Any] | None, *, dtype: str) -> tuple[Any, Any]:
    """Model and tokenizer from a directory, weights from safetensors only.

    Args:
        directory: Model directory.
        model_args: The caller's keyword arguments for ``from_pretrained``.
        dtype: Type of the weights unless the caller gives one.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    given = {"dtype": dtype, "trust_remote_code": False, **(model_args or {})}
    check_known([given["dtype"]], DTYPES, "dtype")
    remote_code = {"trust_remote_code": given["trust_remote_code"]}
    try:
        config = AutoConfig.from_pretrained(directory, **remote_code)
        check_known(given, {*MODEL_ARGS, *config.to_dict()}, "model_args")
        tokenizer = AutoTokenizer.from_pretrained(directory, **remote_code)
        model = AutoModelForCausalLM.from_pretrained(directory, use_safetensors=True, **given)
    except InputError:
        raise
    except Exception as error:  # whatever a broken file makes the readers raise, the model is what is wrong
        raise ModelError(
            f"The model in {directory} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return model, tokenizer


def build_peft(peft_args: Mapping[str, Any] | None) -> Any | None:
    """The adapter's configuration, or None for training all weights.

    Args:
        peft_args: Keyword arguments of ``peft.LoraConfig``; ``{"peft_type": None}`` trains all weights.
    """
    from peft import LoraConfig

    given = dict(peft_args or {})
    kind = given.pop("peft_type", "LORA")
    if kind is None:
        if given:
            raise SettingError(
                f"peft_args: {', '.join(given)} has no effect with peft_type=None (all weights)."
            )
        return None
    if kind != "LORA":
        raise SettingError(
            f"peft_args: peft_type={kind!r} is not supported. Use 'LORA', or None for all weights."
        )
    # https://thinkingmachines.ai/blog/lora/: all linear layers, alpha 32, and ten times the rate of full training.
    defaults = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return build_config(LoraConfig, given, what="peft_args", defaults=defaults, fixed={})


def resume_point(checkpoints: Path, run: Mapping[str, Any]) -> str | None:
    """The newest complete checkpoint of this very run, or None; half-written ones are removed.

    Args:
        checkpoints: Directory of the checkpoints; made when it does not exist.
        run: What makes the run what it is. It is kept beside the checkpoints and has to be the same on resume, or
            two different runs would be mixed silently.
    """
    run = json.loads(json.dumps(run, default=str))
    marker = checkpoints / RUN_FILE
    if marker.is_file():
        before = json.loads(marker.read_text(encoding="utf-8"))
        if changed := sorted(key for key in run.keys() | before.keys() if run.get(key) != before.get(key)):
            raise SettingError(
                f"{checkpoints} holds checkpoints of another run (different: {', '.join(changed)}). "
                "Use another directory for the checkpoints, or empty this one."
            )
    write_json(marker, run)
    complete = []
    for directory in checkpoints.glob("checkpoint-*"):
        if (directory / "trainer_state.json").is_file():  # the last file that the trainer writes
            complete.append(directory)
        else:
            shutil.rmtree(directory)
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None


def describe_base(base_model: Path) -> dict[str, Any]:
    """Digest of a base model and what an earlier step recorded of its origin."""
    known = base_model / PROVENANCE_FILE
    try:
        provenance = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else None
    except ValueError:
        provenance = None
    return {"digest": digest_of(base_model)[0], "provenance": provenance}


def library_versions() -> dict[str, str]:
    return {
        name: version(name) for name in ("torch", "transformers", "trl", "peft", "datasets", "accelerate")
    }


def loss_metrics(log_history: list[dict[str, Any]]) -> dict[str, float]:
    """First, final and mean loss. The trainer's own mean is wrong for a resumed run, so it is taken from the log."""
    points = [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]
    steps = [
        step - before for (step, _), before in zip(points, [0, *(step for step, _ in points)], strict=False)
    ]
    mean = sum(loss * n for (_, loss), n in zip(points, steps, strict=True)) / sum(steps)
    return {"train_loss": mean, "first_loss": points[0][1], "final_loss": points[-1][1]}


def training_log(log_history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trainer's log without its timings, so that the same training writes the same bytes."""
    kept = [{key: entry[key] for key in _LOGGED if key in entry} for entry in log_history]
    return [entry for entry in kept if "loss" in entry or "eval_loss" in entry]


# Kept small on disk: training can go on from the last checkpoint, earlier ones are of no use to a pipeline.
CHECKPOINT_DEFAULTS = {"save_strategy": "steps", "save_steps": 0.1, "save_total_limit": 1}


def fixed_args(output_dir: str | os.PathLike[str], keeps_checkpoints: bool) -> dict[str, Any]:
    """Training arguments that a component sets itself. Publishing is another step's job, and its token a secret."""
    fixed = {
        "output_dir": str(output_dir),
        "model_init_kwargs": None,
        "resume_from_checkpoint": None,
        "push_to_hub": False,
        "hub_token": None,
    }
    return fixed if keeps_checkpoints else fixed | {"save_strategy": "no"}


def count_parameters(model: Any) -> tuple[int, int]:
    """Trainable and all parameters of a model."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)


def save_model(
    trained: Any,
    tokenizer: Any,
    run: Mapping[str, Any],
    log_history: list[dict[str, Any]],
    *,
    model: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
) -> None:
    """Write the adapter, if there is one, and the whole model with the adapter merged in.

    Args:
        trained: The trainer's model.
        tokenizer: Its tokenizer.
        run: What ``provenance.json`` says of the run.
        log_history: The trainer's log, kept beside the model for charts.
        model: Output directory of the merged model.
        adapter: Output directory of the adapter.
    """
    from peft import PeftModel

    # Both appear together at the end: an adapter left by a run killed while merging would block its resumption.
    with ExitStack() as outputs:
        if isinstance(trained, PeftModel):
            provenance = run["base_model"]["provenance"] or {}
            config = trained.peft_config["default"]
            # PEFT records the path that the base was loaded from, which means nothing on another machine, and keeps
            # the modules in a set, whose order differs from process to process and with it the adapter's digest.
            origin = str(provenance.get("source", "base_model")).removeprefix("hf://")
            config.base_model_name_or_path = origin
            trained.get_base_model().name_or_path = trained.config._name_or_path = (
                origin  # for its model card
            )
            if isinstance(config.target_modules, set):  # the caller may have given a regular expression
                config.target_modules = sorted(config.target_modules)
            trained.save_pretrained(outputs.enter_context(new_directory(adapter)))
            trained = trained.merge_and_unload(safe_merge=True)
        trained.config.use_cache = (
            True  # the trainer switches it off for itself; generating without it is slow
        )
        directory = outputs.enter_context(new_directory(model))
        trained.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        write_json(directory / TRAINING_LOG_FILE, training_log(log_history))
        write_json(directory / PROVENANCE_FILE, {**run, "libraries": library_versions()})
