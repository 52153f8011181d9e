"""``dev/demo --loop``: what is said of the served model's answers trains the next version of it.

The demo plays the users. It asks the served model questions whose right answers it knows, writes the log that a gateway
would write, and the feedback: an answer that is right is rated up, another gets the right one as its correction. The DAG
``continual_learning`` goes on from there, up to a canary of the new version; where it asks for a person's approval, the
demo says yes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from _airflow_api import StackError
from _follow import follow
from _progress import Task
from _stack import Stack

DAG_ID = "continual_learning"
QUESTIONS = 64
AT_ONCE = 8
CHAMPION = "production"
# Which rows of the first run the questions are from, and where their answer is.
ASKED = {"validate_train": "completion", "validate_preferences": "chosen"}
COMPARED_ROWS = 50  # the fewest that the comparison with the training data takes; the questions are 64
# The champion knows most answers: it learns slowly, from right answers and corrections alike (from six corrections alone, by preferences, it
# forgot more than it learned), and what is asked for is that it has not become worse. 48 questions tell no smaller difference from chance.
SETTINGS = {
    "method": "sft",
    "max_steps": 8,
    "learning_rate": 1e-4,
    "min_rows": 16,
    "compared_rows": COMPARED_ROWS,
    "min_improvement": -0.1,
    "approval": True,
}
OVERRIDABLE = {"max_steps", "learning_rate", "min_improvement"}


def learn_from_use(stack: Stack, first: Any, conf: dict[str, Any]) -> dict[str, Any]:
    """Ask the model that a run of ``post_training`` has brought in, and train it with what is said of its answers.

    :param stack: a running Airflow
    :param first: outcome of that run
    :param conf: parameters of that run, which hold for this one where it has them
    :raises StackError: there is nothing to ask, or the service does not answer
    """
    api = stack.api()
    validated = {task: api.xcom("post_training", first.dag_run_id, task, key="validated") for task in ASKED}
    source = next((task for task, place in validated.items() if place), None)
    questions = questions_of(_rows(validated[source]), ASKED[source]) if source else []
    if not questions or not first.endpoint:
        raise StackError(
            "There is nothing to ask: the run has no rows with prompt and answer, or no service."
        )
    day = datetime.now(UTC).date().isoformat()
    directory = Path(first.stack) / "use"
    directory.mkdir()
    print(
        f"\nAsking {first.model['name']} {len(questions)} questions, and saying what was right ...",
        flush=True,
    )
    log = ask_all(first.endpoint, stack.api_key, [prompt for prompt, _ in questions])
    said = [feedback_on(record, right) for record, (_, right) in zip(log, questions, strict=True)]
    for name, lines in (("requests", log), ("feedback", said)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (directory / f"{name}-{day}.jsonl").write_text(text, encoding="utf-8")
    corrected = sum("correction" in each for each in said)
    print(
        f"{len(said) - corrected} answers are right, and {corrected} got a correction: {directory}\n",
        flush=True,
    )

    _give_alias(stack, first.model)
    known = api.call("GET", f"/dags/{DAG_ID}/details")["params"]
    places = {name: f"{directory}/{name}-{{partition}}.jsonl" for name in ("requests", "feedback")}
    settings = SETTINGS | {"partition": day, "champion": CHAMPION, **places}
    if source == "validate_train":  # rows of the kind that the feedback gives: prompt and completion
        settings["reference"] = validated[source].removeprefix("file://")
    own = settings.keys() - OVERRIDABLE
    given = {name: value for name, value in conf.items() if name in known and name not in own}

    def say_yes(run_id: str, tasks: dict[str, Task]) -> None:
        if "approve" in tasks and tasks["approve"].state == "awaiting_input":
            api.approve(DAG_ID, run_id, "approve")

    followed = follow(stack, DAG_ID, settings | given, look=say_yes)
    outcome = followed.__dict__ | {"questions": len(said), "corrected": corrected, "files": str(directory)}
    if followed.succeeded:
        results = {
            task: api.xcom(DAG_ID, followed.run_id, task) or {}
            for task in ("monitor", "evaluate_tuned", "quality_gate", "register_model", "deploy_model")
        }
        outcome |= {
            "drift": results["monitor"],
            "gate": results["quality_gate"],
            "comparison": results["evaluate_tuned"].get("comparison", {}),
            "model": results["register_model"].get("details", {}),
            "canary": api.xcom(DAG_ID, followed.run_id, "deploy_model", key="decisions") or [],
        }
    return outcome


def questions_of(rows: Sequence[dict[str, Any]], answer: str) -> list[tuple[Any, str]]:
    """Prompts with their right answers, spread over the rows.

    :param rows: rows of a data set
    :param answer: their column with the answer
    """
    found = [(row["prompt"], _text(row[answer])) for row in rows if {"prompt", answer} <= row.keys()]
    step = max(1, len(found) // QUESTIONS)
    return found[::step][:QUESTIONS]


def ask_all(endpoint: str, api_key: str | None, prompts: Sequence[Any]) -> list[dict[str, Any]]:
    """Ask a service by OpenAI's API, and return its log: the bodies of request and response, and which revision answered.

    :param endpoint: address of the service
    :param api_key: its key, if it wants one
    :param prompts: texts, or messages
    :raises StackError: the service refuses one of them
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    with httpx.Client(base_url=endpoint, headers=headers, timeout=300, trust_env=False) as client:
        name = client.get("/openai/v1/models").raise_for_status().json()["data"][0]["id"]

        def ask(numbered: tuple[int, Any]) -> dict[str, Any]:
            number, prompt = numbered
            messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
            request = {"model": name, "messages": messages, "max_tokens": 64, "temperature": 0}
            answer = client.post("/openai/v1/chat/completions", json=request)
            if answer.is_error:
                raise StackError(
                    f"Question {number} was refused with status {answer.status_code}: {answer.text:.500}"
                )
            revision = answer.headers.get("x-llmops-revision")
            return {"id": f"q{number}", "revision": revision, "request": request, "response": answer.json()}

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(ask, enumerate(prompts)))


def answer_in(record: dict[str, Any]) -> str:
    """What the model has said.

    :param record: of the log
    """
    return str(record["response"]["choices"][0]["message"]["content"])


def feedback_on(record: dict[str, Any], right: str) -> dict[str, Any]:
    """What a user who knows the answer says.

    :param record: of the log
    :param right: the right answer
    """
    said = {"id": record["id"], "who": "demo", "at": datetime.now(UTC).isoformat()}
    if answer_in(record).strip() == right.strip():
        return said | {"rating": "up"}
    return said | {"rating": "down", "correction": right}


def report(learnt: dict[str, Any], told: Callable[[dict[str, Any]], str]) -> None:
    """Print what :func:`learn_from_use` returned.

    :param learnt: what it returned
    :param told: what a step of a canary has compared, in a line
    """
    print()
    for task_id, error in learnt["errors"].items():
        print(f"{task_id}: {error['message']}\n  Log: {error['log']}")
    if not learnt["succeeded"]:
        return
    asked = f"{learnt['questions']} questions, {learnt['corrected']} answers corrected"
    print(f"{'Use':10} {asked}  {learnt['files']}")
    for line in drift_lines(learnt["drift"]):
        print(f"{'Drift':10} {line}")
    if not learnt["model"]:
        print(f"{'Loop':10} nothing was trained: the log of the task `enough` says of how much feedback")
        return
    for name, each in learnt["comparison"]["metrics"].items():
        values = [each[which] and each[which]["value"] for which in ("baseline", "candidate")]
        if None not in values:
            print(f"{name:10} {values[0]:.3f} of the champion, {values[1]:.3f} of what was trained from it")
    print(f"{'Gate':10} {learnt['gate']['outcome']}; {' '.join(learnt['gate']['findings'])}")
    print(f"{'Approval':10} given by the demo, in a person's place")
    for number, decision in enumerate(learnt["canary"], start=1):
        print(f"{'Canary':10} step {number}: {decision['outcome']}; {told(decision)}")
    print(f"{'Model':10} {learnt['model']['name']} version {learnt['model']['version']}, alias {CHAMPION}")
    print(f"{'Loop':10} {learnt['seconds']:.0f} s")


def drift_lines(monitored: dict[str, Any]) -> list[str]:
    """How the rows made of the answers and the feedback differ from those that the champion was trained with.

    :param monitored: result of the task `monitor`; empty where it was skipped
    """
    if not monitored:
        return ["not compared: the first run was trained with rows of another kind"]
    details, metrics = monitored["details"], monitored["metrics"]
    effects = [
        f"{name} {metrics[name]:.2f} {outcome}" if name in metrics else f"{name} {outcome}"
        for name, outcome in details["checks"].items()
    ]
    rows = "{new} rows against {reference} of the training data".format_map(details["rows"])
    return [f"{details['outcome']}; {rows}", f"effects from 0 to 1: {', '.join(effects)}"]


def _rows(place: str) -> list[dict[str, Any]]:
    path = Path(place.removeprefix("file://"))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _text(answer: Any) -> str:
    return str(answer if isinstance(answer, str) else answer[-1]["content"])


def _give_alias(stack: Stack, model: dict[str, Any]) -> None:
    """Make the version that serves the champion, which somebody does by hand before the first round."""
    body = {"name": model["name"], "alias": CHAMPION, "version": model["version"]}
    url = f"{stack.mlflow_url}/api/2.0/mlflow/registered-models/alias"
    httpx.post(url, json=body, auth=stack.mlflow_login, trust_env=False).raise_for_status()
