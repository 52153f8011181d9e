"""How ``dev/test`` shares the tests out: each is run, once, and what each group says is heard in its turn."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from _tests import GROUPS, _ended, _side_by_side
from planes import REPO


def test_every_test_is_in_one_group():
    for path in (REPO / "tests").rglob("test_*.py"):
        found = [
            group.title
            for group in GROUPS
            if any(path.is_relative_to(REPO / folder) for folder in group.folders)
            and not any(path.is_relative_to(REPO / folder) for folder in group.without)
        ]
        assert len(found) == 1, (path, found)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_files_of_a_group_have_names_of_their_own(group):
    """pytest imports them by their names alone, and refuses to run any where two are the same."""
    names = Counter(path.name for folder in group.folders for path in (REPO / folder).rglob("test_*.py"))
    assert [name for name, times in names.items() if times > 1] == []


def test_each_command_is_heard_whole_and_in_turn(capfdbinary):
    def command(word, seconds, code):
        text = f"import time; print('{word} begins', flush=True); time.sleep({seconds}); print('{word} ends'); exit({code})"
        return [sys.executable, "-c", text]

    codes = _side_by_side({"a": command("a", 0.6, 0), "b": command("b", 0, 3), "c": command("c", 0, 0)})
    assert codes == {"a": 0, "b": 3, "c": 0}
    words = capfdbinary.readouterr().out.decode().split("\n")
    assert words == [
        "== a",
        "a begins",
        "a ends",
        "== b",
        "b begins",
        "b ends",
        "== c",
        "c begins",
        "c ends",
        "",
    ]


def test_a_group_that_was_killed_is_told_from_one_whose_tests_failed():
    """Its own last words are missing."""
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    codes = _side_by_side({"a": [sys.executable, "-c", killed], "b": [sys.executable, "-c", "exit(1)"]})
    assert {name: _ended(code) for name, code in codes.items()} == {
        "a": "killed by signal 9, Killed",
        "b": "exit code 1",
    }


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_folders_of_a_group_are_there(group):
    assert all((REPO / folder).is_dir() for folder in (*group.folders, *group.without))
