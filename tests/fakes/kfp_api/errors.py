"""Errors as upstream makes them: a gRPC code, a message for operators and one for users.

Upstream: ``backend/src/common/util/error.go``. Wrapping an error prefixes the first message and keeps the code and
the second one; ``NewInternalServerError`` around another error hides that error's code. That is why a
broken pipeline spec in CreateRun answers 500, and not 400.
"""

from __future__ import annotations

from typing import Any

# gRPC code, and the HTTP status that grpc-gateway's runtime/errors.go gives it.
INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED = 3, 5, 6, 7
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


class ApiError(Exception):
    """One refused request."""

    def __init__(self, code: int, message: str, external: str | None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.external = external

    @property
    def status(self) -> int:
        return HTTP_STATUS[self.code]

    def wrap(self, prefix: str) -> ApiError:
        return ApiError(self.code, f"{prefix}: {self.message}", self.external)

    def as_internal(self, prefix: str) -> ApiError:
        return ApiError(INTERNAL, f"InternalServerError: {prefix}: {self.message}", "Internal Server Error")

    def body(self) -> dict[str, Any]:
        """The body that grpc-gateway v2 writes; it has no ``error`` key, as that of v1 had."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.external is not None:
            body["details"] = [
                {
                    "@type": "type.googleapis.com/google.rpc.Status",
                    "code": self.code,
                    "message": self.external,
                }
            ]
        return body


def invalid(message: str) -> ApiError:
    return ApiError(INVALID_ARGUMENT, f"Invalid input error: {message}", message)


def invalid_details(cause: str, external: str) -> ApiError:
    return ApiError(INVALID_ARGUMENT, f"InvalidInputError: {external}: {cause}", external)


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
