"""What a connection of type ``kubeflow`` with a host says, checked."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.connections import (
    KUBEFLOW_FIELDS,
    LOCAL_FIELDS,
    RUNS_FIELDS,
    names_of_type,
)
from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown, shown_value
from airflow_provider_llmops.http import header_fault
from airflow_provider_llmops.specs.placeholders import (
    refuse_expansions,
    refuse_placeholders,
    refuse_variables,
)
from airflow_provider_llmops.uris import server_address, split_address

if TYPE_CHECKING:
    from airflow.sdk import Connection

AUTH_MODES = tuple(filter(None, KUBEFLOW_FIELDS["auth"]["schema"]["enum"]))
# Where Kubeflow's own manifests mount it: https://www.kubeflow.org/docs/components/pipelines/user-guides/core-functions/connect-api/
DEFAULT_TOKEN_FILE = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105 - a path
# What an installation of Kubeflow Pipelines uses when nobody configured anything (config map kfp-launcher).
DEFAULT_PIPELINE_ROOT = "minio://mlpipeline/v2/artifacts"
ROOT_SCHEMES = ("s3", "gs", "minio", "file")
_TEXTS = names_of_type(KUBEFLOW_FIELDS, "string")
_NO_NAME = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
MAX_EXPERIMENT_BYTES = 128


@dataclass(frozen=True, kw_only=True)
class KfpSettings:
    """Settings of a Kubeflow Pipelines API server.

    :param endpoint: address of the server without ``/apis/v2beta1``
    :param namespace: profile's namespace; only where the server is multi-user
    :param experiment: name of the experiment that runs belong to; made when it is missing
    :param pipeline_root: where steps write their artifacts: ``s3://``, ``gs://``, ``minio://`` or ``file:///``
    :param service_account: Kubernetes service account of the steps
    :param image: image of the components of this provider, instead of the one that they were compiled with
    :param storage_conn_id: Airflow connection with which results are read from the pipeline root
    :param kubernetes_conn_id: Airflow connection with which pods say why a step failed, or why it waits
    :param ui_url: address of the web interface, where it is not the endpoint
    :param verify_ssl: whether the server's certificate is verified
    :param ca_file: bundle of certificates to verify it with
    :param auth: ``none``, ``token``, ``token_file`` or ``cookie``
    :param secret: the bearer token, or the cookie as ``name=value``
    :param token_file: file of a projected service-account token; it is read again when it changes
    :param timeout: seconds to wait for one answer
    :param patience: seconds to go on trying while the server does not answer, or says that it is overloaded
    :param upload_versions: whether specifications are uploaded as pipeline versions, once each, or sent with every run
    """

    conn_id: str
    endpoint: str
    namespace: str | None = None
    experiment: str | None = None
    pipeline_root: str = DEFAULT_PIPELINE_ROOT
    service_account: str | None = None
    image: str | None = None
    storage_conn_id: str | None = None
    kubernetes_conn_id: str | None = None
    ui_url: str | None = None
    verify_ssl: bool = True
    ca_file: str | None = None
    auth: str = "none"
    secret: str | None = field(default=None, repr=False)
    token_file: str = DEFAULT_TOKEN_FILE
    timeout: float = 30.0
    patience: float = 900.0
    upload_versions: bool = True

    @property
    def short_patience(self) -> float:
        """Seconds to go on trying for what is not worth a longer wait: a test of the connection, an explanation."""
        return min(self.patience, self.timeout)

    @classmethod
    def of(cls, connection: Connection) -> KfpSettings:
        """Read a connection.

        :param connection: connection with a host
        :raises ConfigurationError: a field is unknown or wrong; the message names it and the connection
        """
        where = f"Connection {connection.conn_id!r}"
        extra = {name: value for name, value in connection.extra_dejson.items() if value not in (None, "")}
        if local := sorted(set(extra) & {*LOCAL_FIELDS, *RUNS_FIELDS}):
            raise ConfigurationError(
                f"{where} names the host {connection.host!r}, so it is an API server, and {', '.join(local)} belong to "
                "the local backend. Remove them, or leave the host empty."
            )
        if unknown := describe_unknown(extra, KUBEFLOW_FIELDS):
            raise ConfigurationError(
                f"{where}: unknown field {unknown} in extra. Known: {', '.join(KUBEFLOW_FIELDS)}."
            )
        for name in _TEXTS & extra.keys():
            if not isinstance(extra[name], str) or _NO_NAME.search(extra[name]):
                raise ConfigurationError(
                    f"{where}: {name!r} in extra must be text on one line, got {extra[name]!a:.40}."
                )
        secret = connection.password or None
        token_file_given = "token_file" in extra
        extra.setdefault("auth", "token_file" if token_file_given else "token" if secret else "none")
        settings = {
            **extra,
            "verify_ssl": _boolean(where, "verify_ssl", extra.get("verify_ssl", True)),
            "upload_versions": _boolean(where, "upload_versions", extra.get("upload_versions", True)),
            "timeout": _seconds(where, "timeout", extra.get("timeout", cls.timeout)),
            "patience": _seconds(where, "patience", extra.get("patience", cls.patience)),
        }
        made = cls(conn_id=connection.conn_id, endpoint=_endpoint(connection), secret=secret, **settings)
        made._check(where)
        return made

    def _check(self, where: str) -> None:
        if self.auth not in AUTH_MODES:
            raise ConfigurationError(
                f"{where}: unknown way to authenticate {describe_unknown([self.auth], AUTH_MODES)} in 'auth'. Known: "
                f"{', '.join(AUTH_MODES)}."
            )
        if self.auth in ("token", "cookie") and not self.secret:
            raise ConfigurationError(
                f"{where}: 'auth' is {self.auth!r}, so its password must hold the {self.auth}."
            )
        if self.auth == "cookie" and "=" not in (self.secret or ""):
            raise ConfigurationError(
                f"{where}: the password must hold the session cookie as name=value, like authservice_session=MTc..."
            )
        if self.secret and (fault := header_fault(self.secret, spaces=self.auth == "cookie")):
            raise ConfigurationError(
                f"{where}: the password is sent in a header, which cannot hold it: {fault}. Give the {self.auth} alone."
            )
        if self.namespace and not _NAMESPACE.fullmatch(self.namespace):
            raise ConfigurationError(
                f"{where}: {self.namespace!r} is no name of a namespace, which has lower-case letters, digits and '-', at most 63."
            )
        if self.experiment and len(self.experiment.encode()) > MAX_EXPERIMENT_BYTES:
            raise ConfigurationError(
                f"{where}: the name of the experiment is too long: {len(self.experiment.encode())} of {MAX_EXPERIMENT_BYTES} bytes."
            )
        try:
            root = split_address(self.pipeline_root)
        except ConfigurationError:
            root = split_address("")
        is_file = root.scheme == "file"
        has_place = root.path.startswith("/") and not root.netloc if is_file else bool(root.netloc)
        if root.scheme not in ROOT_SCHEMES or not has_place or root.username or root.password:
            raise ConfigurationError(
                f"{where}: 'pipeline_root' must be an address like s3://bucket/path, without credentials; its scheme one "
                f"of {', '.join(ROOT_SCHEMES)}. Got {self.pipeline_root.split('@')[-1]!r}."
            )
        refuse_placeholders(f"{where}: 'pipeline_root'", self.pipeline_root)
        refuse_variables(f"{where}: 'pipeline_root'", self.pipeline_root)
        refuse_expansions(f"{where}: 'pipeline_root'", self.pipeline_root)
        if self.ca_file and not os.access(self.ca_file, os.R_OK):
            raise ConfigurationError(
                f"{where}: 'ca_file' {self.ca_file!r} does not exist or cannot be read on this machine."
            )
        if self.ui_url and not self.ui_url.startswith(("http://", "https://")):
            raise ConfigurationError(f"{where}: 'ui_url' must be an http or https address.")


def _endpoint(connection: Connection) -> str:
    endpoint = server_address(connection.host or "", connection.port, connection.schema or "http")
    if endpoint is None:
        raise ConfigurationError(
            f"Connection {connection.conn_id!r}: the host must be an http or https address without credentials, like "
            "https://kubeflow.example.com/pipeline or http://ml-pipeline.kubeflow:8888."
        )
    return endpoint.removesuffix("/apis/v2beta1")


def _boolean(where: str, name: str, value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, bool):
        return value
    raise ConfigurationError(
        f"{where}: {name!r} in extra must be true or false, got {shown_value(value, 40)}."
    )


def _seconds(where: str, name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 < number < 86_400:
        raise ConfigurationError(
            f"{where}: {name!r} in extra must be a number of seconds, got {shown_value(value, 40)}."
        )
    return number
