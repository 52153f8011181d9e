"""The error of a task whose pipeline run has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.backends.pipelines.base import PipelineServer
from airflow_provider_llmops.exceptions import InvalidInputError, LLMOpsError, RunFailedError
from airflow_provider_llmops.redaction import hide_in

if TYPE_CHECKING:
    from airflow_provider_llmops.backends.pipelines.base import PipelineBackend, Run


def failure_of(backend: PipelineBackend, run: Run, logger: Any, what: str | None = None) -> LLMOpsError:
    """The error that says why a run has failed; a final one if the step said that it will fail again.

    The end of the step's output goes to the log.

    :param backend: where the run was
    :param run: the run
    :param logger: the task's
    :param what: what was run, if it is known by another name
    """
    try:
        if isinstance(backend, PipelineServer):
            run = backend.explain_failure(run)
    except LLMOpsError as error:
        logger.warning("Why the run failed cannot be asked: %s", error)
    except Exception as error:  # whatever it is: it must not hide the failure that it would explain
        hide_in(error)
        logger.warning("Why the run failed cannot be asked", exc_info=True)
    if run.last_lines:
        logger.error("Last lines of step %s:", run.failed_steps[0] if run.failed_steps else "")
        for line in run.last_lines:
            logger.error("  %s", line)
    kind = RunFailedError if run.retryable else InvalidInputError
    return kind(run.reason, *run.places(what))
