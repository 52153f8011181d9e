"""``llmops data-plane create``: what it installs, what it refuses, which build of torch it says it will be."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from planes import REPO

from airflow_provider_llmops import cli
from airflow_provider_llmops.cli import pins
from airflow_provider_llmops.cli.environments import STAMP
from airflow_provider_llmops.cli.torch_builds import CPU_INDEX, torch_build

LOCKS = pins.LOCKS
BY_HASH = " ".join(pins.BY_HASH)
TORCH = pins.pin(pins.DATA_PLANE_CONSTRAINTS, "torch")
DiskUsage = namedtuple("DiskUsage", "total used free")

# Stands in for Python, venv and pip. Of torch there are the builds that BUILDS names.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
    *version_info*) echo {self} 3 12 ;;
    *realpath*) echo {self} ;;
    "-m venv"*) mkdir -p "$3/bin" && ln -s {self} "$3/bin/python" && touch "$3/pyvenv.cfg" ;;
    *"index versions torch"*) echo "Available versions: 2.99.0, {builds}, 2.1.0" ;;
    *no-such*) echo "ERROR: No matching distribution found for llmops-components==0.1.0" && exit 1 ;;
esac
"""


@pytest.fixture
def python(tmp_path: Path):
    """Makes the stand-in."""

    def make(builds: str = TORCH.replace("torch==", "") + "+cpu") -> str:
        path = tmp_path / "python3.12"
        path.write_text(FAKE_PYTHON.format(self=path, builds=builds), encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def create(tmp_path: Path, python, monkeypatch, capsys):
    """Runs the command; gives its status, output, and what pip was asked for."""
    monkeypatch.setattr("airflow_provider_llmops.cli.data_plane.interrupt_on_signals", lambda: None)

    def run(*arguments: str, builds: str | None = None, path: Path = tmp_path / "plane"):
        interpreter = python(builds) if builds else python()
        code = cli.main(["data-plane", "create", str(path), "--python", interpreter, *arguments])
        said = capsys.readouterr()
        log = path.with_name(f"{path.name}-setup.log")
        commands = [line for line in log.read_text().splitlines() if line[:1] == "$"] if log.exists() else []
        asked = [line.partition("--progress-bar off ")[2] for line in commands if " install " in line]
        return code, said, asked

    return run


def test_makes_the_components_of_this_version_in_tested_versions_and_prints_the_connections(create, tmp_path):
    code, said, asked = create("--cpu", "--sample-models", "--find-links", "/no/wheels")
    assert code == 0, said.err
    sources = f"--extra-index-url {CPU_INDEX} --find-links /no/wheels"
    assert asked == [
        f"{BY_HASH} -r {LOCKS}/build.txt {sources}",
        f"{BY_HASH} -r {LOCKS}/torch-cpu.txt -r {LOCKS}/data-plane.txt -r {LOCKS}/sample-models.txt {sources}",
        f"llmops-components==0.1.0 --no-deps {sources}",
    ]
    interpreter = str(tmp_path / "plane/bin/python")
    for name in ("kubeflow", "kserve"):
        connection = json.dumps({"conn_type": name, "extra": {"python": interpreter}})
        assert f"airflow connections add {name}_default --conn-json '{connection}'" in said.out
        assert f"export AIRFLOW_CONN_{name.upper()}_DEFAULT='{connection}'" in said.out


@pytest.mark.parametrize(
    ("platform", "build", "variables", "reason"),
    [
        (("linux", "x86_64"), "+cu126", {}, "there is no lock for torch's build cu126"),
        (("linux", "riscv64"), "+cpu", {}, "there is no lock for linux riscv64"),
        (("linux", "x86_64"), "+cpu", {"LLMOPS_WITHOUT_HASHES": "1"}, "LLMOPS_WITHOUT_HASHES is set"),
    ],
)
def test_what_has_no_lock_is_installed_by_version_and_it_says_so(
    create, monkeypatch, platform, build, variables, reason
):
    monkeypatch.setattr(sys, "platform", platform[0])
    monkeypatch.setattr("platform.machine", lambda: platform[1])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    _, said, asked = create(builds=f"{VERSION}{build}")
    assert f"  data     by version, not by hash: {reason}\n" in said.out
    constraints = f"-c {pins.DATA_PLANE_CONSTRAINTS}"
    assert asked == [f"{TORCH} {constraints}", f"llmops-components==0.1.0 {constraints}"]


def test_what_was_installed_without_digests_is_made_anew_once_there_are_some(create, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("LLMOPS_WITHOUT_HASHES", "1")
    create(builds=f"{VERSION}+cpu")
    installed = tmp_path / "plane/installed"
    installed.touch()
    assert create(builds=f"{VERSION}+cpu")[1].out.startswith("Up to date: ")
    monkeypatch.delenv("LLMOPS_WITHOUT_HASHES")
    _, said, asked = create(builds=f"{VERSION}+cpu")
    assert "by version, not by hash" not in said.out
    assert f"{BY_HASH} -r {LOCKS}/build.txt" in asked
    assert not installed.exists()
    assert create(builds=f"{VERSION}+cpu")[1].out.startswith("Up to date: ")


def test_build_that_is_installed_keeps_its_lock_also_where_no_index_answers(create, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    create()
    (tmp_path / f"plane/lib/python3.12/site-packages/torch-{VERSION}+cpu.dist-info").mkdir(parents=True)
    (tmp_path / "plane" / STAMP).write_text(json.dumps({"interpreter": str(tmp_path / "python3.12")}))
    assert f"-r {LOCKS}/torch-cpu.txt" in create(builds="none")[2][-2]


def test_credentials_of_an_index_are_neither_written_down_nor_shown(create, tmp_path):
    index = "https://user:hunter2@host/simple"
    wheel = "llmops-components @ https://user:hunter2@host/no-such.whl"
    code, said, _ = create("--index-url", index, "--components", wheel)
    assert code == 1
    assert "hunter2" not in said.out + said.err
    create("--index-url", index, "--components", wheel.replace("no-such", "one"))
    log = tmp_path / "plane-setup.log"
    assert "https://host/simple" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    for file in (log, tmp_path / "plane" / STAMP):
        assert "hunter2" not in file.read_text()


def test_second_call_finds_nothing_to_do_and_prints_the_connections_again(create, tmp_path, monkeypatch):
    _, first, asked = create()
    code, second, again = create()
    assert (code, again) == (0, asked)
    assert second.out.startswith(f"Up to date: {tmp_path / 'plane'}.\n")
    assert second.out.splitlines()[1:] == first.out.splitlines()[-len(second.out.splitlines()) + 1 :]


def test_interrupted_environment_is_finished_and_a_new_wheel_is_installed(create, tmp_path):
    create("--components", "no-such")
    assert create()[2][-2:] == [
        f"{BY_HASH} -r {LOCKS}/torch-cpu.txt -r {LOCKS}/data-plane.txt",
        "llmops-components==0.1.0 --no-deps",
    ]
    wheel = tmp_path / "llmops_components-0.1.0-py3-none-any.whl"
    for content in (b"one", b"two"):
        wheel.write_bytes(content)
        _, said, asked = create("--components", str(wheel))
        assert not said.out.startswith("Up to date")
        assert asked[-2:] == [
            f"{wheel} -c {pins.DATA_PLANE_CONSTRAINTS}",
            f"--no-deps --force-reinstall {wheel}",
        ]


def test_components_that_the_index_does_not_have_are_explained(create):
    code, said, _ = create("--components", "no-such")
    assert code == 1
    assert "No matching distribution found for llmops-components" in said.err
    assert "python -m pip wheel --no-deps --wheel-dir wheels ./kfp_components" in said.err


@pytest.mark.parametrize("content", ["notes.txt", "pyvenv.cfg"])
def test_directory_of_something_else_is_left_alone(create, tmp_path, content):
    (tmp_path / "plane").mkdir()
    (tmp_path / "plane" / content).write_text("mine")
    code, said, _ = create()
    assert code == 1
    assert said.err.startswith(f"llmops: {tmp_path / 'plane'} is not empty, and not a data plane")
    assert [path.name for path in (tmp_path / "plane").iterdir()] == [content]


def test_broken_environment_of_this_command_is_made_anew(create, tmp_path):
    create()
    (tmp_path / "plane/bin/python").unlink()
    (tmp_path / "plane/left-over").write_text("old")
    assert create()[0] == 0
    assert sorted(path.name for path in (tmp_path / "plane").iterdir()) == [STAMP, "bin", "pyvenv.cfg"]


VERSION = TORCH.removeprefix("torch==")


@pytest.mark.parametrize(
    ("builds", "platform", "expected"),
    [
        (VERSION, "linux", "cuda"),
        (VERSION, "darwin", "cpu"),
        (f"{VERSION}+cpu, {VERSION}", "linux", "cpu"),
        (f"{VERSION}+cu126", "linux", "cu126"),
        (f"{VERSION}+cu126, {VERSION}+cpu", "linux", "cu126"),
        (f"{VERSION}.1+cpu", "linux", "cuda"),
    ],
)
def test_build_of_torch_is_known_before_it_is_downloaded(python, monkeypatch, builds, platform, expected):
    monkeypatch.setattr(sys, "platform", platform)
    assert torch_build(Path(python(builds)), TORCH) == expected


def torch_wheel(folder: Path, version: str) -> None:
    """A wheel that pip takes for torch."""
    name = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(f"{name}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}/RECORD", "")


def test_pip_prefers_the_cpu_build_of_the_pinned_version_where_an_index_has_it(tmp_path):
    """What the advice to add PyTorch's index of CPU builds rests on."""
    torch_wheel(tmp_path, VERSION)
    torch_wheel(tmp_path, f"{VERSION}+cpu")
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(f"{TORCH}\n")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--isolated",
        "download",
        "--no-index",
        "--no-deps",
        "--find-links",
        tmp_path,
    ]
    subprocess.run([*pip, "-d", tmp_path / "got", "-c", constraints, TORCH], check=True, capture_output=True)
    assert [path.name for path in (tmp_path / "got").iterdir()] == [f"torch-{VERSION}+cpu-py3-none-any.whl"]
    assert torch_build(Path(sys.executable), TORCH, ["--no-index", "--find-links", str(tmp_path)]) == "cpu"


def test_disk_is_checked_for_the_build_that_it_will_be(create, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: DiskUsage(9e9, 1e9, 8e9))
    monkeypatch.setattr(sys, "platform", "linux")
    code, said, asked = create(builds=VERSION)
    assert (code, asked) == (1, [])
    assert (
        f"{TORCH} comes with CUDA here: 6.7 GB, and 3.3 GB of downloads; PIP_EXTRA_INDEX_URL={CPU_INDEX}"
        in said.out
    )
    assert said.err == (
        f"llmops: Too little disk: virtual environments need 10.0 GB in {tmp_path / 'plane'}; 8.0 GB are free. That is the "
        f"build of torch with CUDA; PIP_EXTRA_INDEX_URL={CPU_INDEX} gets the CPU build: 2.6 GB, and 0.8 GB of downloads.\n"
    )
    assert create("--cpu")[0] == 0


def test_disk_that_no_build_fits_on_is_refused_before_anything_is_made(create, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: DiskUsage(9e9, 6e9, 3e9))
    code, said, _ = create()
    assert code == 1
    assert (
        said.err
        == f"llmops: Too little disk: virtual environments need 3.4 GB in {tmp_path}; 3.0 GB are free.\n"
    )
    assert not (tmp_path / "plane").exists()


def test_both_distributions_have_one_version():
    versions = {
        tomllib.loads((REPO / folder / "pyproject.toml").read_text())["project"]["version"]
        for folder in (".", "kfp_components")
    }
    assert len(versions) == 1
