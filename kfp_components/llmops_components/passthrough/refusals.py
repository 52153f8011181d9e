"""Which errors of a library are about what the caller gave, and so final, and which are failures of the machine."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from llmops_components.errors import ComponentError, InputError, SettingError, shortened

T = TypeVar("T")
_MAX_CHARACTERS = 2000  # of what a library says: it may repeat what it was given
_PACKAGE = __name__.partition(".")[0]
# Errors of devices and of what connects them, which PyTorch raises as RuntimeError.
_DEVICE = re.compile(r"CUDA error|CUDA driver|cuDNN|cuBLAS|NCCL|HIP error|NVML|ECC error", re.IGNORECASE)


@contextmanager
def refusals(where: str, *, kind: type[InputError] = SettingError) -> Iterator[None]:
    """For the length of a block, make a library's errors about the caller's input final ones.

    What is built from the same input raises the same again, whatever the type of the exception; libraries are not
    careful about it. Two kinds of exceptions stay what they are, since running again may help, or the fault is ours:
    those of the machine (memory, disk, network, devices) and those raised in our own code.

    Args:
        where: What is being built, for the message.
        kind: What the error becomes.
    """
    try:
        yield
    except ComponentError:
        raise
    except Exception as error:
        if is_of_the_machine(error) or _is_ours(error):
            raise
        raise kind(f"{where}: {in_words(error)}") from error


def refusing(where: str, build: Callable[..., T]) -> Callable[..., T]:
    """A function that builds something, within :func:`refusals`."""

    @functools.wraps(build)
    def built(*args: Any, **kwargs: Any) -> T:
        with refusals(where):
            return build(*args, **kwargs)

    return built


def in_words(error: Exception) -> str:
    """An exception's text up to a length, with its type where the text says little."""
    text = shortened(str(error).strip(), _MAX_CHARACTERS)
    is_said = isinstance(error, ValueError | NotImplementedError | ImportError) and text
    return text if is_said else f"{type(error).__name__}: {text}".removesuffix(": ")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the device or of the machine, ran out."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # Accelerate knows the messages, but not the way that NumPy and the CPU allocator of other builds put it.
    return isinstance(error, Exception) and (
        should_reduce_batch_size(error)
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def is_of_the_machine(error: BaseException) -> bool:
    """Whether an exception tells of memory, disk, network or a device, instead of what it was given."""
    seen: BaseException | None = error
    while seen is not None:
        if (
            is_out_of_memory(seen)
            or isinstance(seen, ConnectionError | TimeoutError)
            or _is_of_the_network(seen)
        ):
            return True
        if isinstance(seen, RuntimeError) and _DEVICE.search(str(seen)):
            return True
        # Without a number it is a library's word for a file or repository that is not there.
        if isinstance(seen, OSError) and seen.errno and not isinstance(seen, _MISSING):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


def _is_of_the_network(error: BaseException) -> bool:
    return any(
        of.__module__.partition(".")[0] in ("httpx", "httpcore", "requests", "urllib3")
        for of in type(error).__mro__
    )


def _is_ours(error: BaseException) -> bool:
    """Whether it was raised by a line of this package."""
    trace = error.__traceback__
    module = ""
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        trace = trace.tb_next
    return module.partition(".")[0] == _PACKAGE


def culprits(given: Mapping[str, Any], error: str, builds: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """Which of the caller's values an error is about.

    Args:
        given: The values by name.
        error: The error's text.
        builds: Whether it works with some of them.

    Returns:
        Those that the text names, else those of which one alone has to go; empty if neither tells.
    """
    named = [name for name in given if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", error)]
    if named:
        return named
    return [
        name for name in given if builds({other: value for other, value in given.items() if other != name})
    ]
