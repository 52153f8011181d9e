"""Make and change an access file.

    python -m llmops_components.serving.access add access.json alice --requests-per-minute 60
    python -m llmops_components.serving.access remove access.json alice
    python -m llmops_components.serving.access list access.json

``add`` prints the new key, once: the file has its digest only. A service that reads the file takes it over by itself.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import secrets
import sys
from pathlib import Path
from typing import Any

from llmops_components.errors import ComponentError, SettingError
from llmops_components.serving.access.settings import (
    check_key_name,
    digest_of_key,
    limit,
    load_access_file,
    read_access_file,
)
from llmops_components.state_files import write_json

KEY_PREFIX = "sk-llmops-"  # by which scanners of repositories know that something is a key


def add_key(file: Path, name: str, **limits: int | None) -> str:
    """Add a key and return it; the file is made when there is none.

    Args:
        file: Access file.
        name: Whose key it is.
        limits: Quotas.
    """
    check_key_name(name, "the command line")
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    entry = {"name": name, "sha256": digest_of_key(key).hex()}
    entry |= {
        what: limit(value, f"--{what.replace('_', '-')}")
        for what, value in limits.items()
        if value is not None
    }
    with _changing(file) as given:
        keys = given.setdefault("keys", [])
        if any(each.get("name") == name for each in keys):
            raise SettingError(f"There is a key named {name!r} already; remove it first. File: {file}.")
        keys.append(entry)
    return key


def remove_key(file: Path, name: str) -> None:
    """Remove a key: whoever has it is refused from then on.

    Args:
        file: Access file.
        name: Whose key.
    """
    with _changing(file) as given:
        left = [each for each in given.get("keys", []) if each.get("name") != name]
        if len(left) == len(given.get("keys", [])):
            raise SettingError(f"There is no key named {name!r}. File: {file}.")
        given["keys"] = left


class _changing:
    """The content of an access file, written back at the end; of several writers one at a time.

    Args:
        file: Access file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file.absolute()

    def __enter__(self) -> dict[str, Any]:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._file.with_name(f".{self._file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._given: dict[str, Any] = {}
        if self._file.exists():
            read_access_file(self._file)
            self._given = load_access_file(self._file)
        return self._given

    def __exit__(self, kind: object, *exc: object) -> None:
        if kind is None:
            write_json(self._file, self._given, private=True)
        os.close(self._lock)


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Command line.
    """
    parser = argparse.ArgumentParser(
        "llmops_components.serving.access",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command, text in (
        ("add", "add a key and print it"),
        ("remove", "remove a key"),
        ("list", "whose keys there are, with their quotas"),
    ):
        sub = commands.add_parser(command, help=text)
        sub.add_argument("file", type=Path, help="access file")
        if command != "list":
            sub.add_argument("name", help="whose key")
        if command == "add":
            sub.add_argument("--requests-per-minute", type=int)
            sub.add_argument("--tokens-per-minute", type=int)
    args = parser.parse_args(argv)
    try:
        if args.command == "add":
            limits = {name: getattr(args, name) for name in ("requests_per_minute", "tokens_per_minute")}
            print(add_key(args.file, args.name, **limits))
        elif args.command == "remove":
            remove_key(args.file, args.name)
        else:
            for key in read_access_file(args.file.absolute()).keys or ():
                limits = {"requests": key.requests_per_minute, "tokens": key.tokens_per_minute}
                said = [
                    f"{number} {what} per minute" for what, number in limits.items() if number is not None
                ]
                print(key.name, "  ", ", ".join(said) or "no quota")
    except ComponentError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
