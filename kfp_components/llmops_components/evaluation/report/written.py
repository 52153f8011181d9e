"""Write a report: the page, and where somebody wants it the same as JSON and as Markdown."""

from __future__ import annotations

import os

from llmops_components.data.files import write_output
from llmops_components.evaluation.report.content import Content
from llmops_components.evaluation.report.page import render_page
from llmops_components.evaluation.report.text import render_json, render_markdown


def write_report(
    content: Content,
    page: str | os.PathLike[str],
    report_json: str | os.PathLike[str] | None = None,
    report_markdown: str | os.PathLike[str] | None = None,
) -> None:
    """Write a report.

    Args:
        content: What it says.
        page: Output file, HTML.
        report_json: Output file, the same as JSON; None for none.
        report_markdown: Output file, the same as Markdown; None for none.
    """
    for path, render in ((page, render_page), (report_json, render_json), (report_markdown, render_markdown)):
        if path is not None:
            write_output(path, render(content))
