"""TrainJobs, as a task deals with one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.backends.trainjobs.ending import error_of, explain
from airflow_provider_llmops.backends.trainjobs.job import TrainJob
from airflow_provider_llmops.backends.trainjobs.training import Training
from airflow_provider_llmops.exceptions import RunFailedError
from airflow_provider_llmops.hooks.trainer import KubeflowTrainerHook
from airflow_provider_llmops.remote.intent import Intent, while_it_goes_on
from airflow_provider_llmops.remote.kind import RemoteKind
from airflow_provider_llmops.states import RunState

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.backends.trainjobs.api import TrainJobs
    from airflow_provider_llmops.triggers.train_job import TrainJobTrigger

__all__ = ["Trainings"]

GONE_SECONDS = 180.0  # the pods' grace and a little


class Trainings(RemoteKind[TrainJob]):
    """TrainJobs of one task: each one's name holds a token, and all of them write below one path.

    :param hook: of the connection
    :param logger: of the task
    :param training: what they carry out
    :param namespace: Kubernetes namespace; that of the connection when ``None``
    :param name_of: the TrainJob's name for a token
    :param cancel_on_kill: whether the triggerer deletes it when the waiting task is marked or cleared
    """

    noun = "TrainJob"

    def __init__(
        self,
        hook: KubeflowTrainerHook,
        logger: Any,
        training: Training,
        *,
        namespace: str | None,
        name_of: Callable[[str], str],
        cancel_on_kill: bool,
    ) -> None:
        super().__init__(logger)
        self.hook = hook
        self._namespace = namespace
        self.name_of = name_of
        self.training = training
        self.cancel_on_kill = cancel_on_kill

    @property
    def backend(self) -> TrainJobs:
        """The TrainJobs of the cluster."""
        return self.hook.backend

    @property
    def namespace(self) -> str:
        """Where they are made."""
        return self._namespace or self.backend.namespace

    def new_name(self, context: Context) -> str:
        """The token in the TrainJob's name."""
        return uuid.uuid4().hex

    def key_of(self, seen: TrainJob) -> str:
        """Its namespace and name."""
        return f"{seen.namespace}/{seen.name}"

    def key_in(self, event: dict[str, Any]) -> str:
        """Namespace and name of the TrainJob that was waited for."""
        return f"{event['namespace']}/{event['name']}"

    def key_before(self, intent: Intent) -> str | None:
        """Namespace and name, which has the token."""
        return f"{self.namespace}/{self.name_of(intent.name)}"

    def create(self, manifest: Mapping[str, Any]) -> str:
        """Make a TrainJob; returns its key."""
        job = self.backend.create(manifest)
        nodes = manifest["spec"]["trainer"]["numNodes"]
        self.log.info("TrainJob %s/%s: %s node(s)", job.namespace, job.name, nodes)
        return self.key_of(job)

    def find(self, intent: Intent) -> TrainJob | None:
        """The TrainJob whose name has the token."""
        return self.backend.find(self.namespace, self.name_of(intent.name))

    def read(self, key: str, event: dict[str, Any]) -> TrainJob | None:
        """The TrainJob, if it is still there."""
        return self.backend.find(*_place(key))

    def cancel(self, key: str, *, patience: float | None = None) -> None:
        """Delete the TrainJob."""
        self.backend.delete(*_place(key), patience=patience)

    def trigger(self, key: str, *, poll_interval: float, deadline: float | None) -> TrainJobTrigger:
        """What waits for the TrainJob."""
        from airflow_provider_llmops.triggers.train_job import TrainJobTrigger

        namespace, name = _place(key)
        return TrainJobTrigger(
            kubernetes_conn_id=self.hook.kubernetes_conn_id,
            namespace=namespace,
            name=name,
            poll_interval=poll_interval,
            deadline=deadline,
            run_timeout=self.training.run_seconds,
            delete_on_kill=self.cancel_on_kill,
        )

    def may_be_on_its_way(self, *, is_retry: bool) -> bool:
        """Not on a retry: its request has the same name, and one of the two is refused."""
        return not is_retry

    def is_useless(self, intent: Intent, seen: TrainJob | None) -> bool:
        """Not one that has failed: it has checkpoints."""
        return seen.state.is_canceled if seen else intent.run_id is not None

    def go_on(self, intent: Intent, seen: TrainJob | None) -> str | None:
        """Clear away what an earlier attempt has made, so that a new one can go on from its checkpoints."""
        place = (self.namespace, self.name_of(intent.name))
        with while_it_goes_on(f"TrainJob {'/'.join(place)}"):
            if seen is None:
                self.log.info("TrainJob %s/%s of the previous attempt is gone, or was never made", *place)
            elif not seen.state.is_successful:
                # A failed one too: it may have pods that have not ended.
                what = "Deleting TrainJob %s/%s of the previous attempt: %s (%s)"
                self.log.info(what, *place, seen.state, seen.reason)
                self.backend.delete(*place)
            # Whoever deleted it, this task or somebody else: its pods go on for a while.
            if (seen is None and intent.run_id is not None) or (seen and not seen.state.is_successful):
                self._wait_until_gone(*place)
        return None

    def stop_former(self, intent: Intent, seen: TrainJob | None) -> None:
        """Delete it if it has not ended well: two trainings must not write to the same place."""
        self.go_on(intent, seen)

    def failure(self, key: str, job: TrainJob | None, event: dict[str, Any], *, limits: str) -> Exception:
        """What has become of a TrainJob that brings no result; it does not go on after that.

        :param key: its key
        :param job: as it is now, if it is still there
        :param event: of the trigger
        :param limits: the limits that it may have reached
        """
        final_error, trouble = event.get("final_error"), event.get("trouble")
        if job is not None and job.state is RunState.FAILED and trouble is None:
            final_error, trouble = explain(self.backend, job, self.log)
        is_late = event["timed_out"] or (job is not None and job.timed_out)
        # Its restarts would end alike.
        is_hopeless = job is not None and bool(final_error) and not job.state.is_terminal
        if is_late or is_hopeless:
            self.cancel(key)
        return error_of(
            job,
            f"TrainJob: {key} ({self.training.component})",
            limits=limits if is_late else None,
            final_error=final_error,
            trouble=trouble,
        )

    def _wait_until_gone(self, namespace: str, name: str) -> None:
        """Two trainings must not write to the same place."""
        if not self.backend.wait_until_gone(namespace, name, seconds=GONE_SECONDS):
            raise RunFailedError(
                f"Pods of a former TrainJob still write to the same place, and it was deleted more than {GONE_SECONDS:.0f} s "
                f"ago. See why they do not end (kubectl get pods -n {namespace} -l jobset.sigs.k8s.io/jobset-name={name}), then "
                "retry.",
                f"TrainJob: {namespace}/{name}",
                f"They write to: {self.training.output_path}",
            )


def _place(key: str) -> tuple[str, str]:
    namespace, _, name = key.partition("/")
    return namespace, name
