"""Keep secrets out of everything that is written or said: messages, logs, results, tracking, model cards.

The one place for it in this plane; the provider has the same (``airflow_provider_llmops/redaction/``), and a test
compares them file by file. What is shown instead is ``***``.

Standard library only, since everything imports it.
"""

from llmops_components.redaction.errors import hide_in
from llmops_components.redaction.records import flat, without_paths
from llmops_components.redaction.signs import HIDDEN, is_secret_name
from llmops_components.redaction.text import Redactor, redact
from llmops_components.redaction.values import redacted

__all__ = ["HIDDEN", "Redactor", "flat", "hide_in", "is_secret_name", "redact", "redacted", "without_paths"]
