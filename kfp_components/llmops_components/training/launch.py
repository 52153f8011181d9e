"""Start a training component in one process or in many.

    python -m llmops_components.training.launch REQUEST.json

One entry point for a laptop, for the GPUs of one machine and for a Kubeflow ``TrainJob``. The request is a JSON object:

    {"component": "train_sft",
     "arguments": {"dataset": "rows.jsonl", "base_model": "base", "model": "out/model", "adapter": "out/adapter"},
     "result": "out/result.json",
     "preset": "fsdp2", "processes": 8}

``env:NAME`` in place of the file is a request in an environment variable, as the nodes of a ``TrainJob`` have it.

Without ``processes`` it is one process, this one. With more, Accelerate's launcher starts them. Where torchrun's
variables are set, another launcher has already done so: a process with a ``RANK`` works, and the entry point of a
``TrainJob``'s node (``PET_NNODES``) becomes torchrun. Process 0 alone writes outputs, result and tracking.

Progress for ``status.trainerStatus`` of a ``TrainJob`` is reported by Transformers itself, from a thread: its
``KubeflowCallback`` is on wherever the controller has set ``KUBEFLOW_TRAINER_SERVER_URL``.

Exit codes: 0 finished; 143 stopped by SIGTERM with a checkpoint saved, start it again to go on; 1 any other error, with
the message on stderr and, with ``retryable``, as :mod:`~llmops_components.reporting` has it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from llmops_components import errors
from llmops_components.errors import (
    ComponentError,
    SettingError,
    UnavailableError,
    check_known,
)
from llmops_components.json_text import parse_json
from llmops_components.passthrough.trainings import TRAININGS
from llmops_components.processes import is_main_process
from llmops_components.reporting import ERROR_FILE_VARIABLE, message_of, report_error
from llmops_components.result_schema import read_result
from llmops_components.results import StepReport
from llmops_components.state_files import ERROR_SHAPE, StateFileError, read_json, write_json
from llmops_components.step import Output, carry_out

MODULE = "llmops_components.training.launch"
COMPONENTS = {
    component: f"llmops_components.training.methods.{method.module}"
    for component, method in sorted(TRAININGS.items())
}
OUTPUTS = ("model", "adapter")
# TRL ships a configuration of Accelerate for each of them.
PRESETS = {
    "ddp": "multi_gpu",
    "fsdp2": "fsdp2",
    "zero1": "zero1",
    "zero2": "zero2",
    "zero3": "zero3",
    "cpu": "multi_gpu",  # DDP over gloo, for a machine without GPUs and for trying things out
}
EXIT_INTERRUPTED = 128 + signal.SIGTERM
SHUTDOWN_SECONDS = 120  # torchrun's 30 are often too few for a step and a checkpoint
_ERRORS_VARIABLE = "LLMOPS_WORKER_ERRORS"


@dataclass(frozen=True)
class Request:
    """What to train, and in how many processes.

    Args:
        component: Name of a training component.
        arguments: Its arguments, by name.
        result: Where its ``result.json`` goes.
        preset: How the processes work together: ``ddp``, ``fsdp2``, ``zero1``, ``zero2``, ``zero3``, or ``cpu``.
        processes: Number of processes on this machine; of no meaning where another launcher starts them.
    """

    component: str
    arguments: Mapping[str, Any]
    result: str
    preset: str = "ddp"
    processes: int = 1

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Request:
        """The request in a JSON file, or in the variable of ``env:NAME``, once it is known to make sense."""
        kind, _, variable = os.fspath(path).partition(":")
        try:
            given = parse_json(
                os.environ.get(variable, "") if kind == "env" else Path(path).read_text(encoding="utf-8")
            )
        except (OSError, ValueError) as error:
            raise SettingError(f"The request {path} cannot be read: {error}") from error
        names = [of.name for of in fields(cls)]
        if not isinstance(given, dict):
            raise SettingError(f"The request {path} is not a JSON object with {', '.join(names)}.")
        check_known(given, names, "request")
        if missing := [name for name in names[:3] if name not in given]:
            raise SettingError(f"The request {path} lacks {', '.join(missing)}.")
        return cls(**given).checked()

    def checked(self) -> Request:
        """The request itself, once it is known to name what there is.

        Raises:
            SettingError: The component or the preset is unknown, or the number of processes is none.
        """
        check_known([self.component], COMPONENTS, "component")
        check_known([self.preset], PRESETS, "preset")
        if isinstance(self.processes, bool) or not isinstance(self.processes, int) or self.processes < 1:
            raise SettingError(f"request: processes is {self.processes!r}; give a whole number from 1.")
        return self


def train(
    component: str, arguments: Mapping[str, Any], *, processes: int = 1, preset: str = "ddp"
) -> StepReport:
    """Train from within a step: in this process, or in several that it starts and waits for.

    Args:
        component: Name of a training component.
        arguments: Its arguments, by name.
        processes: Number of processes on this machine.
        preset: How they work together.

    Raises:
        ComponentError: What the training, or the first of its processes, ended with.
    """
    with tempfile.TemporaryDirectory(prefix="launch-") as scratch:
        file, result = Path(scratch) / "request.json", Path(scratch) / "result.json"
        request = Request(component, arguments, str(result), preset, processes).checked()
        if processes == 1:
            return _component(request)(**arguments)
        write_json(file, asdict(request))
        run(file)
        written = read_result(result)
    return StepReport(**{of.name: getattr(written, of.name) for of in fields(StepReport)})


def run(path: str | os.PathLike[str]) -> None:
    """Carry out a request, in as many processes as it asks for or as there are already.

    Args:
        path: The request, a JSON file that every process can read.

    Raises:
        ComponentError: What a process ended with, its type included.
    """
    if directory := os.environ.get(_ERRORS_VARIABLE):
        os.environ[ERROR_FILE_VARIABLE] = str(Path(directory) / f"{os.environ['RANK']}.json")
    request = Request.read(path)
    component = _component(request)
    if "RANK" in os.environ:
        _work(request, component)
    elif "PET_NNODES" in os.environ:
        from torch.distributed.run import main as torchrun

        with _started(path):
            torchrun(["-m", MODULE, os.fspath(path)])
    elif request.processes == 1:
        _work(request, component)
    else:
        _check_machine(request)
        from accelerate.commands.launch import launch_command, launch_command_parser

        with _started(path):
            launch_command(launch_command_parser().parse_args(_accelerate_arguments(request, path)))


def _accelerate_arguments(request: Request, path: str | os.PathLike[str]) -> list[str]:
    configurations = Path(importlib.util.find_spec("trl").origin).parent / "accelerate_configs"
    return [
        # A file of ours, always: without one Accelerate takes the defaults of whoever is logged in.
        f"--config_file={configurations / PRESETS[request.preset]}.yaml",
        f"--num_processes={request.processes}",
        "--num_machines=1",
        "--main_process_port=0",
        "--mixed_precision=no",  # the training arguments say
        "--module",
        MODULE,
        os.fspath(path),
    ]


def _check_machine(request: Request) -> None:
    import torch

    gpus = torch.cuda.device_count()
    if request.preset == "cpu":
        cores = max(1, (os.cpu_count() or 1) // request.processes)
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
        os.environ |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    elif gpus < request.processes:
        raise SettingError(
            f"{request.processes} processes were asked for, and this machine has {gpus} GPU(s). Set processes={max(gpus, 1)}"
            ", use a machine with more, or train on several nodes with a TrainJob; preset='cpu' needs none."
        )
    _check_preset(request)


def _check_preset(request: Request) -> None:
    if request.preset.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        raise SettingError(
            f"preset={request.preset!r} needs DeepSpeed, which is not installed. Install `deepspeed` in the image of the data "
            "plane, or use preset='fsdp2', which shards the model as zero3 does and needs nothing more."
        )


@contextlib.contextmanager
def _started(path: str | os.PathLike[str]) -> Iterator[None]:
    """Processes that a launcher starts: what one of them ends with becomes the error of this one."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_SECONDS))
    with tempfile.TemporaryDirectory(prefix="launch-") as directory:
        os.environ[_ERRORS_VARIABLE] = directory
        try:
            yield
        except (ChildFailedError, SignalException) as error:
            raise _first_error(Path(directory), error) from None
        finally:
            del os.environ[_ERRORS_VARIABLE]


def _first_error(directory: Path, error: Exception) -> Exception:
    """The error of the process that failed first; the others only fail because it is gone."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    recorded = sorted(directory.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    for file in recorded:
        found = _reported(file)
        if found and (known := _error_class(found["type"])):
            return known(found["message"])
    if isinstance(error, ChildFailedError):
        for rank, failure in error.failures.items():
            if failure.exitcode not in (1, -signal.SIGTERM):
                return _died(rank, failure.exitcode)
    if found := next(filter(None, map(_reported, recorded)), None):
        return ComponentError(f"{found['type']} in a training process: {found['message']}")
    return UnavailableError(
        "The training's processes were stopped before any of them said why. Their output is above; run it again to go on."
    )


def _reported(file: Path) -> dict[str, Any] | None:
    """What a process said of its end, if it came to say it: it may have been killed while it wrote."""
    with contextlib.suppress(StateFileError):
        found = read_json(file, ERROR_SHAPE)
        return found if found.get("type") and found.get("message") is not None else None
    return None


def _died(rank: int, code: int) -> UnavailableError:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    hint = " That is often the kernel, out of memory." if code == -signal.SIGKILL else ""
    return UnavailableError(
        f"Training process {rank} {how} without a message.{hint} Its output is above; run it again to go on from the "
        "last checkpoint."
    )


def _error_class(name: str) -> type[ComponentError] | None:
    known = getattr(errors, name, None)
    return known if isinstance(known, type) and issubclass(known, ComponentError) else None


def _work(request: Request, component: Callable[..., StepReport]) -> None:
    """Train in this process, one of several or the only one."""
    _set_environment(request)
    if is_main_process():
        _train(request, component)
        return
    with (
        tempfile.TemporaryDirectory(prefix="launch-") as scratch,
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        aside = {name: str(Path(scratch) / name) for name in OUTPUTS if name in request.arguments}
        _train(
            Request(request.component, {**request.arguments, **aside}, str(Path(scratch) / "result.json")),
            component,
        )


def _train(request: Request, component: Callable[..., StepReport]) -> None:
    paths = {name: str(request.arguments[name]) for name in OUTPUTS if name in request.arguments}
    carry_out(
        request.component,
        lambda: component(**request.arguments),
        outputs={name: Output(path, Path(path).absolute().as_uri()) for name, path in paths.items()},
        result=request.result,
    )


def _component(request: Request) -> Callable[..., StepReport]:
    """The component's function, once its arguments are known to fit."""
    from llmops_components.passthrough.training import TrainingOptions

    function: Callable[..., StepReport] = getattr(
        importlib.import_module(COMPONENTS[request.component]), request.component
    )
    signature = inspect.signature(function)
    names = [name for name, of in signature.parameters.items() if of.kind != of.VAR_KEYWORD]
    if len(names) < len(signature.parameters):
        names += TrainingOptions.__annotations__
    check_known(request.arguments, names, f"arguments of {request.component}")
    try:
        signature.bind(**request.arguments)
    except TypeError as error:
        raise SettingError(f"The arguments of {request.component} do not fit: {error}.") from None
    return function


def _set_environment(request: Request) -> None:
    """What Accelerate's launcher tells its processes, for those that torchrun has started in a ``TrainJob``."""
    if os.environ.get("WORLD_SIZE", "1") == "1" or "ACCELERATE_MIXED_PRECISION" in os.environ:
        return
    _check_preset(request)
    from accelerate.commands import launch

    parsed = launch.launch_command_parser().parse_args(_accelerate_arguments(request, "request"))
    parsed, defaults, _ = launch._validate_launch_command(parsed)
    if parsed.use_deepspeed:
        parsed.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        environment = launch.prepare_deepspeed_cmd_env(parsed)[1]
    else:
        environment = launch.prepare_multi_gpu_env(parsed)
    os.environ |= {
        name: value for name, value in environment.items() if name.startswith(("ACCELERATE_", "FSDP_"))
    }
    if request.preset == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"


def main(arguments: list[str] | None = None) -> None:
    """The command line: see the module."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        raise SystemExit(f"usage: python -m {MODULE} REQUEST.json")
    try:
        run(arguments[0])
    except ComponentError as error:
        name = type(error).__name__
        if ERROR_FILE_VARIABLE in os.environ:  # elsewhere the process that trains has reported it
            report_error(error)
        print(f"{name}: {message_of(error)}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_INTERRUPTED if name == "TrainingInterrupted" else 1) from None


if __name__ == "__main__":
    main()
