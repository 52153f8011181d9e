"""What can be sent as a run: checked before anything is, since the server finds out late, and answers some of it with 500."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from airflow_provider_llmops.backends.pipelines.base import RunRequest
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.specs.placeholders import (
    refuse_expansions,
    refuse_placeholders,
    refuse_variables,
)

# etcd's limit for an object, into which the workflow has to fit with the specification and the parameters.
MAX_WORKFLOW_BYTES = 1_500_000
MAX_RUN_NAME = 255  # the column of the server's database
MAX_PIPELINE_NAME = 128
_PIPELINE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_NO_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NO_SPECIFICATION = re.compile(r"[\x00\ud800-\udfff]")


def check_request(request: RunRequest, *, uploads: bool) -> None:
    """Refuse what the server cannot carry out.

    :param request: what is to be run
    :param uploads: whether the specification becomes a pipeline version, whose name may have fewer characters
    :raises ConfigurationError: it cannot be sent as it is
    """
    _check_name(request.display_name)
    pipeline = request.pipeline
    if request.version is None:
        _check_pipeline_name(pipeline.name, uploads=uploads)
        for text in _texts([pipeline.spec, pipeline.platform]):
            _check_text("The specification", text, _NO_SPECIFICATION)
    for name, value in pipeline.parameters.items():
        for text in _texts([name, value]):
            _check_text(f"Parameter {_printable(name)}", text, _NO_TEXT)
        _refuse_replaced(f"Parameter {_printable(name)}", value)
    _check_size(request)


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > MAX_RUN_NAME:
        raise ConfigurationError(
            f"The run's name has {len(name)} characters; the server takes 1 to {MAX_RUN_NAME}. Shorten the ids of DAG and task."
        )
    _check_text("The run's name", name, _NO_NAME)
    _refuse_replaced("The run's name", name)


def _refuse_replaced(what: str, value: Any) -> None:
    """Values are in the workflow of Argo, and in the commands of its pods."""
    refuse_placeholders(what, value)
    refuse_variables(what, value)
    refuse_expansions(what, value)


def _check_pipeline_name(name: str, *, uploads: bool) -> None:
    has_dot = uploads and "." in name
    if _PIPELINE_NAME.fullmatch(name) and len(name) <= MAX_PIPELINE_NAME and not has_dot:
        return
    otherwise = ", or set 'upload_versions' of the connection to false" if has_dot else ""
    raise ConfigurationError(
        f"The server refuses the pipeline's name {_printable(name)}. A name has lower-case letters, digits and '-', begins and ends "
        f"with a letter or digit, and has at most {MAX_PIPELINE_NAME} characters. Compile the pipeline under another name "
        f"(@dsl.pipeline(name=...)){otherwise}."
    )


def _check_text(what: str, text: str, refused: re.Pattern[str]) -> None:
    if found := refused.search(text):
        kind = "half of a surrogate pair" if found[0] >= "\ud800" else "control character"
        raise ConfigurationError(
            f"{what} has a {kind} in it, U+{ord(found[0]):04X} at position {found.start() + 1}, which cannot be sent. Leave it out, "
            "or pass the text in a file."
        )


def _check_size(request: RunRequest) -> None:
    pipeline = request.pipeline
    parameters = {name: _size(value) for name, value in pipeline.parameters.items()}
    specification = _size([pipeline.spec, pipeline.platform])
    total = specification + sum(parameters.values())
    if total <= MAX_WORKFLOW_BYTES:
        return
    largest = max(parameters, key=parameters.__getitem__, default="")
    blamed = (
        f"parameter {_printable(largest)} has {_megabytes(parameters[largest])}: pass it in a file, by its address"
        if parameters and parameters[largest] > specification
        else f"the specification has {_megabytes(specification)}: make it smaller"
    )
    raise ConfigurationError(
        f"The run is too large: {_megabytes(total)} with its parameters, of {_megabytes(MAX_WORKFLOW_BYTES)} that Kubernetes keeps as "
        f"one object; {blamed}."
    )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _printable(name: str) -> str:
    return ascii(name if len(name) <= 60 else f"{name[:57]}...")
