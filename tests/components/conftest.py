"""Fixtures of the data plane's tests: a tiny real model and small learnable data, made on the spot, no network."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Before any import that reads them. One thread: a tiny model only loses time by handing work to a second core.
os.environ["OMP_NUM_THREADS"] = os.environ.get("LLMOPS_TEST_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAGAS_DO_NOT_TRACK"] = "true"
os.environ["GX_ANALYTICS_ENABLED"] = "False"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from mlflow_server import mlflow_server
from tiny_model import colour_rows, guessing_rows, make_tiny_model, write_rows

# What another machine, or another roll of the dice, does to a training: test_other_machines.py sets these.
SEED = int(os.environ.get("LLMOPS_TEST_SEED", "0"))
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
if os.environ.get("LLMOPS_TEST_BF16"):  # a processor for which bfloat16 is the type of choice
    _capabilities = torch.cpu.get_capabilities()
    torch.cpu.get_capabilities = lambda: {**_capabilities, "avx512_bf16": True}


@pytest.fixture(scope="session")
def seed() -> int:
    """Seed of trainings whose outcome matters: whatever it is, a correct trainer learns their tasks."""
    return SEED


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny model. Read-only by agreement: a test that changes the model copies the directory first."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny-model"), seed=SEED)


@pytest.fixture(scope="session")
def talkative_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with weights that make it say something."""
    return make_tiny_model(tmp_path_factory.mktemp("talkative-model"), talkative=True)


@pytest.fixture(scope="session")
def guessing_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after it has learned to answer every question with one of eight colours, whatever the question."""
    from llmops_components.training.methods.sft import train_sft

    directory = tmp_path_factory.mktemp("guessing-model")
    train_sft(
        write_rows(directory / "rows.jsonl", guessing_rows()),
        tiny_model,
        directory / "model",
        directory / "adapter",
        training_args={
            "bf16": False,
            "seed": SEED,
            "max_steps": 200,
            "learning_rate": 4e-3,
            "per_device_train_batch_size": 16,
        },
        peft_args={"peft_type": None},
    )
    return directory / "model"


@pytest.fixture(scope="session")
def mlflow_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of an ``mlflow server`` on loopback. Tests share it: each uses names of its own."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as port:
        yield port


@pytest.fixture
def sft_rows(tmp_path: Path) -> Path:
    """JSONL file of 32 conversational prompt/completion rows, learnable by ``tiny_model``."""
    return write_rows(tmp_path / "sft_rows.jsonl", colour_rows(32))


@pytest.fixture(autouse=True)
def no_tracking_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow notes the server that a test used in the environment, where the next test's training would find it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.hookimpl(trylast=True)  # what the test's own fixtures hold is gone by then
def pytest_runtest_teardown() -> None:
    """Take what the libraries have imported out of the garbage collection that Transformers has after each training."""
    if "transformers.trainer" in sys.modules and not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
