"""A Transformers checkpoint as an MLflow model, without loading it.

``mlflow.transformers.log_model`` does the same for a local directory, but in MLflow 3.17 not with Transformers 5.2x
(``pipelines.check_task`` returns names instead of classes there), and it imports torch and loads the tokenizer. What
is written here is what ``mlflow.transformers.load_model`` and ``mlflow.pyfunc.load_model`` read.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from llmops_components.models.compression.methods import is_of_torchao, method_of
from llmops_components.models.directory import PICKLED, read_settings

if TYPE_CHECKING:
    from mlflow.models import Model

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", *PICKLED)
_REQUIREMENTS = ("accelerate", "torch", "transformers")


class CheckpointFlavor:
    """What :meth:`mlflow.models.Model.log` calls to write a model; see :meth:`save_model`."""

    @staticmethod
    def save_model(path: str, mlflow_model: Model, *, checkpoint: Path) -> None:
        """Write an MLflow model of flavor ``transformers`` around a checkpoint.

        Args:
            path: Directory to make.
            mlflow_model: Description of the model, written as ``MLmodel``.
            checkpoint: Directory that :func:`~llmops_components.models.directory.check_model_directory` accepts. Pickled files in it are left out.
        """
        import yaml
        from mlflow import pyfunc
        from mlflow.models import ModelSignature
        from mlflow.models.model import MLMODEL_FILE_NAME
        from mlflow.types.llm import CHAT_MODEL_INPUT_SCHEMA, CHAT_MODEL_OUTPUT_SCHEMA

        target = Path(path)
        shutil.copytree(
            checkpoint, target / "model", ignore=shutil.ignore_patterns(*PICKLED), copy_function=_link_or_copy
        )
        shutil.copytree(
            checkpoint,
            target / "components" / "tokenizer",
            ignore=shutil.ignore_patterns(*_WEIGHTS),
            copy_function=_link_or_copy,
        )
        config = read_settings(checkpoint / "config.json") or {}
        generates = not str((config.get("architectures") or [""])[0]).endswith("ForSequenceClassification")
        flavor = {
            "transformers_version": importlib.metadata.version("transformers"),
            "code": None,
            "task": "text-generation" if generates else "text-classification",
            "instance_type": "TextGenerationPipeline" if generates else "TextClassificationPipeline",
            # Auto classes, by name: MLflow trusts remote code for a class that Transformers does not know.
            "pipeline_model_type": "AutoModelForCausalLM"
            if generates
            else "AutoModelForSequenceClassification",
            "tokenizer_type": "AutoTokenizer",
            "components": ["tokenizer"],
            "model_binary": "model",
            "source_model_name": checkpoint.name,
            "torch_dtype": f"torch.{dtype}"
            if (dtype := config.get("dtype", config.get("torch_dtype")))
            else None,
        }
        if generates and _has_chat_template(checkpoint):
            flavor["inference_task"] = "llm/v1/chat"
            mlflow_model.metadata = {**(mlflow_model.metadata or {}), "task": "llm/v1/chat"}
            mlflow_model.signature = ModelSignature(CHAT_MODEL_INPUT_SCHEMA, CHAT_MODEL_OUTPUT_SCHEMA)
        mlflow_model.add_flavor("transformers", **flavor)
        pyfunc.add_to_model(mlflow_model, loader_module="mlflow.transformers", python_env="python_env.yaml")
        mlflow_model.model_size_bytes = sum(
            file.stat().st_size for file in target.rglob("*") if file.is_file()
        )
        mlflow_model.save(str(target / MLMODEL_FILE_NAME))

        packages = (*_REQUIREMENTS, *(("torchao",) if is_of_torchao(method_of(checkpoint)) else ()))
        requirements = [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in packages]
        (target / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
        python = {"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}
        (target / "python_env.yaml").write_text(yaml.safe_dump(python), encoding="utf-8")


def _has_chat_template(checkpoint: Path) -> bool:
    if (checkpoint / "chat_template.jinja").is_file():
        return True
    return bool((read_settings(checkpoint / "tokenizer_config.json") or {}).get("chat_template"))


def _link_or_copy(source: str, destination: str) -> None:
    """Weights are many GB: a hard link costs nothing, and the copy is only read and then removed."""
    try:
        os.link(os.path.realpath(source), destination)
    except OSError:
        shutil.copyfile(source, destination)
