"""Whether a batch fits in the memory that is free, before a step is tried.

What a training keeps for its backward pass is measured on the model itself, with its adapter and precision: the tensors that a
forward pass of a few tokens saves, and one of twice as many. That tells what grows with the number of tokens, and what with its
square, as attention does where it is not computed in pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmops_components.models.device_memory import free_bytes
from llmops_components.training.lengths import longest_row

if TYPE_CHECKING:
    from transformers import Trainer

_PROBE_TOKENS = 64  # and half of it
_LOSS_BYTES = 12  # for each token and word: logits, their logarithms in 32 bit, and what is handed back
_OPTIMIZER_BYTES = 12  # for each weight that is trained: its gradient and two moments, in 32 bit
_GIB = 2**30


class WouldNotFit(MemoryError):
    """A batch would not fit; nothing was tried."""


def check_fits(trainer: Trainer) -> None:
    """Raise :class:`WouldNotFit` where the longest batch takes more memory than is free.

    Args:
        trainer: A trainer that is built, and of which nothing has run.
    """
    args, model = trainer.args, trainer.model
    longest = longest_row(trainer)
    if longest is None:
        return
    batch = args.per_device_train_batch_size
    head = model.get_output_embeddings()  # a reward model has none
    words = head.weight.shape[0] if head is not None else 0
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    needed = (
        batch * (saved_bytes(trainer, longest) + _LOSS_BYTES * words * longest) + _OPTIMIZER_BYTES * trained
    )
    free = free_bytes(args.device)
    if needed > free:
        raise WouldNotFit(
            f"a batch of {batch} with up to {longest} tokens each would take {needed / _GIB:.3g} GiB, "
            f"and {free / _GIB:.3g} GiB are free"
        )


def saved_bytes(trainer: Trainer, tokens: int) -> float:
    """What the model keeps of a row for the backward pass, in bytes; its losses and random numbers stay what they are.

    Args:
        trainer: A trainer that is built.
        tokens: Of the row.
    """
    positions = getattr(trainer.model.config.get_text_config(), "max_position_embeddings", None)
    long = min(_PROBE_TOKENS, positions or _PROBE_TOKENS)
    short = long // 2
    if short == 0:
        return float(_saved(trainer, long) * tokens)
    of_long, of_short = (_saved(trainer, count) / count for count in (long, short))
    by_square = max(0.0, (of_long - of_short) / (long - short))
    return tokens * (of_short + by_square * (tokens - short))


def _saved(trainer: Trainer, tokens: int) -> int:
    import torch

    model = trainer.model
    own = {
        each.untyped_storage().data_ptr()
        for group in (model.parameters(), model.buffers())
        for each in group
        if each.device.type != "meta"
    }
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no other gets its place
        return tensor

    was_training = model.training
    ids = torch.zeros((1, tokens), dtype=torch.long, device=trainer.args.device)
    devices = [trainer.args.device] if trainer.args.device.type == "cuda" else []
    model.train()
    try:
        with (
            torch.random.fork_rng(devices=devices),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            trainer.accelerator.autocast(),
        ):
            model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        model.train(was_training)
    return sum(storage.nbytes() for storage in kept.values())
