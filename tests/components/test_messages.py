"""What the first 80 characters of a component's error say, which are all that a list of failed tasks shows."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import llmops_components
import pytest
from llmops_components import errors
from llmops_components.errors import SHOWN_CHARACTERS, reason_first

SOURCES = sorted(Path(llmops_components.__file__).parent.rglob("*.py"))
PLACEHOLDER = "\0" * 20
FEWEST_LETTERS = 10


def template(node: ast.AST) -> str:
    """A message with its placeholders marked; empty if it is made elsewhere."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            template(part) if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values
        )
    if isinstance(node, ast.BinOp):
        return template(node.left) + template(node.right)
    return ""


def messages():
    kinds = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            is_error = isinstance(node, ast.Call) and node.args and getattr(node.func, "id", "") in kinds
            if is_error and (text := template(node.args[0])):
                yield pytest.param(text, id=f"{source.name}:{node.lineno}")


@pytest.mark.parametrize("text", list(messages()))
def test_beginning_of_every_message_is_words_not_placeholders(text):
    letters = re.findall(r"[a-z]", text[:SHOWN_CHARACTERS], re.IGNORECASE)
    assert len(letters) >= min(FEWEST_LETTERS, len(re.findall(r"[a-z]", text, re.IGNORECASE))), text


def test_long_places_at_the_beginning_go_behind_the_message():
    model, base = (
        "/srv/llmops/runs/6b1f4a0e/artifacts/train/model",
        "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
    )
    assert reason_first(f"Student {model} and teacher {base} do not share a vocabulary..").split("\n") == [
        "Student .../model and teacher .../SmolLM2-135M-Instruct do not share a vocabulary.",
        f".../model: {model}",
        f".../SmolLM2-135M-Instruct: {base}",
    ]
    assert reason_first("line 3: completion is empty") == "line 3: completion is empty"
    # A pattern that tries again from each character took minutes.
    assert reason_first("x" * 60_000) == "x" * 60_000
