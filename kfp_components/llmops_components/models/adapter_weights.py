"""An adapter added to the weights of its base model, so that the result is what the two were together."""

from __future__ import annotations

from typing import Any


def merge(adapted: Any) -> Any:
    """Add an adapter's change to the weights of its base model, in place.

    Where the adapter is on a weight that the model uses twice, as embeddings and as head, each of them gets a weight of
    its own first: PEFT would change both. Single tokens PEFT itself keeps the same in both.

    Args:
        adapted: A ``PeftModel`` whose adapter can be merged.

    Returns:
        The model without the adapter, its configuration saying whether its weights are tied.
    """
    base = adapted.get_base_model()
    was_tied = [config for config in _configs(base) if getattr(config, "tie_word_embeddings", False)]
    _separate_adapted(base)
    merged = adapted.merge_and_unload(safe_merge=True)
    for config in was_tied:
        config.tie_word_embeddings = True  # PEFT may have said otherwise of one of them
    if was_tied and not _ties_hold(merged):
        for config in was_tied:
            config.tie_word_embeddings = False
    merged.tie_weights()
    return merged


def _separate_adapted(model: Any) -> None:
    import torch

    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for names in owners.values():
        if len(names) > 1 and any(_is_of_a_tuner(name) for name in names):
            for name in names[1:]:
                module, _, attribute = name.rpartition(".")
                shared = model.get_parameter(name)
                own = torch.nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)
                setattr(model.get_submodule(module), attribute, own)


def _is_of_a_tuner(name: str) -> bool:
    return ".base_layer." in name and ".token_adapter." not in name


def _configs(model: Any) -> list[Any]:
    whole, text = model.config, model.config.get_text_config()
    return [whole] if text is whole else [whole, text]


def _ties_hold(model: Any) -> bool:
    """Whether all weights that the configuration ties are the same."""
    import torch

    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    pairs = [(model.get_parameter(one), model.get_parameter(other)) for one, other in tied.items()]
    return all(one is other or (one.dtype == other.dtype and torch.equal(one, other)) for one, other in pairs)
