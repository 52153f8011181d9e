"""What can go wrong, sorted by who must act.

LLMOpsError
├── ConfigurationError     an argument, connection or specification is wrong       final
│   └── RunNotFoundError   there is no run with that id                            final
├── InvalidInputError      a component refused its data, model or settings         final
├── QualityGateFailed      the work is done and its result is not good enough      final
├── RunFailedError         a run or a service failed                               may be retried
├── RunCanceledError       a run was cancelled from outside                        may be retried
├── ResultError            a run succeeded and its result cannot be read           may be retried
└── ApiUnavailableError    a backend did not answer                                may be retried

Final errors are :class:`AirflowFailException`: Airflow does not retry them. A message has four parts: what happened,
where, why, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from airflow.sdk.exceptions import AirflowException, AirflowFailException


class LLMOpsError(AirflowException):
    """Base of every error that this provider raises on purpose."""


class ConfigurationError(LLMOpsError, AirflowFailException):
    """An argument, a connection or a specification is wrong."""


class RunNotFoundError(ConfigurationError):
    """There is no run with that id: it was deleted, or the connection points elsewhere."""


class InvalidInputError(LLMOpsError, AirflowFailException):
    """A component refused its data, model or settings; running it again as it is cannot help."""


class QualityGateFailed(LLMOpsError, AirflowFailException):
    """A run finished and its result did not meet the gate. The result was pushed to XCom before this was raised."""


class RunFailedError(LLMOpsError):
    """A pipeline run or a service failed."""


class RunCanceledError(LLMOpsError):
    """A pipeline run was cancelled by somebody else."""


class ResultError(LLMOpsError):
    """A run's result is missing, cut off or of an unknown schema version."""


class ApiUnavailableError(LLMOpsError):
    """A backend could not be reached, or answered that it is overloaded."""


def describe_unknown(given: Iterable[str], valid: Iterable[str]) -> str:
    """Name every unknown key, with the nearest valid one where there is one close by.

    :param given: keys that the caller passed
    :param valid: keys that are understood
    :return: text for a message; empty when every key is known
    """
    valid = sorted(valid)
    described = []
    for key in given:
        if key not in valid:
            near = difflib.get_close_matches(key, valid, n=1)
            described.append(f"{key!r} (did you mean {near[0]!r}?)" if near else repr(key))
    return ", ".join(described)
