"""From which hosts specifications are taken: all, unless whoever runs Airflow names some.

A specification says which images run with which commands. ``[llmops] specification_hosts`` in Airflow's configuration names the
hosts, separated by commas, that one may come from: ``specs.example.com``, ``*.example.com`` (those below it), ``host:8443`` (that
port alone), ``s3://bucket`` (an object store's bucket). ``none`` allows none. Redirects are held to it, too; files of the worker's own
machine are not addresses, and stay allowed.
"""

from __future__ import annotations

import re

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.specs.allowed_code import SECTION
from airflow_provider_llmops.uris import split_address

OPTION = "specification_hosts"
_PORTS = {"http": 80, "https": 443}
_HOST_AND_PORT = re.compile(r"(?:\[([^]]*)\]|([^:]*))(?::(\d+))?")


def check_host(url: str, where: str) -> None:
    """Refuse an address whose host is not among those that specifications are taken from.

    :param url: http, https, or an address in an object store
    :param where: what to call it in messages
    :raises ConfigurationError: naming the host, and who can allow it
    """
    from airflow.sdk.configuration import conf

    names = [name.strip().lower() for name in str(conf.get(SECTION, OPTION, fallback="") or "").split(",")]
    allowed = [name for name in names if name]
    if not allowed:
        return
    address = split_address(url)
    scheme, host = address.scheme.lower(), (address.hostname or "").rstrip(".")
    port = address.port or _PORTS.get(scheme)
    if not any(_fits(name, scheme, host, port) for name in allowed):
        shown = f"{scheme}://{host}" if scheme not in _PORTS else f"{host}:{port}"
        raise ConfigurationError(
            f"Specifications are not taken from {shown}, only from {', '.join(allowed)}. Give one from there, or let whoever "
            f"runs Airflow add the host to '{OPTION}' in the section [{SECTION}] of its configuration.",
            f"Address: {where}",
        )


def _fits(name: str, scheme: str, host: str, port: int | None) -> bool:
    if "://" in name:
        wanted_scheme, _, name = name.partition("://")
        if wanted_scheme != scheme:
            return False
    elif scheme not in _PORTS:
        return False  # a bucket's name is nobody's host
    name, wanted_port = _host_and_port(name.rstrip("/"))
    if name == "none":
        return False
    if wanted_port and wanted_port != str(port):
        return False
    return host.endswith(name[1:]) if name.startswith("*.") else host == name


def _host_and_port(name: str) -> tuple[str, str | None]:
    match = _HOST_AND_PORT.fullmatch(name)
    return (
        (match[1] or match[2], match[3]) if match else (name, None)
    )  # several colons: IPv6 without brackets
