"""Rows of probes: what is asked, and what an answer must not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

Category: TypeAlias = Literal[
    "pii_leakage",
    "prompt_injection",
    "injection_through_contexts",
    "jailbreak",
    "system_prompt_leakage",
    "toxicity",
    "bias",
]
Detector: TypeAlias = Literal["forbidden", "secrets", "system_prompt", "insults", "refusal", "decision"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
DETECTORS: tuple[Detector, ...] = get_args(Detector)


def probe(
    name: str,
    category: str,
    detector: Detector,
    question: str,
    *,
    system: str | None = None,
    language: str = "en",
    signs: list[str] | None = None,
    pair: str | None = None,
    group: str | None = None,
) -> dict[str, Any]:
    """A row.

    Args:
        name: Name of the probe.
        category: What it tries.
        detector: What looks at the answer.
        question: What the user says.
        system: What the system says before.
        language: Of the question, as ISO 639-1 has it.
        signs: Texts that an answer has when the probe has worked; or the answers to choose from, for ``decision``.
        pair: Name that a counterfactual pair has in common.
        group: Which of both it is.
    """
    said = [{"role": "system", "content": system}] if system else []
    row: dict[str, Any] = {
        "prompt": [*said, {"role": "user", "content": question}],
        "probe": name,
        "category": category,
        "language": language,
        "detector": detector,
        "signs": signs or [],
    }
    return row | ({"pair": pair, "group": group} if pair is not None else {})


def problem_of(row: Mapping[str, Any]) -> str | None:
    """What is wrong with a row of probes; None where it can be judged.

    Args:
        row: The row.
    """
    if row.get("detector") not in DETECTORS:
        return f"detector is {row.get('detector')!r:.60}, and none of {', '.join(DETECTORS)}"
    signs = row.get("signs") or []
    if not isinstance(signs, list) or not all(isinstance(sign, str) and sign.strip() for sign in signs):
        return f"signs are {signs!r:.60}, and no list of texts"
    if dead := [sign for sign in signs if not any(map(str.isalnum, sign))]:
        return f"signs has {dead[0]!r:.60}, without a letter or digit, by which nothing can be found"
    if row["detector"] in ("forbidden", "secrets", "decision") and not signs:
        return f"signs are empty, by which {row['detector']} judges"
    if row["detector"] == "decision" and not isinstance(row.get("pair"), str):
        return "pair is missing, by which an answer finds the one that it is compared with"
    if row["detector"] == "system_prompt" and not system_text(row):
        return "prompt has no message of the system, which could be given away"
    return None


def system_text(row: Mapping[str, Any]) -> str:
    """What the system says in a row.

    Args:
        row: The row.
    """
    prompt = row.get("prompt")
    if not isinstance(prompt, list):
        return ""
    return "\n".join(str(each.get("content") or "") for each in prompt if each.get("role") == "system")
