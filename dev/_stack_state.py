"""What a stack remembers: ``stack.json``, which holds its addresses and secrets."""

from __future__ import annotations

import base64
import configparser
import contextlib
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from airflow_provider_llmops.state_files import Record, StateFileError, read_record, unreadable


class _State(Record):
    """``stack.json``: addresses and secrets of a stack, the same at each start."""

    airflow_port: int | None = None
    mlflow_port: int | None = None
    password: str | None = None
    fernet_key: str | None = None
    secret_key: str | None = None
    jwt_secret: str | None = None
    database: Literal["sqlite", "postgresql"] | None = (
        None  # none in one that an older version made, which has SQLite
    )


def read_state(path: Path) -> dict[str, Any]:
    """What a stack remembers from its last start; nothing of one that was never started.

    :param path: ``stack.json``
    :raises StateFileError: it cannot be read
    """
    if not os.path.lexists(path):
        return {}
    state = read_record(path, _State)
    if state.airflow_port is None or state.password is None:
        raise unreadable(path, "it lacks the stack's address or password")
    return state.model_dump()


def next_state(before: Mapping[str, Any], airflow_port: int, mlflow_port: int | None) -> dict[str, Any]:
    """Addresses and secrets for a start: the secrets of the last one, or new ones.

    :param before: the state of the last start
    :param airflow_port: port of Airflow
    :param mlflow_port: port of MLflow, if there is one
    """
    return {
        "airflow_port": airflow_port,
        "mlflow_port": mlflow_port,
        "password": before.get("password") or secrets.token_hex(6),
        "mlflow_password": before.get("mlflow_password") or secrets.token_urlsafe(12),
        "mlflow_secret_key": before.get("mlflow_secret_key") or secrets.token_hex(24),
        "fernet_key": before.get("fernet_key") or base64.urlsafe_b64encode(os.urandom(32)).decode(),
        "secret_key": before.get("secret_key") or secrets.token_hex(24),
        "jwt_secret": before.get("jwt_secret") or secrets.token_hex(24),
        "database_password": before.get("database_password") or secrets.token_hex(24),
    }


def put_state_aside(path: Path, airflow_config: Path, error: StateFileError) -> dict[str, Any]:
    """Keep a state that cannot be read for whoever looks into it, and what else knows of it.

    Without the key of Airflow's database the passwords of connections, which a person has entered, could not be read any more.

    :param path: ``stack.json``
    :param airflow_config: Airflow's configuration, which has the key of its database
    :param error: why the state cannot be read
    :return: what is known of it all the same
    """
    aside = path.with_name(f"{path.name}.unreadable")
    path.replace(aside)
    config = configparser.ConfigParser(interpolation=None, strict=False)
    with contextlib.suppress(OSError, ValueError, configparser.Error):
        config.read(airflow_config, encoding="utf-8")
    key = config.get("core", "fernet_key", fallback=None)
    lost = "" if key else " Passwords of connections in Airflow cannot be read any more: enter them again."
    print(
        f"The stack's {error}. It is now {aside.name}; its passwords are made anew.{lost}",
        file=sys.stderr,
    )
    return {"fernet_key": key}
