"""The page as HTML. Whatever MLflow or a service has said is escaped, and leads nowhere but to http, https or Airflow itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from html import escape
from urllib.parse import quote, urlencode

from airflow_provider_llmops.backends.serving.base import Service
from airflow_provider_llmops.exceptions import shortened
from airflow_provider_llmops.lineage.made_by import PARENT
from airflow_provider_llmops.pages.overview.registry import Model, Registry, Version
from airflow_provider_llmops.pages.overview.services import Services, canary_of
from airflow_provider_llmops.pages.overview.style import SCRIPT, STYLE
from airflow_provider_llmops.uris import split_address

NOTHING = "—"
SHOWN_METRICS = 3
MAX_METRICS = 50
MAX_CHARACTERS = 200
MAX_NOTE_CHARACTERS = 1000
_COST = re.compile(r"(?:.*[._/-])?(?:cost|device_hours|gpu_hours|energy_kwh)")
_COUNT = re.compile(r"(?:.*[._/-])?(?:rows|tokens|seconds|bytes|questions|samples|count)(?:[._/-].*)?")
_OUTCOMES = ("pass", "fail", "undecided")


@dataclass(frozen=True)
class Settings:
    """What the page is of.

    :param mlflow_conn_id: connection of type ``mlflow``
    :param kserve_conn_id: connection of type ``kserve``
    :param namespace: of the services
    :param champion: alias of the champion
    :param candidate: alias of the candidate
    :param name: a part of the names
    :param page: what the link to the next page carries
    """

    mlflow_conn_id: str = "mlflow_default"
    kserve_conn_id: str = "kserve_default"
    namespace: str = "default"
    champion: str = "production"
    candidate: str = "candidate"
    name: str = ""
    page: str = ""

    def address(self, **change: str) -> str:
        """Address of the page with other settings, relative to itself.

        :param change: the other ones
        """
        usual = Settings()
        asked = {
            name: value for name, value in {**vars(self), **change}.items() if value != getattr(usual, name)
        }
        return f"?{urlencode(asked)}" if asked else "?"


def message_page(title: str, *sentences: str) -> str:
    """A page that says why there is nothing to show.

    :param title: its heading
    :param sentences: the reasons
    """
    return _whole("".join([f"<h1>{escape(title)}</h1>", *(_note(each) for each in sentences)]))


def overview_page(settings: Settings, registry: Registry, services: Services, mlflow: str) -> str:
    """The page of some models.

    :param settings: what it is of
    :param registry: the models
    :param services: their services
    :param mlflow: address of MLflow
    """
    count = len(registry.models)
    more = (
        f' · <a href="{escape(settings.address(page=registry.next_page))}">Next page</a>'
        if registry.next_page
        else ""
    )
    first = f' · <a href="{escape(settings.address(page=""))}">First page</a>' if settings.page else ""
    which = f" with “{escape(settings.name)}” in their names" if settings.name else ""
    said = (
        f"<p>{count} model{'s' * (count != 1)}{which}, those changed last first{first}{more}</p>"
        if count
        else f"<p>There are no registered models{which} here{first}.</p>"
    )
    rows = "".join(_row(model, settings, services, mlflow) for model in registry.models)
    heads = ("Model", f"Champion ({settings.champion})", f"Candidate ({settings.candidate})", "Service")
    shown_heads = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    table = f"<table><thead><tr>{shown_heads}</tr></thead><tbody>{rows}</tbody></table>"
    notes = [*registry.notes, *([f"Services are not shown: {services.reason}"] if services.reason else [])]
    return _whole(
        f"<h1>LLMOps</h1>{_form(settings)}{said}{''.join(_note(each) for each in notes)}{table if rows else ''}"
        f'<p class="quiet">Models of connection {escape(settings.mlflow_conn_id)}, services of {escape(settings.kserve_conn_id)} in '
        f"namespace {escape(settings.namespace)}. Times are in UTC.</p>"
    )


def _whole(body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>LLMOps</title><style>{STYLE}</style></head><body>{body}<script>{SCRIPT}</script></body></html>"
    )


def _note(sentence: str) -> str:
    return f'<p class="note">{escape(shortened(sentence, MAX_NOTE_CHARACTERS))}</p>'


def _form(settings: Settings) -> str:
    usual = Settings()
    kept = "".join(
        f'<input type="hidden" name="{name}" value="{escape(value)}">'
        for name, value in vars(settings).items()
        if name not in ("name", "page") and value != getattr(usual, name)
    )
    return (
        f'<form method="get">{kept}<label for="name">Name contains</label> <input id="name" name="name" type="search" '
        f'value="{escape(settings.name)}" maxlength="128"> <button>Filter</button></form>'
    )


def _row(model: Model, settings: Settings, services: Services, mlflow: str) -> str:
    link = _link(f"{mlflow}/#/models/{quote(model.name, safe='')}", model.name)
    newest = f'<div class="quiet">newest version: {escape(model.newest)}</div>' if model.newest else ""
    cells = (
        ("Champion", _version(model, model.champion, mlflow)),
        ("Candidate", _version(model, model.candidate, mlflow)),
        ("Service", _service(services, model.name)),
    )
    told = "".join(f'<td data-label="{label}">{cell}</td>' for label, cell in cells)
    return f'<tr><th scope="row">{link}{newest}</th>{told}</tr>'


def _version(model: Model, version: Version | None, mlflow: str) -> str:
    if version is None:
        return NOTHING
    page = f"{mlflow}/#/models/{quote(model.name, safe='')}/versions/{quote(version.number, safe='')}"
    lines = [f"<strong>{_link(page, f'Version {version.number}')}</strong>{_when(version.made_at)}"]
    if version.tags is not None:
        lines += _told(version.tags)
        lines += _measured(version)
        lines.append(_links(version, mlflow))
    return f"<ul>{''.join(f'<li>{line}</li>' for line in lines if line)}</ul>"


def _told(tags: Mapping[str, str]) -> list[str]:
    """What the gate has decided, and what the version was made from."""
    outcome = tags.get("llmops.decision")
    if outcome:
        kind = outcome if outcome in _OUTCOMES else "quiet"
        decision = f'Decision: <span class="{kind}">{escape(_short(outcome))}</span>'
        for name, words in (("baseline", "compared with"), ("approved_by", "approved by")):
            if told := tags.get(f"llmops.decision.{name}"):
                decision += f", {words} {escape(_short(told))}"
    else:
        decision = f"Decision: {NOTHING}"
    parent = tags.get(PARENT)
    return [decision, f"Made from {escape(_short(parent))}" if parent else ""]


def _measured(version: Version) -> list[str]:
    cost = {name: value for name, value in version.metrics.items() if _COST.fullmatch(name)}
    others = sorted(
        version.metrics.keys() - cost.keys(), key=lambda name: (bool(_COUNT.fullmatch(name)), name)
    )
    first, rest = others[:SHOWN_METRICS], others[SHOWN_METRICS:MAX_METRICS]
    shown = _numbers((name, version.metrics[name]) for name in first)
    if rest:
        left = f", {len(others) - MAX_METRICS} more in MLflow" if len(others) > MAX_METRICS else ""
        all_others = _numbers((name, version.metrics[name]) for name in rest)
        shown += f"<details><summary>{len(rest)} more</summary>{all_others}{left}</details>"
    return [shown, f"Cost: {_numbers(sorted(cost.items())) or NOTHING}"]


def _numbers(pairs: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{escape(_short(name))} {value:.4g}" for name, value in pairs)


def _links(version: Version, mlflow: str) -> str:
    """The run with metrics and files, the report among them, and the DAG's run."""
    tags, found = version.tags or {}, []
    if version.run_id and version.experiment_id:
        run = f"{mlflow}/#/experiments/{quote(version.experiment_id, safe='')}/runs/{quote(version.run_id, safe='')}"
        found.append(_link(run, "MLflow run"))
        found.append(_link(f"{run}/artifacts", "Report and files"))
    dag_id, run_id = tags.get("airflow.dag_id"), tags.get("airflow.run_id")
    if dag_id and run_id:
        # Relative to this page, below whatever path Airflow is.
        address = f"../../dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"
        found.append(f'<a target="_top" href="{escape(address)}">DAG run of {escape(_short(dag_id))}</a>')
    return f'<span class="links">{"".join(found)}</span>' if found else ""


def _service(services: Services, name: str) -> str:
    found = services.found.get(name)
    if found is None:
        return NOTHING if services.reason else '<span class="quiet">not served</span>'
    if isinstance(found, str):
        return f'<span class="quiet">{escape(_short(found))}</span>'
    return _revisions(found)


def _revisions(service: Service) -> str:
    canary = canary_of(service)
    lines = []
    if not service.is_serving:
        lines.append('<span class="fail">does not answer</span>')
    for each in sorted(service.revisions.values(), key=lambda each: (-each.traffic, each.revision)):
        is_canary = canary is not None and each.revision == canary.revision
        if not each.traffic and not is_canary:
            continue
        what = "Canary" if is_canary else "Revision"
        state = "" if each.state.is_ready else f", {escape(each.state.value.lower())}"
        lines.append(f"{what} {escape(each.revision)}: {each.traffic}&nbsp;% of requests{state}")
        if each.error:
            lines.append(f'<span class="fail">{escape(_short(each.error))}</span>')
    if canary is None and service.is_serving:
        lines.append('<span class="quiet">no canary</span>')
    return f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"


def _link(address: str, text: str) -> str:
    shown = escape(_short(text))
    if split_address(address).scheme not in ("http", "https"):
        return shown
    return f'<a target="_top" rel="noopener" href="{escape(address)}">{shown}</a>'


def _when(moment: datetime | None) -> str:
    return f' <span class="quiet">{moment:%Y-%m-%d %H:%M}</span>' if moment else ""


def _short(text: str) -> str:
    return shortened(text, MAX_CHARACTERS)
