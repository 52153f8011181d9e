"""Errors as upstream makes them: a gRPC code, a message for operators and one for users.

Upstream: ``backend/src/common/util/error.go``. Wrapping an error prefixes the first message and keeps the code and
the second one; ``NewInternalServerError`` around another error hides that error's code. That is why a
broken pipeline spec in CreateRun answers 500, and not 400.
"""

from __future__ import annotations

from typing import Any

# gRPC code, and the HTTP status that grpc-gateway's runtime/errors.go gives it.
UNKNOWN, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED = 2, 3, 5, 6, 7
FAILED_PRECONDITION, ABORTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, UNAUTHENTICATED = 9, 10, 12, 13, 14, 16

HTTP_STATUS = {
    INVALID_ARGUMENT: 400,
    NOT_FOUND: 404,
    ALREADY_EXISTS: 409,
    PERMISSION_DENIED: 403,
    FAILED_PRECONDITION: 400,
    ABORTED: 409,
    UNIMPLEMENTED: 501,
    INTERNAL: 500,
    UNAVAILABLE: 503,
    UNAUTHENTICATED: 401,
}


STACK = "\n".join(
    f"github.com/kubeflow/pipelines/backend/src/apiserver/server.(*Server).Call{number}\n"
    f"\t/go/src/github.com/kubeflow/pipelines/backend/src/apiserver/server/server.go:{number}"
    for number in range(100, 160)
)


class ApiError(Exception):
    """One refused request."""

    def __init__(self, code: int, message: str, external: str | None, *, inner: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.inner = code if inner is None else inner
        self.message = message
        self.external = external

    @property
    def status(self) -> int:
        return HTTP_STATUS[self.code]

    @property
    def is_of_compiler(self) -> bool:
        return self.inner == UNKNOWN

    def wrap(self, prefix: str) -> ApiError:
        return ApiError(self.code, f"{prefix}: {self.message}", self.external, inner=self.inner)

    def as_internal(self, prefix: str) -> ApiError:
        return ApiError(INTERNAL, f"InternalServerError: {prefix}: {self.message}", "Internal Server Error")

    def body(self) -> dict[str, Any]:
        """The body that grpc-gateway v2 writes; it has no ``error`` key, as that of v1 had."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.external is not None:
            body["details"] = [
                {
                    "@type": "type.googleapis.com/google.rpc.Status",
                    "code": self.inner,
                    "message": self.external,
                }
            ]
        return body


def invalid(message: str) -> ApiError:
    return ApiError(INVALID_ARGUMENT, f"Invalid input error: {message}", message)


def invalid_details(cause: str, external: str) -> ApiError:
    return ApiError(INVALID_ARGUMENT, f"InvalidInputError: {external}: {cause}", external)


def unknown_version(message: str) -> ApiError:
    return ApiError(INVALID_ARGUMENT, f"UnknownApiVersionError: {message}", message)


def not_found(kind: str, name: str) -> ApiError:
    message = f"{kind} {name} not found"
    return ApiError(NOT_FOUND, f"ResourceNotFoundError: {message}", message)


def already_exists(message: str) -> ApiError:
    return ApiError(ALREADY_EXISTS, f"Already exist error: {message}", message)


def bad_request(cause: str, external: str) -> ApiError:
    """Upstream's ``NewBadRequestError`` is gRPC ``Aborted``, which the gateway answers as 409."""
    return ApiError(ABORTED, f"BadRequestError: {external}: {cause}", external)


def internal(cause: str, message: str) -> ApiError:
    return ApiError(INTERNAL, f"InternalServerError: {message}: {cause}", "Internal Server Error")


def gateway_error(code: int, message: str) -> ApiError:
    """An error of the gateway itself, before the API server sees the request: no details."""
    return ApiError(code, message, None)


def compile_error(what: str) -> ApiError:
    """What the compiler of specifications says, with its stack; the code of the details is another one."""
    text = f"Internal error: {what}\nFailed to compile job\n{STACK}"
    return ApiError(INTERNAL, text, text, inner=UNKNOWN)


def unauthenticated(what: str) -> ApiError:
    external = "Failed to check authorization. User identity is empty in the request header"
    return ApiError(UNAUTHENTICATED, f"Unauthenticated: {external}: {what}", external)


def forbidden(user: str, verb: str, resource: str, namespace: str, name: str) -> ApiError:
    external = (
        f"User '{user}' is not authorized with reason:  (request: &ResourceAttributes{{Namespace:{namespace},Verb:{verb},"
        f"Group:pipelines.kubeflow.org,Version:v1beta1,Resource:{resource},Subresource:,Name:{name},FieldSelector:nil,"
        "LabelSelector:nil,})"
    )
    return ApiError(PERMISSION_DENIED, f"PermissionDenied: {external}: Unauthorized access", external)
