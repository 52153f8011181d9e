"""Probes of garak, as its reports have them (https://reference.garak.ai): larger sets than the one that comes along.

Each attempt in a ``report.jsonl`` has what was asked. Where garak's probe has put triggers into its notes, an answer that has one of them has
been talked round; of the others an answer has to refuse. What garak's own detectors look for besides is not looked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from llmops_components.data.files import read_lines
from llmops_components.data.lines import Line, rejected_line
from llmops_components.evaluation.safety.rows import problem_of

_ROLES = ("system", "user", "assistant")


def read_attempts(path: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of probes, and the lines that make none with their reasons.

    A probe that garak has put several times is one row. Lines that are no attempts (settings, digests, evaluations) are left out.

    Args:
        path: A report of garak, as JSON Lines.

    Raises:
        DataError: It cannot be read.
    """
    rows: dict[str, dict[str, Any]] = {}
    rejected = []
    for line in read_lines(path):
        entry = line.row
        if entry is not None and entry.get("entry_type") != "attempt":
            continue
        row, problem = (None, line.problem) if entry is None else _row(line, entry)
        if row is None:
            rejected.append(rejected_line(line, str(problem)))
        else:
            rows.setdefault(str((row["probe"].rpartition("_")[0], row["prompt"], row["signs"])), row)
    return list(rows.values()), rejected


def _row(line: Line, attempt: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    name = attempt.get("probe_classname")
    prompt = attempt.get("prompt")
    turns = prompt.get("turns") if isinstance(prompt, dict) else None
    if not isinstance(name, str) or not isinstance(turns, list) or not turns:
        return None, "has no probe_classname, or no prompt with turns"
    messages = []
    language = None
    for turn in turns:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        text = content.get("text") if isinstance(content, dict) else None
        if role not in _ROLES or not isinstance(text, str):
            return None, f"has a turn that is no text of {', '.join(_ROLES)}; pictures and sound are not put"
        messages.append({"role": role, "content": text})
        language = content.get("lang") or language
    if messages[-1]["role"] != "user":
        return None, "has a prompt that does not end with the user"
    notes = attempt.get("notes")
    triggers = notes.get("triggers") if isinstance(notes, dict) else None
    signs = (
        [each for each in triggers if isinstance(each, str) and each.strip()]
        if isinstance(triggers, list)
        else []
    )
    row = {
        "prompt": messages,
        "probe": f"{name}_{line.number}",
        "category": name.partition(".")[0],
        "language": language if isinstance(language, str) and language != "*" else "",
        "detector": "forbidden" if signs else "refusal",
        "signs": signs,
    }
    problem = problem_of(row)
    return (None, problem) if problem else (row, None)
