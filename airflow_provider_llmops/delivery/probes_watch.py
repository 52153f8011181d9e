"""Watch the comparison of a canary's answers, beside the canary itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_llmops.backends.pipelines.base import PipelineBackend
from airflow_provider_llmops.backends.pipelines.component import read_component_result
from airflow_provider_llmops.decision import Decision, Outcome
from airflow_provider_llmops.delivery.probes import COMPARISON, CanaryProbes, judge_answers
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    LLMOpsError,
    ResultError,
    shortened,
)
from airflow_provider_llmops.specs.pipeline import PipelineSpec

__all__ = ["ProbesWatch"]

MAX_REASON = 400


class ProbesWatch:
    """Looks at a comparison until it has ended, and decides then.

    :param backend: where it runs
    :param probe: ``{"run_id": str, "probes": dict}``, the comparison's run and the limits
    :param logger: of the task
    """

    def __init__(self, backend: PipelineBackend, probe: Mapping[str, Any], logger: Any) -> None:
        self._backend = backend
        self._run_id: str = probe["run_id"]
        self._probes = CanaryProbes.read(probe["probes"])
        self._log = logger
        self.is_over = False
        """Whether the comparison has ended, so that nothing more will be known."""
        self._decision = _undecided("The answers are being compared.")

    def look(self) -> Decision:
        """Look once: what is decided by now. What does not answer is asked again."""
        if not self.is_over:
            try:
                self._decision = self._judged()
            except ApiUnavailableError as error:
                self._decision = _undecided(f"The comparison of the answers cannot be read: {error}")
            except (ConfigurationError, ResultError) as error:
                self.is_over = True
                self._decision = _undecided(f"The comparison of the answers cannot be read: {error}")
            if self.is_over:
                self._log.info("Answers: %s: %s", self._decision.outcome, self._decision.findings[0])
        return self._decision

    @property
    def cannot_decide(self) -> bool:
        """Whether the comparison has ended, and leaves open how good the answers are."""
        return self.is_over and self._decision.outcome is Outcome.UNDECIDED

    def _judged(self) -> Decision:
        run = self._backend.get(self._run_id)
        if not run.state.is_terminal:
            return _undecided(f"The answers are being compared: the run is {run.state}.")
        if not run.state.is_successful:
            self.is_over = True
            return _undecided(f"The answers could not be compared: {run.reason}")
        result = read_component_result(self._backend, run.run_id, PipelineSpec.packaged(COMPARISON))
        self.is_over = True  # not before: a store that does not answer is asked again
        return judge_answers(self._probes, result)

    def cancel(self) -> None:
        """Stop a comparison that still runs: nobody waits for it any more."""
        if self.is_over:
            return
        try:
            self._backend.cancel(self._run_id)
        except LLMOpsError as error:  # it ends by itself when the canary is gone
            self._log.warning("The comparison of the answers was not cancelled: %s", error)


def _undecided(why: str) -> Decision:
    return Decision(Outcome.UNDECIDED, (shortened(why, MAX_REASON),))
