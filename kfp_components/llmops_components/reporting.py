"""Report why a step or a training has failed: in the file that its caller has named, or at the end of its output."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path

from llmops_components.errors import MAX_CHARACTERS, ComponentError, reason_first, shortened
from llmops_components.redaction import redact
from llmops_components.state_files import write_json

ERROR_FILE_VARIABLE = "LLMOPS_ERROR_FILE"
# Begins the line of the output that carries an error raised on purpose, as JSON. On a cluster the output is all that is left
# of a step that failed, and the Airflow provider looks for this line in it.
ERROR_MARK = "LLMOPS_ERROR: "
TERMINATION_LOG_BYTES = (
    4096  # https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
)
MAX_MESSAGE_CHARACTERS = 4000  # in that line, which has to lie in the end of the output that is read


def message_of(error: Exception) -> str:
    """The error's message, its reason first, without passwords and tokens.

    Args:
        error: What was raised.
    """
    return reason_first(redact(str(error)))


def words_of(error: BaseException) -> str:
    """What an error says, with its type unless it was raised on purpose, without passwords and tokens.

    Args:
        error: What was raised.
    """
    text = str(error) if isinstance(error, ComponentError) else f"{type(error).__name__}: {error}"
    return shortened(redact(text), MAX_CHARACTERS)


def report_error(error: Exception) -> None:
    """Write an error as JSON to the file that ``LLMOPS_ERROR_FILE`` names.

    Without that variable, one that was raised on purpose becomes a line of the output that begins with
    :data:`ERROR_MARK`; of another one the traceback is there.

    Args:
        error: What was raised; it is being handled.
    """
    is_on_purpose = isinstance(error, ComponentError)
    described = {
        "type": type(error).__name__,
        "message": message_of(error),
        "retryable": getattr(error, "retryable", True),
    }
    if target := os.environ.get(ERROR_FILE_VARIABLE):
        trace = None if is_on_purpose else redact(traceback.format_exc(limit=-20))
        _write(target, {**described, "traceback": trace})
    elif is_on_purpose:
        described["message"] = described["message"][:MAX_MESSAGE_CHARACTERS]
        print(f"{ERROR_MARK}{json.dumps(described)}", file=sys.stderr, flush=True)


def _write(target: str, described: dict[str, object]) -> None:
    try:
        write_json(target, described)
    except OSError:  # Kubernetes mounts a container's termination log: it can be written, but not replaced
        with contextlib.suppress(OSError):  # a full disk: the output has it
            Path(target).write_text(_in_short(described), encoding="utf-8")


def _in_short(described: dict[str, object]) -> str:
    """The error as JSON, no longer than a termination log may be: Kubernetes leaves out the beginning of a longer one."""
    room = MAX_MESSAGE_CHARACTERS
    while len(text := json.dumps(described)) > TERMINATION_LOG_BYTES and room:
        room //= 2
        message, trace = str(described["message"]), described.get("traceback")
        described = {**described, "message": message[:room], "traceback": trace and str(trace)[-room:]}
    return text
