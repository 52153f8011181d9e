"""One entry point for one process, several on this machine, and those of a TrainJob."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import tiny_training
from llmops_components.errors import (
    ComponentError,
    DataError,
    ModelError,
    SettingError,
    TrainingInterrupted,
    UnavailableError,
)
from llmops_components.results import digest_of
from llmops_components.training import launch
from llmops_components.training.callbacks import trainjob_status
from safetensors.torch import load_file
from tiny_training import same_course, sft_trainer
from transformers import TrainerCallback

FAKES = Path(tiny_training.__file__).parent


def request_file(
    path: Path, base_model: Path, dataset: Path, out: Path, *, training_args: dict | None = None, **request
) -> Path:
    arguments = {
        "dataset": str(dataset),
        "base_model": str(base_model),
        "model": str(out / "model"),
        "adapter": str(out / "adapter"),
        "training_args": training_args or {},
    }
    arguments |= request.pop("arguments", {})
    request = {
        "component": "train_sft",
        "arguments": arguments,
        "result": str(out / "result.json"),
        **request,
    }
    path.write_text(json.dumps(request))
    return path


def start(
    request: Path, module: str = "llmops_components.training.launch", **environment: str
) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", module, str(request)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(FAKES), **environment},
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors.strip().splitlines()[-1] if errors.strip() else ""


def trace(model: Path) -> list[tuple[int, float]]:
    return tiny_training.losses(json.loads((model / "training_log.json").read_text()))


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
EXACT = {"bf16": False, "logging_steps": 1, "learning_rate": 1e-2, "max_steps": 8}


def train_in_one_process(base_model: Path, rows: Path, out: Path, settings: dict, options: dict) -> None:
    """With the batch that two processes have together."""
    settings = settings | {"per_device_train_batch_size": 4}
    launch.run(
        request_file(
            out.with_suffix(".json"), base_model, rows, out, training_args=settings, arguments=options
        )
    )


def test_two_processes_give_the_losses_of_one_with_twice_the_batch(tiny_model, sft_rows, tmp_path):
    float32 = {"model_args": {"dtype": "float32"}}
    one, two = tmp_path / "one", tmp_path / "two"
    train_in_one_process(tiny_model, sft_rows, one, EXACT, float32)
    process = start(
        request_file(
            tmp_path / "two.json",
            tiny_model,
            sft_rows,
            two,
            training_args=EXACT | {"per_device_train_batch_size": 2},
            arguments=float32,
            preset="cpu",
            processes=2,
        )
    )
    code, output, error = finish(process)

    assert code == 0, error
    assert [step for step, _ in trace(one / "model")] == list(range(1, 9))
    assert trace(two / "model") == same_course(trace(one / "model"))  # the order of the sum differs
    # One process speaks and writes.
    assert [line.split()[1] for line in output.splitlines() if line.startswith("step ")] == [
        f"{step}/8" for step in range(1, 9)
    ]
    assert sorted(path.name for path in two.iterdir()) == ["adapter", "model", "result.json"]
    result = json.loads((two / "result.json").read_text())
    assert result["component"] == "train_sft"
    assert result["metrics"]["steps"] == 8
    digest, size = digest_of(two / "model")
    assert result["artifacts"]["model"] == {
        "uri": (two / "model").as_uri(),
        "digest": digest,
        "bytes": size,
    }


@pytest.mark.parametrize("peft_args", [None, {"peft_type": None}], ids=["lora", "full"])
def test_model_spread_by_fsdp2_is_trained_saved_and_gone_on_with(tiny_model, sft_rows, tmp_path, peft_args):
    settings = EXACT | {
        "save_steps": 4,
        "save_total_limit": 9,
        "learning_rate": 1e-2 if peft_args is None else 1e-3,
    }
    options = {"model_args": {"dtype": "float32"}, "peft_args": peft_args}
    one, spread = tmp_path / "one", tmp_path / "spread"
    train_in_one_process(
        tiny_model, sft_rows, one, settings, options | {"checkpoints": str(tmp_path / "one-checkpoints")}
    )
    request = request_file(
        tmp_path / "spread.json",
        tiny_model,
        sft_rows,
        spread,
        training_args=settings | {"per_device_train_batch_size": 2},
        arguments=options | {"checkpoints": str(tmp_path / "checkpoints")},
        preset="fsdp2",
    )

    def train() -> str:
        shutil.rmtree(spread, ignore_errors=True)
        command = [*TORCHRUN, "-m", "fsdp_on_cpu", str(request)]
        environment = {**os.environ, "PYTHONPATH": str(FAKES)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def weights() -> dict:
        return load_file(spread / "model" / "model.safetensors")

    assert "model_wrapped FSDP" in train()
    assert trace(spread / "model") == same_course(trace(one / "model"))
    whole = weights()
    expected = load_file(one / "model" / "model.safetensors")
    assert whole.keys() == expected.keys()
    assert all(weight.shape == expected[name].shape for name, weight in whole.items())
    # A step of Adam is as long for a gradient that is nothing but rounding, so a few weights may go another way.
    base = load_file(tiny_model / "model.safetensors")
    apart = sum(float((whole[name] - of).square().sum()) for name, of in expected.items()) ** 0.5
    moved = sum(float((base[name] - of).square().sum()) for name, of in expected.items()) ** 0.5
    assert apart < moved / 20
    assert (spread / "adapter").exists() == (peft_args is None)

    if peft_args is not None:
        return  # a launch takes its time, and going on is the same
    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-8")
    assert "going on from" in train()
    assert all(weight.equal(whole[name]) for name, weight in weights().items())


def test_error_of_a_process_is_the_error_of_the_launcher(tiny_model, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a"}\n')
    request = request_file(
        tmp_path / "request.json", tiny_model, rows, tmp_path / "out", preset="cpu", processes=2
    )
    code, _, error = finish(start(request, LLMOPS_ERROR_FILE=str(tmp_path / "error.json")))

    assert code == 1
    assert error.startswith("DataError: ")
    assert "this step needs prompt_completion or language_modeling" in error
    recorded = json.loads((tmp_path / "error.json").read_text())
    assert recorded == {
        "type": "DataError",
        "message": error.removeprefix("DataError: "),
        "retryable": False,
        "traceback": None,
    }


def toy_request(tmp_path: Path, base_model: Path, **request) -> Path:
    return request_file(
        tmp_path / "request.json",
        base_model,
        Path("rows"),
        tmp_path / "out",
        training_args={"save_strategy": "steps", "save_steps": 500, "per_device_train_batch_size": 2},
        arguments={"checkpoints": str(tmp_path / "checkpoints")},
        preset="cpu",
        **request,
    )


def test_sigterm_saves_and_has_its_own_exit_code_and_the_node_of_a_trainjob_goes_on(tiny_model, tmp_path):
    request = toy_request(tmp_path, tiny_model, processes=2)
    process = start(request, "toy_launch", LLMOPS_ERROR_FILE=str(tmp_path / "error.json"))
    for line in process.stdout:
        if line == "step 6\n":
            process.send_signal(signal.SIGTERM)
            break
    code, _, error = finish(process)

    assert code == launch.EXIT_INTERRUPTED == 143
    saved = [path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")]
    assert len(saved) == 1
    stopped = int(saved[0].removeprefix("checkpoint-"))
    assert 6 <= stopped < 20
    assert error == (
        f"TrainingInterrupted: Training was stopped by SIGTERM after step {stopped} of 20; it is saved. Run it again with "
        "the same checkpoints to go on from there."
    )
    assert json.loads((tmp_path / "error.json").read_text())["retryable"] is True
    assert not (tmp_path / "out" / "result.json").exists()

    # What the controller of a TrainJob sets: the entry point becomes torchrun, whose processes do not launch again.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "PET_NNODES": "1",
        "PET_NPROC_PER_NODE": "2",
        "PET_NODE_RANK": "0",
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
    }
    code, output, error = finish(start(request, "toy_launch", **environment))

    assert code == 0, error
    steps = [int(line.split()[1]) for line in output.splitlines() if line.startswith("step ")]
    assert steps == list(range(stopped + 1, 21))
    assert (tmp_path / "out" / "model" / "config.json").read_text() == "0"  # the rank of its writer
    assert json.loads((tmp_path / "out" / "result.json").read_text())["metrics"] == {"steps": 20}


def test_interruption_of_one_process_has_its_own_exit_code(tmp_path, monkeypatch, capsys):
    def interrupted(path):
        raise TrainingInterrupted("Training was stopped by SIGTERM.")

    monkeypatch.setattr(launch, "run", interrupted)
    with pytest.raises(SystemExit) as ended:
        launch.main(["request.json"])
    assert ended.value.code == 143
    assert capsys.readouterr().err == "TrainingInterrupted: Training was stopped by SIGTERM.\n"


@pytest.mark.parametrize(
    ("recorded", "exit_codes", "expected"),
    [
        # What is named is why the first process ended; the others only lost it.
        (
            ["RuntimeError"],
            {0: 1, 1: -signal.SIGKILL},
            (
                UnavailableError,
                r"^Training process 1 was killed by SIGKILL without a message. .*out of memory",
            ),
        ),
        (["RuntimeError", "DataError"], {0: 1, 1: 1}, (DataError, "^message of DataError$")),
        (["ModelError", "TrainingInterrupted"], {0: 1, 1: 1}, (ModelError, "^message of ModelError$")),
        (
            ["KeyError"],
            {0: 1, 1: -signal.SIGTERM},
            (ComponentError, "^KeyError in a training process: message"),
        ),
        ([], {0: 1, 1: 1}, (UnavailableError, "before any of them said why")),
    ],
)
def test_which_error_of_several_processes_counts(tmp_path, recorded, exit_codes, expected):
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    for number, name in enumerate(recorded):
        file = tmp_path / f"{len(recorded) - number}.json"
        file.write_text(json.dumps({"type": name, "message": f"message of {name}"}))
        os.utime(file, ns=(number, number))
    failed = ChildFailedError(
        "x", {rank: ProcessFailure(rank, 7, code, "") for rank, code in exit_codes.items()}
    )
    error = launch._first_error(tmp_path, failed)
    assert type(error) is expected[0]
    assert re.search(expected[1], str(error))


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("ddp", {"ACCELERATE_USE_FSDP": None}),
        ("fsdp2", {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}),
        ("zero2", {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}),
        ("zero3", {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}),
    ],
)
def test_processes_that_torchrun_started_get_the_preset(monkeypatch, preset, expected):
    monkeypatch.setattr(
        launch, "_check_preset", lambda request: None
    )  # DeepSpeed is not needed to say what to do
    monkeypatch.setattr(os, "environ", {**os.environ, "RANK": "0", "WORLD_SIZE": "2"})
    launch._set_environment(launch.Request("train_sft", {}, "result.json", preset))

    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "no"
    assert {name: os.environ.get(name) for name in expected} == expected


def test_zero_without_deepspeed_says_what_to_install(monkeypatch):
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"preset='zero3' needs DeepSpeed.*Install `deepspeed`.*'fsdp2'"):
        launch._check_preset(launch.Request("train_sft", {}, "result.json", "zero3", 2))


def test_more_processes_than_gpus_is_an_error(tiny_model, sft_rows, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    request = request_file(tmp_path / "request.json", tiny_model, sft_rows, tmp_path, processes=4)
    with pytest.raises(
        SettingError, match=r"4 processes were asked for, and this machine has 2 GPU\(s\). Set processes=2"
    ):
        launch.run(request)


def test_every_preset_is_a_configuration_that_accelerate_reads():
    from accelerate.commands import launch as accelerate_launch

    kinds = {}
    for preset in launch.PRESETS:
        request = launch.Request("train_sft", {}, "result.json", preset, 2)
        parser = accelerate_launch.launch_command_parser()
        parsed = parser.parse_args(launch._accelerate_arguments(request, "request.json"))
        parsed, defaults, _ = accelerate_launch._validate_launch_command(parsed)
        kinds[preset] = (defaults.distributed_type.value, parsed.num_processes, parsed.mixed_precision)
    assert kinds == {
        "ddp": ("MULTI_GPU", 2, "no"),
        "fsdp2": ("FSDP", 2, "no"),
        "zero1": ("DEEPSPEED", 2, "no"),
        "zero2": ("DEEPSPEED", 2, "no"),
        "zero3": ("DEEPSPEED", 2, "no"),
        "cpu": ("MULTI_GPU", 2, "no"),
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[]", "is not a JSON object"),
        ("{", "cannot be read"),
        ('{"component": "train_sft", "arguments": {}}', "lacks result"),
        ('{"component": "train_sf", "arguments": {}, "result": "r"}', "did you mean 'train_sft'"),
        (
            '{"component": "train_sft", "arguments": {}, "result": "r", "presett": "ddp"}',
            "did you mean 'preset'",
        ),
        (
            '{"component": "train_sft", "arguments": {}, "result": "r", "preset": "fsdp"}',
            "did you mean 'fsdp2'",
        ),
        ('{"component": "train_sft", "arguments": {}, "result": "r", "processes": 0}', "processes is 0"),
        ('{"component": "train_sft", "arguments": {"modle": 1}, "result": "r"}', "did you mean 'model'"),
        (
            '{"component": "train_sft", "arguments": {"model": "m"}, "result": "r"}',
            "missing a required argument",
        ),
    ],
)
def test_wrong_requests_are_named(tmp_path, given, message):
    (tmp_path / "request.json").write_text(given)
    with pytest.raises(SettingError, match=message):
        launch.run(tmp_path / "request.json")


def test_usage(capsys):
    with pytest.raises(SystemExit, match=r"usage: python -m llmops_components.training.launch REQUEST.json"):
        launch.main([])


def test_progress_reaches_the_status_of_a_trainjob(tiny_model, sft_rows, tmp_path, monkeypatch):
    received = []

    class Controller(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.append((self.path, self.headers["Authorization"], body["trainerStatus"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Controller)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "token").write_text("t0ken\n")
    path = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/ml/trainjobs/sft/status"
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", f"http://127.0.0.1:{server.server_port}{path}")
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_TOKEN", str(tmp_path / "token"))
    out = tmp_path / "out"
    training_args = {**EXACT, "max_steps": 3}
    launch.run(
        request_file(tmp_path / "request.json", tiny_model, sft_rows, out, training_args=training_args)
    )
    server.shutdown()
    server.server_close()

    assert {(path, token) for path, token, _ in received} == {(path, "Bearer t0ken")}
    first, last = received[0][2], received[-1][2]
    assert first["progressPercentage"] == 0
    assert (last["progressPercentage"], last["estimatedRemainingSeconds"]) == (100, 0)
    metrics = {metric["name"]: metric["value"] for metric in last["metrics"]}
    assert metrics["loss"] == str(trace(out / "model")[-1][1])
    assert all(isinstance(value, str) and 1 <= len(value) <= 64 for value in metrics.values())


def test_status_server_that_never_answers_does_not_slow_the_steps(tiny_model, tmp_path, monkeypatch):
    silent = socket.create_server(("127.0.0.1", 0))
    (tmp_path / "token").write_text("t0ken\n")
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/status")
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_TOKEN", str(tmp_path / "token"))
    moments = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            moments.append(time.monotonic())

    trainer = sft_trainer(tiny_model, tmp_path, max_steps=4, callbacks=[Clock()])
    trainjob_status.report_beside(trainer)
    trainer.add_callback(type("Later", (Clock,), {})())
    trainer.train()
    waited = [after - before for before, after in zip(moments[::2], moments[1::2], strict=True)]
    assert len(waited) == 4
    assert sum(waited) < 2  # Transformers' own callback waits five seconds at each step
    silent.close()
