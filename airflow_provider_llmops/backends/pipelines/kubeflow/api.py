"""Calls to the API server of Kubeflow Pipelines: the official client, made to survive what networks and proxies do.

https://www.kubeflow.org/docs/components/pipelines/reference/api/kubeflow-pipeline-api-spec/
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenacity import RetryCallState, Retrying
from tenacity.stop import stop_base

from airflow_provider_llmops.backends.pipelines.kubeflow.answers import ServerError, is_html
from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.backends.retrying import while_unavailable
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError
from airflow_provider_llmops.hosts import is_loopback
from airflow_provider_llmops.http import header_fault
from airflow_provider_llmops.json_text import parse_json
from airflow_provider_llmops.uris import place_of, scheme_of, split_address

if TYPE_CHECKING:
    from kfp_server_api.exceptions import ApiException

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 1024 * 1024  # reading JSON takes the interpreter's lock, 0.1 s for this much
MAX_SAME_ANSWERS = 4
_OF_LOGIN_PAGES = (401, 403)
PAGE_SIZE = 100
_LEAVES_NOTHING = re.compile(r"_service_(?:get|list|terminate)_")


class RefusedError(ConfigurationError):
    """The server understood the request and will not carry it out.

    :param status: HTTP status code
    """

    def __init__(self, message: str, *places: str | None, status: int) -> None:
        super().__init__(message, *places)
        self.status = status


class TooLargeError(RefusedError):
    """The answer is larger than is read."""


class WorkflowGoneError(RefusedError):
    """The server has the run and the cluster no longer its workflow, so nothing of it runs."""


class UnansweredError(ApiUnavailableError):
    """There was no answer, or none that can be used. A request that changes something may have been carried out.

    :param status: HTTP status code of the answer; ``None`` when there was none
    :param passes: whether the answer is known for an outage behind the server, which leaves nothing behind
    :param retry_after: seconds that the server asked to wait
    :param may_have_happened: False when the request certainly never reached the server
    """

    def __init__(
        self,
        message: str,
        *places: str | None,
        status: int | None = None,
        passes: bool = False,
        retry_after: float | None = None,
        may_have_happened: bool = True,
    ) -> None:
        super().__init__(message, *places)
        self.status = status
        self.passes = passes
        self.retry_after = retry_after
        self.may_have_happened = may_have_happened


class stop_after_same_answers(stop_base):
    """Stop when the server has answered the same 500 some times: what it does then will not be another thing next time.

    Each request may have left something behind, as a workflow whose run could not be stored.
    """

    def __init__(self) -> None:
        self._answers: Counter[str] = Counter()

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Whether it is enough."""
        error = retry_state.outcome.exception() if retry_state.outcome else None
        if not isinstance(error, UnansweredError) or error.status != 500 or error.passes:
            return False
        self._answers[str(error)] += 1
        return self._answers[str(error)] >= MAX_SAME_ANSWERS


def retrying(patience: float, *, changes: bool = False) -> Retrying:
    """Try again while the server does not answer.

    :param patience: seconds within which the last error is raised
    :param changes: whether the request may leave something behind, so that it is not sent for ever when it fails alike each time
    """
    return while_unavailable(patience, stop=stop_after_same_answers() if changes else None)


class KfpApi:
    """The API of one server.

    Answers are returned as the JSON that was sent: building the client's models costs ten times as much as
    reading it, and a page of a hundred runs is read at every look.

    :param settings: the connection's settings
    """

    def __init__(self, settings: KfpSettings) -> None:
        import kfp_server_api

        self.settings = settings
        configuration = kfp_server_api.Configuration(host=settings.endpoint)
        configuration.verify_ssl = settings.verify_ssl
        configuration.ssl_ca_cert = settings.ca_file
        configuration.retries = False  # urllib3 would repeat a POST; every repetition is decided here
        configuration.proxy = _proxy_for(settings.endpoint)
        self._client = kfp_server_api.ApiClient(configuration)
        self._client.user_agent = "airflow-provider-llmops"
        if settings.auth == "cookie":
            self._client.cookie = settings.secret
        elif settings.auth in ("token", "token_file"):
            configuration.api_key = {"authorization": settings.secret or ""}
            configuration.api_key_prefix = {"authorization": "Bearer"}
        self._token_read_at: float | None = None
        self._page_size = PAGE_SIZE
        self.runs = kfp_server_api.RunServiceApi(self._client)
        self.pipelines = kfp_server_api.PipelineServiceApi(self._client)
        self.uploads = kfp_server_api.PipelineUploadServiceApi(self._client)
        self.experiments = kfp_server_api.ExperimentServiceApi(self._client)
        self.health = kfp_server_api.HealthzServiceApi(self._client)

    @property
    def scope(self) -> dict[str, Any]:
        """The namespace as an argument of what is asked for: only a multi-user server takes one."""
        return {"namespace": self.settings.namespace} if self.settings.namespace else {}

    def call(
        self, method: Callable[..., Any], *args: Any, patience: float | None = None, **kwargs: Any
    ) -> Any:
        """Call a method of the client until the server answers.

        Only for requests that may be repeated.

        :param method: method of one of the client's services
        :param patience: seconds to go on trying; the connection's when ``None``
        :return: the answer's JSON
        :raises RefusedError: the server refuses the request
        :raises ApiUnavailableError: there was no usable answer in that time
        """
        attempts = retrying(
            self.settings.patience if patience is None else patience,
            changes=not _LEAVES_NOTHING.search(method.__name__),
        )
        return attempts(self.call_once, method, *args, **kwargs)

    def call_once(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of the client, once."""
        from kfp_server_api.exceptions import ApiException
        from urllib3.exceptions import (
            ConnectTimeoutError,
            HTTPError,
            LocationParseError,
            NewConnectionError,
        )

        self._refresh_token()
        what = f"{method.__name__.partition('_service_')[2] or method.__name__} at {self.settings.endpoint}"
        response = None
        try:
            response = method(
                *args, _preload_content=False, _request_timeout=(self.settings.timeout,) * 2, **kwargs
            )
            return self._read(response, what)
        except ApiException as error:
            raise self._explain(error, what) from None  # its text repeats headers, cookies among them
        except (AttributeError, UnicodeDecodeError) as error:
            # The client decodes the body of every error: where there is none, without a secure connection for example,
            # and as UTF-8 what a proxy wrote in something else.
            if isinstance(error.__context__, ApiException):
                raise self._explain(error.__context__, what) from None
            raise
        except LocationParseError as error:
            raise ConfigurationError(
                f"The host of connection {self.settings.conn_id!r} is no address: {error}. Asked for: {what}."
            ) from error
        except HTTPError as error:
            reached = not isinstance(error, NewConnectionError | ConnectTimeoutError)
            raise UnansweredError(
                f"Kubeflow Pipelines does not answer: {type(error).__name__}: {error}. Is the server up, and the connection "
                f"{self.settings.conn_id!r} right? Asked for: {what}.",
                may_have_happened=reached,
            ) from error
        finally:
            if response is not None:
                response.close()  # a connection whose answer was read to its end is back in the pool already

    def pages(
        self, method: Callable[..., Any], key: str, *args: Any, **kwargs: Any
    ) -> Iterator[dict[str, Any]]:
        """All entries of a listing, page after page.

        :param method: a listing method of the client
        :param key: name of the list in the answer
        """
        page_size = kwargs.pop("page_size", PAGE_SIZE)
        while True:
            size = min(page_size, self._page_size)
            try:
                answer = self.call(method, *args, **kwargs, page_size=size)
            except TooLargeError:
                if size == 1:
                    raise
                self._page_size = size // 2  # from now on
                continue
            yield from answer.get(key) or ()
            if not (token := answer.get("next_page_token")):
                return
            # The token holds filter and order; the server refuses some filters that are repeated beside it.
            kwargs = {name: value for name, value in kwargs.items() if name not in ("filter", "sort_by")}
            kwargs["page_token"] = token

    def _read(self, response: Any, what: str) -> Any:
        body = response.read(MAX_BODY_BYTES + 1)
        if len(body) > MAX_BODY_BYTES:
            raise TooLargeError(
                f"The answer is larger than {MAX_BODY_BYTES >> 20} MiB, which is more than one run should have to say. Look at "
                f"what connection {self.settings.conn_id!r} points to. Asked for: {what}.",
                status=200,
            )
        if is_html(response.headers, body):
            raise self._login_page(what, 200)
        try:
            return parse_json(body) if body.strip() else {}
        except ValueError as error:
            raise UnansweredError(f"The answer is cut off or garbled: {error}. Asked for: {what}.") from error

    def _explain(self, error: ApiException, what: str) -> Exception:
        status = int(error.status or 0)
        conn_id = self.settings.conn_id
        if status == 0 and _was_cut_off(error):
            return UnansweredError(f"The connection ended in the middle: {error.reason}. Asked for: {what}.")
        if status == 0:
            return ConfigurationError(
                f"No secure connection: {str(error.reason).splitlines()[-1]}. Give the certificate authority in 'ca_file' of "
                f"connection {conn_id!r}, or correct the address. Asked for: {what}."
            )
        headers: Mapping[str, str] = dict(error.headers or {})
        body = error.body if isinstance(error.body, bytes) else str(error.body or "").encode()
        answer = ServerError.read(status, body)
        if not answer.is_final:
            return UnansweredError(
                f"HTTP {status}: {answer.reason}. Asked for: {what}.",
                answer.whole,
                status=status,
                passes=answer.has_done_nothing,
                retry_after=_retry_after(headers),
            )
        if 300 <= status < 400 or (is_html(headers, body) and status in _OF_LOGIN_PAGES):
            return self._login_page(what, status)
        kind = WorkflowGoneError if answer.is_of_a_lost_workflow else RefusedError
        advice = answer.advice(conn_id, self.settings.namespace)
        return kind(
            f"Refused with {status}: {answer.reason}. {advice} Asked for: {what}.",
            answer.whole,
            status=status,
        )

    def _login_page(self, what: str, status: int) -> RefusedError:
        return RefusedError(
            f"A web page came back, not JSON: a login page in front of the server, or an address that is not the API's. Give "
            f"connection {self.settings.conn_id!r} credentials ('auth': token, token_file or cookie), or an endpoint inside the "
            f"cluster. Asked for: {what}.",
            status=status,
        )

    def _refresh_token(self) -> None:
        """Read the token's file if it has changed: Kubernetes replaces it before it expires."""
        if self.settings.auth != "token_file":
            return
        path = Path(self.settings.token_file)
        try:
            changed_at = path.stat().st_mtime
            if changed_at == self._token_read_at:
                return
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigurationError(
                f"The token file of connection {self.settings.conn_id!r} cannot be read: {reason}. Mount a projected "
                "service-account token there (audience pipelines.kubeflow.org), or correct 'token_file'.",
                f"File: {path}",
            ) from error
        if not token:
            raise ConfigurationError(
                f"The token file of connection {self.settings.conn_id!r} is empty.", f"File: {path}"
            )
        if fault := header_fault(token):
            raise ConfigurationError(
                f"The token file of connection {self.settings.conn_id!r} holds no token: {fault}. It must hold the token alone, on "
                "one line.",
                f"File: {path}",
            )
        self._client.configuration.api_key["authorization"] = token
        self._token_read_at = changed_at


def _proxy_for(endpoint: str) -> str | None:
    """The proxy that the environment names for an address of another machine; the client does not look by itself."""
    import urllib.request

    if is_loopback(split_address(endpoint).hostname or ""):
        return None
    host = place_of(endpoint).partition("/")[0]
    return None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(scheme_of(endpoint))


def _was_cut_off(error: BaseException) -> bool:
    """Whether a TLS connection broke, as opposed to one that was not to be trusted."""
    import ssl

    cause = error.__context__
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__context__
    return isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = next((value for name, value in headers.items() if name.lower() == "retry-after"), None)
    if value is None:
        return None
    if value.isdigit():
        return float(value)
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None
