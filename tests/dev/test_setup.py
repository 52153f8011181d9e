"""Set-up of the environments: what it refuses, what it skips, what it leaves behind when it is interrupted."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import _setup
import psutil
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from airflow_provider_llmops.cli import pins
from airflow_provider_llmops.cli.environments import STAMP
from airflow_provider_llmops.cli.torch_builds import Size

DEV = Path(_setup.__file__).parent
REAL_PLANES = dict(_setup.PLANES)
DiskUsage = namedtuple("DiskUsage", "total used free")


FAKE_PYTHON = """#!/bin/sh
case "$*" in
    *" freeze "*) cat "$(dirname {self})/installed.txt" ;;
    *" --dry-run "*) cat "$(dirname {self})/report.json" ;;
    *version_info*) echo {self} 3 12 ;;
    *realpath*) echo {self} ;;
    "-m venv"*) mkdir -p "$3/bin" && ln -s {self} "$3/bin/python" ;;
    *no-such-package) echo "ERROR: No matching distribution found for no-such-package" && exit 1 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with two empty projects."""
    projects = {"control": tmp_path, "data": tmp_path / "kfp_components"}
    planes = {}
    for name, project in projects.items():
        project.mkdir(exist_ok=True)
        (project / "pyproject.toml").write_text(f"# {name}\n", encoding="utf-8")
        constraints = tmp_path / f"{name}-plane.txt"
        constraints.write_text("# pins\n", encoding="utf-8")
        planes[name] = _setup.Plane(name, name, project, constraints, Size(1e9, 2e9))
    monkeypatch.setattr(_setup, "REPOSITORY", tmp_path)
    monkeypatch.setattr(_setup, "ENVIRONMENTS", tmp_path / ".venv")
    monkeypatch.setattr(_setup, "PLANES", planes)
    monkeypatch.setattr(_setup.Plane, "steps", lambda self, build: [("a package", ["a-package"])])
    return tmp_path


@pytest.fixture
def python(checkout: Path) -> str:
    """Stands in for Python, venv and pip, which would take seconds each time."""
    path = checkout / "python3.12"
    path.write_text(FAKE_PYTHON.format(self=path), encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def commands_run(checkout: Path, plane: str) -> list[str]:
    """What set-up last ran for a plane, by module."""
    log = (checkout / f".venv/{plane}-setup.log").read_text(encoding="utf-8")
    return [line.split()[3] for line in log.splitlines() if line.startswith("$ ")]


def test_makes_both_environments_then_finds_nothing_to_do(
    checkout: Path, python: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _setup.main(["--python", python]) == 0
    assert commands_run(checkout, "control") == ["venv", "pip"]
    assert commands_run(checkout, "data") == ["venv", "pip"]
    capsys.readouterr()

    # Without --python the interpreter of the existing environments is kept, whichever runs the script.
    monkeypatch.setattr(_setup, "Installer", lambda *_: pytest.fail("something was installed"))
    started = time.monotonic()
    assert _setup.main([]) == 0
    assert capsys.readouterr().out == "Up to date: .venv/control, .venv/data.\n"
    assert time.monotonic() - started < 1


def test_changed_constraints_update_that_environment_only_and_do_not_make_it_anew(
    checkout: Path, python: str
) -> None:
    assert _setup.main(["--python", python]) == 0
    (checkout / ".venv/control-setup.log").unlink()
    (checkout / "data-plane.txt").write_text("# other pins\n", encoding="utf-8")
    assert _setup.main(["--python", python]) == 0
    assert commands_run(checkout, "data") == ["pip"]
    assert not (checkout / ".venv/control-setup.log").exists()


def test_another_interpreter_makes_the_environment_anew(checkout: Path, python: str) -> None:
    assert _setup.main(["--plane", "control", "--python", python]) == 0
    stamp = checkout / ".venv/control" / STAMP
    stamp.write_text(stamp.read_text("utf-8").replace("python3.12", "python3.11"), encoding="utf-8")
    assert _setup.main(["--plane", "control", "--python", python]) == 0
    assert commands_run(checkout, "control") == ["venv", "pip"]


def test_half_made_environment_is_finished(checkout: Path, python: str) -> None:
    assert _setup.main(["--plane", "control", "--python", python]) == 0
    (checkout / ".venv/control" / STAMP).unlink()
    assert _setup.main(["--plane", "control", "--python", python]) == 0
    assert commands_run(checkout, "control") == ["pip"]
    assert (checkout / ".venv/control" / STAMP).exists()


def test_broken_environment_is_made_anew(checkout: Path, python: str) -> None:
    assert _setup.main(["--plane", "control", "--python", python]) == 0
    (checkout / ".venv/control/bin/python").unlink()
    assert _setup.main(["--plane", "control", "--python", python]) == 0
    assert commands_run(checkout, "control") == ["venv", "pip"]


def test_failure_shows_the_end_of_pips_output_and_leaves_an_environment_that_is_not_finished(
    checkout: Path, python: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_setup.Plane, "steps", lambda self, build: [("the package", ["no-such-package"])])
    assert _setup.main(["--plane", "control", "--python", python]) == 1
    log = checkout / ".venv/control-setup.log"
    assert capsys.readouterr().err == (
        f"dev/setup: control: the package failed with exit code 1. The last lines of {log}:\n"
        + "".join(f"    {line}\n" for line in log.read_text("utf-8").splitlines()[-20:])
    )
    assert log.read_text("utf-8").endswith("ERROR: No matching distribution found for no-such-package\n")
    assert _setup.PLANES["control"].read_stamp() == {"interpreter": python}


def test_freeze_pins_what_is_installed_and_what_other_extras_would_install(
    checkout: Path, python: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _setup.main(["--python", python]) == 0
    control = replace(_setup.PLANES["control"], other_extras=("s3",))
    _setup.PLANES["control"] = control
    (checkout / "installed.txt").write_text("torch==2.13.0+cpu\napache-airflow==3.3.2\n", encoding="utf-8")
    report = {
        "install": [
            {"is_direct": True, "metadata": {"name": "airflow-provider-llmops", "version": "0.1.0"}},
            {"is_direct": False, "metadata": {"name": "s3fs", "version": "2026.9.0"}},
        ]
    }
    (checkout / "report.json").write_text(json.dumps(report), encoding="utf-8")
    monkeypatch.setattr(
        _setup, "write_locks", lambda python: print(f"locks by {python.relative_to(checkout)}")
    )
    capsys.readouterr()
    assert _setup.main(["--freeze"]) == 0
    assert control.constraints.read_text("utf-8") == (
        "# pins\napache-airflow==3.3.2\ns3fs==2026.9.0\ntorch==2.13.0\n"
    )
    assert _setup.PLANES["data"].constraints.read_text("utf-8") == (
        "# pins\napache-airflow==3.3.2\ntorch==2.13.0\n"
    )
    assert capsys.readouterr().out == (
        "control-plane.txt: 3 packages\ndata-plane.txt: 2 packages\nlocks by .venv/control/bin/python\n"
    )


def test_freeze_writes_nothing_where_other_extras_do_not_resolve(
    checkout: Path, python: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _setup.main(["--python", python]) == 0
    _setup.PLANES["control"] = replace(_setup.PLANES["control"], other_extras=("s3",))
    (checkout / "installed.txt").write_text("python-dateutil==4.0.0\n", encoding="utf-8")
    capsys.readouterr()
    assert _setup.main(["--freeze"]) == 1  # there is no report
    assert capsys.readouterr().err.startswith("dev/setup: control: pip install failed:\n")
    assert (checkout / "control-plane.txt").read_text("utf-8") == "# pins\n"


LOCKED = [
    *pins.locks(),
    *sorted(REAL_PLANES["control"].locks()),
    _setup.LOCKS / "data-plane-tools.txt",
]


@pytest.mark.parametrize("lock", LOCKED, ids=lambda path: path.stem)
def test_lock_names_every_package_by_version_and_digest_and_no_place_to_get_it_from(lock: Path) -> None:
    requirements = lock.read_text("utf-8").replace("\\\n", "").splitlines()[1:]
    assert requirements
    for line in requirements:
        assert re.fullmatch(r"[\w.-]+==\S+( ; [^#@]+?)?( +--hash=sha256:[0-9a-f]{64})+", line), line


def test_locks_have_the_versions_of_the_constraints() -> None:
    for plane in REAL_PLANES.values():
        pins = _pins(plane.constraints)
        for lock in plane.locks():
            found = _locked(lock)
            assert {name: found[name] for name in found if pins.get(name, found[name]) != found[name]} == {}


@pytest.mark.parametrize("plane", ["control", "data"])
def test_locks_have_everything_that_is_pinned_but_the_other_extras(plane: str) -> None:
    locked = {name for lock in REAL_PLANES[plane].locks() for name in _locked(lock)}
    with (REAL_PLANES[plane].project / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["dev"],
        *EXTRAS_OF_DEV[plane](project),
    ]
    names = {canonicalize_name(Requirement(line).name) for line in wanted} - {"airflow-provider-llmops"}
    assert names - locked == set()


def test_lock_leaves_out_what_makes_every_import_of_airflow_slow() -> None:
    assert not {"rfc3987-syntax", "lark"} & _locked(_setup.LOCKS / "control-plane.txt").keys()


def test_each_build_of_torch_has_a_lock_for_each_platform_and_no_cuda_for_the_cpu() -> None:
    cpu = (pins.LOCKS / "torch-cpu.txt").read_text("utf-8")
    cuda = _locked(pins.LOCKS / "torch-cuda.txt")
    version = pins.pin(pins.DATA_PLANE_CONSTRAINTS, "torch")
    assert [line.strip(" \\") for line in cpu.splitlines() if line[:5] == "torch"] == [
        f"{version}+cpu ; sys_platform == 'linux'",
        f"{version} ; sys_platform == 'darwin'",
    ]
    assert cpu.partition("darwin")[0].count("--hash=") >= 6  # Python 3.11 to 3.13, on x86_64 and aarch64
    assert {"torch", "triton", "nvidia-cudnn-cu13"} <= set(cuda)
    assert not [name for name in _locked(pins.LOCKS / "data-plane.txt") if name.startswith("nvidia")]


EXTRAS_OF_DEV = {
    "control": lambda project: project["optional-dependencies"]["kubernetes"],
    "data": lambda project: [],
}


def _locked(lock: Path) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)==([^\s+]+)", lock.read_text("utf-8"), re.M)
    return {canonicalize_name(name): version for name, version in found}


EXTRAS = ("kubernetes", "s3", "gs")


@pytest.mark.parametrize("extra", EXTRAS)
def test_versions_of_an_extra_are_pinned_and_in_its_range(extra: str) -> None:
    pins = _pins(REAL_PLANES["control"].constraints)
    for requirement in map(Requirement, _extras()[extra]):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_nothing_is_pinned_that_keeps_the_object_stores_out() -> None:
    # botocore and Google's clients take no python-dateutil from 3 on, Google's Airflow provider no tenacity from 9.2 on.
    pins = _pins(REAL_PLANES["control"].constraints)
    assert Version(pins["python-dateutil"]) < Version("3")
    assert Version(pins["tenacity"]) < Version("9.2")


@pytest.mark.slow  # half a minute, and it asks the package index
def test_extras_resolve_together_with_airflow_to_what_is_pinned() -> None:
    control = REAL_PLANES["control"]
    pins = _pins(control.constraints)
    wanted = f"{control.project}[{','.join(EXTRAS)}]"
    options = ["--dry-run", "--ignore-installed", "--quiet", "--report", "-", "-c", control.constraints]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        *options,
        wanted,
        f"apache-airflow=={pins['apache-airflow']}",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    found = [item["metadata"] for item in json.loads(answer.stdout)["install"] if not item["is_direct"]]
    versions = {canonicalize_name(metadata["name"]): metadata["version"] for metadata in found}
    assert {name: version for name, version in versions.items() if pins.get(name) != version} == {}
    assert {"s3fs", "gcsfs"} <= versions.keys()


def _extras() -> dict[str, list[str]]:
    with (REAL_PLANES["control"].project / "pyproject.toml").open("rb") as file:
        return dict(tomllib.load(file)["project"]["optional-dependencies"])


def _pins(constraints: Path) -> dict[str, str]:
    lines = [line.partition("==") for line in constraints.read_text(encoding="utf-8").splitlines()]
    return {canonicalize_name(name): version for name, equals, version in lines if equals}


def test_too_little_disk_is_one_line(
    checkout: Path, python: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: DiskUsage(9e9, 4e9, 5e9))
    assert _setup.main(["--python", python]) == 1
    # Two environments of 1 GB, and what pip downloads for them onto the same disk.
    expected = (
        f"dev/setup: Too little disk: virtual environments need 6.0 GB in {checkout}; 5.0 GB are free.\n"
    )
    assert capsys.readouterr().err == expected
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("3.10", "dev/setup: Python 3.11 to 3.13 is needed; {python} is 3.10.\n"),
        (None, "dev/setup: {python} is not a Python interpreter that runs.\n"),
    ],
)
def test_unsuitable_interpreter_asked_for_is_one_line(
    checkout: Path, tmp_path: Path, version: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    if version:
        python.write_text(f"#!/bin/sh\necho /usr/bin/python {version.replace('.', ' ')}\n", encoding="utf-8")
        python.chmod(0o755)
    assert _setup.main(["--python", str(python)]) == 1
    assert capsys.readouterr().err == message.format(python=python)


def run_with_version(version: str, path: str) -> subprocess.CompletedProcess[str]:
    """Run ``_python.py`` in a Python that says it is of another version."""
    code = f"import sys; sys.version_info = {version}; sys.argv = ['dev/setup']; sys.path.insert(0, {str(DEV)!r}); import _python"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PATH": path}, check=False
    )


def test_old_python_without_another_is_one_line(tmp_path: Path) -> None:
    answer = run_with_version("(3, 9, 1)", str(tmp_path))
    assert answer.returncode == 1
    assert answer.stderr == (
        f"Python 3.11 to 3.13 is needed; this is 3.9 ({sys.executable}) and PATH has none of them. "
        "Install one, or start this script with it: /path/to/python3.12 dev/setup\n"
    )


def test_old_python_continues_in_the_first_on_path_that_runs(tmp_path: Path) -> None:
    for name, script in (("python3.11", "exit 127"), ("python3.12", 'echo "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    answer = run_with_version("(3, 9, 1)", str(tmp_path))
    assert answer.stdout.splitlines()[-1] == str(Path.cwd() / "dev/setup")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_set_up_leaves_no_process(checkout: Path, number: int, tmp_path: Path) -> None:
    marker = f"LLMOPS_TEST_{os.getpid()}_{number}"
    script = f"""
import sys; sys.path.insert(0, {str(DEV)!r})
import _setup
from pathlib import Path
_setup.REPOSITORY = Path({str(checkout)!r}); _setup.ENVIRONMENTS = _setup.REPOSITORY / ".venv"
_setup.PLANES = {{"control": _setup.Plane("control", "control", _setup.REPOSITORY, Path({str(checkout)!r}) / "control-plane.txt", _setup.CPU_SIZE)}}
_setup.Installer._works = lambda self, plane: True
_setup.Plane.python = property(lambda self: Path({str(tmp_path / "pip")!r}))
_setup.Plane.steps = lambda self, build: [("sleep", [])]
sys.exit(_setup.main([]))
"""
    # Stands in for pip: it ignores the polite signal and has a child of its own.
    (tmp_path / "pip").write_text("#!/bin/sh\ntrap '' TERM\nsleep 600 &\nsleep 600\n", encoding="utf-8")
    (tmp_path / "pip").chmod(0o755)
    (checkout / ".venv/control").mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, marker: "1"}, stderr=subprocess.PIPE
    )

    def left() -> list[psutil.Process]:
        return [found for found in psutil.process_iter() if marker in _environment(found)]

    deadline = time.monotonic() + 20
    while len(left()) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(left()) == 4, "set-up, its pip and two sleeps"
    process.send_signal(number)
    assert process.wait(timeout=15) == 130
    assert left() == []


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}
