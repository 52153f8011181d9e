"""Why a run has failed on Kubeflow Pipelines, whose server does not say: from its steps' output, else from their pods."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from airflow_provider_llmops.backends.last_words import read_last_words
from airflow_provider_llmops.backends.pipelines.artifacts import ask
from airflow_provider_llmops.backends.pipelines.base import Run
from airflow_provider_llmops.backends.pipelines.kubeflow.logs import StepOutput, read_failed_outputs
from airflow_provider_llmops.backends.pipelines.kubeflow.places import StepPlaces
from airflow_provider_llmops.backends.pipelines.kubeflow.pods import PodFailure, RunPods
from airflow_provider_llmops.backends.pipelines.kubeflow.root import RootProblem, root_problem
from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.exceptions import LLMOpsError
from airflow_provider_llmops.states import StepState

log = logging.getLogger(__name__)

MAX_STEPS_READ = 5
_PODS_ADVICE = "Name a Kubernetes connection in 'kubernetes_conn_id', so that its pod can be looked at."


@dataclass(frozen=True)
class _Found:
    """What one step says.

    :param attempt: at which attempt, counted from 1; ``None`` if nothing says so
    :param address: where its output is
    :param is_guess: whether it printed no error, or another attempt or item did, so that something else may know better
    """

    step: str
    reason: str
    is_final: bool
    lines: tuple[str, ...]
    attempt: int | None = None
    address: str | None = None
    is_guess: bool = False


def explain_failure(
    run: Run,
    settings: KfpSettings,
    places: StepPlaces,
    *,
    since: datetime | None,
) -> Run:
    """The run with the reason of the first step that says it will fail again, or else of the first that says anything.

    :param run: a run that has failed
    :param settings: the connection's settings: how its artifact store and its pods are reached, if they are
    :param places: where its steps may have written
    :param since: when the run ended before it was made to go on, if it was: what was written until then is of no account
    """
    notes: list[str] = []
    outputs = _from_outputs(run, settings, places, since, notes)
    found = [each for each in outputs if not each.is_guess]
    if not found and settings.kubernetes_conn_id:
        found = _from_pods(run, settings, notes)
    found = found or outputs
    for note in notes:
        log.warning("%s", note)
    chosen = next((each for each in found if each.is_final), found[0] if found else None)
    if chosen is None:
        problem = root_problem(settings, places.root)
        has_pods = bool(settings.kubernetes_conn_id)
        return replace(run, error=run.error or _nothing_found(run, notes, has_pods, problem))
    steps = (chosen.step, *(step for step in run.failed_steps if step != chosen.step)) if chosen.step else ()
    attempts = dict(run.attempts)
    if chosen.attempt is not None and (chosen.attempt > 1 or chosen.step in attempts):
        attempts[chosen.step] = chosen.attempt
    return replace(
        run,
        error=chosen.reason,
        retryable=not chosen.is_final,
        failed_steps=steps or run.failed_steps,
        attempts=attempts,
        output=chosen.address,
        last_lines=chosen.lines,
    )


def _from_outputs(
    run: Run,
    settings: KfpSettings,
    places: StepPlaces,
    since: datetime | None,
    notes: list[str],
) -> list[_Found]:
    found = []
    read: set[str] = set()
    for step in run.failed_steps:
        task = step.rpartition("/")[2]
        if task in read or len(read) == MAX_STEPS_READ:
            continue
        read.add(task)
        succeeded = [
            name
            for name, state in run.tasks.items()
            if state == StepState.SUCCEEDED and name.rpartition("/")[2] == task
        ]
        look = partial(
            read_failed_outputs,
            places.of(task),
            settings.storage_conn_id,
            since=since,
            others_succeeded=len(succeeded),
        )
        try:
            outputs = ask(look, places.of(task)[0], settings.storage_conn_id)
        except LLMOpsError as error:  # it must not hide the failure that it would explain
            notes.append(str(error).partition("\n")[0])
            break
        if each := _found_in(step, outputs):
            # A later attempt left no output, or another step of the name may have left this one.
            is_earlier = each.attempt is not None and run.attempts.get(step, 1) > each.attempt
            found.append(replace(each, is_guess=each.is_guess or is_earlier or not outputs[0].is_sure))
    return found


def _found_in(step: str, outputs: Sequence[StepOutput]) -> _Found | None:
    """The first output that has an error, or else what the last line of the first may tell."""
    guess = None
    for output in outputs:
        words = read_last_words(output.text)
        if words.reason:
            lines = () if words.on_purpose else words.lines
            return _Found(step, words.reason, words.is_final, lines, output.attempt, output.address)
        if guess is None and words.last:
            said = f"It printed no error; it last said: {words.last}"
            guess = _Found(step, said, False, words.lines, output.attempt, output.address, is_guess=True)
    return guess


def _from_pods(run: Run, settings: KfpSettings, notes: list[str]) -> list[_Found]:
    try:
        failure: PodFailure | None = RunPods.of(settings).why_failed(run.run_id, run.failed_steps)
    except Exception as error:  # whatever it is: it must not hide the failure that it would explain
        kind = "" if isinstance(error, LLMOpsError) else f"{type(error).__name__}: "
        notes.append(f"The pods cannot be read: {kind}{error}")
        return []
    if failure is None:
        return []
    place = f"pod {failure.pod}" if failure.pod else None
    return [_Found(failure.step, failure.reason, failure.is_final, failure.lines, address=place)]


def _nothing_found(run: Run, notes: Sequence[str], has_pods: bool, root_problem: RootProblem | None) -> str:
    step = f"Step {run.failed_steps[0]!r}" if run.failed_steps else "The run"
    if root_problem:
        notes = [*notes, root_problem.message]
    elif not run.failed_steps and not has_pods:
        notes = [*notes, "Its page shows its steps."]
    elif not notes:
        notes = ["Its output is not in the artifact store, where Kubeflow Pipelines leaves it from 2.16 on."]
    if has_pods:
        notes = [*notes, *(() if any("pods" in note for note in notes) else ("No pod of it is left.",))]
    elif run.failed_steps:
        notes = [*notes, _PODS_ADVICE]
    return " ".join([f"{step} failed, and nothing says why.", *notes])
