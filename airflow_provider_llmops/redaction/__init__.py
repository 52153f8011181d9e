"""Keep secrets out of everything that is written or said: messages, logs, XCom.

The one place for it in this plane; the data plane has the same (``llmops_components/redaction/``), and a test
compares them file by file. What is shown instead is ``***``.

Standard library only, since everything imports it.
"""

from airflow_provider_llmops.redaction.errors import hide_in
from airflow_provider_llmops.redaction.signs import HIDDEN, is_secret_name
from airflow_provider_llmops.redaction.text import Redactor, redact
from airflow_provider_llmops.redaction.values import redacted

__all__ = ["HIDDEN", "Redactor", "hide_in", "is_secret_name", "redact", "redacted"]
