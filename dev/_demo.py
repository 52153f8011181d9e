"""``dev/demo``: one run of the post-training DAG from start to finish, as somebody at a terminal sees it."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from _airflow_api import AirflowApi, StackError
from _conf import problems_of
from _follow import follow
from _loop import answer_in, ask_all, learn_from_use
from _loop import report as report_loop
from _places import REPOSITORY, STACKS
from _progress import console
from _signals import interruptible
from _stack import Stack
from _updown import PREFERRED_PORTS, addresses, curl_command, stop_command
from rich.table import Table

DAG_ID = "post_training"
QUESTION_LABELS = {
    "question": "Question",
    "reference": "Wanted",
    "before": "Base",
    "after": "Tuned",
    "endpoint": "Served",
}
# Pages among the artifacts.
PAGES = (("Report", "evaluate_tuned", "report"), ("Data docs", "validate_train", "data_docs"))
# The base model serves first, so that there is a canary to see; both answer a few questions in each of two short steps.
CANARY = {"serve_base": True, "canary_steps": [25, 50], "step_seconds": 2, "canary_rows": 8}
SHOWN_CURVES = ("loss", "accuracy", "margin", "reward", "kl")


@dataclass
class Outcome:
    """What is printed at the end, and written by ``--json``."""

    succeeded: bool
    stack: str
    dag_run_id: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, dict[str, str]] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    training: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    canary: list[dict[str, Any]] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    endpoint: str | None = None
    question: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    loop: dict[str, Any] = field(default_factory=dict)


def main(arguments: list[str] | None = None) -> int:
    """Entry of ``dev/demo``."""
    options = _options(arguments)
    asked = ({"method": options.method} if options.method else {}) | dict(options.param)
    conf = (CANARY if options.dags is None else {}) | asked
    # A running Airflow would refuse a wrong value too, and leave a wrong name to the first task.
    if asked and (problems := problems_of(asked, DAG_ID, options.dags or REPOSITORY / "dags")):
        print("dev/demo: " + "\n".join(problems), file=sys.stderr)
        return 2
    began = time.monotonic()
    stack = Stack(_fresh_directory(), dags_folder=options.dags, preferred_ports=PREFERRED_PORTS)
    outcome = Outcome(succeeded=False, stack=str(stack.directory))
    keep = False
    with interruptible():
        try:
            print(f"Starting Airflow and MLflow in {stack.directory} ...", flush=True)
            stack.start()
            outcome.seconds["start"] = stack.timings["healthy"]
            print(f"Airflow and MLflow are up after {stack.timings['healthy']:.0f} s.\n{addresses(stack)}\n")
            _run(stack, conf, outcome)
            outcome.seconds["total"] = time.monotonic() - began
            keep = options.keep
            _report(stack, outcome, keep or options.loop)
            if options.loop and outcome.succeeded:
                outcome.loop = learn_from_use(stack, outcome, conf)
                outcome.succeeded = outcome.loop["succeeded"]
                report_loop(outcome.loop, _told)
        except (StackError, httpx.HTTPError) as error:
            outcome.succeeded = False
            print(f"dev/demo: {error}", file=sys.stderr)
            outcome.errors["stack"] = {"message": str(error), "log": str(stack.logs)}
        except KeyboardInterrupt:
            print(
                "\nInterrupted; stopping everything, which takes a few seconds.", file=sys.stderr, flush=True
            )
            return 130
        finally:
            if not keep:
                stack.stop()
    if options.json:
        options.json.write_text(json.dumps(outcome.__dict__, indent=2) + "\n", encoding="utf-8")
    if keep:
        print(f"\nStill up:\n{addresses(stack)}")
        if outcome.endpoint:
            print(f"Endpoint  {outcome.endpoint}/openai/v1")
            print(f"API key   in {stack.api_key_file}; {curl_command(stack, outcome.endpoint)}")
        print(f"Stop it with {stop_command(stack)}.")
    else:
        name = stack.directory.name
        print(f"\nEverything is stopped, and the files stay in {stack.directory}.")
        print(
            f"dev/up {name} shows this run in Airflow and MLflow again; dev/down --delete {name} deletes it."
        )
    return 0 if outcome.succeeded else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dev/demo",
        description="Train, evaluate, register, serve and ask a small language model in a real Airflow on this machine.",
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave Airflow, MLflow and the endpoint up at the end"
    )
    parser.add_argument(
        "--loop",
        action="store_true",
        help="then ask the served model, say what was right, and let it learn from that: continual_learning",
    )
    parser.add_argument(
        "--method",
        choices=["sft", "dpo", "kto", "rlhf"],
        help="how to train: supervised fine-tuning (the default), from preferences, or with reinforcement learning",
    )
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        type=_param,
        metavar="KEY=VALUE",
        help="set a DAG parameter (repeat)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what happened as JSON")
    parser.add_argument(
        "--dags", type=Path, metavar="FOLDER", help="DAG files to use instead of the repository's"
    )
    return parser.parse_args(arguments)


def _param(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _fresh_directory() -> Path:
    name = datetime.now().strftime("demo-%Y%m%d-%H%M%S")
    number = 1
    while True:
        directory = STACKS / (name if number == 1 else f"{name}-{number}")
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return directory


def _run(stack: Stack, conf: dict[str, Any], outcome: Outcome) -> None:
    api = stack.api()
    followed = follow(stack, DAG_ID, conf)
    outcome.dag_run_id = followed.run_id
    outcome.succeeded = followed.succeeded
    outcome.seconds["run"] = followed.seconds
    outcome.tasks, outcome.errors = followed.tasks, followed.errors
    if outcome.succeeded:
        _collect(api, followed.run_id, outcome, stack.api_key)
        if stack.with_mlflow:
            _keep_decided_page(str(stack.mlflow_url), stack.mlflow_login, outcome)


def _keep_decided_page(mlflow: str, login: tuple[str, str], outcome: Outcome) -> None:
    """The evaluation's page with what the gate has decided, which the registration keeps, in place of the one from before."""
    run = outcome.model.get("run_id")
    if run and "Report" in outcome.files:
        question = {"path": "evaluation.html", "run_uuid": run}
        page = httpx.get(f"{mlflow}/get-artifact", params=question, auth=login, trust_env=False)
        if page.is_success:
            Path(outcome.files["Report"]).write_bytes(page.content)


def _collect(api: AirflowApi, run_id: str, outcome: Outcome, api_key: str | None = None) -> None:
    results = {task_id: api.xcom(DAG_ID, run_id, task_id) or {} for task_id in outcome.tasks}
    tuned, base = results.get("evaluate_tuned", {}), results.get("evaluate_base", {})
    outcome.metrics = {
        name: {
            "base": each["baseline"]["value"],
            "tuned": each["candidate"]["value"],
            "change": each["difference"]["value"],
        }
        for name, each in tuned.get("comparison", {}).get("metrics", {}).items()
        if each["difference"] is not None
    }
    outcome.training = {
        task_id: curves
        for task_id in outcome.tasks
        if task_id.startswith("train_") and (curves := _curves(results[task_id].get("metrics", {})))
    }
    outcome.model = results.get("register_model", {}).get("details", {})
    outcome.endpoint = results.get("deploy_model", {}).get("url")
    outcome.canary = api.xcom(DAG_ID, run_id, "deploy_model", key="decisions") or []
    for label, task_id, artifact in PAGES:
        if uri := results.get(task_id, {}).get("artifacts", {}).get(artifact, {}).get("uri"):
            page = Path(outcome.stack) / f"{artifact}.html"
            shutil.copyfile(uri, page)
            outcome.files[label] = str(page)
    for task_id, task in outcome.tasks.items():
        # A task's own time holds its wait for the machine as well; what the component measured does not.
        if isinstance(result := results.get(task_id), dict) and "resources" in result:
            task["seconds"] = round(result["resources"]["seconds"], 1)
    row = _changed_answer(base, tuned)
    if row:
        outcome.question = {key: row[key] for key in ("question", "reference", "before", "after")}
        if outcome.endpoint:
            (record,) = ask_all(outcome.endpoint, api_key, [row["prompt"]])
            outcome.question["endpoint"] = answer_in(record)


def _curves(metrics: dict[str, float]) -> dict[str, list[float]]:
    """First and last value of what a trainer reported along the way."""
    ends = {name: (f"first_{name}", f"final_{name}") for name in SHOWN_CURVES}
    return {name: [metrics[end] for end in pair] for name, pair in ends.items() if metrics.keys() >= {*pair}}


def _changed_answer(base: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any] | None:
    """The first question of the evaluation that the tuned model answers differently."""
    scores = [result.get("artifacts", {}).get("scores", {}).get("uri") for result in (base, tuned)]
    if not all(scores):
        return None
    before, after = (
        [json.loads(line) for line in Path(uri).read_text("utf-8").splitlines()] for uri in scores
    )
    for old, new in zip(before, after, strict=True):
        if old["answer"].strip() != new["answer"].strip():
            prompt = new["prompt"]
            messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
            return {
                "prompt": messages,
                "question": messages[-1]["content"],
                "reference": new["reference"],
                "before": old["answer"],
                "after": new["answer"],
            }
    return None


def _report(stack: Stack, outcome: Outcome, keep: bool) -> None:
    print()
    if not outcome.succeeded:
        print("The run failed.")
        for task_id, error in outcome.errors.items():
            print(f"{task_id}: {error['message']}\n  Log: {error['log']}")
        return
    if outcome.metrics:
        table = Table(
            "metric", "base", "tuned", "change", title="Base model against tuned model", title_justify="left"
        )
        for name, value in outcome.metrics.items():
            base, tuned, change = (value[key] for key in ("base", "tuned", "change"))
            table.add_row(name, f"{base:.3f}", f"{tuned:.3f}", f"{change:+.3f}")
        console.print(table)
    for task_id, curves in outcome.training.items():
        shown = ", ".join(f"{name} {first:.3f} to {final:.3f}" for name, (first, final) in curves.items())
        print(f"{task_id:12} {shown}")
    for number, decision in enumerate(outcome.canary, start=1):
        print(f"{'Canary':10} step {number}: {decision['outcome']}; {_told(decision)}")
    for key, label in QUESTION_LABELS.items():
        if key in outcome.question:
            print(textwrap.indent(f"{label:10} {_shorten(outcome.question[key])}", " " * 11)[11:])
    print()
    if outcome.model:
        facts = "{name} version {version}, alias {alias}".format_map(outcome.model)
        print(f"{'Model':10} {facts}  {_page(outcome.model)}".rstrip())
    if outcome.endpoint:
        until = "" if keep else "  until now; dev/demo --keep leaves it up"
        print(f"{'Endpoint':10} {outcome.endpoint}/openai/v1{until}")
    for name, path in {**outcome.files, "Logs": str(stack.airflow_home / "logs")}.items():
        print(f"{name:10} {path}")
    times = ", ".join(
        f"{task_id} {task['seconds']:.0f} s"
        for task_id, task in outcome.tasks.items()
        if task["state"] != "skipped"
    )
    print(f"{'Times':10} {times}")
    print(
        f"{'Total':10} {outcome.seconds['total']:.0f} s, of which {outcome.seconds['start']:.0f} s to start Airflow"
    )


def _told(decision: dict[str, Any]) -> str:
    """What a step of the canary has compared, in a line."""
    evidence = decision["evidence"]
    if "canary" not in evidence:
        return "nothing was compared"
    both = [evidence[name] for name in ("canary", "stable")]
    requests, errors = (" and ".join(str(each[name]) for each in both) for name in ("requests", "errors"))
    found = [f"{requests} requests of canary and stable, {errors} errors"]
    if all(each["p95_seconds"] is not None for each in both):
        found.append("95% within {:.2f} and {:.2f} s".format(*(each["p95_seconds"] for each in both)))
    if answers := evidence.get("answers"):
        scores = [answers[name] for name in ("candidate", "baseline")]
        said = " and ".join("no score" if each is None else f"{each:.3f}" for each in scores)
        found.append(f"{decision['rules']['metric']} {said}")
    return ", ".join(found)


def _page(model: dict[str, Any]) -> str:
    links = model.get("links") or {}
    return next(iter(links.values()), "") if isinstance(links, dict) else ""


def _shorten(text: str, limit: int = 600) -> str:
    text = text.strip()
    return text if len(text) <= limit else f"{text[:limit]} ..."
