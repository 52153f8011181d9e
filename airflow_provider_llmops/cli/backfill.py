"""``llmops backfill``: the DAGs of a chain, one after the other, over the partitions that they lack."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.cli import CommandError

if TYPE_CHECKING:
    from airflow_provider_llmops.backfill.api import AirflowApi
    from airflow_provider_llmops.backfill.chain import Link

URL, TOKEN, USERNAME, PASSWORD = (
    f"LLMOPS_AIRFLOW_{name}" for name in ("URL", "TOKEN", "USERNAME", "PASSWORD")
)
_INTERRUPTED = 130


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command's arguments.

    :param commands: subparsers of ``llmops``
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        "backfill",
        help="run a chain of DAGs over the partitions that it lacks",
        description="Run DAGs one after the other for each partition that they lack. A partition is there for a DAG that has succeeded for it; "
        "the next DAG begins when the one before has succeeded, and a failure ends its own partition alone. A run that is going on is "
        "waited for, so that an interrupted call is gone on with by calling again.",
        epilog=f"Login: {TOKEN}, or {USERNAME} and {PASSWORD} in the environment.",
    )
    parser.add_argument(
        "--dag",
        action="append",
        required=True,
        metavar="DAG",
        dest="dags",
        help="a DAG of the chain; again for the next",
    )
    parser.add_argument(
        "--from",
        metavar="DAY",
        dest="begin",
        help="first day, such as 2026-11-01; its partitions are those of the first DAG's own timetable",
    )
    parser.add_argument("--to", metavar="DAY", dest="end", help="last day, the whole of it")
    parser.add_argument(
        "--partitions", nargs="+", metavar="KEY", help="keys of partitions, instead of --from and --to"
    )
    parser.add_argument(
        "--conf",
        action="append",
        default=[],
        metavar="DAG=JSON",
        help="conf of a DAG's runs, or DAG=@FILE; {partition} in its texts becomes the key",
    )
    parser.add_argument(
        "--reprocess",
        choices=("none", "failed", "all"),
        default="none",
        help="what is run again: nothing, what has failed and never succeeded, or all (default: %(default)s)",
    )
    parser.add_argument(
        "--parallel",
        type=_positive(int),
        default=4,
        metavar="N",
        help="partitions at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--price-per-hour",
        type=_positive(float),
        metavar="PRICE",
        help="what an hour of a step costs; plan and result tell the cost then, with what judges cost",
    )
    parser.add_argument(
        "--max-cost",
        type=_positive(float),
        metavar="COST",
        help="start no run with which the runs of this call would cost more, by what those that have ended took and what "
        "the others took formerly",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what there is, what would be run and what it takes"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before runs are started")
    parser.add_argument(
        "--json", action="store_true", help="print JSON; what goes on is told on standard error"
    )
    parser.add_argument("--url", help=f"address of Airflow's API server (default: {URL} in the environment)")
    parser.add_argument(
        "--poll",
        type=_positive(float),
        default=5.0,
        metavar="SECONDS",
        help="how often runs are looked at (default: %(default)s)",
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Carry the command out; the exit status is 0 where every DAG has every partition, or would have by a dry run.

    :param options: as :func:`add_parser` declares them
    """
    from airflow_provider_llmops.exceptions import LLMOpsError

    try:
        return _backfill(options)
    except LLMOpsError as error:
        raise CommandError(str(error)) from error


def _backfill(options: argparse.Namespace) -> int:
    from airflow_provider_llmops.backfill.budget import Budget, expected_costs
    from airflow_provider_llmops.backfill.chain import read_chain
    from airflow_provider_llmops.backfill.plan import (
        estimate,
        estimate_to_json,
        make_plan,
        obstacles_to,
        together,
    )
    from airflow_provider_llmops.backfill.text import lines_of_plan, lines_of_report
    from airflow_provider_llmops.backfill.walk import carry_out
    from airflow_provider_llmops.spending import cost_of

    say = partial(print, file=sys.stderr if options.json else sys.stdout, flush=True)
    confs = _confs(options.conf)
    api = _api(options, os.environ, say)
    chain = read_chain(api, options.dags, confs)
    plan = make_plan(api, chain, _keys(options, api, chain), options.reprocess)
    obstacles = obstacles_to(plan)
    price = options.price_per_hour or 0.0
    counts = options.max_cost is not None or options.price_per_hour is not None
    is_shown = options.dry_run or (plan.to_run and not options.yes)
    spending = estimate(api, plan) if is_shown or counts else {}
    if is_shown:
        if options.json and options.dry_run:
            told = {
                "partitions": plan.to_json(),
                "estimate": {
                    **estimate_to_json(plan, spending, options.parallel),
                    **({"cost": cost_of(together(spending), price)} if price else {}),
                },
                "obstacles": obstacles,
            }
            print(json.dumps(told, indent=2))
        else:
            lines = lines_of_plan(plan, spending, options.parallel, options.price_per_hour)
            for line in [*lines, *obstacles]:
                say(line)
        if options.dry_run:
            return 0
    if obstacles:
        raise CommandError("\n".join(obstacles))
    if plan.to_run and not options.yes and not _is_confirmed(plan.to_run):
        return 1
    budget = Budget(price, options.max_cost, expected_costs(spending, price)) if counts else None
    report = carry_out(
        api, plan, parallel=options.parallel, poll_seconds=options.poll, say=say, budget=budget
    )
    if options.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print("\n".join(["", *lines_of_report(report)]))
    if report.error:
        raise CommandError(report.error)
    if report.is_interrupted:
        return _INTERRUPTED
    return 0 if report.is_complete else 1


def _api(options: argparse.Namespace, environment: Mapping[str, str], say: Any) -> AirflowApi:
    from airflow_provider_llmops.backfill.api import AirflowApi

    url = options.url or environment.get(URL)
    if not url:
        raise CommandError(f"there is no address of Airflow. Give --url, or set {URL}.")
    token = environment.get(TOKEN) or None
    user, password = environment.get(USERNAME), environment.get(PASSWORD)
    if bool(user) != bool(password):
        raise CommandError(f"{USERNAME} and {PASSWORD} go together. Set both, or {TOKEN}.")
    return AirflowApi(
        url, token=token, login=(user, password) if user and password and not token else None, say=say
    )


def _keys(options: argparse.Namespace, api: AirflowApi, chain: Sequence[Link]) -> list[str]:
    from airflow_provider_llmops.backfill.chain import check_keys, keys_between

    if options.partitions is not None:
        if options.begin or options.end:
            raise CommandError(
                "--partitions names the partitions, and so do --from and --to. Give one of the two."
            )
        return check_keys(options.partitions)
    if not options.begin or not options.end:
        raise CommandError("which partitions is not said. Give --from and --to, or --partitions.")
    return keys_between(api, chain, _day("--from", options.begin), _day("--to", options.end))


def _day(name: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"{name} is no day: {text!r}. Write it as 2026-11-01; partitions of a part of a day are named with --partitions."
        ) from None


def _confs(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    from airflow_provider_llmops.json_text import parse_json

    found: dict[str, dict[str, Any]] = {}
    for each in given:
        dag_id, equals, text = each.partition("=")
        if not equals or not dag_id:
            raise CommandError("--conf is DAG={...} or DAG=@FILE, and one has no DAG before an equals sign.")
        if dag_id in found:
            raise CommandError(f"--conf for {dag_id} is given twice. Put both into one.")
        where = f"--conf for {dag_id}"
        if text.startswith("@"):
            where = f"{where} ({text[1:]})"
            try:
                text = Path(text[1:]).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise CommandError(f"{where} cannot be read: {error}") from None
        try:
            value = parse_json(text)
        except ValueError as error:
            raise CommandError(f"{where} is no JSON: {error}") from None
        if not isinstance(value, dict):
            raise CommandError(f'{where} is no JSON object, such as {{"max_steps": 100}}.')
        found[dag_id] = value
    return found


def _is_confirmed(runs: int) -> bool:
    if not sys.stdin.isatty():
        raise CommandError(
            f"{runs} runs would be started, and there is nobody to ask. Give --yes, or --dry-run."
        )
    print(f"Start {runs} run{'s' if runs > 1 else ''}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _positive(kind: type) -> Any:
    def parsed(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not more than 0")
        return value

    parsed.__name__ = kind.__name__
    return parsed
