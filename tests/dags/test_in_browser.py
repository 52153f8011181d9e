"""What a person sees and does in Airflow's own pages, in a real browser: the form, the buttons, the report, the approval."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from airflow_stack import RealAirflow
from browser import Page, in_browser, needs_browser

pytestmark = needs_browser
ROWS = [{"prompt": f"What colour is the {thing}?", "reference": "Blue."} for thing in ("sky", "sea", "sun")]
DAG = """
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param
from airflow_provider_llmops.operators.evaluation import EvaluateModelOperator

with DAG(
    "looked_at",
    schedule=None,
    render_template_as_native_obj=True,
    params={{"tokens": Param(8, type="integer", minimum=1, title="New tokens", description="Longest answer.")}},
):
    evaluate = EvaluateModelOperator(
        task_id="evaluate",
        model={model!r},
        dataset={dataset!r},
        metric_names=["rougeL"],
        generation_args={{"max_new_tokens": "{{{{ params.tokens }}}}"}},
    )
    ApprovalOperator(
        task_id="approve",
        subject="Is the model good enough?",
        body="[The evaluation]({{{{ task_instance.xcom_pull('evaluate', key='report_url') }}}})",
        defaults=ApprovalOperator.REJECT,
    ).set_upstream(evaluate)
"""


class Person:
    """Somebody in front of Airflow's pages.

    Args:
        page: The browser's page.
        airflow: The Airflow that is looked at.
    """

    def __init__(self, page: Page, airflow: RealAirflow) -> None:
        self.page, self.airflow = page, airflow

    async def come(self, path: str) -> None:
        """Log in, and land where one wanted to go."""
        await self.type("[name=username]", "admin")
        await self.type("[name=password]", self.airflow.stack.password)
        await self.click("button", "Sign in")
        await self.page.wait_for(f"location.pathname === {json.dumps(path)}")

    async def go(self, path: str) -> None:
        """Open another page of Airflow's."""
        await self.page.run("window.isFormerPage = true")
        await self.page.send("Page.navigate", url=f"{self.airflow.stack.airflow_url}{path}")
        await self.page.wait_for("!window.isFormerPage && document.readyState === 'complete'")

    async def type(self, selector: str, text: str) -> None:
        """Put a text into a field, in place of what is in it."""
        found = f"document.querySelector({json.dumps(selector)})"
        await self.page.wait_for(f"!!{found}")
        await self.page.run(f"{found}.focus(); {found}.select()")
        await self.page.send("Input.insertText", text=text)

    async def click(self, selector: str, text: str) -> None:
        """Click what has a text, once it is there and can be clicked."""
        every = f"[...document.querySelectorAll({json.dumps(selector)})]"
        found = f"{every}.find(each => each.textContent.trim() === {json.dumps(text)} && !each.disabled)"
        await self.page.wait_for(f"!!{found}")
        await self.page.run(f"{found}.click()")

    async def see(self, *texts: str) -> None:
        """Wait until all of these are on the page."""
        for text in texts:
            await self.page.wait_for(f"document.body.innerText.includes({json.dumps(text)})")


def looked_at(airflow: RealAirflow, path: str, what: Any) -> Any:
    """Log in, do something, and tell what came of it."""

    async def do(page: Page) -> Any:
        person = Person(page, airflow)
        await person.come(path)
        return await what(person)

    return in_browser(f"{airflow.stack.airflow_url}{path}", do)


@pytest.fixture(scope="module")
def airflow(real_airflow: RealAirflow) -> RealAirflow:
    return real_airflow.add_example("post_training")


def test_form_shows_every_parameter_with_its_help_and_starts_nothing_for_nonsense(airflow):
    params = airflow.api.call("GET", "/dags/post_training/details")["params"]
    sections = {param["schema"].get("section") for param in params.values()} - {None}

    def runs() -> int:
        return airflow.api.call("GET", "/dags/post_training/dagRuns")["total_entries"]

    async def look(person: Person) -> tuple[str, list[str]]:
        await person.click("button", "Trigger")
        await person.see(*sections)
        await person.type("[name=element_model_name]", "Not a name!")
        await person.click("[data-testid=trigger-dag-submit]", "Trigger")
        await person.see("Failed to Trigger Dag")
        form = "document.querySelector('[data-testid=trigger-dag-submit]').closest('[role=dialog]')"
        names = f"[...{form}.querySelectorAll('[name^=element_], [id*=element_]')].map(e => e.name || e.id)"
        return await person.page.run(f"{form}.textContent"), await person.page.run(names)

    before = runs()
    said, fields = looked_at(airflow, "/dags/post_training", look)
    for name, param in params.items():
        assert param["schema"]["title"] in said and param["description"] in said, name
        assert any(re.search(rf"element_{name}\b", field) for field in fields), name
    assert runs() == before


def test_run_from_the_form_has_its_report_and_waits_for_a_persons_yes(airflow, tiny_model, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    airflow.add_dag("looked_at", DAG.format(model=str(tiny_model), dataset=str(rows)))

    def only_run() -> dict[str, Any] | None:
        found = airflow.api.call("GET", "/dags/looked_at/dagRuns")["dag_runs"]
        return found[0] if found else None

    async def trigger(person: Person) -> None:
        await person.click("button", "Trigger")
        await person.see("New tokens", "Longest answer.")
        await person.type("[id='number-input:element_tokens'] input", "3")
        await person.click("[data-testid=trigger-dag-submit]", "Trigger")
        airflow.wait_until(lambda: only_run() is not None, "the run")

    looked_at(airflow, "/dags/looked_at", trigger)
    run = only_run()["dag_run_id"]
    assert only_run()["conf"] == {"tokens": 3}
    airflow.wait_for_task("looked_at", run, "approve", "awaiting_input")
    assert airflow.xcom("looked_at", run, "evaluate", "metrics")["samples"] == len(ROWS)

    async def decide(person: Person) -> str:
        await person.see("Extra Links", "Report")
        report = "[...document.querySelectorAll('a')].find(each => each.textContent.trim() === 'Report')"
        address = await person.page.run(f"{report}.href")
        await person.go(f"/dags/looked_at/runs/{run}/tasks/approve/required_actions")
        await person.see("Is the model good enough?", "The evaluation")
        evaluation = "[...document.querySelectorAll('a')].find(each => each.textContent === 'The evaluation')"
        assert await person.page.run(f"{evaluation}.href") == address
        await person.click("button", "Approve")
        airflow.wait_until(lambda: only_run()["state"] == "success", "the run's end")
        await person.go(address.removeprefix(airflow.stack.airflow_url))
        await person.see("rougeL", "What colour is the sky?")
        return await person.page.run("document.title")

    title = looked_at(airflow, f"/dags/looked_at/runs/{run}/tasks/evaluate/details", decide)
    assert "valuation" in title
