"""Where KServe sends a service's requests and answers: as CloudEvents to an address, by a container of its own beside the server.

Reference: https://kserve.github.io/website/docs/model-serving/predictive-inference/logger
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown, shown_value
from airflow_provider_llmops.redaction.signs import is_secret_name
from airflow_provider_llmops.uris import split_address

MODES = ("all", "request", "response")
_FIELDS = ("url", "mode", "metadataHeaders")
_NOT_BUILT = ("storage", "batchSize", "batchInterval", "marshallerUrl", "metadataAnnotations")
_HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")


def logger_of(name: str, given: Any) -> dict[str, Any]:
    """The ``logger`` of a predictor.

    :param name: of the service
    :param given: its fields, for example ``{"url": "http://events.team.svc", "mode": "request"}``; without ``mode`` all are sent
    :raises ConfigurationError: a field is unknown or not built, the address is none, or a secret would be sent or seen
    """
    what = f"logger of service {name!r}"
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{what} must be a dict with a url, got {shown_value(given, 60)}.")
    if not_built := [str(field) for field in given if field in _NOT_BUILT]:
        raise ConfigurationError(
            f"{', '.join(not_built)} of {what} is not built: events are sent to an address. There are: {', '.join(_FIELDS)}."
        )
    if unknown := describe_unknown(map(str, given), _FIELDS):
        raise ConfigurationError(f"{what} has no {unknown}. There are: {', '.join(_FIELDS)}.")
    mode = given.get("mode", "all")
    if mode not in MODES:
        raise ConfigurationError(
            f"mode of {what} must be one of {', '.join(MODES)}, got {shown_value(mode, 40)}."
        )
    headers = given.get("metadataHeaders")
    return {
        "mode": mode,
        "url": _address(what, given.get("url")),
        **({} if headers is None else {"metadataHeaders": _headers(what, headers)}),
    }


def _address(what: str, url: Any) -> str:
    parts = split_address(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            f"url of {what} must be the http:// or https:// address that events are sent to, got {shown_value(url, 60)}."
        )
    if secret := next((key for key, _ in parse_qsl(parts.query) if is_secret_name(key)), None):
        raise ConfigurationError(
            f"url of {what} has {secret} in it, which everybody could read who may see the service. Give an address inside of the cluster "
            "that takes events without it."
        )
    return str(url)


def _headers(what: str, given: Any) -> list[str]:
    """Names as Go's HTTP server writes them: KServe's agent compares letter by letter, and leaves others out without a word."""
    is_list = isinstance(given, list | tuple) and bool(given)
    if not is_list or not all(isinstance(header, str) and _HEADER.fullmatch(header) for header in given):
        raise ConfigurationError(
            f"metadataHeaders of {what} must be a list with names of headers, got {shown_value(given, 60)}."
        )
    if secret := [header for header in given if is_secret_name(header)]:
        raise ConfigurationError(
            f"metadataHeaders of {what} has {', '.join(secret)}: what logs a client in would be sent with each event. Leave it out."
        )
    return ["-".join(part.capitalize() for part in header.split("-")) for header in given]
