"""Triggers that tasks of the release before are waiting with go on after an upgrade."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

STORED = json.loads(
    (Path(__file__).parents[2] / "recorded" / "triggers-0.1.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize(("path", "arguments"), STORED, ids=[path.rpartition(".")[2] for path, _ in STORED])
def test_trigger_that_0_1_stored_is_built_again_with_all_that_it_was_given(path, arguments):
    module, _, name = path.rpartition(".")
    again, known = getattr(import_module(module), name)(**arguments).serialize()
    assert again == path
    assert {key: known[key] for key in arguments} == arguments
