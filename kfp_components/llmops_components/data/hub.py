"""Rows of a dataset on the Hugging Face hub, of one commit that is known by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from llmops_components.data.parquet_lines import plain_row
from llmops_components.errors import DataError, SettingError, UnavailableError, check_known
from llmops_components.uris import hub_name

_MEDIA = re.compile(r"\b(Image|Audio|Video|Pdf)\(")  # types of features in the library datasets
_HUB = re.compile(
    r"datasets/(?P<name>[\w-][\w.-]*(/[\w-][\w.-]*)?)(@(?P<revision>[\w./-]+))?(\?(?P<query>.*))?"
)


@dataclass(frozen=True)
class HubDataset:
    """Rows on the hub.

    Args:
        uri: Where they are, for messages.
        origin: What the provenance says of them: repository, commit, configuration, split.
        is_streamed: Whether they are more than was asked to be held, and come from the hub as they are read.
    """

    uri: str
    origin: dict[str, Any]
    is_streamed: bool
    _rows: Iterable[dict[str, Any]]

    def read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rows with their numbers from 1, as JSON could hold them.

        Raises:
            DataError: A value has no such form; names the row and the column.
        """
        for number, row in enumerate(self._rows, start=1):
            try:
                yield number, plain_row(row)
            except ValueError as error:
                raise DataError(f"Rows cannot be used: row {number} {error}. Dataset: {self.uri}.") from error


def open_hub(uri: str, limit: int) -> HubDataset:
    """Find a dataset on the hub.

    Args:
        uri: ``hf://datasets/org/name@revision?config=...&split=train``.
        limit: Bytes of rows above which they are streamed.

    Raises:
        DataError: There is no such dataset, it may not be read, or it holds more than text.
        SettingError: The URI makes no sense.
        UnavailableError: The hub cannot be reached.
    """
    match = _HUB.fullmatch(hub_name(uri) or "")
    if not match:
        raise SettingError(
            f"{uri!r} does not name a dataset on the hub: expected hf://datasets/org/name@revision, and "
            "?config=...&split=... where they are needed."
        )
    query = dict(parse_qsl(match["query"] or ""))
    check_known(query, ("config", "split"), f"part of {uri!r}")

    import datasets
    from httpx import TransportError
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hub

    name = match["name"]
    try:
        # The commit that the branch or tag points to now, so that the provenance names exactly these rows.
        commit = HfApi().dataset_info(name, revision=match["revision"]).sha
        config, split = query.get("config"), query.get("split", "train")
        size = datasets.load_dataset_builder(name, config, revision=commit).info.dataset_size
        is_large = size is None or size > limit
        rows = datasets.load_dataset(name, config, split=split, revision=commit, streaming=is_large)
    except (hub.GatedRepoError, hub.RevisionNotFoundError, hub.RepositoryNotFoundError) as error:
        raise DataError(
            f"Dataset {uri} cannot be read from the hub: {type(error).__name__}. Check its name and revision; if it is "
            "private or gated, set HF_TOKEN to a token that may read it."
        ) from error
    except (TransportError, hub.HfHubHTTPError, hub.OfflineModeIsEnabled, ConnectionError) as error:
        raise UnavailableError(
            f"The Hugging Face hub cannot be reached for {uri} ({type(error).__name__}). Check the network and "
            "HF_ENDPOINT, or give the dataset as a file."
        ) from error
    except (ValueError, FileNotFoundError) as error:  # no such config or split
        raise DataError(f"Dataset {uri} cannot be loaded: {error}") from error
    for column, feature in (rows.features or {}).items():
        if _MEDIA.search(repr(feature)):
            raise DataError(
                f"Column {column} holds pictures, sound or video; only text is taken here. Write a dataset without it. "
                f"Dataset: {uri}."
            )
    origin = {"source": f"hf://datasets/{name}", "revision": commit, "config": config, "split": split}
    return HubDataset(uri, origin, is_large, rows)
