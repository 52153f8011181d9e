"""The certificate of a running server: each connection is shown the one that the files have then."""

from __future__ import annotations

import logging
import ssl

from llmops_components.errors import SettingError
from llmops_components.serving.access.settings import Tls

logger = logging.getLogger(__name__)


def renewed_context(tls: Tls) -> ssl.SSLContext:
    """A server's TLS whose certificate may be renewed while it runs; one that cannot be used changes nothing.

    Args:
        tls: Certificate and key.
    """
    newest = _Newest(tls)
    context = tls.server_context()
    # OpenSSL asks this in each handshake, whether or not the client says whom it asks.
    context.sni_callback = newest.show
    return context


class _Newest:
    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._version = tls.version()
        self._context = tls.server_context()

    def show(self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        """Offer the newest certificate to a connection.

        Args:
            connection: The connection.
        """
        self._look()
        connection.context = self._context

    def _look(self) -> None:
        try:
            version = self._tls.version()
        except OSError:
            version = ()  # a file is missing, which is said when it is loaded, once
        if version == self._version:
            return
        self._version = version
        try:
            # A context of its own: one that was given half of a pair can offer neither the old nor the new one.
            self._context = self._tls.server_context()
        except SettingError as error:
            logger.error("The certificate stays as it was: %s", error)
