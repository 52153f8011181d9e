"""What people are told of a decision: by the notifier of the SMTP provider, through a mail server of this test."""

from __future__ import annotations

import asyncio
import email
import json
import re
import runpy
import socketserver
import threading
from email.message import Message
from types import SimpleNamespace

import pytest
from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import DAG, BaseNotifier
from airflow.serialization.serialized_objects import DagSerialization
from airflow.triggers.callback import CallbackTrigger
from planes import REPO

from airflow_provider_llmops.exceptions import ConfigurationError, QualityGateFailed
from airflow_provider_llmops.notifications.decision import DecisionNotifier, tell_decision

GATE = {
    "outcome": "fail",
    "findings": ["rougeL is 0.41 <0.45>.", "password=hunter22hunter of the judge"],
    "rules": {},
    "evidence": {},
    "baseline": "chat version 3",
}
STEPS = [
    {"outcome": "pass", "findings": ["first"]},
    {"outcome": "undecided", "findings": ["too few requests"]},
]
LOG = "https://airflow.example.com/dags/chat/runs/r/tasks/quality_gate"


class Smtp(socketserver.StreamRequestHandler):
    """As much of a mail server as takes a mail."""

    def handle(self):
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            verb = line.split()[0].upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                self.server.mails.append(email.message_from_bytes(b"".join(lines)))
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")


@pytest.fixture
def mails(monkeypatch):
    """What has come in at the server of the connection ``smtp_default``."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Smtp) as server:
        server.mails = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = {
            "conn_type": "smtp",
            "host": "127.0.0.1",
            "port": server.server_address[1],
            "extra": {"disable_tls": True, "disable_ssl": True, "from_email": "airflow@example.com"},
        }
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
        yield server.mails
        server.shutdown()


def run(pushed, task_id="quality_gate", **further):
    """The context of a task, after tasks that have pushed something."""

    def xcom_pull(task_ids, key="return_value"):
        return pushed.get(task_ids, {}).get(key)

    ti = SimpleNamespace(dag_id="chat", run_id="r1", task_id=task_id, log_url=LOG, xcom_pull=xcom_pull)
    return {"ti": ti, "dag": DAG("chat"), "params": {"to": "team@example.com"}, **further}


def text_of(mail: Message) -> str:
    (part,) = [each for each in mail.walk() if each.get_content_type() == "text/html"]
    return part.get_payload(decode=True).decode()


def mailing(**arguments):
    mail = SmtpNotifier(
        to="{{ params.to }}",
        subject="{{ told.subject }}",
        html_content="{{ told.html }}",
        smtp_conn_id="smtp_default",
    )
    return DecisionNotifier(by=mail, **arguments)


def test_mail_says_what_the_gate_has_decided_and_where_to_look(mails):
    notifier = mailing(about=["{{ params.evaluation }}"])
    pushed = {
        "quality_gate": {"return_value": GATE, "report_url": "https://airflow.example.com/report?a=1&b=2"},
        "evaluate": {"report_url": "https://elsewhere", "mlflow_run_url": "https://mlflow.example.com/run"},
    }
    context = run(pushed, exception=QualityGateFailed("rougeL is too low."))
    context["params"]["evaluation"] = "evaluate"
    notifier(context)
    pushed["quality_gate"]["return_value"] = {**GATE, "outcome": "undecided"}
    notifier(context)

    assert [(mail["To"], mail["From"], mail["Subject"]) for mail in mails] == [
        ("team@example.com", "airflow@example.com", "chat.quality_gate: fail"),
        ("team@example.com", "airflow@example.com", "chat.quality_gate: undecided"),
    ]
    assert text_of(mails[0]).strip() == (
        "<h3>chat.quality_gate: fail</h3><p>Run: r1<br>Compared with: chat version 3</p>"
        "<ul><li>rougeL is 0.41 &lt;0.45&gt;.</li><li>password=*** of the judge</li></ul>"
        '<p><a href="https://airflow.example.com/report?a=1&amp;b=2">Report</a> · '
        '<a href="https://mlflow.example.com/run">MLflow run</a> · '
        f'<a href="{LOG}">Task</a></p>'
    )


@pytest.mark.parametrize(
    ("pushed", "further", "outcome", "findings"),
    [
        ({"decisions": STEPS}, {}, "undecided", ["too few requests"]),
        ({"decision": {"outcome": "pass", "findings": []}}, {}, "pass", []),
        ({"return_value": {"artifacts": {}}}, {}, "done", []),
        ({"decisions": []}, {"exception": ValueError("of shape\n\n(3,)")}, "failed", ["of shape", "(3,)"]),
        ({}, {"exception": KeyError()}, "failed", ["KeyError"]),
        (
            {"return_value": {"outcome": "pass", "findings": ["x" * 501] * 12}},
            {},
            "pass",
            ["x" * 499 + "…"] * 10,
        ),
    ],
)
def test_outcome_is_that_of_the_decision_or_of_the_task(pushed, further, outcome, findings):
    told = DecisionNotifier(by=BaseNotifier()).told(run({"quality_gate": pushed}, **further))
    assert (told["outcome"], told["findings"], told["links"]) == (outcome, findings, {"Task": LOG})
    assert told["subject"] == f"chat.quality_gate: {outcome}"


def test_decision_of_a_further_task_counts_where_the_task_has_none():
    context = run({"quality_gate": {"return_value": GATE}, "register": {"return_value": {}}}, "register")
    told = tell_decision(by=[BaseNotifier()], about=["quality_gate"]).told(context)
    assert told["text"].splitlines()[:5] == [
        "chat.register: fail",
        "Run: r1",
        "Compared with: chat version 3",
        "",
        "- rougeL is 0.41 <0.45>.",
    ]


def test_server_that_is_not_there_leaves_the_task_as_it_is(monkeypatch, capsys):
    connection = {
        "conn_type": "smtp",
        "host": "127.0.0.1",
        "port": 1,
        "extra": {"disable_ssl": True, "retry_limit": 1},
    }
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
    assert mailing()(run({"quality_gate": {"return_value": GATE}})) is None
    assert "SmtpNotifier has told nobody: [Errno 111]" in capsys.readouterr().out


def test_notifiers_of_the_page_are_made_and_a_late_run_is_told_by_mail(mails, tmp_path):
    """The triggerer has the path and the arguments of a deadline's callback, and nothing else."""
    page = (REPO / "docs" / "operations.md").read_text()
    pieces = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "page.py").write_text(
        "\n".join(pieces).replace('DAG("nightly", ', 'DAG("nightly", schedule=None, ')
    )
    made = runpy.run_path(str(tmp_path / "page.py"))
    assert isinstance(made["gate"].on_failure_callback[0], DecisionNotifier)

    dag = DagSerialization.from_dict(DagSerialization.to_dict(made["nightly"]))
    assert dag.dag_id == "nightly"
    callback = made["late"]
    trigger = CallbackTrigger(
        callback.path, {**callback.kwargs, "smtp_conn_id": "smtp_default", "context": {}}
    )

    async def fired():
        return [event.payload["state"] async for event in trigger.run()]

    assert asyncio.run(fired()) == ["running", "success"]
    (mail,) = mails
    assert (mail["To"], mail["Subject"]) == ("models@example.com", "post_training is late")


@pytest.mark.parametrize("by", ["smtp_default", None, [], [SmtpNotifier]])
def test_who_sends_it_is_a_notifier(by):
    with pytest.raises(ConfigurationError, match=r"^by takes notifiers, such as SmtpNotifier"):
        DecisionNotifier(by=by)
