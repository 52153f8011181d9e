"""Who judges, and what it may cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from llmops_components.errors import SettingError, check_known
from llmops_components.evaluation.judge.agreement import Labels, is_number
from llmops_components.inference.pool import Limits, check_concurrency
from llmops_components.inference.service import EmbeddingService, Service

ResponseFormat = Literal["auto", "json_schema", "prompt"]
# What RAGAS asks an OpenAI model with.
DEFAULT_REQUEST: Mapping[str, Any] = {"temperature": 0.01, "top_p": 0.1, "max_tokens": 1024}
MAX_ASKS = 10


@dataclass(frozen=True)
class JudgeSettings:
    """A judge.

    Args:
        url: Base URL of an OpenAI API, which ends in ``/v1``, or address of a service that has it.
        model_name: Name of the model that judges.
        request: Further fields of each request. What is given counts in place of RAGAS's own: ``temperature`` 0.01, ``top_p``
            0.1, ``max_tokens`` 1024.
        response_format: How it is made to answer in JSON: by a ``json_schema``, by words in the ``prompt``, or by the first if the
            server takes it (``auto``).
        asks: How often it is asked for one verdict until its answer is what was asked for.
        embeddings: ``model_name``, and ``url`` where it is another one, of the endpoint that embeds texts for metrics which need
            that; left out, a local embedding model does.
        concurrency: Questions at a time.
        limits: Of :class:`~llmops_components.inference.pool.Limits`, by name.
        price: What a million tokens cost, by ``input`` and ``output``, in a currency of yours.
        max_tokens_total: Most tokens, read and written. At the end of them rows are unscored.
        max_cost: Most that it may cost, by ``price``.
        labels: By metric where people's labels are, see :class:`~llmops_components.evaluation.judge.agreement.Labels`.

    Raises:
        SettingError: One of them cannot be meant.
    """

    url: str
    model_name: str
    request: Mapping[str, Any] = field(default_factory=lambda: dict(DEFAULT_REQUEST))
    response_format: ResponseFormat = "auto"
    asks: int = 3
    embeddings: Mapping[str, str] | None = None
    concurrency: int = 16
    limits: Mapping[str, Any] = field(default_factory=dict)
    price: Mapping[str, float] | None = None
    max_tokens_total: int | None = None
    max_cost: float | None = None
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.request, Mapping):
            raise SettingError(
                f"judge: request is {self.request!r:.100}. Give an object with further fields of each question."
            )
        _ = self.service, self.embedder, self.checked_limits, self.human_labels
        if taken := sorted({"response_format", "messages"}.intersection(self.request)):
            raise SettingError(
                f"judge: request has {taken[0]!r}, which is set for each question. Leave it out."
            )
        check_known([self.response_format], get_args(ResponseFormat), "judge: response_format")
        check_concurrency(self.concurrency)
        _check_number("asks", self.asks, whole=True)
        if self.asks > MAX_ASKS:
            raise SettingError(f"judge: asks is {self.asks}. Give a whole number from 1 to {MAX_ASKS}.")
        _check_number("max_tokens_total", self.max_tokens_total, whole=True)
        _check_number("max_cost", self.max_cost)
        self._check_price()

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> JudgeSettings:
        """A judge by name of its settings.

        Args:
            given: The settings.
        """
        if not isinstance(given, Mapping):
            raise SettingError(f"judge is {given!r:.100}. Give an object with url and model_name.")
        known = {name: value for name, value in given.items() if value is not None}
        check_known(known, [each.name for each in fields(cls)], "judge")
        if lacking := [name for name in ("url", "model_name") if name not in known]:
            raise SettingError(
                f"judge has no {' and no '.join(lacking)}. Give the address and the model that judges."
            )
        return cls(**known)

    @property
    def service(self) -> Service:
        """Whom to ask for verdicts."""
        return Service(self.url, self.model_name, "openai_chat", dict(self.request))

    @property
    def embedder(self) -> EmbeddingService | None:
        """Whom to ask for embeddings."""
        if self.embeddings is None:
            return None
        if not isinstance(self.embeddings, Mapping):
            raise SettingError(
                f"judge: embeddings is {self.embeddings!r:.100}. Give an object with model_name."
            )
        check_known(self.embeddings, ("url", "model_name"), "judge: embeddings")
        return EmbeddingService(self.embeddings.get("url") or self.url, self.embeddings.get("model_name", ""))

    @property
    def checked_limits(self) -> Limits:
        """How long and how often it is asked."""
        return Limits.of(self.limits)

    @property
    def human_labels(self) -> dict[str, Labels]:
        """Where people's labels are, by metric."""
        if not isinstance(self.labels, Mapping):
            raise SettingError(f"judge: labels is {self.labels!r:.100}. Give an object by metric.")
        return {metric: Labels.of(metric, given) for metric, given in self.labels.items()}

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """What tokens cost; None where no price is known.

        Args:
            prompt_tokens: Tokens read.
            completion_tokens: Tokens written.
        """
        if self.price is None:
            return None
        return (prompt_tokens * self.price["input"] + completion_tokens * self.price["output"]) / 1e6

    def record(self) -> dict[str, Any]:
        """What of it a result tells."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in told.items()}

    def _check_price(self) -> None:
        if self.price is None:
            if self.max_cost is not None:
                raise SettingError(
                    "judge: max_cost is given and no price, so that no cost is known. Give price, for example {'input': 0.15, "
                    "'output': 0.6} for a million tokens."
                )
            return
        good = isinstance(self.price, Mapping) and set(self.price) == {"input", "output"}
        if not good or not all(is_number(each) and each >= 0 for each in self.price.values()):
            raise SettingError(
                f"judge: price is {self.price!r:.100}. Give what a million tokens cost as {{'input': 0.15, 'output': 0.6}}."
            )


def _check_number(name: str, value: Any, *, whole: bool = False) -> None:
    if value is None:
        return
    if not is_number(value) or value <= 0 or (whole and not isinstance(value, int)):
        raise SettingError(
            f"judge: {name} is {value!r:.60}. Give a {'whole ' if whole else ''}number above 0."
        )
