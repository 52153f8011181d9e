"""What operators have in common whose answers a judge may score."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow_provider_llmops.backends.serving.access import JUDGE_PREFIX
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.hooks.openai_endpoint import OpenAIEndpointHook
from airflow_provider_llmops.operators.component import ComponentOperator

__all__ = ["JudgedOperator"]


class JudgedOperator(ComponentOperator):
    """A component whose metrics may be scored by a judge.

    :param metric_args: arguments of metrics, by name; one with a ``prompt`` is a metric of yours, for example
        ``{"polite": {"prompt": "Is this polite? {response}", "values": {"yes": 1, "no": 0}}}``
    :param judge: who judges: ``model_name``, ``url`` unless the connection has it, and ``request``, ``response_format``, ``asks``,
        ``embeddings``, ``concurrency``, ``limits``, ``price``, ``max_tokens_total``, ``max_cost``, ``labels``
    :param judge_conn_id: connection of type ``openai_endpoint`` whose host is the judge's address; its API key reaches the step through
        the environment only
    :param checkpoints: directory that outlives the run, where answers are kept; a run that was killed asks nothing twice. On this
        machine the attempts of a task share one by themselves
    """

    own_arguments: ClassVar[tuple[str, ...]] = ("judge_conn_id",)

    def __init__(
        self,
        *,
        metric_args: dict[str, Any] | None = None,
        judge: dict[str, Any] | None = None,
        judge_conn_id: str | None = None,
        checkpoints: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.metric_args = metric_args
        self.judge = judge
        self.judge_conn_id = judge_conn_id
        self.checkpoints = checkpoints

    def arguments(self) -> dict[str, Any]:
        """Value of each input of the component; the judge's address is that of its connection."""
        found = super().arguments()
        if self.judge_conn_id:
            if not isinstance(found["judge"], dict):
                raise ConfigurationError(
                    "judge_conn_id is given and no judge. Give judge an object with the model_name of who judges, or leave both out."
                )
            found["judge"] = OpenAIEndpointHook(self.judge_conn_id).with_url(found["judge"])
        return found

    def environment(self) -> dict[str, str]:
        """The judge's API key, and the authorities that its certificate is verified with."""
        found = super().environment()
        if self.judge_conn_id:
            found = {**found, **OpenAIEndpointHook(self.judge_conn_id).environment(JUDGE_PREFIX)}
        return found
