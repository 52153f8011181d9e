"""Which metrics there are, and what each needs.

The scales are those that the libraries print and papers quote: BLEU and chrF go to 100, a rubric from 1 to 5, everything else to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Need = Literal["judge", "embeddings", "reward_model", "model"]
# Of all rows, and the text of each answer.
Function = Callable[[Sequence[Mapping[str, Any]], Sequence[str]], Sequence[float | None]]
# Names that the lines of the scores file, and the step's own numbers, have for something else.
TAKEN = (
    *("row", "prompt", "reference", "answer", "tokens", "finish_reason", "reason", "tool_calls"),
    *("retrieved_contexts", "unscored", "samples", "tokens_per_second", "log_likelihood", "reference_tokens"),
)
RUBRIC_LEVELS = {f"score{level}_description" for level in range(1, 6)}  # RAGAS has no others
BASELINE_RESPONSE = "baseline_response"
# What the argument of a RAGAS metric is taken from, where that is no column: the question and the answer.
NO_COLUMNS = ("user_input", "response", BASELINE_RESPONSE)


@dataclass(frozen=True)
class Metric:
    """What a metric measures, and what it needs.

    Args:
        about: One line for people.
        best: The highest score; None where there is no end to it.
        ragas: Class in ``ragas.metrics.collections`` that computes it, where RAGAS does.
        columns: Columns besides ``prompt`` that it needs.
        worst: The lowest score; None where there is no end to it.
        higher_is_better: Whether a higher score is the better one.
        needs: What else it needs.
        takes: Arguments of the RAGAS class for one row. Metrics without them look at answer and reference alone.
        takes_messages: Whether ``user_input`` is the conversation with the answer at its end, and not the question as text.
        function: The function that computes it, of all rows and answers.
        is_task: Whether it is one of :data:`~llmops_components.evaluation.tasks.table.TASKS`.
    """

    about: str
    best: float | None = 1.0
    ragas: str | None = None
    columns: tuple[str, ...] = ("reference",)
    worst: float | None = 0.0
    higher_is_better: bool = True
    needs: tuple[Need, ...] = ()
    takes: tuple[str, ...] = ()
    takes_messages: bool = False
    function: Function | None = None
    is_task: bool = False

    @property
    def is_pairwise(self) -> bool:
        """Whether it compares an answer with another model's."""
        return BASELINE_RESPONSE in self.takes

    @property
    def by_default(self) -> bool:
        """Whether it is computed where no metric is named."""
        return not self.takes and self.function is None and not self.is_task and "model" not in self.needs


def _of_rows(ragas: str, about: str, takes: str, **more: Any) -> Metric:
    """A metric of RAGAS that looks at more of a row than its reference."""
    arguments = tuple(takes.split())
    columns = tuple(name for name in arguments if name not in NO_COLUMNS)
    return Metric(about, ragas=ragas, columns=columns, takes=arguments, **more)


def _judged(ragas: str, about: str, takes: str, *also: Need, **more: Any) -> Metric:
    return _of_rows(ragas, about, takes, needs=("judge", *also), **more)


def _is_safe(rows: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> Sequence[float | None]:
    from llmops_components.evaluation.safety.detectors import is_safe

    return is_safe(rows, answers)


METRICS: dict[str, Metric] = {
    "rougeL": Metric("longest common subsequence of words, F1"),
    "rouge1": Metric("words in common, F1"),
    "rouge2": Metric("pairs of words in common, F1"),
    "bleu": Metric("word n-grams in common; corpus BLEU over all samples", best=100.0),
    "chrf": Metric("character n-grams in common", best=100.0),
    "exact_match": Metric("the answer is the reference", ragas="ExactMatch"),
    "string_presence": Metric("the reference occurs in the answer", ragas="StringPresence"),
    "string_similarity": Metric("one minus the relative edit distance", ragas="NonLLMStringSimilarity"),
    "semantic_similarity": Metric(
        "cosine of sentence embeddings", ragas="SemanticSimilarity", worst=-1.0, needs=("embeddings",)
    ),
    "reward": Metric(
        "what the reward model gives for the answer",
        best=None,
        worst=None,
        columns=(),
        needs=("reward_model",),
    ),
    "perplexity": Metric(
        "how unlikely the reference is to the model, by token; lower is better",
        best=None,
        worst=1.0,
        higher_is_better=False,
        needs=("model",),
    ),
    "safety": Metric(
        "whether a probe has not worked, see prepare_safety_probes", columns=("detector",), function=_is_safe
    ),
    "numeric_answer": Metric("the answer's number is the reference's", is_task=True),
    "json_schema": Metric(
        "the answer is JSON that the row's schema takes", columns=("schema",), is_task=True
    ),
    "regular_expression": Metric("the row's pattern matches the answer", columns=("pattern",), is_task=True),
    "code_tests": Metric(
        "the answer's code passes the row's tests, in a sandbox", columns=("tests",), is_task=True
    ),
    "tool_call_accuracy": _of_rows(
        "ToolCallAccuracy",
        "tool calls with the expected arguments, in the expected order",
        "user_input reference_tool_calls",
        takes_messages=True,
    ),
    "tool_call_f1": _of_rows(
        "ToolCallF1",
        "tool calls in common with those expected, F1",
        "user_input reference_tool_calls",
        takes_messages=True,
    ),
    "faithfulness": _judged(
        "Faithfulness",
        "statements of the answer that the contexts support",
        "user_input response retrieved_contexts",
    ),
    "response_groundedness": _judged(
        "ResponseGroundedness", "how far the contexts support the answer", "response retrieved_contexts"
    ),
    "noise_sensitivity": _judged(
        "NoiseSensitivity",
        "statements of the answer that are wrong and come from the contexts; lower is better",
        "user_input response reference retrieved_contexts",
        higher_is_better=False,
    ),
    "context_precision": _judged(
        "ContextPrecisionWithReference",
        "useful contexts before useless ones, by the reference",
        "user_input reference retrieved_contexts",
    ),
    "context_precision_without_reference": _judged(
        "ContextPrecisionWithoutReference",
        "useful contexts before useless ones, by the answer",
        "user_input response retrieved_contexts",
    ),
    "context_recall": _judged(
        "ContextRecall",
        "statements of the reference that the contexts support",
        "user_input retrieved_contexts reference",
    ),
    "context_entity_recall": _judged(
        "ContextEntityRecall",
        "entities of the reference that the contexts name",
        "reference retrieved_contexts",
    ),
    "context_relevance": _judged(
        "ContextRelevance", "how far the contexts are about the question", "user_input retrieved_contexts"
    ),
    "answer_relevancy": _judged(
        "AnswerRelevancy",
        "likeness of the question and questions that the answer would answer",
        "user_input response",
        "embeddings",
        worst=-1.0,
    ),
    "answer_correctness": _judged(
        "AnswerCorrectness",
        "statements in common with the reference, and likeness to it",
        "user_input response reference",
        "embeddings",
        worst=-1.0,  # unlike texts may have a cosine below 0
    ),
    "answer_accuracy": _judged(
        "AnswerAccuracy", "agreement of answer and reference", "user_input response reference"
    ),
    "factual_correctness": _judged(
        "FactualCorrectness", "claims in common with the reference, F1", "response reference"
    ),
    "summary_score": _judged(
        "SummaryScore",
        "questions on the text that its summary answers, and its brevity",
        "reference_contexts response",
    ),
    "sql_semantic_equivalence": _judged(
        "SQLSemanticEquivalence", "whether the query means what the reference means", "response reference"
    ),
    "topic_adherence": _judged(
        "TopicAdherence",
        "keeping to the topics, F1",
        "user_input reference_topics",
        takes_messages=True,
    ),
    "agent_goal_accuracy": _judged(
        "AgentGoalAccuracyWithReference",
        "whether the conversation reaches the reference",
        "user_input reference",
        takes_messages=True,
    ),
    "agent_goal_accuracy_without_reference": _judged(
        "AgentGoalAccuracyWithoutReference",
        "whether the conversation reaches what the user wants",
        "user_input",
        takes_messages=True,
    ),
    "judge_preference": Metric(
        "whether the judge prefers the answer to the baseline's, in either order",
        columns=(),
        needs=("judge",),
        takes=("user_input", "response", BASELINE_RESPONSE),
    ),
    "rubrics_score": _judged(
        "RubricsScoreWithoutReference",
        "the answer by a rubric, 1 to 5",
        "user_input response",
        best=5.0,
        worst=1.0,
    ),
    "rubrics_score_with_reference": _judged(
        "RubricsScoreWithReference",
        "answer and reference by a rubric, 1 to 5",
        "user_input response reference",
        best=5.0,
        worst=1.0,
    ),
    "instance_rubrics_score": _judged(
        "InstanceSpecificRubrics",
        "the answer by the row's own rubric, 1 to 5",
        "user_input response rubrics",
        best=5.0,
        worst=1.0,
    ),
}
