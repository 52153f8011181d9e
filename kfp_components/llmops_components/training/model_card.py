"""The model card of a trained model: what it is, what it was made from and how, in Hugging Face's form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from llmops_components.models.provenance import lineage_of
from llmops_components.passthrough.trainings import TRAININGS
from llmops_components.redaction import flat, redact, without_paths
from llmops_components.tracking.environment import environment
from llmops_components.tracking.pictures import draw_curves
from llmops_components.uris import hub_name

CARD_FILE = "README.md"
CURVES_FILE = "training_curves.png"

_LORA = {"title": "LoRA: Low-Rank Adaptation of Large Language Models", "id": "2106.09685"}
_DORA = {"title": "DoRA: Weight-Decomposed Low-Rank Adaptation", "id": "2402.09353"}
_QLORA = {"title": "QLoRA: Efficient Finetuning of Quantized LLMs", "id": "2305.14314"}
_PROMPT_TUNING = {"title": "The Power of Scale for Parameter-Efficient Prompt Tuning", "id": "2104.08691"}

# Identifiers that the hub knows; of any other licence it wants to have the name in a field of its own.
_LICENCES = (
    "apache-2.0",
    "mit",
    "bsd-2-clause",
    "bsd-3-clause",
    "mpl-2.0",
    "gpl-3.0",
    "lgpl-3.0",
    "agpl-3.0",
)
_LICENCES += (
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "openrail",
    "bigscience-openrail-m",
    "gemma",
)
_LICENCES += (
    "bigcode-openrail-m",
    "llama2",
    "llama3",
    "llama3.1",
    "llama3.2",
    "llama3.3",
    "unknown",
    "other",
)
# Settings of the run's surroundings, which say nothing of the model.
_NOT_OF_THE_MODEL = (
    "report_to",
    "disable_tqdm",
    "use_cpu",
    "dataloader_pin_memory",
    "logging_",
    "save_",
    "output_dir",
)

_SHOWN_APART = ("component", "dataset", "eval_dataset", "base_model")
_SPEED = "_per_second"  # differs from run to run

_GENERATE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

directory = "."  # where this card lies
{load}
{inputs}
outputs = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(outputs[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""
_LOAD = """\
tokenizer = AutoTokenizer.from_pretrained(directory)
model = AutoModelForCausalLM.from_pretrained(directory)"""
_LOAD_PROMPT = """\
base_model = "base_model"  # the directory of its base model
tokenizer = AutoTokenizer.from_pretrained(base_model)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_model), directory)"""
_CHAT = """\
messages = [{"role": "user", "content": "What can you do?"}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)"""
_PLAIN = 'inputs = tokenizer("What can you do?", return_tensors="pt")'
_SCORE = """\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

directory = "."  # where this card lies
tokenizer = AutoTokenizer.from_pretrained(directory)
model = AutoModelForSequenceClassification.from_pretrained(directory)
score = model(**tokenizer("A question and its answer.", return_tensors="pt")).logits[0, 0].item()
print(score)
"""
_LIMITS = {
    "all": (
        "It can state what is false with confidence, and carries the biases of its base model and of the data below.",
        "The figures below are those of the training and of the rows held out from it. They say nothing of other "
        "tasks or languages, and nothing of safety.",
    ),
    "rl": (
        "It was trained for a reward, and may have found ways to earn it that are not what was meant: read its answers.",
    ),
    "reward": (
        "Its scores order answers to the same prompt. Between prompts, or as absolute numbers, they mean nothing.",
    ),
}


def write_model_card(
    directory: str | Path,
    *,
    run: Mapping[str, Any],
    metrics: Mapping[str, float],
    log_history: Iterable[Mapping[str, Any]] = (),
    task: Literal["CAUSAL_LM", "SEQ_CLS"] = "CAUSAL_LM",
    dataset_name: str | None = None,
    paper: Mapping[str, str] | None = None,
    used: Mapping[str, float] | None = None,
    findings: Sequence[str] = (),
) -> Path:
    """Write ``README.md`` and, when there are curves, ``training_curves.png`` into a model's directory.

    Secrets and paths of this machine are left out of both. The same training writes the same card, unless ``used`` is
    given: time and cost differ from run to run, and with them the model directory's digest.

    Args:
        directory: The model's directory.
        run: What makes the run what it is, as in ``provenance.json``.
        metrics: Figures of the training.
        log_history: The trainer's log, for the curves.
        task: ``CAUSAL_LM``, or ``SEQ_CLS`` for a reward model.
        dataset_name: Path or URI of the data; of a path only the file's name is shown.
        paper: ``title`` and ``id`` (arXiv) of the method's paper: the trainer's ``_paper``.
        used: Minutes, device hours, tokens and cost, as :meth:`BudgetCallback.report` gives them.
        findings: What is worth knowing, for example that rows were left out.

    Returns:
        The card.
    """
    from huggingface_hub import ModelCard, ModelCardData

    directory = Path(directory)
    component = str(run.get("component", "training"))
    known = TRAININGS.get(component)
    method, tag = (known.title, known.tag) if known else (component, component)
    base = run.get("base_model") or {}
    source, licence, lineage = _origin(base)
    title = f"{method} of {source or 'a model of unknown origin'}"
    has_curves = draw_curves(log_history, directory / CURVES_FILE, title=component)
    hub_dataset = hub_name(str((run.get("dataset") or {}).get("source", ""))) or ""
    known = (licence or "unknown").lower()
    data = ModelCardData(
        license=known if known in _LICENCES else "other",
        license_name=None if known in _LICENCES else known,
        base_model=hub_name(source) if source else None,
        datasets=[hub_dataset.removeprefix("datasets/")] if hub_dataset.startswith("datasets/") else None,
        library_name="transformers",
        pipeline_tag="text-classification" if task == "SEQ_CLS" else "text-generation",
        tags=["trl", tag, *(["reward-model"] if task == "SEQ_CLS" else [])],
    )
    sections = [
        f"# {_text(title)}",
        f"{_text(method)} with [TRL](https://github.com/huggingface/trl), {_adapter(run)}.",
        "## Use",
        f"```python\n{_usage(task, run)}```",
        _intended(task),
        "## Limits",
        _bullets(_limits(component, task)),
        "## Data",
        _table(("", ""), _data_rows(run, dataset_name)),
        "## Base model",
        _table(("", ""), {"origin": source or "unknown", "licence": licence or "unknown", **lineage}.items()),
        "The licence of the base model holds for this model too. That of the data may add to it.",
        "## Method",
        _papers(component, run, paper),
        _table(("setting", "value"), _settings(run)),
        "## Figures",
        _table(("figure", "value"), _figures(metrics)),
        *([f"![Curves of the training]({CURVES_FILE})"] if has_curves else []),
        *([_bullets(findings)] if findings else []),
        "## Environment",
        _table(("", ""), _surroundings(used, metrics)),
    ]
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")
    path = directory / CARD_FILE
    path.write_text(card.content, encoding="utf-8")
    return path


def _text(value: Any) -> str:
    """A value as it may stand in a card: on one line, without secrets and paths, and without ending a table's cell."""
    return " ".join(without_paths(redact(str(value))).split()).replace("|", "\\|")


def _number(value: float) -> str:
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    )


def _table(head: tuple[str, str], rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| {_text(name)} | {_text(value)} |" for name, value in rows]
    return "\n".join([f"| {head[0]} | {head[1]} |", "| --- | --- |", *lines])


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {_text(sentence)}" for sentence in sentences)


def _origin(base: Mapping[str, Any]) -> tuple[str | None, str | None, dict[str, Any]]:
    """Where the first of all base models came from, its licence, and the trainings since."""
    rows: dict[str, Any] = {"digest": base.get("digest", "unknown")}
    *trainings, provenance = lineage_of(base.get("provenance") or {})
    if trainings:
        rows["trained before with"] = ", ".join(
            str(each.get("component", "training")) for each in reversed(trainings)
        )
    if provenance.get("revision"):
        rows["revision"] = provenance["revision"]
    source = provenance.get("source")
    return (_text(source) if source else None), provenance.get("license"), rows


def _adapter(run: Mapping[str, Any]) -> str:
    given = run.get("peft_args") or {}
    if "peft_type" in given and given["peft_type"] is None:
        return "all weights trained"
    if given.get("peft_type") == "PROMPT_TUNING":
        return "a prompt tuned"
    return "a DoRA merged into the weights" if given.get("use_dora") else "a LoRA merged into the weights"


def _papers(component: str, run: Mapping[str, Any], paper: Mapping[str, str] | None) -> str:
    papers: list[Mapping[str, str]] = [paper] if paper else []
    known = TRAININGS.get(component)
    if not papers and known and known.paper:
        papers = [known.paper]
    given = run.get("peft_args") or {}
    kind = given.get("peft_type", "LORA")
    if kind == "LORA":
        papers.append(_DORA if given.get("use_dora") else _LORA)
        if "quantization_config" in (run.get("model_args") or {}):
            papers.append(_QLORA)
    elif kind == "PROMPT_TUNING":
        papers.append(_PROMPT_TUNING)
    return "\n".join(f"- [{_text(entry['title'])}](https://arxiv.org/abs/{entry['id']})" for entry in papers)


def _usage(task: str, run: Mapping[str, Any]) -> str:
    if task == "SEQ_CLS":
        return _SCORE
    conversational = "conversational" in str((run.get("dataset") or {}).get("format", ""))
    inputs = _CHAT if conversational else _PLAIN
    if (run.get("peft_args") or {}).get("peft_type") == "PROMPT_TUNING":
        return "from peft import PeftModel\n" + _GENERATE.format(load=_LOAD_PROMPT, inputs=inputs)
    return _GENERATE.format(load=_LOAD, inputs=inputs)


def _intended(task: str) -> str:
    if task == "SEQ_CLS":
        return "It is meant to compare answers of a language model, in training it or in choosing among them."
    return "It is meant for requests like those that it was trained on. Try it on your own before you rely on it."


def _limits(component: str, task: str) -> list[str]:
    kinds = ["reward"] if task == "SEQ_CLS" else ["all"]
    known = TRAININGS.get(component)
    if known and known.takes_rewards:
        kinds.append("rl")
    return [sentence for kind in kinds for sentence in _LIMITS[kind]]


def _data_rows(run: Mapping[str, Any], name: str | None) -> list[tuple[str, Any]]:
    dataset = dict(run.get("dataset") or {})
    source = dataset.pop("source", None) or name
    rows = [("source", source)] if source else []
    held_out = {f"held out: {key}": value for key, value in (run.get("eval_dataset") or {}).items()}
    return rows + [(key, value) for key, value in {**dataset, **held_out}.items() if value is not None]


def _settings(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = {key: value for key, value in run.items() if key not in _SHOWN_APART}
    return [
        (name, value)
        for name, value in flat(shown).items()
        if not name.partition(".")[2].startswith(_NOT_OF_THE_MODEL) and value != "{}"
    ]


def _figures(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    return [(name, _number(value)) for name, value in metrics.items() if not name.endswith(_SPEED)]


def _surroundings(used: Mapping[str, float] | None, metrics: Mapping[str, float]) -> list[tuple[str, Any]]:
    found = environment()
    libraries = found.pop("libraries")
    rows = [*found.items(), *libraries.items()]
    if used is None:
        return rows
    spent = {f"used: {name}": value for name, value in used.items()}
    spent |= {name: value for name, value in metrics.items() if name.endswith(_SPEED)}
    return [(name.replace("_", " "), _number(value)) for name, value in spent.items()] + rows
