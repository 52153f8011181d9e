"""What an error of the API server says: its reason, without wrappers and stacks, and whether to ask again can help.

Upstream: ``backend/src/common/util/error.go``. Wrapping an error puts a text before it, and an internal error around another one
hides its code: so 500 is the answer to much that is the request's own fault, and the text alone tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from airflow_provider_llmops.json_text import parse_json

MAX_REASON_CHARACTERS = 300
MAX_ANSWER_CHARACTERS = 2000
# Statuses that say nothing about the request itself: it came too slowly, too early, too often, or was given up on the way.
_TRY_AGAIN = (408, 425, 429, 499)
# What Go prints of a stack: a function, and below it a file with the number of a line.
_FRAME = re.compile(
    r"\s+\S+\.go:\d+|[\w.-]+\.\w+/\S+\.\S+$|goroutine \d+|(?:runtime|main|net/http|reflect)\.\S+$"
)
_KIND = re.compile(
    r"\b(?:InternalServerError|Internal error|Invalid input error|InvalidInputError|ResourceNotFoundError|Already exist error|"
    r"BadRequestError|FailedPreconditionError|PermissionDenied|Unauthenticated|UnknownApiVersionError): "
)
_OWN_FAULT = re.compile(
    "|".join(
        (
            # Errors of another code that an internal error hides.
            r"\b(?:Invalid ?Input ?Error|ResourceNotFoundError|Already ?Exists? ?Error|BadRequestError|FailedPreconditionError|"
            r"PermissionDenied|UnknownApiVersionError):",
            # Specifications.
            r"failed to compile job|compiling DAG|unknown template format|unmarshal|unknown field|not implemented",
            # Values that the database does not hold: class 22 of SQL's states.
            r"(?:SQLSTATE |Error \d+ \()22\w{3}\)|data too long|value too long|incorrect string value|out of range value",
            r"bigger than 'max_allowed_packet'|MaxAllowedPacket",
            # What Kubernetes, gRPC and the gateway do not take.
            r"request (?:entity )?(?:is )?too large|message larger than max|\bis invalid: |denied the request",
            r"contains value with non-printable",
        )
    ),
    re.IGNORECASE,
)
# A cluster or a database that cannot be reached, or has no room now. After a time-out, what was asked for may have been done.
_OUTAGE = re.compile(
    r"connection refused|no such host|no route to host|network is unreachable|TLS handshake timeout|failed calling webhook|"
    r"etcdserver: no leader|unable to (?:handle|return a response to) the request|too many connections|"
    r"too many requests|exceeded quota",
    re.IGNORECASE,
)
_TITLE = re.compile(r"<title>([^<]{0,500})", re.IGNORECASE)
# What the server says from when on the run's workflow is made: ``CreateRun`` in backend/src/apiserver/resource.
_AFTER_THE_WORKFLOW = ("Failed to create a run: ", "Failed to store")
_WORKFLOW_GONE = re.compile(r"workflows\.argoproj\.io \S+ not found")
_TOO_LARGE = re.compile(r"too large|larger than max|max_?allowed_?packet", re.IGNORECASE)
_NO_NAMESPACE = re.compile(r"in multi-user mode|shared pipeline |namespace (?::|\. )")
# An upload tells nothing but that it failed, whatever the reason was.
_UPLOAD_FAILED = re.compile(r"Failed to create a pipeline(?: version| and a pipeline version)?$")


@dataclass(frozen=True)
class ServerError:
    """An answer that is no success.

    :param status: HTTP status code
    :param reason: what is wrong, without what the server's layers have put before it
    :param text: all of it, without stacks
    """

    status: int
    reason: str
    text: str

    @classmethod
    def read(cls, status: int, body: bytes) -> ServerError:
        """Read the body, in whichever of its forms it is: of the gateway, of the upload, of a proxy."""
        lines = _without_stack(_said(body)) or [_phrase(status)]
        text = " ".join(" ".join(lines).split())
        first = " ".join(lines[0].split())
        reason = first[max((found.end() for found in _KIND.finditer(first)), default=0) :] or text
        return cls(
            status,
            _ends_of(reason.rstrip(". "), MAX_REASON_CHARACTERS),
            _ends_of(text.rstrip(". "), MAX_ANSWER_CHARACTERS),
        )

    @property
    def is_final(self) -> bool:
        """Whether the answer will be the same next time."""
        if self.status == 500:
            return _OWN_FAULT.search(self.text) is not None or self.is_of_a_lost_workflow
        if self.status == 429:
            return _TOO_LARGE.search(self.text) is not None
        return self.status not in _TRY_AGAIN and (self.status < 500 or self.status == 501)

    @property
    def has_done_nothing(self) -> bool:
        """Whether the server could not get at what it needs, and has surely made nothing: an outage behind it."""
        may_be_made = any(text in self.text for text in _AFTER_THE_WORKFLOW)
        return not may_be_made and _OUTAGE.search(self.text) is not None

    @property
    def is_of_a_lost_workflow(self) -> bool:
        """Whether the run's workflow is gone from the cluster, while the server still has the run."""
        return self.status == 500 and _WORKFLOW_GONE.search(self.text) is not None

    @property
    def wants_namespace(self) -> bool:
        """Whether the server is multi-user and misses a namespace."""
        return self.status in (400, 403) and _NO_NAMESPACE.search(self.text) is not None

    @property
    def whole(self) -> str | None:
        """Line with all that was said, where that is more than the reason."""
        return f"Answer: {self.text}" if self.text != self.reason else None

    def advice(self, conn_id: str, namespace: str | None) -> str:
        """What to do about a final answer.

        :param conn_id: connection to the server
        :param namespace: its namespace
        """
        connection = f"connection {conn_id!r}"
        place = f" in namespace {namespace!r}" if namespace else ""
        if self.wants_namespace and not namespace:
            return f"The server is multi-user: set 'namespace' of {connection} to your profile's."
        if self.status == 400 and _UPLOAD_FAILED.fullmatch(self.text):
            return (
                f"The server does not say why. It says the same when the account of {connection} lacks the right to upload"
                f"{place}, when its credentials are missing or expired, and when the pipeline is gone."
            )
        if _TOO_LARGE.search(self.text):
            return "Pass large values as files, by their address, and make the specification smaller."
        if "string value" in self.text and self.status == 500:
            return (
                "The server's connection to its database does not take such characters (emoji, for example): leave them out, pass "
                "them in a file, or give its API server the environment variable "
                """DBCONFIG_MYSQLCONFIG_EXTRAPARAMS='{"charset": "utf8mb4"}'."""
            )
        return {
            400: "Correct the argument that it names.",
            401: f"The credentials of {connection} are missing, wrong or expired.",
            403: f"The account of {connection} lacks this right{place}"
            + (", or there is no such namespace." if namespace else "."),
            404: "It was deleted, or the connection points to another server, namespace or experiment.",
            501: "This server does not know the method: Kubeflow Pipelines 2.0 or newer is needed.",
        }.get(self.status, "The server will not carry this out as it is.")


def is_html(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether an answer is a web page: of a login, or of a proxy."""
    kind = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    return "text/html" in kind or body.lstrip()[:1] == b"<"


def _said(body: bytes) -> str:
    try:
        answer: Any = parse_json(body)
    except ValueError:
        text = body.decode("utf-8", errors="replace")
        title = _TITLE.search(text)
        return re.sub(r"^\s*\d{3}\s+", "", title[1]) if title else text
    if not isinstance(answer, dict):
        return answer if isinstance(answer, str) else ""
    said = answer.get("message") or answer.get("error_message") or answer.get("error") or ""
    return str(said.get("message") or said if isinstance(said, dict) else said)


def _phrase(status: int) -> str:
    return next((known.phrase for known in HTTPStatus if known == status), "no reason was given")


def _ends_of(text: str, characters: int) -> str:
    """Beginning and end of a long text: the reason stands at one of them, and a value that somebody gave between."""
    if len(text) <= characters:
        return text
    half = (characters - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def _without_stack(text: str) -> list[str]:
    lines: list[str] = []
    for line in text.strip().splitlines():
        if _FRAME.match(line[:MAX_ANSWER_CHARACTERS]):
            break
        lines.append(line)
    return lines
