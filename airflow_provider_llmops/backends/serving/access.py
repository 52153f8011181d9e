"""What a connection has for asking services: an API key, and how their certificates are verified."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.exceptions import ConfigurationError, shown_value
from airflow_provider_llmops.http import header_fault

if TYPE_CHECKING:
    from airflow.sdk import Connection

ACCESS_FILE = "access_file"  # field in the extra of a connection that services are deployed through
# By which a step of the data plane knows key and authorities, see its `inference.service`.
SERVICE_PREFIX, JUDGE_PREFIX = "LLMOPS_SERVICE", "LLMOPS_JUDGE"
KEY_VARIABLE = f"{SERVICE_PREFIX}_KEY"


@dataclass(frozen=True)
class ServiceAccess:
    """How services are asked.

    :param api_key: sent as a bearer token
    :param context: how the certificate of an https address is verified; by the system's authorities when ``None``
    :param ca_file: file of the authorities that it is verified with
    """

    api_key: str | None = field(default=None, repr=False)
    context: ssl.SSLContext | None = None
    ca_file: str | None = None

    @classmethod
    def of(cls, connection: Connection) -> ServiceAccess:
        """Read a connection. Its key is masked in logs from then on.

        :param connection: connection of type ``kserve``
        :raises ConfigurationError: a file cannot be read, or no header can hold the key; the message does not repeat it
        """
        where = f"Connection {connection.conn_id!r}"
        extra = {name: value for name, value in connection.extra_dejson.items() if value not in (None, "")}
        return cls(_api_key(connection, extra, where), tls_context(extra, where), extra.get("ca_file"))

    def environment(self, prefix: str = SERVICE_PREFIX) -> dict[str, str]:
        """The same for a step of the data plane.

        :param prefix: what the variables begin with
        :raises ConfigurationError: certificates are not to be verified, which a step always does
        """
        if self.context is not None and self.context.verify_mode is ssl.CERT_NONE:
            raise ConfigurationError(
                "Steps always verify certificates, and the connection has 'verify_ssl' false. Give 'ca_file' in extra the "
                "authority of the service instead."
            )
        found = {f"{prefix}_KEY": self.api_key, f"{prefix}_CA_FILE": self.ca_file}
        return {name: value for name, value in found.items() if value is not None}


def path_of_access_file(connection: Connection) -> str | None:
    """The access file of services that are deployed through a connection, see the data plane's ``serving.access``.

    :param connection: connection of type ``kserve``
    :raises ConfigurationError: it is no absolute path
    """
    path = connection.extra_dejson.get(ACCESS_FILE) or None
    if path is not None and not (isinstance(path, str) and Path(path).is_absolute()):
        raise ConfigurationError(
            f"Connection {connection.conn_id!r}: {ACCESS_FILE!r} in extra must be an absolute path of this machine, got "
            f"{shown_value(path, 200)}."
        )
    return path


def _api_key(connection: Connection, extra: dict[str, Any], where: str) -> str | None:
    key, what = connection.password or None, "the password"
    if file := extra.get("api_key_file"):
        if key is not None:
            raise ConfigurationError(
                f"{where} has a password and 'api_key_file' in extra: which of them is the API key? Leave one out."
            )
        what = "what is in 'api_key_file'"
        try:
            key = Path(str(file)).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigurationError(
                f"{where}: the API key cannot be read: {why}. Give 'api_key_file' in extra a file that the workers can read.",
                f"File: {file}",
            ) from None
    if not key:
        return None
    if fault := header_fault(key):
        raise ConfigurationError(
            f"{where}: {what} is sent as an API key in a header, which cannot hold it: {fault}. Give the key alone."
        )
    from airflow.sdk.log import mask_secret

    mask_secret(key)
    return key


def tls_context(extra: Mapping[str, Any], where: str) -> ssl.SSLContext | None:
    """How certificates are verified: by the system's authorities when ``None``.

    :param extra: of a connection, with ``verify_ssl`` and ``ca_file``
    :param where: the connection, for messages
    :raises ConfigurationError: one of them cannot be used
    """
    verify = str(extra.get("verify_ssl", True)).lower()
    if verify not in ("true", "false"):
        raise ConfigurationError(
            f"{where}: 'verify_ssl' in extra must be true or false, got {shown_value(extra['verify_ssl'], 40)}."
        )
    if verify == "false":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if ca_file := extra.get("ca_file"):
        if not os.access(ca_file, os.R_OK):
            raise ConfigurationError(
                f"{where}: 'ca_file' {ca_file!r} does not exist or cannot be read on this machine."
            )
        try:
            return ssl.create_default_context(cafile=ca_file)
        except ssl.SSLError:
            raise ConfigurationError(
                f"{where}: 'ca_file' in extra has no certificate in it, as PEM.", f"File: {ca_file}"
            ) from None
    return None
