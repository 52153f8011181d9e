"""State files of the data plane: whatever is in them, who reads one gets what it declares or an error that names it."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from broken_files import BROKEN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llmops_components.result_schema import ResultRecord, check_result, read_result
from llmops_components.state_files import (
    DiskFullError,
    StateFileError,
    is_full,
    mismatch,
    naming_full_disk,
    private_directory,
    read_json,
    write_json,
)
from safetensors import SafetensorError

SHAPE = {"state": str, "tasks": {str: str}, "routes": [{"weight": int}], "any": object}
RESULT = {
    "schema_version": 1,
    "component": "toy",
    "passed": True,
    "findings": [],
    "artifacts": {"model": {"uri": "/m", "digest": "sha256:" + "a" * 64, "bytes": 3}},
    "metrics": {"loss": 0.5, "steps": 3},
    "details": {"any": [None, {"x": 1}]},
    "resources": {"seconds": 1.5},
}


@pytest.mark.parametrize("how", BROKEN)
def test_file_that_cannot_be_read_is_named(how: str, tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    write_json(file, {"state": "READY"})
    BROKEN[how](file)
    with pytest.raises(StateFileError, match=r"^state\.json cannot be read: .*File: /.*/state\.json$"):
        read_json(file, SHAPE)


def test_no_file_holds_nothing(tmp_path: Path) -> None:
    assert read_json(tmp_path / "state.json", SHAPE) == {}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"state": "READY", "other": 1, "tasks": None}, None),
        ({"any": True, "routes": [], "tasks": {"a": "b"}}, None),
        ({"state": 1}, "'state' is int and not str"),
        ({"tasks": ["a"]}, "'tasks' is list and no object"),
        ({"tasks": {"a": 1}}, "'tasks': 'a' is int and not str"),
        ({"routes": [{"weight": True}]}, "an item of 'routes': 'weight' is bool and not int"),
    ],
)
def test_shape_names_what_differs(value: dict, why: str | None) -> None:
    assert mismatch(value, SHAPE) == why


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
results = st.fixed_dictionaries(
    {}, optional={name: st.just(value) | json_values for name, value in RESULT.items()}
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=200) | results.map(json.dumps).map(str.encode))
def test_any_result_is_a_record_or_an_error_that_names_it(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "result"
    file.write_bytes(content)
    try:
        found = read_result(file)
    except StateFileError as error:
        assert str(error).startswith("result cannot be read: ")
    else:
        assert isinstance(found, ResultRecord)
        json.dumps(found.model_dump(), allow_nan=False)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"metrics": {"loss": float("nan")}}, "metrics.loss"),
        ({"metrics": {"loss": True}}, "metrics.loss"),
        ({"metrics": {"steps": 10**400}}, "metrics.steps"),
        ({"passed": 1}, "passed"),
        ({"artifacts": {"model": {"uri": "", "digest": "sha256:0", "bytes": 1}}}, "artifacts.model.uri"),
        ({"details": {"curve": [1.0, float("nan")]}}, "details.curve.1 is nan, which is no finite number"),
        ({"details": {"where": Path("/m")}}, "details: Object of type "),
        ({"details": {"text": "x" * (4 << 20)}}, r"it has \d+ bytes of 4194304"),
    ],
)
def test_result_that_nobody_would_read_is_not_written(change: dict, field: str) -> None:
    check_result(RESULT)
    with pytest.raises(StateFileError, match=rf"^The result of toy cannot be written: {field}"):
        check_result(RESULT | change)


def test_number_that_is_none_is_named_and_not_called_a_file_that_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "output.json"
    file.write_text(json.dumps({"artifacts": [{"metadata": {"loss": float("nan")}}]}))
    with pytest.raises(StateFileError) as refused:
        read_json(file)
    why = "artifacts.0.metadata.loss is nan, which is no finite number"
    assert str(refused.value) == f"output.json cannot be read: {why}. File: {file}"


def test_full_disk_is_called_so_with_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "state.json"
    write_json(file, {"a": 1})

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("llmops_components.state_files.os.fsync", refuse)
    with pytest.raises(
        DiskFullError, match=r"^The disk is full: state\.json was not written, where \d+ MiB are free\. "
    ):
        write_json(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_file_beyond_the_limit_of_the_process_is_called_so(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; from llmops_components.state_files import write_json\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "write_json(sys.argv[1], {'text': 'x' * 1000})\n"
    )
    died = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.json")], check=False, capture_output=True, text=True
    )
    assert (
        "DiskFullError: The file would be larger than this process may write: a.json was not written"
        in died.stderr
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EDQUOT, "quota"), True),
        (PermissionError(errno.EACCES, "no"), False),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (Exception("No space left on device (os error 28)"), True),
        (RuntimeError("MLflow API error 413: File too large"), False),
        (RuntimeError("500 from http://mlflow: [Errno 28] No space left on device: '/mlartifacts'"), False),
        (OSError("No space left on device (os error 28)"), True),
        (ConnectionError("HTTP 507: disk is full (os error 28)"), False),
        (RuntimeError("something else"), False),
    ],
)
def test_full_disk_is_known_by_number_and_by_words(error: Exception, expected: bool) -> None:
    assert is_full(error) is expected


@pytest.mark.parametrize(
    "save", ["save_file({'a': torch.ones(100_000)}, file)", "torch.save(torch.ones(100_000), file)"]
)
def test_weights_that_find_no_room_are_called_so(save: str, tmp_path: Path) -> None:
    """Torch and safetensors have words of their own for it."""
    script = (
        "import resource, shutil, signal, sys, torch\n"
        "from safetensors.torch import save_file\n"
        "from llmops_components.state_files import naming_full_disk\n"
        "file = sys.argv[1]\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "shutil.disk_usage = lambda path: type('Usage', (), {'free': 0})\n"
        f"with naming_full_disk(file): {save}\n"
    )
    died = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "weights")], check=False, capture_output=True, text=True
    )
    assert re.search(r"DiskFullError: .*: weights was not written, where 0 MiB are free\. ", died.stderr), (
        died.stderr
    )


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="something else"), naming_full_disk(tmp_path):
        raise RuntimeError("something else")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.EROFS])
def test_directory_that_cannot_be_closed_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It is another user's, or its disk is only read."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)

    def refuse(path: Path, mode: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "chmod", refuse)
    assert private_directory(shared) == shared
