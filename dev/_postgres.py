"""A PostgreSQL of a stack's own: a cluster in the stack's directory, and a server on loopback that ends with the stack."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from _airflow_api import StackError

from airflow_provider_llmops.state_files import private_directory, write_private

USER = "airflow"
DATABASE = "postgres"  # every cluster has it
START_SECONDS = 60.0
ACCOUNTS = (
    "postgres",
    "nobody",
)  # one of which runs the server where root starts the stack, which it refuses
_DEBIAN = Path("/usr/lib/postgresql")
_DRIVERS = ("psycopg2", "asyncpg")  # of Airflow's two kinds of sessions
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",
    # What a stack holds is made to be tried out: it survives the end of any process, but not the machine's.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
}


def missing() -> str | None:
    """Why no stack can have PostgreSQL here; ``None`` if it can."""
    if lacking := [name for name in _DRIVERS if find_spec(name) is None]:
        return f"Airflow's driver for PostgreSQL is missing ({', '.join(lacking)}): run dev/setup."
    if programs() is None:
        return (
            "PostgreSQL's server is not on this machine: install it with 'apt-get install postgresql' (Debian, Ubuntu) or "
            "'brew install postgresql', or leave --database out for SQLite."
        )
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            return "PostgreSQL does not run as root, and setpriv (util-linux), which starts it as somebody else, is missing."
        if _account() is None:
            return (
                f"PostgreSQL does not run as root, and there is no account {' or '.join(ACCOUNTS)} to run it."
            )
    return None


def programs() -> Path | None:
    """Folder of the newest server's programs: Debian's, which are not on the path, or the one that is."""
    found = [each for each in _DEBIAN.glob("*/bin") if (each / "initdb").is_file()]
    if found:
        return max(found, key=lambda each: float(re.sub(r"[^0-9.]", "", each.parent.name) or 0))
    there = shutil.which("initdb")
    return Path(there).resolve().parent if there else None


def address(port: int, password: str) -> str:
    """What Airflow connects to.

    :param port: port on loopback
    :param password: of the only user
    """
    return f"postgresql+psycopg2://{USER}:{password}@127.0.0.1:{port}/{DATABASE}"


def make_cluster(cluster: Path, password: str) -> None:
    """Make a cluster, unless it is there.

    :param cluster: its directory
    :param password: of the only user
    :raises StackError: PostgreSQL cannot be had here, or refuses
    """
    if reason := missing():
        raise StackError(reason)
    if (cluster / "PG_VERSION").exists():
        return
    shutil.rmtree(cluster, ignore_errors=True)  # where one was begun, and never done
    private_directory(cluster)
    if account := _account():
        os.chown(cluster, account.pw_uid, account.pw_gid)
    secret = cluster.with_name(f"{cluster.name}-password")
    write_private(secret, f"{password}\n".encode())
    options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
    try:
        answer = subprocess.run(
            _command("initdb", "-D", str(cluster), "-U", USER, f"--pwfile={secret}", *options),
            capture_output=True,
            text=True,
        )
    finally:
        secret.unlink()
    if answer.returncode:
        shutil.rmtree(cluster, ignore_errors=True)
        raise StackError(f"PostgreSQL made no cluster in {cluster}:\n{answer.stderr[-2000:].rstrip()}")


def server_command(cluster: Path, port: int) -> list[str]:
    """What runs the server.

    :param cluster: directory of its cluster
    :param port: port on loopback
    """
    settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
    return _command("postgres", "-D", str(cluster), "-p", str(port), *settings)


def wait_for_server(port: int, password: str, check: Callable[[], None]) -> None:
    """Return when the server answers.

    :param port: port on loopback
    :param password: of the only user
    :param check: raises where its process has ended
    :raises StackError: it does not answer in time
    """
    import psycopg2

    deadline = time.monotonic() + START_SECONDS
    while True:
        check()
        try:
            psycopg2.connect(
                host="127.0.0.1", port=port, user=USER, password=password, dbname=DATABASE, connect_timeout=5
            ).close()
            return
        except psycopg2.OperationalError as error:
            if time.monotonic() > deadline:
                said = str(error).strip().partition("\n")[0]
                raise StackError(f"PostgreSQL did not answer within {START_SECONDS:.0f} s: {said}") from error
        time.sleep(0.1)


def _command(program: str, *arguments: str) -> list[str]:
    folder = programs()
    assert folder is not None  # make_cluster has looked
    command = [str(folder / program), *arguments]
    account = _account()
    if account is None:
        return command
    # A stack is private to root, and so are the folders above it: without this right the account would not get to its cluster.
    right = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    identity = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    return ["setpriv", *identity, *right, *command]


def _account() -> pwd.struct_passwd | None:
    """Who runs the server; ``None`` for whoever runs this."""
    if os.geteuid() != 0:
        return None
    for name in ACCOUNTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None
