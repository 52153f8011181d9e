"""Which earlier run would have the same result: a digest of everything that decides it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from airflow_provider_llmops.exceptions import ConfigurationError, shown_value

if TYPE_CHECKING:
    from airflow_provider_llmops.backends.pipelines.base import PipelineBackend
    from airflow_provider_llmops.specs.pipeline import BoundPipeline

Reuse = Literal["never", "identical", "backfill"]


def check_reuse(reuse: object) -> None:
    """Refuse what is none of :data:`Reuse`.

    :param reuse: when the result of an earlier run is taken
    :raises ConfigurationError: it is none
    """
    if reuse not in get_args(Reuse):
        raise ConfigurationError(
            f"reuse must be one of {', '.join(get_args(Reuse))}, got {shown_value(reuse)}."
        )


def fingerprint_of(
    reuse: Reuse,
    backend: PipelineBackend,
    pipeline: BoundPipeline,
    version: Mapping[str, str] | None,
    logger: Any,
) -> str:
    """Short digest of everything that decides a run's result; empty if it cannot be told, or nobody asks.

    :param reuse: when the result of an earlier run is taken
    :param backend: where it would run
    :param pipeline: what would run
    :param version: ids of a version on the server that is run instead of the specification
    :param logger: of the task
    """
    if reuse == "never":
        return ""
    parameters = dict(pipeline.parameters)
    for name in pipeline.artifact_parameters:
        digest = backend.input_digest(parameters[name])
        if digest is None:
            logger.info("Whether %s has changed cannot be told, so no run is reused", parameters[name])
            return ""
        parameters[name] = digest
    text = json.dumps([pipeline.spec, pipeline.platform, parameters, version], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
