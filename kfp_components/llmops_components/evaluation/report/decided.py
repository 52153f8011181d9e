"""The place at the top of the page where the decision of a gate stands, which is made after the page."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops_components.redaction import redacted

TITLES = {
    "pass": "Passed",
    "fail": "Failed",
    "undecided": "Undecided: there is not enough evidence",
}
# Content of the page is escaped, so that it has no such sign.
_BEGIN, _END = "<!--decision-->", "<!--/decision-->"
_PLACE = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
_BLOCK = """\
<section class="decision {{ outcome }}" id="decision">
<h2>{{ title }}</h2>
{% if verdict %}<p>{{ verdict }}</p>{% endif %}
{% if told %}<p class="soft">{{ told }}</p>{% endif %}
{% if findings %}<ul>
{% for finding in findings %}<li>{{ finding }}</li>
{% endfor %}</ul>{% endif %}
</section>"""


def undecided_yet(verdict: str) -> str:
    """The place while no gate has decided.

    Args:
        verdict: What the intervals say; empty without a baseline.
    """
    return _block(outcome="", title="No gate has decided yet", verdict=verdict)


def with_decision(page: str, decision: Mapping[str, Any]) -> str:
    """A page with what a gate has decided in its place; one without such a place, of an earlier release, as it is.

    Args:
        page: The page.
        decision: What ``QualityGateOperator`` returns.
    """
    found = redacted(dict(decision))
    rules = found.get("rules")
    confidence = rules.get("confidence") if isinstance(rules, Mapping) else None
    block = _block(
        outcome=str(found.get("outcome")),
        title=TITLES.get(str(found.get("outcome")), "Unknown outcome"),
        told=""
        if confidence is None
        else f"Decided by the rules of the gate, each with confidence {confidence:g}.",
        findings=[str(each) for each in found.get("findings") or ()],
    )
    return _PLACE.sub(lambda _: block, page, count=1)


def write_with_decision(
    page: str | os.PathLike[str], decided: str | os.PathLike[str], decision: Mapping[str, Any]
) -> None:
    """Write a page with what a gate has decided.

    Args:
        page: The page.
        decided: Output file.
        decision: What ``QualityGateOperator`` returns.
    """
    text = Path(page).read_text(encoding="utf-8", errors="surrogateescape")
    Path(decided).write_text(with_decision(text, decision), encoding="utf-8", errors="surrogateescape")


def _block(**values: Any) -> str:
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return f"{_BEGIN}{environment.from_string(_BLOCK).render(values)}{_END}"
