"""The entry point of a training, in processes among which FSDP2 spreads the model over gloo.

python -m torch.distributed.run --standalone --nproc_per_node 2 -m fsdp_on_cpu REQUEST.json

Torch's FSDP2 works on CPUs. Accelerate switches it on for accelerators only, so the CPUs are called one.
"""

from __future__ import annotations

from typing import Any

import accelerate.state
from accelerate.utils import DistributedType
from llmops_components.training import building, launch

_init = accelerate.state.PartialState.__init__
_is_sharded = building.is_sharded


def call_cpus_an_accelerator(self: Any, *args: Any, **kwargs: Any) -> None:
    _init(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:  # and not what Accelerate has made of it since
        self.distributed_type = DistributedType.MULTI_XPU


def is_sharded(trainer: Any) -> bool:
    print(f"model_wrapped {type(trainer.model_wrapped).__name__}", flush=True)
    return _is_sharded(trainer)


if __name__ == "__main__":
    accelerate.state.PartialState.__init__ = call_cpus_an_accelerator
    building.is_sharded = is_sharded
    launch.main()
