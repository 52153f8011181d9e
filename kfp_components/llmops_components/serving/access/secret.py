"""The secret by which a predictor knows its service's gateway and controller; of each service another one, in a file."""

from __future__ import annotations

import hmac
from pathlib import Path

from llmops_components.errors import SettingError

GATEWAY_HEADER = "x-llmops-gateway"
SECRET_CHARACTERS = 43  # 32 random bytes


def read_secret(file: Path) -> str:
    """The secret that a gateway and the predictors behind it share.

    Args:
        file: Its file, which the controller made.
    """
    secret = file.read_text(encoding="ascii").strip()
    if len(secret) < SECRET_CHARACTERS:
        raise SettingError(
            f"The secret of the service is too short: it was not written as a whole. Delete the file, and deploy again. File: {file}."
        )
    return secret


def is_gateway(header: str | None, secret: str) -> bool:
    """Whether a request comes from the service's own gateway or controller.

    Args:
        header: What :data:`GATEWAY_HEADER` has.
        secret: The service's secret.
    """
    return hmac.compare_digest((header or "").encode("utf-8", "surrogateescape"), secret.encode())
