"""Sphinx's settings for the documentation site; dev/docs puts this beside the pages."""

project = "airflow-provider-llmops"
copyright = "the authors of airflow-provider-llmops"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinxcontrib.mermaid"]
root_doc = "index"
source_suffix = {".md": "markdown"}

myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
myst_enable_extensions = ["colon_fence"]
# A table's cell may begin with code, and a page may begin with a second-level heading of another page's part.
suppress_warnings = ["myst.header"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = project
html_show_sourcelink = False
html_show_sphinx = False
