"""Ask an API server of Kubernetes, again while it does not answer, and say of a refusal who must act."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from airflow_provider_llmops.backends.kubernetes.messages import message_of, reason_of, sentence
from airflow_provider_llmops.backends.retrying import while_unavailable
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    LLMOpsError,
    RunFailedError,
    RunNotFoundError,
    shortened,
)

PATIENCE_SECONDS = 300.0
ANSWER_SECONDS = 30.0
# Refusals of what was sent that look like outages: server-side apply's, and a webhook's that falls over it.
_WRONG_AT_500 = ("field not declared in schema", "denied the request: panic")


@dataclass(frozen=True)
class Advice:
    """What to do where an API server refuses something.

    :param kind: what is asked about, as Kubernetes names it
    :param install: what to do where the cluster does not know that
    :param rights: what the user needs
    :param correct: what to do where the kind's own webhook refuses it
    """

    kind: str
    install: str
    rights: str
    correct: str


class CredentialsRefusedError(ConfigurationError):
    """401: the API server does not know who asks. That passes when a token is renewed, and says nothing of rights."""


class ForbiddenError(ConfigurationError):
    """403: the user may not do that."""


class GoneError(LLMOpsError):
    """410: the API server does not remember what has happened since then; what there is has to be listed again."""


class AlreadyThereError(LLMOpsError):
    """409: there is one of that name."""


class FieldConflictError(ConfigurationError):
    """409: somebody else sets a field otherwise."""


def ask(
    what: str,
    call: Callable[..., Any],
    advice: Advice,
    *,
    conn_id: str,
    patience: float = PATIENCE_SECONDS,
    answer_within: float = ANSWER_SECONDS,
) -> Any:
    """The answer to a request that may be repeated.

    :param what: what is wanted, for messages
    :param call: sends the request; gets ``_request_timeout``
    :param advice: what to do where it is refused
    :param conn_id: Airflow connection, for messages
    :param patience: seconds to go on trying while there is no answer
    :param answer_within: seconds that one answer may take
    :raises ApiUnavailableError: there is none
    :raises RunNotFoundError: what it is about is not there
    :raises ConfigurationError: it is refused
    """
    from kubernetes.client.exceptions import ApiException  # type: ignore[import-untyped]
    from urllib3.exceptions import HTTPError

    what = f"{what} (connection {conn_id!r})"
    for attempt in while_unavailable(patience):
        with attempt:
            try:
                found = call(_request_timeout=min(answer_within, patience or answer_within))
                if isinstance(found, str):  # the client hands on what is no JSON
                    raise json.JSONDecodeError("No document of Kubernetes", shortened(found, 100), 0)
                return found
            except ApiException as error:
                raise _sorted_error(error, what, advice) from error
            # The last where a proxy answers with a page of its own.
            except (HTTPError, OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ApiUnavailableError(
                    f"The API server did not answer: {error}", f"Wanted: {what}"
                ) from error
    raise AssertionError("the last attempt returns or raises")


def _sorted_error(error: Any, what: str, advice: Advice) -> LLMOpsError:
    """The error that says who must act, with the reason first."""
    message, reason, details = message_of(error)
    said, code = reason_of(message), error.status
    wanted = f"Wanted: {what}; the API server answered {code}"
    if code == 500 and any(text in message for text in _WRONG_AT_500):
        return ConfigurationError(f"{sentence(said)} {advice.correct}", wanted)
    if not code or code >= 500 or code in (408, 429):
        return ApiUnavailableError(f"The API server answered {code}: {said}", f"Wanted: {what}")
    if code == 409 and reason == "AlreadyExists":
        return AlreadyThereError(said, wanted)
    if code == 409 and details.get("causes"):
        fields = "; ".join(f"{cause.get('message')} {cause.get('field')}" for cause in details["causes"])
        return FieldConflictError(
            f"Somebody else sets these fields: {shortened(fields, 300)}. Leave them to whoever that is, or take them out there.",
            wanted,
        )
    if code == 410:
        return GoneError(said, wanted)
    if code == 409:  # changed between reading and writing
        return ApiUnavailableError(f"The API server answered {code}: {said}", f"Wanted: {what}")
    if code == 403 and "exceeded quota" in message:
        return RunFailedError(
            f"{sentence(said)} Retry when what uses it up has ended, or let the namespace have more.", wanted
        )
    is_namespace = details.get("kind") == "namespaces" or message.startswith('namespaces "')
    if code == 404 and reason == "NotFound" and not is_namespace:
        return RunNotFoundError(f"{sentence(said)} It was deleted, or is in another namespace.", wanted)
    if code == 404 and reason is None:
        return ConfigurationError(f"The cluster does not know {advice.kind}. {advice.install}", wanted)
    if "admission webhook" in message:
        return ConfigurationError(f"{sentence(said)} {advice.correct}", wanted)
    if code == 403:
        return ForbiddenError(f"{sentence(said)} {advice.rights}", wanted)
    if code == 401:
        return CredentialsRefusedError(f"{sentence(said)} Renew the connection's credentials.", wanted)
    return ConfigurationError(f"{sentence(said)} Correct the task's settings.", wanted)
