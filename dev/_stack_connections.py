"""What joins Airflow with runs, services and MLflow of a stack: connections, the services' key, their start after a pause."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from _airflow_api import AirflowApi, StackError
from _places import DATA_PYTHON
from _stack_home import StackHome

from airflow_provider_llmops.state_files import PRIVATE_UMASK, write_private


def make_connections(api: AirflowApi, home: StackHome) -> None:
    """Make the connections of this machine in Airflow's database, where the UI shows them and a user may change them.

    :param api: Airflow's REST API
    :param home: the stack
    """
    local = {"python": str(DATA_PYTHON), "root": str(home.root)}
    access = {"access_file": str(make_access_file(home)), "api_key_file": str(home.api_key_file)}
    connections = [
        {
            "connection_id": f"{kind}_default",
            "conn_type": kind,
            "extra": json.dumps(extra),
            "description": "made by dev/up; kept as you change it",
        }
        for kind, extra in (("kubeflow", local), ("kserve", local | access))
    ]
    api.add_connections(connections, overwrite=False)
    if home.with_mlflow:
        user, password = home.mlflow_login
        mlflow = {
            "connection_id": "mlflow_default",
            "conn_type": "mlflow",
            "host": "http://127.0.0.1",
            "port": home.state["mlflow_port"],
            "description": "made by dev/up at each start",
            "login": user,
            "password": password,
        }
        api.add_connections([mlflow], overwrite=True)


def make_access_file(home: StackHome) -> Path:
    """The file that says who may ask the stack's services; made at the first start, with one key.

    :param home: the stack
    :raises StackError: no key could be made
    """
    file = home.directory / "access.json"
    if not home.api_key_file.exists():
        command = [str(DATA_PYTHON), "-m", "llmops_components.serving.access"]
        # One that nobody has any more is of no use; where there is none, this does nothing.
        subprocess.run([*command, "remove", str(file), "stack"], capture_output=True, check=False)
        answer = subprocess.run(
            [*command, "add", str(file), "stack"], capture_output=True, text=True, check=False
        )
        if answer.returncode:
            raise StackError(f"No API key could be made: {answer.stderr.strip()[-500:]}")
        write_private(home.api_key_file, answer.stdout.encode())
    return file


def resume_services(home: StackHome) -> list[dict[str, Any]]:
    """Start the services again that the stack's end has stopped.

    :param home: the stack
    :return: the services, with what became of each
    :raises StackError: they cannot be started
    """
    environment = {
        name: value for name, value in home.environment().items() if not name.startswith("AIRFLOW")
    }
    answer = subprocess.run(
        [str(DATA_PYTHON), "-m", "llmops_components.serving.local", "resume", "--root", str(home.root)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        umask=PRIVATE_UMASK,
    )
    try:
        services: list[dict[str, Any]] = json.loads(answer.stdout)["services"]
    except (ValueError, KeyError):
        said = (answer.stdout + answer.stderr).strip()[-500:]
        raise StackError(f"Services cannot be started again: {said}") from None
    return services
