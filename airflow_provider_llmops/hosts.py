"""Hosts of servers: names and addresses. Standard library only.

The data plane has the same functions (``llmops_components/hosts.py``), and a test compares them.
"""

from __future__ import annotations

import ipaddress

_LOOPBACK_NAME = "localhost"


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host is, or None where it is a name.

    :param host: name or address, an IPv6 address with its brackets or without
    """
    try:
        found = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, which no proxy is to be asked for: it would ask itself.

    :param host: name or address
    """
    address = address_of(host)
    return host.lower().rstrip(".") == _LOOPBACK_NAME if address is None else address.is_loopback
