"""Which weights a training moved: the proof that it trained what it should and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback


class WeightWatch(TrainerCallback):
    """Compares every parameter, bit by bit, after training with what it was before."""

    def __init__(self) -> None:
        self.trainable: set[str] = set()
        self.frozen: set[str] = set()
        self.moved: set[str] = set()
        self._before: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        for name, parameter in model.named_parameters():
            (self.trainable if parameter.requires_grad else self.frozen).add(name)
            self._before[name] = parameter.detach().clone()

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        self.moved = {
            name
            for name, parameter in model.named_parameters()
            if not torch.equal(parameter, self._before[name])
        }
