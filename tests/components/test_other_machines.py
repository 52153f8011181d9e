"""Trainings on machines that round otherwise: what they are to learn they learn, whatever the processor and the seed.

Slow; ``dev/test --all`` runs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
INSTRUCTIONS = ("SSE41", "AVX2", "DEFAULT")


def machine(number: int) -> dict[str, str]:
    """A machine, as far as variables can make one of this, and the seed of all that is random; conftest.py reads them."""
    instructions = INSTRUCTIONS[number % 3]
    return {
        "LLMOPS_TEST_SEED": str(number),
        "LLMOPS_TEST_BF16": "1" if number % 2 else "",
        "LLMOPS_TEST_THREADS": str(1 + number // 2 % 2),
        "ONEDNN_MAX_CPU_ISA": instructions,
        "ATEN_CPU_CAPABILITY": "default" if instructions == "SSE41" else "",
        "DNNL_DEFAULT_FPMATH_MODE": "BF16" if number % 4 == 3 else "STRICT",
    }


def run_tests(variables: dict[str, str], *arguments: str) -> None:
    environment = {
        name: value for name, value in (os.environ | variables).items() if value or name not in variables
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{variables}\n{done.stdout[-20000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_trainings_learn_whatever_the_machine_and_the_seed(number):
    run_tests(machine(number), "-m", "learns")


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3])
def test_all_tests_of_the_data_plane_pass_on_another_machine(number):
    run_tests(machine(number) | {"LLMOPS_TEST_SEED": "0"})
