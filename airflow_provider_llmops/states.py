"""States of pipeline runs and services, as values that answer questions."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["RunState", "ServiceState", "StepState"]


class RunState(StrEnum):
    """State of a pipeline run, as ``v2beta1RuntimeState`` of the Kubeflow Pipelines API names it."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    CANCELING = "CANCELING"
    SUCCEEDED = "SUCCEEDED"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def is_terminal(self) -> bool:
        """Whether the state can no longer change."""
        return self in (RunState.SUCCEEDED, RunState.SKIPPED, RunState.FAILED, RunState.CANCELED)

    @property
    def is_successful(self) -> bool:
        """Whether the run's result can be used."""
        return self in (RunState.SUCCEEDED, RunState.SKIPPED)

    @property
    def is_canceled(self) -> bool:
        """Whether the run was cancelled, or is about to be."""
        return self in (RunState.CANCELED, RunState.CANCELING)

    @property
    def is_lost(self) -> bool:
        """Whether there is no result to wait for."""
        return self.is_canceled or self is RunState.FAILED


class StepState(StrEnum):
    """State of a step of a pipeline run."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    CACHED = "CACHED"
    """Its outputs were taken from the backend's cache."""
    SKIPPED = "SKIPPED"
    """Its condition did not hold."""
    OMITTED = "OMITTED"
    """It never began, because a step before it failed or the run was ended."""
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def is_terminal(self) -> bool:
        """Whether the state can no longer change."""
        return self not in (StepState.PENDING, StepState.RUNNING)


class ServiceState(StrEnum):
    """State of one revision of a service."""

    STARTING = "STARTING"
    READY = "READY"
    FAILED = "FAILED"
    STOPPED = "STOPPED"

    @property
    def is_ready(self) -> bool:
        """Whether the revision answers requests."""
        return self is ServiceState.READY

    @property
    def is_successful(self) -> bool:
        """Whether there is nothing more to wait for, and it is as it was wanted."""
        return self.is_ready

    @property
    def is_lost(self) -> bool:
        """Whether the revision will never become ready."""
        return self in (ServiceState.FAILED, ServiceState.STOPPED)

    @property
    def is_terminal(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.is_ready or self.is_lost
