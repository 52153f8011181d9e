"""Writes the locks: what is installed, in the versions of the constraints, with the digests of every file that a package has.

One lock holds for all platforms and Pythons that are supported; markers say what is for which. What differs between the builds of
PyTorch lies in a file of its own for each build.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Container
from pathlib import Path

from airflow_provider_llmops.cli.machine import SetupError
from airflow_provider_llmops.cli.pins import DATA_PLANE_CONSTRAINTS, LOCKS, SAMPLE_MODELS, pin
from airflow_provider_llmops.cli.torch_builds import CPU_INDEX

REPOSITORY = Path(__file__).resolve().parent.parent
TOOL_LOCKS = REPOSITORY / "dev/locks"
CONTROL_PLANE_CONSTRAINTS = REPOSITORY / "dev/constraints/control-plane.txt"
HEADER = "# Made by dev/setup --freeze; pip install --require-hashes --no-deps -r reads it.\n"
OLDEST_PYTHON = "3.11"
# What torch's build with CUDA needs and the one for CPU does not.
CUDA = re.compile(r"torch|triton|nvidia-.*|cuda-.*")
# cyclonedx-bom brings it for a validation that dev/check leaves out. Where it is, every `import airflow` builds 38 grammars: 1.7 s of
# 3.5, in each process of a stack and of the tests.
NOT_NEEDED = ("rfc3987-syntax", "lark")
# Nobody runs this on these: their lines would only make the files longer.
ELSEWHERE = ("sys_platform == 'win32'", "sys_platform == 'emscripten'")

Lock = dict[str, str]  # name of a package to its lines


def write_locks(python: Path) -> None:
    """Write all of them.

    :param python: interpreter of an environment that has uv
    :raises SetupError: where what is pinned does not resolve
    """
    control = resolve(python, CONTROL_PLANE_CONSTRAINTS, REPOSITORY / "pyproject.toml", "--extra", "dev")
    control = _without(control, NOT_NEEDED)
    project = REPOSITORY / "kfp_components/pyproject.toml"
    data = resolve(python, DATA_PLANE_CONSTRAINTS, project)
    with_tools = resolve(python, DATA_PLANE_CONSTRAINTS, project, "--extra", "dev")
    setuptools = pin(CONTROL_PLANE_CONSTRAINTS, "setuptools")
    models = [pin(DATA_PLANE_CONSTRAINTS, name) for name in SAMPLE_MODELS]
    parts = {
        TOOL_LOCKS / "control-plane.txt": control,
        TOOL_LOCKS / "data-plane-tools.txt": _without(with_tools, data),
        LOCKS / "build.txt": resolve_lines(python, [setuptools]),
        LOCKS / "data-plane.txt": {name: lines for name, lines in data.items() if not CUDA.fullmatch(name)},
        LOCKS / "torch-cuda.txt": {name: lines for name, lines in data.items() if CUDA.fullmatch(name)},
        LOCKS / "sample-models.txt": resolve_lines(python, models),
    }
    for path, lock in parts.items():
        _write(path, lock)
    _write_cpu_lock(python, LOCKS / "torch-cpu.txt", data["torch"])


def _write_cpu_lock(python: Path, path: Path, pypi: str) -> None:
    """PyTorch's own index has the CPU build for Linux, and PyPI the one for macOS.

    :param pypi: lines of the lock for what PyPI has
    """
    version = pin(DATA_PLANE_CONSTRAINTS, "torch")
    linux = f"{version}+cpu ; sys_platform == 'linux'"
    try:
        found = resolve_lines(python, [linux], "--extra-index-url", CPU_INDEX, "--emit-index-url")
    except SetupError:
        if path.exists() and f"{version}+cpu " in path.read_text(encoding="utf-8"):
            print(f"{path.relative_to(REPOSITORY)}: left as it is, for {CPU_INDEX} cannot be reached")
            return
        path.unlink(missing_ok=True)
        print(
            f"{path.relative_to(REPOSITORY)}: NONE, for {CPU_INDEX} cannot be reached. Set-up with the CPU build installs "
            "by version, without digests, until this is run where it can be."
        )
        return
    macos = pypi.replace(f"{version} ", f"{version} ; sys_platform == 'darwin' ", 1)
    _write(path, {"torch (Linux)": found["torch"], "torch (macOS)": macos})


def resolve(python: Path, constraints: Path, project: Path, *options: str) -> Lock:
    """What a project needs, in the versions of the constraints."""
    return _compile(python, str(project), "-c", str(constraints), *options)


def resolve_lines(python: Path, requirements: list[str], *options: str) -> Lock:
    """Digests of the packages that are named, without what they need."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
        file.write("\n".join(requirements) + "\n")
        file.flush()
        return _compile(python, file.name, "--no-deps", *options)


def _compile(python: Path, *arguments: str) -> Lock:
    command = [
        *(str(python), "-m", "uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes"),
        *("--python-version", OLDEST_PYTHON, "--no-header", "--no-annotate", "--no-config", *arguments),
    ]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    if answer.returncode:
        last = "\n".join(answer.stderr.splitlines()[-20:])
        raise SetupError(f"uv pip compile failed:\n{last}")
    blocks = re.findall(r"^([\w.-]+)==.*\n(?:[ \t].*\n)*", answer.stdout, re.M)
    texts = re.finditer(r"^[\w.-]+==.*\n(?:[ \t].*\n)*", answer.stdout, re.M)
    return {
        name: text.group()
        for name, text in zip(blocks, texts, strict=True)
        if not any(f"{text_marker} \\\n" in text.group() for text_marker in ELSEWHERE)
    }


def _without(lock: Lock, other: Container[str]) -> Lock:
    return {name: lines for name, lines in lock.items() if name not in other}


def _write(path: Path, lock: Lock) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(HEADER + "".join(lock[name] for name in sorted(lock)), encoding="utf-8")
    print(f"{path.relative_to(REPOSITORY)}: {len(lock)} packages")
