"""The controller as a command that prints one JSON object.

python -m llmops_components.serving.local apply manifest.json --root DIR
python -m llmops_components.serving.local status my-model --root DIR
python -m llmops_components.serving.local traffic my-model 00002=100 --root DIR
python -m llmops_components.serving.local start|stop my-model --revision 00001 --root DIR
python -m llmops_components.serving.local logs|delete my-model --root DIR
python -m llmops_components.serving.local ask my-model --root DIR < question.json
python -m llmops_components.serving.local names|resume --root DIR
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from llmops_components.errors import SettingError
from llmops_components.json_text import parse_json
from llmops_components.reporting import words_of
from llmops_components.serving.http.asking import SMOKE_MAX_TOKENS
from llmops_components.serving.local.controller import DRAIN_SECONDS, LocalServing


def main(argv: list[str] | None = None) -> int:
    """Run one command and print one JSON object; an error is ``{"error": {"type", "message", "retryable"}}``.

    Args:
        argv: Command line.

    Returns:
        Exit status: 0, or 1 with an error.
    """
    parser = argparse.ArgumentParser(
        "llmops_components.serving.local", description=__doc__.split("\n")[0] if __doc__ else ""
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text)
        sub.add_argument("--root", required=True, help="directory that holds services/")
        if name == "apply":
            sub.add_argument("manifest", help="file with an InferenceService as JSON; - for standard input")
        elif name != "resume":
            if name != "names":
                sub.add_argument("name", help="service")
            sub.add_argument("--namespace", default="default")
        return sub

    command("apply", "start a revision; touches no traffic")
    command("resume", "start what is gone of the services that have traffic again")
    command("names", "the services of a namespace")
    command("status", "the service and its revisions")
    sub = command("traffic", "send requests to revisions, stop the ones that lost theirs")
    sub.add_argument("shares", nargs="+", metavar="REVISION=PERCENT")
    sub.add_argument("--port", type=int, help="port of the stable address")
    sub.add_argument("--keep-previous", action="store_true", help="leave the former revision running")
    sub.add_argument("--drain-seconds", type=float, default=DRAIN_SECONDS)
    sub.add_argument("--as-of", help="date of their model; a model of a newer date keeps the traffic")
    sub.add_argument("--in-any-case", action="store_true", help="also where a model of a newer date serves")
    sub = command("ask", 'ask one revision: {"prompt": ..., "max_tokens": ...} on standard input')
    sub.add_argument("--revision", required=True)
    command("start", "start a former revision again; touches no traffic").add_argument(
        "--revision", required=True
    )
    command("stop", "stop one revision").add_argument("--revision", required=True)
    sub = command("withdraw", "give one revision up: what served has all of the requests again")
    sub.add_argument("--revision", required=True)
    sub.add_argument("--not-bad", action="store_true", help="it stays one to go back to")
    command("delete", "stop and remove a service or one revision").add_argument("--revision")
    sub = command("logs", "the end of a revision's log")
    sub.add_argument("--revision")
    sub.add_argument("--lines", type=int, default=100)
    args = parser.parse_args(argv)
    try:
        result = _run(args)
    except Exception as error:
        retryable = getattr(error, "retryable", True)
        result = {"error": {"type": type(error).__name__, "message": words_of(error), "retryable": retryable}}
    print(json.dumps(result, indent=2))
    return 1 if "error" in result and isinstance(result["error"], dict) else 0


def _run(args: argparse.Namespace) -> dict[str, Any]:
    serving = LocalServing(args.root)
    if args.command == "apply":
        return serving.apply(_read_object(args.manifest, "manifest"))
    if args.command == "resume":
        return {"services": serving.resume()}
    if args.command == "names":
        return {"names": serving.names(args.namespace)}
    if args.command == "status":
        return serving.status(args.name, args.namespace)
    if args.command == "traffic":
        return serving.traffic(
            args.name,
            _shares(args.shares),
            namespace=args.namespace,
            port=args.port,
            keep_previous=args.keep_previous,
            drain_seconds=args.drain_seconds,
            as_of=args.as_of,
            only_if_newer=not args.in_any_case,
        )
    if args.command == "ask":
        question = _read_object("-", "question")
        limit = int(question.get("max_tokens", SMOKE_MAX_TOKENS))
        prompt = str(question.get("prompt", ""))
        return {
            "answer": serving.ask(
                args.name, args.revision, prompt, namespace=args.namespace, max_tokens=limit
            )
        }
    if args.command == "start":
        return serving.start_revision(args.name, args.revision, namespace=args.namespace)
    if args.command == "stop":
        return serving.stop_revision(args.name, args.revision, namespace=args.namespace)
    if args.command == "withdraw":
        return serving.withdraw(args.name, args.revision, namespace=args.namespace, is_bad=not args.not_bad)
    if args.command == "delete":
        return serving.delete(args.name, namespace=args.namespace, revision=args.revision)
    return serving.logs(args.name, namespace=args.namespace, revision=args.revision, lines=args.lines)


def _read_object(path: str, what: str) -> dict[str, Any]:
    try:
        value = parse_json(sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"Cannot read the {what} {path}: {error}") from None
    if not isinstance(value, dict):
        raise SettingError(f"The {what} {path} is not a JSON object.")
    return value


def _shares(given: list[str]) -> dict[str, int]:
    shares = {}
    for item in given:
        revision, _, percent = item.partition("=")
        if not percent.isdigit():
            raise SettingError(
                f"Cannot read traffic {item!r}: write REVISION=PERCENT, for example 00002=100."
            )
        shares[revision] = int(percent)
    return shares
