"""The MLflow server whose registry is written and read: a client of one that answers, and what it takes as names."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmops_components.errors import ComponentError, SettingError, UnavailableError
from llmops_components.tracking.bucket import bucket_problem
from llmops_components.tracking.client import (
    PATIENCE,
    environment_variables,
    past_proxies,
    without_credentials,
)
from llmops_components.uris import is_http, without_login

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ALIAS = re.compile(r"(?!(?i:latest|v\d+)$)[A-Za-z0-9_-]{1,255}")  # MLflow keeps `latest` and `v1` for itself
_AS_OF = re.compile(r"\S[^\x00-\x1f]{0,499}")
_PROBE_TIMEOUT_SECONDS = 3


def check_model_name(name: str) -> None:
    """Raise :class:`SettingError` unless a registered model may have a name.

    Args:
        name: The name.
    """
    if not isinstance(name, str) or not MODEL_NAME.fullmatch(name):
        raise SettingError(
            f"model_name is {name!r}; a registered model's name has letters, digits, '.', '_' and '-', starts with a letter "
            "or digit, and is at most 128 characters long."
        )


def check_alias(alias: str | None) -> None:
    """Raise :class:`SettingError` unless a version may have an alias.

    Args:
        alias: The alias; None for none.
    """
    if alias is not None and not _ALIAS.fullmatch(alias):
        raise SettingError(
            f"alias is {alias!r}; an alias has letters, digits, '_' and '-', and is not 'latest' or a version such as 'v1'."
        )


def check_as_of(as_of: str | None) -> None:
    """Raise :class:`SettingError` unless a text can be the date of a model.

    Args:
        as_of: The text; None for none.
    """
    if as_of is not None and not _AS_OF.fullmatch(as_of):
        raise SettingError(
            f"as_of is {as_of!r:.80}; it is a date or partition as text that sorts, such as 2026-11-25, at most 500 characters."
        )


@contextlib.contextmanager
def connection(tracking_uri: str | None) -> Iterator[tuple[MlflowClient, str]]:
    """A client of a server that answers, and its address without credentials; MLflow's errors become ours."""
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise SettingError(
            "There is no MLflow server to register with: tracking_uri is not given and MLFLOW_TRACKING_URI is not set. "
            "Give one, for example http://mlflow.example.org:5000 or sqlite:////data/mlflow.db."
        )
    address, credentials = without_credentials(uri)
    is_server = is_http(address)
    environment = {key: os.environ.get(key, value) for key, value in PATIENCE.items()}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
    if is_server:
        environment |= credentials | past_proxies(address)
    with environment_variables(environment):
        import mlflow
        import requests
        from mlflow.exceptions import MlflowException

        started = time.monotonic()
        before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
        try:
            mlflow.set_tracking_uri(address if is_server else uri)
            client = mlflow.MlflowClient()
            timeout = os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_PROBE_TIMEOUT_SECONDS))
            with environment_variables({"MLFLOW_HTTP_REQUEST_TIMEOUT": timeout}):
                client.search_experiments(max_results=1)
            yield client, address
        except (MlflowException, requests.RequestException) as error:
            problem = bucket_problem(error) or _translate(error, address, uri, time.monotonic() - started)
            raise problem from None
        except Exception as error:
            if problem := bucket_problem(error):
                raise problem from None
            raise
        finally:
            mlflow.set_tracking_uri(before)


def _translate(error: Exception, address: str, uri: str, seconds: float) -> ComponentError:
    message = without_login(" ".join(str(error).replace(uri, address).split()), uri)
    if cause := re.search(r"\[Errno -?\d+\] ([\w ]+)|(timed out)", message):
        message = cause[1] or cause[2]
    status = getattr(error, "get_http_status_code", lambda: 500)()
    if status in (401, 403):
        return SettingError(
            f"MLflow at {address} refuses access: {message[:300]}. Set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )
    if 400 <= status < 500 and status not in (408, 429):
        hint = " Is this the address of an MLflow server?" if status == 404 else ""
        return SettingError(f"MLflow at {address} refuses the request: {message[:500]}.{hint}")
    return UnavailableError(
        f"MLflow at {address} did not answer after retries ({seconds:.0f} s): {message[:300]}. Check that the server "
        "runs and that tracking_uri is its address, then run this step again."
    )
