"""Notifier that tells people what a task has decided, why, and where to look, by a notifier of another provider."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

from airflow_provider_llmops.exceptions import ConfigurationError, shortened, shown_value
from airflow_provider_llmops.links import (
    DataDocsLink,
    MlflowRunLink,
    ModelVersionLink,
    PipelineRunLink,
    ReportLink,
    ReviewSheetLink,
    ServiceLink,
    TrendLink,
)
from airflow_provider_llmops.redaction import redact

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["DecisionNotifier", "tell_decision"]

MAX_FINDINGS = 10
MAX_CHARACTERS = 500  # of a finding
LINKS = (
    ReportLink,
    TrendLink,
    DataDocsLink,
    ReviewSheetLink,
    ModelVersionLink,
    MlflowRunLink,
    ServiceLink,
    PipelineRunLink,
)


class DecisionNotifier(BaseNotifier):
    """Send what a task has decided, or why it has failed, with links: ``on_failure_callback=DecisionNotifier(by=[...])``.

    Who sends it is a notifier of another provider, such as that of SMTP or Slack, whose own fields say where the text goes:
    ``SmtpNotifier(to="team@example.com", subject="{{ told.subject }}", html_content="{{ told.html }}")``,
    ``SlackNotifier(text="{{ told.text }}")``. Of ``told`` there are ``subject`` (one line), ``text``, ``html``, ``outcome``, ``findings`` and
    ``links`` (addresses by name).

    A decision is what :class:`~airflow_provider_llmops.operators.evaluation.QualityGateOperator` returns, that on the last step of a
    :class:`~airflow_provider_llmops.operators.canary.CanaryOperator`, or the ``decision`` of
    :class:`~airflow_provider_llmops.sensors.service_level.ServiceLevelSensor`. A task without one is told by its state, and by its error where it
    has failed. For callbacks of tasks, which run where the task has run. What cannot be sent stands in the log of the task, whose state stays.

    :param by: notifiers that send it
    :param about: ids of further tasks of the same run whose decision, if the task has none itself, and whose links are told
    """

    template_fields: Sequence[str] = ("about",)

    def __init__(self, *, by: BaseNotifier | Sequence[BaseNotifier], about: Sequence[str] = ()) -> None:
        super().__init__()
        self.by = [by] if isinstance(by, BaseNotifier) else by
        self.about = about
        if isinstance(by, str) or not self.by or not all(isinstance(each, BaseNotifier) for each in self.by):
            raise ConfigurationError(
                f"by takes notifiers, such as SmtpNotifier(to=...), at least one, got {shown_value(by)}."
            )

    def notify(self, context: Context) -> None:
        """Put the text together, and have it sent by each; who cannot send it keeps none of the others from doing so."""
        told = self.told(context)
        for each in self.by:
            try:
                # Its fields are rendered in place, and the same notifier may be called again.
                copy.copy(each)({**context, "told": told})
            except Exception as error:
                self.log.error(
                    "%s has told nobody: %s", type(each).__name__, redact(str(error)) or type(error).__name__
                )

    def told(self, context: Context) -> dict[str, Any]:
        """What there is to say of a task.

        :param context: of the task
        """
        ti = context["ti"]
        tasks = [ti.task_id, *([self.about] if isinstance(self.about, str) else self.about)]
        decision = next(filter(None, (_decision_of(ti, task) for task in tasks)), {})
        error = context.get("exception")
        outcome = decision.get("outcome") or ("failed" if error else "done")
        findings = [*decision.get("findings", ())]
        if error and not findings:
            findings = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        findings = [shortened(redact(str(each)), MAX_CHARACTERS) for each in findings[:MAX_FINDINGS]]
        links: dict[str, str] = {}
        for task in tasks:
            for each in LINKS:
                url = ti.xcom_pull(task_ids=task, key=each.key)
                if isinstance(url, str):
                    links.setdefault(str(each.name), redact(url))
        links["Task"] = ti.log_url
        subject = f"{ti.dag_id}.{ti.task_id}: {outcome}"
        about = [f"Run: {ti.run_id}"]
        if baseline := decision.get("baseline"):
            about.append(f"Compared with: {redact(str(baseline))}")
        return {
            "subject": subject,
            "outcome": outcome,
            "findings": findings,
            "links": links,
            "text": "\n".join(
                [subject, *about, "", *(f"- {each}" for each in findings), "", *map(": ".join, links.items())]
            ),
            "html": _html(subject, about, findings, links),
        }


def _decision_of(ti: Any, task_id: str) -> Mapping[str, Any]:
    """The decision that a task has pushed; empty where it has made none."""
    steps = ti.xcom_pull(task_ids=task_id, key="decisions")
    pushed = (
        ti.xcom_pull(task_ids=task_id, key="decision"),
        steps[-1] if isinstance(steps, Sequence) and steps and not isinstance(steps, str) else None,
        ti.xcom_pull(task_ids=task_id, key="return_value"),
    )
    return next(
        (each for each in pushed if isinstance(each, Mapping) and {"outcome", "findings"} <= each.keys()), {}
    )


def _html(subject: str, about: Sequence[str], findings: Sequence[str], links: Mapping[str, str]) -> str:
    found = "".join(f"<li>{escape(each)}</li>" for each in findings)
    shown = " · ".join(
        f'<a href="{escape(url)}">{escape(name)}</a>'
        if url.startswith(("http://", "https://"))
        else escape(url)
        for name, url in links.items()
    )
    lines = "<br>".join(escape(each) for each in about)
    return f"<h3>{escape(subject)}</h3><p>{lines}</p><ul>{found}</ul><p>{shown}</p>"


tell_decision = DecisionNotifier
