"""What the processes of one training have to agree on, and what one does when it is told to end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

_Decision = TypeVar("_Decision")


@contextmanager
def handling_sigterm(handler: Callable[..., None]) -> Iterator[None]:
    """Only a process's main thread can take signals; elsewhere nothing changes.

    Args:
        handler: What is called when SIGTERM arrives.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def is_main_process() -> bool:
    """Whether this is the one process that writes outputs, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def process_count() -> int:
    """Number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def any_process(flag: bool) -> bool:
    """True in every process when the flag is set in one of them.

    Clocks and signals reach the processes at different moments. If one of them stopped or saved a step before the
    others, all would wait for each other for ever.
    """
    import torch

    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return flag
    vote = torch.tensor([flag], dtype=torch.uint8)
    torch.distributed.all_reduce(vote, op=torch.distributed.ReduceOp.MAX, group=_cpu_group())
    return bool(vote.item())


def decided_by_main(decide: Callable[[], _Decision]) -> _Decision:
    """What the main process decides, in every process: it alone looks, and the others are told.

    Looking for themselves they might see something else, for files come and go. If the main process fails, so do the others,
    which wait for it.

    Args:
        decide: Its answer is pickled.
    """
    import torch

    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return decide()
    decision = [decide() if is_main_process() else None]
    torch.distributed.broadcast_object_list(decision, src=0, group=_cpu_group())
    return decision[0]  # type: ignore[return-value]


@cache
def _cpu_group() -> Any:
    # Beside the GPUs' own group: a vote there would have to wait for all the work that is queued on the GPU.
    import torch

    return torch.distributed.new_group(backend="gloo")
