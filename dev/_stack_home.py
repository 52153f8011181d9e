"""What a stack is without its processes: its directory, addresses, logins, variables, and Airflow's settings."""

from __future__ import annotations

import configparser
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _airflow_api import DATABASE_PATIENCE_SECONDS, StackError
from _mlflow import USERS
from _places import CONTROL_PYTHON, REPOSITORY
from _postgres import address as postgres_address
from _processes import MARK, free_ports
from _stack_state import next_state, put_state_aside, read_state

from airflow_provider_llmops.state_files import StateFileError, private_directory, write_json, write_private

USERNAME = "admin"
SQLITE, POSTGRESQL = "sqlite", "postgresql"
NAMES = {SQLITE: "SQLite", POSTGRESQL: "PostgreSQL"}
DATABASES = tuple(NAMES)
# Names whose values would redirect a process of the stack to some other installation.
_FOREIGN_SETTINGS = ("AIRFLOW_", "_AIRFLOW", "MLFLOW_", "_MLFLOW")


class StackHome:
    """What a stack is without its processes: directory, ports, database, logins, settings.

    :param directory: Where everything lies; made if missing, taken up again if it was used before.
    :param dags_folder: DAG files to serve; the repository's own if not given.
    :param more_dags: Further folders of DAG files, beside that one.
    :param with_mlflow: Whether to start an MLflow server and its connection.
    :param environment: Further variables for every process, winning over those of the stack.
    :param settings: Airflow settings, ``{"section": {"option": "value"}}``, winning over those of the stack.
    :param preferred_ports: Ports for Airflow and MLflow to use if they are free.
    :param database: What Airflow keeps its state in, one of :data:`DATABASES`; what the stack has, or SQLite, if not given.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        dags_folder: str | os.PathLike[str] | None = None,
        more_dags: Sequence[str | os.PathLike[str]] = (),
        with_mlflow: bool = True,
        environment: Mapping[str, str] | None = None,
        settings: Mapping[str, Mapping[str, str]] | None = None,
        preferred_ports: tuple[int, ...] = (),
        database: str | None = None,
    ) -> None:
        self.directory = Path(os.path.realpath(directory))
        self.dags_folder = Path(dags_folder or REPOSITORY / "dags").resolve()
        self.more_dags = [Path(folder).resolve() for folder in more_dags]
        self.with_mlflow = with_mlflow
        self.extra_environment = dict(environment or {})
        self.extra_settings = {section: dict(options) for section, options in (settings or {}).items()}
        self.preferred_ports = preferred_ports
        self.airflow_home = self.directory / "airflow"
        self.logs = self.directory / "logs"
        self.root = self.directory / "llmops"
        self.wanted_database = database
        self.database = self.airflow_home / "airflow.db"  # if it is SQLite
        self.cluster = self.directory / "postgres"  # if it is PostgreSQL
        self.mlflow_home = self.directory / "mlflow"
        self.state_file = self.directory / "stack.json"
        self.state: dict[str, Any] = {}

    @property
    def airflow_url(self) -> str:
        """Address of Airflow's UI and REST API."""
        return f"http://127.0.0.1:{self.state['airflow_port']}"

    @property
    def mlflow_url(self) -> str | None:
        """Address of MLflow, if there is one."""
        return f"http://127.0.0.1:{self.state['mlflow_port']}" if self.with_mlflow else None

    @property
    def on_postgresql(self) -> bool:
        """Whether Airflow keeps its state in PostgreSQL."""
        return self.state.get("database") == POSTGRESQL

    @property
    def password(self) -> str:
        """Password of the user ``admin``."""
        return str(self.state["password"])

    @property
    def mlflow_login(self) -> tuple[str, str]:
        """User and password of MLflow. Steps have them too, so the password is not Airflow's."""
        return USERNAME, str(self.state["mlflow_password"])

    @property
    def mlflow_asks(self) -> bool:
        """Whether MLflow asks for it; one that an earlier version started does not."""
        return bool(self.state.get("mlflow_password"))

    @property
    def api_key_file(self) -> Path:
        """The key that services are asked with; nobody but its owner may read it."""
        return self.directory / "api-key"

    @property
    def api_key(self) -> str | None:
        """What is in it; ``None`` where services take no key, as in a stack that an older version made."""
        try:
            return self.api_key_file.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None

    def environment(self) -> dict[str, str]:
        """What every process of the stack has in its environment."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_FOREIGN_SETTINGS) and name not in ("VIRTUAL_ENV", "PYTHONHOME")
        }
        own = {
            MARK: str(self.directory),
            "AIRFLOW_HOME": str(self.airflow_home),
            # setproctitle, which Airflow uses, writes over the environment that /proc shows, and the mark with it.
            "SPT_NOENV": "1",
            "PYTHONUNBUFFERED": "1",
            # MLflow's job runner is eight more processes and 1.5 GB, for features that nothing here uses.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PATH": os.pathsep.join([str(CONTROL_PYTHON.parent), inherited.get("PATH", os.defpath)]),
        }
        for name in ("no_proxy", "NO_PROXY"):
            own[name] = ",".join(filter(None, [inherited.get(name), "127.0.0.1", "localhost"]))
        return inherited | own | self.extra_environment

    def configure(self, fresh_ports: bool) -> None:
        """Make the directories, choose ports, and write what Airflow reads at its start.

        :param fresh_ports: Whether to take other ports than before.
        """
        for path in (self.airflow_home, self.logs, self.root):
            private_directory(path)
        try:
            before = read_state(self.state_file)
        except StateFileError as error:
            before = put_state_aside(self.state_file, self.airflow_home / "airflow.cfg", error)
        database = before.get("database") or (SQLITE if before else self.wanted_database or SQLITE)
        if self.wanted_database not in (None, database):
            raise StackError(
                f"This stack keeps Airflow's state in {NAMES[database]}, which does not change: take another name for one with "
                f"{NAMES[self.wanted_database]}, or delete this one with dev/down --delete."
            )
        # A stack that is started again keeps its addresses if it can.
        former = tuple(port for port in (before.get("airflow_port"), before.get("mlflow_port")) if port)
        preferred = () if fresh_ports else former or self.preferred_ports
        airflow_port, mlflow_port, database_port = free_ports(3, preferred)
        self.state = next_state(before, airflow_port, mlflow_port if self.with_mlflow else None) | {
            "database": database,
            "database_port": database_port if database == POSTGRESQL else None,
        }
        if not before.get("mlflow_password"):
            # Made with a password that nobody knows any more.
            (self.mlflow_home / USERS).unlink(missing_ok=True)
        write_json(self.state_file, self.state)
        passwords = self.airflow_home / "simple_auth_manager_passwords.json.generated"
        write_private(passwords, (json.dumps({USERNAME: self.password}) + "\n").encode())
        config_folder = self.airflow_home / "config"  # Airflow puts it on the import path.
        config_folder.unlink(missing_ok=True)
        config_folder.symlink_to(REPOSITORY / "dev/airflow_config")
        config = configparser.ConfigParser(interpolation=None)
        config.read_dict(airflow_settings(self))
        config.read_dict(self.extra_settings)
        text = io.StringIO()
        config.write(text)
        write_private(self.airflow_home / "airflow.cfg", text.getvalue().encode())


def airflow_settings(home: StackHome) -> dict[str, dict[str, str]]:
    """What ``airflow.cfg`` says.

    :param home: the stack
    """
    port = str(home.state["airflow_port"])
    return {
        "core": {
            "dags_folder": str(home.dags_folder),
            "executor": "LocalExecutor",
            # LocalExecutor forks this many workers at once; a deferred task needs none.
            "parallelism": "4",
            "load_examples": "False",
            "dags_are_paused_at_creation": "False",
            "execution_api_server_url": f"http://127.0.0.1:{port}/execution/",
            "fernet_key": home.state["fernet_key"],
            # The default looks the name up in DNS, which can stall where there is no network.
            "hostname_callable": "socket.gethostname",
            "min_serialized_dag_update_interval": "2",
            "simple_auth_manager_users": f"{USERNAME}:admin",
            "test_connection": "Enabled",
        },
        "database": {"sql_alchemy_conn": _database_address(home)},
        "api": {
            "host": "127.0.0.1",
            "port": port,
            "base_url": home.airflow_url,
            "secret_key": home.state["secret_key"],
            "workers": "1",
            "expose_stacktrace": "True",  # to the only user there is
            "instance_name": f"LLMOps ({home.directory.name})",
        },
        "api_auth": {"jwt_secret": home.state["jwt_secret"]},
        "dag_processor": {
            **_bundles(home.more_dags),
            "refresh_interval": "5",
            "bundle_refresh_check_interval": "2",
            "min_file_process_interval": "30",
            "parsing_processes": "1",
        },
        "scheduler": {"scheduler_idle_sleep_time": "0.5", "catchup_by_default": "False"},
        # A supervisor can take this long to see that its task has ended, and a trigger waits for that.
        "workers": {"min_heartbeat_interval": "1"},
        "logging": {
            "colored_console_log": "False",
            "logging_config_class": "local_logging.LOGGING_CONFIG",
        },
        "usage_data_collection": {"enabled": "False"},
    }


def _database_address(home: StackHome) -> str:
    if home.on_postgresql:
        return postgres_address(home.state["database_port"], home.state["database_password"])
    return f"sqlite:///{home.database}?timeout={DATABASE_PATIENCE_SECONDS}"


def _bundles(more_dags: Sequence[Path]) -> dict[str, str]:
    """Where DAG files lie, if not only in one folder. Airflow's own bundle reads ``dags_folder``."""
    if not more_dags:
        return {}
    bundle = {"classpath": "airflow.dag_processing.bundles.local.LocalDagBundle"}
    bundles = [{"name": "dags-folder", **bundle, "kwargs": {}}]
    bundles += [
        {"name": f"dags-{number}-{folder.name}", **bundle, "kwargs": {"path": str(folder)}}
        for number, folder in enumerate(more_dags, start=1)
    ]
    return {"dag_bundle_config_list": json.dumps(bundles)}
