"""``dev/up`` and ``dev/down``."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from _stack import STACKS, USERNAME, Stack, StackError, interruptible, marked_processes, stop_processes

DEFAULT = "default"
# What the newcomer types; another port is taken if one of them is not free.
PREFERRED_PORTS = (8080, 5000)


def addresses(stack: Stack) -> str:
    """Where the parts of a running stack are and how to log in."""
    lines = [f"Airflow   {stack.airflow_url}   user {USERNAME}   password {stack.password}"]
    if stack.mlflow_url:
        lines.append(f"MLflow    {stack.mlflow_url}")
    lines.append(f"Files     {stack.directory}")
    return "\n".join(lines)


def stop_command(stack: Stack) -> str:
    """The command that stops a stack."""
    return "dev/down" if stack.directory == STACKS / DEFAULT else f"dev/down {stack.directory.name}"


def up(arguments: list[str] | None = None) -> int:
    """Start the stack, or say where it is if it runs already."""
    parser = argparse.ArgumentParser(prog="dev/up", description="Start Airflow and MLflow on this machine.")
    parser.add_argument("name", nargs="?", default=DEFAULT, help="name of the stack (default: %(default)s)")
    options = parser.parse_args(arguments)
    directory = _directory(parser, options.name)
    existing = Stack.load(directory)
    if existing and marked_processes(directory):
        if existing.is_running():
            print(f"Already up.\n{addresses(existing)}\nStop it with {stop_command(existing)}.")
            return 0
        print(f"The stack in {directory} is half up; stopping it first.")
        existing.stop()
    stack = Stack(directory, preferred_ports=PREFERRED_PORTS)
    print(f"Starting Airflow and MLflow in {directory} ...", flush=True)
    try:
        with interruptible():
            stack.start()
    except StackError as error:
        print(f"dev/up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndev/up: interrupted; everything is stopped.", file=sys.stderr)
        return 130
    print(
        f"Up after {stack.timings['healthy']:.0f} s.\n{addresses(stack)}\nStop it with {stop_command(stack)}."
    )
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
    return 0


def _directory(parser: argparse.ArgumentParser, name: str) -> Path:
    if not name or name != Path(name).name or name.startswith("."):
        parser.error(f"{name!r} is not a name of a stack; they are the directories in {STACKS}.")
    return STACKS / name
