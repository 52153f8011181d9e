"""How a TrainJob has ended: what it brings, or the error that says why it brings nothing."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from airflow_provider_llmops.backends.kubernetes.messages import sentence
from airflow_provider_llmops.backends.trainjobs.api import TrainJobs
from airflow_provider_llmops.backends.trainjobs.job import TrainJob, why_failed
from airflow_provider_llmops.backends.trainjobs.request import REQUEST_VARIABLE, models_of
from airflow_provider_llmops.exceptions import (
    InvalidInputError,
    LLMOpsError,
    ResultError,
    RunCanceledError,
    RunFailedError,
)
from airflow_provider_llmops.xcom import MAX_XCOM_BYTES


def explain(backend: TrainJobs, job: TrainJob, logger: Any) -> tuple[str | None, str | None]:
    """Why a TrainJob has failed, if nobody has seen it while it did: final error, and any.

    :param backend: where it is
    :param job: the TrainJob
    :param logger: of the task
    """
    from airflow_provider_llmops.backends.trainjobs.watch import NO_POD_LEFT, TrainJobWatch

    watch = TrainJobWatch(backend, job.namespace, job.name, logger)
    with contextlib.suppress(LLMOpsError):  # that it has failed is known; why is not worth another error
        watch.look()
    if watch.trouble is None and not job.timed_out:
        logger.error("%s", NO_POD_LEFT)
    return watch.final_error, watch.trouble


def error_of(
    job: TrainJob | None, where: str, *, limits: str | None, final_error: str | None, trouble: str | None
) -> LLMOpsError:
    """Why a TrainJob brings no result.

    :param job: as it was seen last; ``None`` if it is gone
    :param where: which TrainJob
    :param limits: which limits it has had, if its time was up
    :param final_error: what the training itself said will happen again
    :param trouble: why it did not run or has failed, as far as it was seen
    """
    if limits is not None:
        if trouble:
            return RunFailedError(
                f"{sentence(trouble)} So the training was not done within {limits}, and was stopped. Put that right and retry; "
                "what it has saved it goes on from.",
                where,
            )
        return RunFailedError(
            f"The training took longer than {limits} and was stopped. A retry goes on from its checkpoints; raise that, or give "
            "it less to do.",
            where,
        )
    if job is None or job.state.is_canceled:
        return RunCanceledError(
            "The TrainJob was deleted by somebody else. Clear the task to train again; a retry goes on from its checkpoints.",
            where,
            trouble and f"Before that: {trouble}",
        )
    if final_error:
        return InvalidInputError(f"{sentence(final_error)} Correct the task's arguments or data.", where)
    return RunFailedError(f"{why_failed(job, trouble)} A retry goes on from its checkpoints.", where)


def result_of(job: TrainJob, output_path: str) -> dict[str, Any]:
    """Where the outputs of a complete TrainJob are, and its last metrics; at most as much as XCom takes.

    Read from the TrainJob: what was submitted, not what the task's templates and DAG have become since.

    :param job: the TrainJob
    :param output_path: where to look when it does not say
    """
    if REQUEST_VARIABLE not in job.environment:
        raise ResultError(
            f"The training is complete, but its TrainJob has no variable {REQUEST_VARIABLE} (any more), which says where its "
            "outputs are.",
            f"TrainJob: {job.namespace}/{job.name}",
            f"Look below: {output_path}",
        )
    request = json.loads(job.environment[REQUEST_VARIABLE])
    arguments = request["arguments"]
    metrics = dict(job.metrics)
    value = {
        "component": request["component"],
        "namespace": job.namespace,
        "name": job.name,
        "state": str(job.state),
        "artifacts": {name: arguments[name] for name in models_of(request["component"]) if name in arguments},
        "result": request["result"],
        "checkpoints": arguments["checkpoints"],
        "metrics": metrics,
    }
    while metrics and len(json.dumps(value)) > MAX_XCOM_BYTES:
        metrics.popitem()
    return value
