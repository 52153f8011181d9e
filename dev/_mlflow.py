"""MLflow's server: its command, and what only its own process knows."""

from __future__ import annotations

from pathlib import Path

from airflow_provider_llmops.state_files import private_directory

USERS = "users.db"


def mlflow_command(python: Path, home: Path, port: int) -> list[str]:
    """The command that starts MLflow's server.

    :param python: interpreter that has MLflow
    :param home: directory of MLflow
    :param port: where it listens
    """
    private_directory(home)
    return [
        *(str(python), "-m", "mlflow", "server"),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"),
        *("--artifacts-destination", str(home / "artifacts"), "--serve-artifacts"),
        *("--app-name", "basic-auth"),
    ]


def mlflow_secrets(home: Path, user: str, password: str, secret_key: str) -> dict[str, str]:
    """Variables of MLflow's own process: a command line and a configuration file would show them.

    :param home: directory of MLflow
    :param user: who may do everything
    :param password: of that user
    :param secret_key: what sessions are signed with
    """
    users = home / "users.ini"
    users.write_text(
        f"[mlflow]\ndatabase_uri = sqlite:///{home / USERS}\ndefault_permission = NO_PERMISSIONS\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        # A check of a password takes tens of milliseconds, and a training asks many times a second.
        f"admin_username = {user}\nauth_cache_ttl_seconds = 60\n",
        encoding="utf-8",
    )
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(users),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secret_key,
    }
