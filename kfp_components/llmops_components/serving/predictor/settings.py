"""How a request wants to be answered: the fields that protocols have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from llmops_components.serving.http.refusals import RequestError, bad_request
from llmops_components.serving.predictor.fields import refuse_unknown
from llmops_components.serving.predictor.sampling import Sampling

NAMES = r"^[a-zA-Z0-9_-]{1,64}$"  # OpenAI's
_MAX_STOPS = 4


def _stops(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    if stops is None:
        return []
    whole = isinstance(stops, list) and all(isinstance(stop, str) and stop for stop in stops)
    if not whole or len(stops) > _MAX_STOPS:
        raise ValueError(f"takes a string or up to {_MAX_STOPS} strings, none of them empty")
    return stops


def _biases(value: Any) -> Any:
    try:
        found = {int(token): float(bias) for token, bias in (value or {}).items()}
    except (AttributeError, TypeError, ValueError):
        raise ValueError('takes an object of token ids and numbers, like {"50256": -100}') from None
    if not all(-100 <= bias <= 100 for bias in found.values()):
        raise ValueError("takes numbers from -100 to 100")
    return found


class Settings(BaseModel, extra="allow", strict=True):
    """How to answer: the fields that every protocol has. Types are JSON's own: text that reads like a number is none."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[int, float], BeforeValidator(_biases)] = {}
    stop: Annotated[list[str], BeforeValidator(_stops)] = []
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    ignore_eos: bool | None = None
    add_special_tokens: bool | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None  # OpenAI's limit

    @property
    def wanted_logprobs(self) -> int | None:
        """Number of the most likely tokens to name with each token of the answer; None for no log probabilities."""
        return None

    def samplings(
        self, max_tokens: int, *, temperature: float, vocabulary: int, **more: Any
    ) -> list[Sampling]:
        """How to answer each of the ``n`` times.

        Args:
            max_tokens: Most tokens of the answer.
            temperature: Where the request has none.
            vocabulary: Number of the model's tokens.
            more: What stands instead of the request's own.
        """
        for name, tokens in (("logit_bias", self.logit_bias), ("stop_token_ids", self.stop_token_ids or [])):
            if wrong := [token for token in tokens if not 0 <= token < vocabulary]:
                raise RequestError(
                    400, f"{name} has {wrong[0]}; token ids are 0 to {vocabulary - 1}.", param=name
                )
        if (self.min_tokens or 0) > max_tokens:
            raise RequestError(
                400,
                f"min_tokens={self.min_tokens} is more than the {max_tokens} tokens that the answer may have.",
                param="min_tokens",
            )
        asked: dict[str, Any] = {
            "temperature": temperature,
            **{name: value for name in _PLAIN if (value := getattr(self, name)) is not None},
            "max_tokens": max_tokens,
            "logprobs": self.wanted_logprobs,
            "top_k": max(self.top_k or 0, 0),
            "logit_bias": tuple(self.logit_bias.items()),
            "stop": tuple(self.stop),
            "stop_token_ids": tuple(self.stop_token_ids or ()),
        } | more
        times = range(self.n or 1)
        if self.seed is None:
            return [Sampling(**asked) for _ in times]
        return [Sampling(**asked | {"seed": self.seed + time}) for time in times]


_PLAIN = (
    "min_tokens",
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "ignore_eos",
)


class StreamOptions(BaseModel, extra="allow", strict=True):
    include_usage: bool | None = None


class JsonSchema(BaseModel, extra="allow", strict=True):
    name: Annotated[str, Field(pattern=NAMES)]
    description: str | None = None
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None  # it is in any case


class ResponseFormat(BaseModel, extra="allow", strict=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def schema_of_answer(self) -> dict[str, Any] | None:
        """What the answer must be; None for text of any kind."""
        if self.type == "text":
            return None
        return {"type": "object"} if self.json_schema is None else self.json_schema.json_schema


class CompletionSettings(Settings):
    """What chat completions and plain completions have in common."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None

    def schema_of_answer(self) -> dict[str, Any] | None:
        """What the answer must be; None for text of any kind."""
        return None if self.response_format is None else self.response_format.schema_of_answer()

    def check(self) -> None:
        """What only several fields together show."""
        form = self.response_format
        if form is None:
            return
        refuse_unknown(form, {}, "response_format")
        if form.json_schema is not None:
            refuse_unknown(form.json_schema, {}, "response_format.json_schema")
        if (form.type == "json_schema") != (form.json_schema is not None):
            raise bad_request(
                f"response_format.json_schema goes with the type 'json_schema' alone, not {form.type!r}."
                if form.json_schema is not None
                else "response_format.json_schema is missing.",
                "response_format.json_schema",
            )
        if self.schema_of_answer() is not None:
            self.check_can_end("response_format")

    def check_can_end(self, why: str) -> None:
        """Raise :class:`RequestError` where settings keep an answer of a required form from ending where it must.

        Args:
            why: The field that requires it.
        """
        for name in ("ignore_eos", "min_tokens"):
            if getattr(self, name):
                raise bad_request(
                    f"{name} and {why} exclude each other: the form says where the answer ends.", name
                )
