"""Great Expectations' data docs page as one HTML file that needs no network.

GX's own page loads Bootstrap, jQuery and icons from seven CDNs and links to pages of a site that a lone file does not
have. This one keeps GX's renderer and section templates and brings the few styles that they use.
"""

from __future__ import annotations

import copy
import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ heading }}</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70rem; margin: 2rem auto; padding: 0 1.5rem; }
  h1 { font-size: 1.5rem; } h5 { font-size: 1.1rem; margin: 0; } h6, .h6 { font-size: 1rem; margin: .6rem 0 .2rem; }
  .h6 { font-weight: 600; }
  .alert { background: #f1f3f5; border-radius: 6px; padding: .6rem 1rem; margin: 1.5rem 0 .5rem; }
  table { border-collapse: collapse; } th, td { padding: .35rem .8rem; text-align: left; vertical-align: top; }
  th { border-bottom: 2px solid #ccc; } td { border-bottom: 1px solid #e5e5e5; }
  .badge { background: #e3e8ee; border-radius: 4px; padding: .05rem .4rem; font-size: .9em; }
  .text-danger { color: #b3261e; } .text-success { color: #1b7f3b; } .text-warning { color: #9a6700; }
  i.fas { font-style: normal; font-weight: bold; }
  .fa-times::before { content: "\\2717"; } .fa-check-circle::before { content: "\\2713"; }
  .fa-exclamation-triangle::before { content: "\\26A0"; }
  a[href^=".."] { color: inherit; text-decoration: none; pointer-events: none; }
  a[data-toggle="collapse"] { display: none; }
  .table-responsive, .show-scrollbars { overflow-x: auto; }
</style>
</head>
<body>
<h1>{{ heading }}</h1>
{% if notes %}<ul>{% for note in notes %}<li>{{ note | e }}</li>{% endfor %}</ul>{% endif %}
<p>Of lines and rows it shows what is wrong with them, of columns the values that are not as expected.</p>
{% for section in sections %}
  {% set section_loop = loop -%}
  {% include 'section.j2' %}
{% endfor %}
</body>
</html>
"""


def render_data_docs(result: ExpectationSuiteValidationResult, heading: str, notes: list[str]) -> str:
    """Render a validation result as GX's data docs do, as one self-contained page.

    Args:
        result: What GX found.
        heading: Title of the page.
        notes: Sentences under the title.

    Returns:
        HTML.
    """
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView
    from jinja2 import ChoiceLoader, DictLoader

    shown = copy.deepcopy(result)
    for each in shown.results:
        for entry in each.result.get("partial_unexpected_counts", ()):
            entry["value"] = html.escape(
                str(entry["value"])
            )  # the one thing of the data that GX shows unescaped
    view = DefaultJinjaPageView()
    view.env.loader = ChoiceLoader([DictLoader({"page.j2": _PAGE}), view.env.loader])
    return view.render(
        ValidationResultsPageRenderer(run_info_at_end=True).render(shown), heading=heading, notes=notes
    )
