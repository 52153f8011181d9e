"""A request that is not answered as asked, in the form of the protocol that it came by."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from llmops_components.errors import shortened

MAX_SHOWN = 1000  # a refusal may quote the request, which may be a megabyte


class RequestError(Exception):
    """A request that is answered with an error, in the form of the protocol that it came by.

    Args:
        status: HTTP status code.
        message: What is wrong, with the numbers.
        param: The field of the request that is to blame.
        code: Short machine-readable reason, as OpenAI's API has it.
        retry_after_seconds: When to come again, for errors that pass.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        message = shortened(message, MAX_SHOWN)
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = None if param is None else shortened(param, MAX_SHOWN)
        self.code = code
        self.retry_after_seconds = retry_after_seconds
        self.headers = headers or {}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> RequestError:
    """What is said of a request that cannot be carried out, whoever sends it and whenever.

    Args:
        message: What is wrong with it.
        param: The field that is to blame.
        code: Short machine-readable reason.
    """
    return RequestError(400, message, param=param, code=code)


def openai_error(error: RequestError) -> dict[str, Any]:
    """An error in the form that OpenAI's clients read.

    Args:
        error: The error.
    """
    kind = "invalid_request_error" if error.status < 500 and error.status != 429 else "server_error"
    if error.status == 429:
        kind = "rate_limit_error"
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


async def request_error_handler(request: Request, error: Exception) -> JSONResponse:
    """Answer a :class:`RequestError` in the form of the protocol that the request came by.

    Args:
        request: The request.
        error: The error.
    """
    assert isinstance(error, RequestError)
    openai = request.scope["path"].startswith("/openai")
    headers = dict(error.headers)
    if error.retry_after_seconds:
        headers["Retry-After"] = str(error.retry_after_seconds)
    body = openai_error(error) if openai else {"error": error.message}
    return JSONResponse(body, status_code=error.status, headers=headers)


async def refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with an error, from within an ASGI application.

    Args:
        error: The error.
        scope: The request's.
        receive: The request's.
        send: The request's.
    """
    await (await request_error_handler(Request(scope), error))(scope, receive, send)
