"""``dev/up`` and ``dev/down``."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
from _airflow_api import StackError
from _places import CONTROL_PYTHON, STACKS
from _processes import MARK, marked_processes, stop_processes
from _signals import interruptible
from _stack import Stack
from _stack_home import DATABASES, USERNAME

DEFAULT = "default"
# What the newcomer types; another port is taken if one of them is not free.
PREFERRED_PORTS = (8080, 5000)
OF_OURS = {
    "llmops_components.local.runner": "a pipeline run",
    "llmops_components.serving.predictor": "a service's predictor",
    "llmops_components.serving.local.gateway": "a service's gateway",
}


def addresses(stack: Stack) -> str:
    """Where the parts of a running stack are and how to log in."""
    lines = [f"Airflow   {stack.airflow_url}   user {USERNAME}   password {stack.password}"]
    if stack.mlflow_url:
        how = (
            f"user {USERNAME}   password {stack.mlflow_login[1]}   (steps have it too)"
            if stack.mlflow_asks
            else f"no password yet; stop it with {stop_command(stack)} and start it again for one"
        )
        lines.append(f"MLflow    {stack.mlflow_url}   {how}")
    lines.append(f"Files     {stack.directory}")
    return "\n".join(lines)


def curl_command(stack: Stack, endpoint: str) -> str:
    """How to ask a service of a stack from a terminal, with the key in no command line."""
    file = stack.api_key_file
    with contextlib.suppress(ValueError):
        file = file.relative_to(Path.cwd())
    return f'curl -H @<(printf "Authorization: Bearer "; cat {file}) {endpoint}/openai/v1/models'


def stop_command(stack: Stack) -> str:
    """The command that stops a stack."""
    return "dev/down" if stack.directory == STACKS / DEFAULT else f"dev/down {stack.directory.name}"


def up(arguments: list[str] | None = None) -> int:
    """Start the stack, or say where it is if it runs already."""
    parser = argparse.ArgumentParser(prog="dev/up", description="Start Airflow and MLflow on this machine.")
    parser.add_argument("name", nargs="?", default=DEFAULT, help="name of the stack (default: %(default)s)")
    parser.add_argument(
        "--dags",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="a folder of your DAGs, beside ours",
    )
    parser.add_argument(
        "--database",
        choices=DATABASES,
        help="what Airflow keeps its state in: a file, or a PostgreSQL server of the stack's own, which has to be installed "
        "(default: what the stack has, sqlite for a new one)",
    )
    options = parser.parse_args(arguments)
    directory = _directory(parser, options.name)
    if missing := [str(folder) for folder in options.dags if not folder.is_dir()]:
        parser.error(f"--dags takes a directory, and there is none at {', '.join(missing)}.")
    existing = Stack.load(directory)
    if existing and marked_processes(directory):
        if existing.is_running():
            print(f"Already up.\n{addresses(existing)}\nStop it with {stop_command(existing)}.")
            ignored = [f"--{name}" for name in ("dags", "database") if getattr(options, name)]
            for option in ignored:
                print(f"{option} was not applied: it takes effect when the stack starts.")
            if ignored:
                return 1
            return 0
        print(f"The stack in {directory} is half up; stopping it first.")
        existing.stop()
    elif marked_processes(directory):
        print(
            f"dev/up: the stack runs, and its stack.json is gone or cannot be read, so nobody can tell its addresses. Stop it with "
            f"{stop_command(Stack(directory))} and start it again. Directory: {directory}",
            file=sys.stderr,
        )
        return 1
    stack = Stack(
        directory, more_dags=options.dags, preferred_ports=PREFERRED_PORTS, database=options.database
    )
    print(f"Starting Airflow and MLflow in {directory} ...", flush=True)
    try:
        with interruptible():
            stack.start()
            services = stack.resume_services()
    except StackError as error:
        print(f"dev/up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndev/up: interrupted; everything is stopped.", file=sys.stderr)
        return 130
    print(f"Up after {stack.timings['healthy']:.0f} s.\n{addresses(stack)}")
    for service in services:
        name = f"{service['namespace']}/{service['name']}"
        if error := service.get("error"):
            print(f"Service   {name} could not be started again: {error}")
        else:
            print(f"Service   {service['url']}/openai/v1   {name}, loading its model")
    if services and stack.api_key:
        print(f"API key   of services, in {stack.api_key_file}")
    print(f"Stop it with {stop_command(stack)}.")
    return 0


def down(arguments: list[str] | None = None) -> int:
    """Stop one stack or all of them."""
    parser = argparse.ArgumentParser(prog="dev/down", description="Stop stacks; their files stay.")
    parser.add_argument("name", nargs="?", default=DEFAULT, help="name of the stack (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="every stack of this checkout")
    parser.add_argument("--delete", action="store_true", help="delete the files too")
    options = parser.parse_args(arguments)
    if options.all:
        directories = sorted(path for path in STACKS.glob("*") if path.is_dir())
    else:
        directories = [_directory(parser, options.name)]
    for directory in directories:
        count = stop_processes(directory)
        print(f"{directory.name}: {f'stopped {count} processes' if count else 'was not running'}.")
        if options.delete:
            shutil.rmtree(directory, ignore_errors=True)
        elif services := with_traffic(directory):
            print(f"  dev/up starts again: {', '.join(services)}")
    for line in still_running():
        print(line)
    return 0


def airflow(arguments: list[str] | None = None) -> int:
    """Run the ``airflow`` command in the environment of a stack."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="dev/airflow",
        description="Run Airflow's own command against a stack, for example: dev/airflow dags list",
        add_help=False,
    )
    parser.add_argument("--stack", default=DEFAULT)
    # What comes after Airflow's subcommand is Airflow's, also where it has the same name.
    own = given[
        : 2 if given[:1] == ["--stack"] else 1 if given[:1] and given[0].startswith("--stack=") else 0
    ]
    options = parser.parse_args(own)
    directory = _directory(parser, options.stack)
    stack = Stack.load(directory)
    if stack is None:
        there = ", ".join(sorted(path.name for path in STACKS.glob("*") if path.is_dir())) or "none"
        print(
            f"dev/airflow: there is no stack {options.stack!r}; start it with dev/up. There are: {there}.",
            file=sys.stderr,
        )
        return 1
    command = [str(CONTROL_PYTHON), "-m", "airflow", *given[len(own) :]]
    return subprocess.run(command, env=stack.environment(), check=False).returncode


def with_traffic(directory: Path) -> list[str]:
    """Services of a stack that have traffic, running or not, as ``namespace/name``."""
    homes = [file.parent for file in directory.glob("llmops/services/*/*/routes.json")]
    return sorted(f"{home.parent.name}/{home.name}" for home in homes)


def still_running() -> list[str]:
    """What else of ours runs on this machine: other stacks, and runs and services of no stack."""
    stacks: Counter[str] = Counter()
    others = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            command = process.cmdline()
            mark = process.environ().get(MARK)
            if mark:
                stacks[mark] += 1
            elif module := next((word for word in command if word in OF_OURS), None):
                others.append(f"  {OF_OURS[module]}, process {process.pid}, in {process.cwd()}")
    lines = [
        f"Still up: {Path(mark).name}, {count} processes ({_stop_hint(Path(mark))})"
        for mark, count in sorted(stacks.items())
    ]
    return [
        *lines,
        *(["Running beside stacks, started by somebody else:", *sorted(others)] if others else []),
    ]


def _stop_hint(directory: Path) -> str:
    if directory.parent == STACKS:
        return f"dev/down {directory.name}"
    return f"of another checkout, in {directory}"


def _directory(parser: argparse.ArgumentParser, name: str) -> Path:
    if not name or name != Path(name).name or name.startswith("."):
        parser.error(f"{name!r} is not a name of a stack; they are the directories in {STACKS}.")
    return STACKS / name
