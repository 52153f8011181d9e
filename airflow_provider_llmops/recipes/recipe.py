"""What a recipe says of one product: base model, data, method, evaluation, gate and serving.

Each setting is a parameter of the DAG that the recipe becomes, and names it (``param``): its limits are those of the form of
`post_training`, which a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

__all__ = ["Recipe", "faults_between", "json_schema", "settings_of"]

SCHEMA_URI = "https://json-schema.org/draft/2020-12/schema"
_ADDRESS = Annotated[str, StringConstraints(pattern="^(/|[a-z][a-z0-9]*://).")]
_NAME = Annotated[str, StringConstraints(pattern="^[a-z]([-a-z0-9]{0,46}[a-z0-9])?$")]
_ALIAS = Annotated[
    # MLflow keeps latest and v1 for itself.
    str, StringConstraints(pattern="^[A-Za-z0-9_-]{1,255}$")
]
_Steps = Annotated[int, Field(ge=1, le=100000)]
_Rate = Annotated[float, Field(gt=0, le=1)]
_Percent = Annotated[int, Field(ge=1, le=99)]


def _setting(default: Any, param: str, title: str, description: str, **limits: Any) -> Any:
    """A field that is a parameter of the DAG."""
    return Field(default, title=title, description=description, json_schema_extra={"param": param}, **limits)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BaseModelPart(_Part):
    """The model that is trained."""

    source: str = _setting(
        ..., "base_model", "Base model",
        "hf://org/name of the Hugging Face hub, an absolute directory, or package://name for a GGUF file in a Python package.",
        min_length=1,
    )  # fmt: skip
    revision: str | None = _setting(
        None, "revision", "Revision", "Branch, tag or commit of a base model from the hub."
    )


class SamplePart(_Part):
    """How much sample data stands in for data that are not given."""

    train_rows: int = _setting(
        320, "train_rows", "Training rows", "Rows with prompt and completion.", ge=16, le=20000
    )
    preference_rows: int = _setting(
        160, "preference_rows", "Preference rows", "Prompts with a better and a worse answer.", ge=8, le=20000
    )
    evaluation_rows: int = _setting(
        48, "evaluation_rows", "Evaluation rows", "Rows with a reference answer.", ge=8, le=1000
    )
    seed: int = _setting(0, "seed", "Seed", "Chooses the rows.", ge=0)


class DataPart(_Part):
    """What the model learns from. What the method needs and nobody gives is sample data."""

    train: _ADDRESS | None = _setting(
        None, "train_data", "Training data", "Address of rows with prompt and completion, for sft and rlhf."
    )
    preference: _ADDRESS | None = _setting(
        None, "preference_data", "Preference data", "Address of rows with prompt, chosen and rejected, for dpo, kto and rlhf."
    )  # fmt: skip
    sample: SamplePart = Field(default=SamplePart(), description="Sample data, where none are given.")


class ReinforcementPart(_Part):
    """The last two stages of the method rlhf."""

    algorithm: Literal["grpo", "rloo"] = _setting("grpo", "algorithm", "Algorithm", "GRPO or RLOO.")
    reward_steps: _Steps = _setting(20, "reward_steps", "Steps of the reward model", "Optimizer steps.")
    steps: _Steps = _setting(10, "rl_steps", "Steps of reinforcement learning", "Optimizer steps.")
    learning_rate: _Rate = _setting(
        1e-4, "rl_learning_rate", "Learning rate of reinforcement learning", "Peak learning rate."
    )
    generations: int = _setting(
        4, "generations", "Answers to a prompt", "How many answers to one prompt are compared.", ge=2, le=64
    )
    max_completion_length: int = _setting(
        48, "max_completion_length", "Longest answer", "Tokens after which an answer is cut off.", ge=1, le=32768
    )  # fmt: skip


class MethodPart(_Part):
    """How it is trained."""

    name: Literal["sft", "dpo", "kto", "rlhf"] = _setting(
        "sft", "method", "Method", "Supervised fine-tuning, preferences in pairs or one by one, or reinforcement learning."
    )  # fmt: skip
    max_steps: _Steps = _setting(20, "max_steps", "Training steps", "Optimizer steps of SFT, DPO or KTO.")
    learning_rate: _Rate = _setting(
        5e-4, "learning_rate", "Learning rate", "Peak learning rate of supervised fine-tuning."
    )
    preference_learning_rate: _Rate = _setting(
        5e-4, "preference_learning_rate", "Learning rate on preferences", "The same for DPO, KTO and the reward model."
    )  # fmt: skip
    lora_rank: int = _setting(16, "lora_rank", "LoRA rank", "Rank of the adapter's matrices.", ge=1, le=512)
    reinforcement: ReinforcementPart = Field(default=ReinforcementPart(), description="For the method rlhf.")


class EvaluationPart(_Part):
    """What the tuned model is measured by."""

    data: _ADDRESS | None = _setting(
        None, "evaluation_data", "Evaluation data", "Address of rows with prompt and reference. Left out: sample data."
    )  # fmt: skip
    metric: Literal["rougeL", "rouge1", "rouge2", "bleu", "chrf", "semantic_similarity"] = _setting(
        "rougeL", "metric", "Gate: metric", "Metric that decides whether the tuned model goes on."
    )


class GatePart(_Part):
    """What the tuned model is held to."""

    min_improvement: float = _setting(
        0.05, "min_improvement", "Gate: margin", "How much it must beat the base model, or the champion, by."
    )
    min_score: float | None = _setting(None, "min_score", "Gate: floor", "What it must reach by itself.")
    champion: _ALIAS | None = _setting(
        None, "champion", "Gate: champion", "Alias whose version is compared with instead of the base model."
    )
    approval: bool = _setting(False, "approval", "A person approves", "Wait for a person after the gate.")


class CanaryPart(_Part):
    """How it is brought in beside what serves."""

    steps: list[_Percent] = _setting(
        [20, 50], "canary_steps", "Canary: steps", "Percent of the requests in each step, rising. Emptied: all at once.",
        max_length=10,
    )  # fmt: skip
    step_seconds: float = _setting(
        60, "step_seconds", "Canary: seconds of a step", "How long a step takes at least.", ge=0, le=86400
    )
    questions: int = _setting(
        16, "canary_rows", "Canary: questions", "Rows that both revisions are asked in each step.", ge=0, le=10000
    )  # fmt: skip
    margin: float = _setting(
        -0.05,
        "canary_margin",
        "Canary: margin",
        "Smallest difference to the answers of what serves that passes.",
    )
    max_latency_ratio: Annotated[float, Field(gt=0)] | None = _setting(
        3.0, "max_latency_ratio", "Canary: latency", "How many times as long as those of what serves its answers may take."
    )  # fmt: skip


class ServingPart(_Part):
    """Where and how it serves."""

    namespace: Annotated[str, StringConstraints(pattern="^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = _setting(
        "default", "namespace", "Namespace", "Namespace of the service."
    )
    base_first: bool = _setting(
        False, "serve_base", "Base model first", "Serve the base model where nothing serves yet, to be compared with."
    )  # fmt: skip
    canary: CanaryPart = Field(default=CanaryPart(), description="Step by step.")


class Recipe(_Part):
    """One product: a model that is trained, evaluated, held to a gate, registered and served."""

    model_config = ConfigDict(title="Recipe of airflow-provider-llmops")

    name: _NAME = _setting(
        ..., "model_name", "Name", "Name of the DAG, in the model registry and of the service: lower-case letters, digits, hyphens."
    )  # fmt: skip
    description: str = Field("", description="What the product is for, in Markdown: the DAG's documentation.")
    schedule: str | None = Field(
        None, min_length=1, description="Cron expression, or @daily and the like. Left out: by hand."
    )
    base_model: BaseModelPart
    data: DataPart = Field(default=DataPart(), description=DataPart.__doc__)
    method: MethodPart = Field(default=MethodPart(), description=MethodPart.__doc__)
    evaluation: EvaluationPart = Field(default=EvaluationPart(), description=EvaluationPart.__doc__)
    gate: GatePart = Field(default=GatePart(), description=GatePart.__doc__)
    serving: ServingPart = Field(default=ServingPart(), description=ServingPart.__doc__)


def settings_of(part: BaseModel, below: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Each setting that is a parameter: where it stands in the recipe, the parameter's name, and the value.

    :param part: a recipe, or a part of one
    :param below: where that stands
    """
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            yield from settings_of(value, (*below, name))
        elif isinstance(extra := field.json_schema_extra, dict) and "param" in extra:
            yield (*below, name), str(extra["param"]), value


@cache
def json_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors."""
    return {"$schema": SCHEMA_URI, **Recipe.model_json_schema()}


def faults_between(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], str]]:
    """Settings that others leave without effect, or contradict: where they stand, and what is wrong.

    :param recipe: whose settings are right one by one
    """
    from airflow_provider_llmops.groups.choices import data_needed  # whoever asks for the schema runs nothing

    method, data = recipe.method, recipe.data
    learns = data_needed({"method": method.name})
    for kind in ("train", "preference"):
        if kind not in learns and getattr(data, kind) is not None:
            yield (
                ("data", kind),
                f"The method {method.name} does not learn from them. Leave them out, or choose another method",
            )
    if method.name != "rlhf" and "reinforcement" in method.model_fields_set:
        yield (
            ("method", "reinforcement"),
            f"It has no effect with the method {method.name}. Leave it out, or choose rlhf",
        )
    unused = {"sft": "preference_learning_rate", "rlhf": ""}.get(method.name, "learning_rate")
    if unused in method.model_fields_set:
        yield ("method", unused), f"It has no effect with the method {method.name}. Leave it out"
    if recipe.base_model.revision is not None and not recipe.base_model.source.startswith("hf://"):
        yield (
            ("base_model", "revision"),
            "Only a model from the hub, hf://org/name, has revisions. Leave it out",
        )
    steps = recipe.serving.canary.steps
    if steps != sorted(set(steps)):
        yield ("serving", "canary", "steps"), f"They must rise, got {steps}"
    if re.fullmatch(r"latest|v[0-9]+", recipe.gate.champion or ""):
        yield (
            ("gate", "champion"),
            "MLflow keeps latest, and v with a number, for itself. Give the alias another name",
        )
