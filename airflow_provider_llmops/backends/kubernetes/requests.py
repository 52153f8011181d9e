"""What is asked of an API server about pods: the pods themselves, warnings, and logs, as it sends them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from airflow_provider_llmops.json_text import parse_json

MAX_LOG_BYTES = 256 << 10
MAX_LOG_BYTES_READ = 8 << 20


def list_pods(api: Any, namespace: str, selector: str, **request: Any) -> list[dict[str, Any]]:
    """The pods with certain labels, as documents; raises what the client raises.

    :param api: a ``CoreV1Api``
    :param namespace: where they are
    :param selector: for their labels
    :param request: further arguments of the client
    """
    answer = api.list_namespaced_pod(namespace, label_selector=selector, _preload_content=False, **request)
    return _documents(answer)


def list_warnings(api: Any, namespace: str, name: str, **request: Any) -> list[dict[str, Any]]:
    """The warnings about all objects of one name, whatever their kind; raises what the client raises.

    The API server keeps events for an hour, unless it is told otherwise.

    :param api: a ``CoreV1Api``
    :param namespace: where the objects are
    :param name: their name
    :param request: further arguments of the client
    """
    selector = f"involvedObject.name={name},type=Warning"
    answer = api.list_namespaced_event(namespace, field_selector=selector, _preload_content=False, **request)
    return _documents(answer)


def document_of(answer: Any) -> dict[str, Any]:
    """The document in an answer.

    :param answer: what the client got with ``_preload_content=False``
    :raises json.JSONDecodeError: it holds something else, a proxy's page of its own for example
    """
    text = answer.data.decode("utf-8", errors="replace")
    document = parse_json(text)
    if not isinstance(document, dict):
        raise json.JSONDecodeError("No document of Kubernetes", text[:100], 0)
    return document


def asking_for(method: Callable[..., Any], *arguments: Any) -> Callable[..., dict[str, Any]]:
    """A call that gives one document, and takes further arguments of the client.

    :param method: of the client
    :param arguments: its arguments
    """

    def call(**request: Any) -> dict[str, Any]:
        return document_of(method(*arguments, _preload_content=False, **request))

    return call


def asking_for_items(
    method: Callable[..., Any], *arguments: Any, **options: Any
) -> Callable[..., list[dict[str, Any]]]:
    """A call that gives the documents of a list, and takes further arguments of the client.

    :param method: of the client
    :param arguments: its arguments
    :param options: its arguments by name
    """

    def call(**request: Any) -> list[dict[str, Any]]:
        return _documents(method(*arguments, _preload_content=False, **options, **request))

    return call


def log_end(
    api: Any,
    namespace: str,
    pod: str,
    *,
    container: str,
    lines: int,
    previous: bool = False,
    kept_bytes: int = MAX_LOG_BYTES,
    read_bytes: int = MAX_LOG_BYTES_READ,
    **request: Any,
) -> list[str]:
    """The last lines of the log of a container, as it wrote them; raises what the client raises.

    :param api: a ``CoreV1Api``
    :param namespace: where the pod is
    :param pod: its name
    :param container: the container
    :param lines: number of lines
    :param previous: whether to read what it wrote before it was started again
    :param kept_bytes: how much of the end is kept: lines may be long
    :param read_bytes: how much is read at most: they may have no end
    :param request: further arguments of the client
    """
    answer = api.read_namespaced_pod_log(
        pod,
        namespace,
        container=container,
        previous=previous,
        tail_lines=lines,
        # What the client reads by itself it turns into the text of a bytes literal.
        _preload_content=False,
        **request,
    )
    end, received = b"", 0
    for chunk in answer.stream(kept_bytes):
        end, received = (end + chunk)[-kept_bytes:], received + len(chunk)
        if received >= read_bytes:
            answer.close()  # what is left unread would be taken for the next answer
            break
    answer.release_conn()
    text = end.decode("utf-8", errors="replace")
    return text.removesuffix("\n").split("\n") if text else []


def _documents(answer: Any) -> list[dict[str, Any]]:
    """What was sent: the client's own models refuse a document that lacks a field."""
    documents: list[dict[str, Any]] = document_of(answer).get("items") or []
    return documents
