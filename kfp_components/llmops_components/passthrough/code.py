"""Arguments that choose code: refused, unless whoever runs the component allows it.

What a pipeline is given as data must not choose what runs: ``trust_remote_code`` runs files that a model brings, the name of a
kernel or of a module what is behind it. Whoever runs the component allows it by name, separated by commas, in the environment
variable ``LLMOPS_ALLOWED_CODE``: ``trust_remote_code``, ``use_kernels``, a repository of kernels or its organisation
(``kernels-community``), a module and those below it (``megatron``). Modules of rewards have a variable of their own, see
:mod:`~llmops_components.training.rewards`.

The provider reads the same tables from the index beside the compiled components (``airflow_provider_llmops/specs/allowed_code.py``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmops_components.errors import SettingError

ALLOWED_ENVIRONMENT = "LLMOPS_ALLOWED_CODE"

# Fields that choose code by their being set, and what they do.
SWITCHES = {
    "allow_all_kernels": "runs kernels that anybody put on the Hugging Face hub",
    "auto_map": "names code of a model",
    "auto_mapping": "names a module that loading the adapter imports",
    "custom_generate": "runs code of a model repository",
    "kernel_config": "names kernels of the Hugging Face hub",
    "trust_remote_code": "runs code that a model brings",
    "use_kernels": "runs kernels of the Hugging Face hub",
}
# Fields that choose code by a name with a slash in it: a repository of kernels.
KERNELS = ("attn_implementation", "experts_implementation")
# Fields that name a module which is imported, with the one that they name by default.
MODULES = {"megatron_core": "megatron.core"}
_OFF = ("", "0", "false", "no", "none", "null")


def refuse_code(argument: str, given: Any) -> None:
    """Raise :class:`SettingError` for what chooses code and is not allowed here, however deep it lies.

    Args:
        argument: What it came in, for messages: ``model_args``.
        given: The caller's values.
    """
    for field, name, what in _chosen(given):
        if not is_allowed(name, ALLOWED_ENVIRONMENT):
            raise SettingError(
                f"{argument}: {field} {what}, which is not allowed here. Leave it out, or let whoever runs the component add "
                f"{name!r} to the environment variable {ALLOWED_ENVIRONMENT}."
            )


def is_allowed(name: str, variable: str) -> bool:
    """Whether whoever runs the component has allowed a name, or what it is part of.

    Args:
        name: A switch, module or repository.
        variable: Environment variable with the names that are allowed, separated by commas.
    """
    allowed = (each.strip() for each in os.environ.get(variable, "").split(","))
    return any(each and (name == each or name.startswith((f"{each}.", f"{each}/"))) for each in allowed)


def _chosen(value: Any) -> Iterator[tuple[str, str, str]]:
    """Each field that chooses code, with the name to allow and what it does."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _chosen(item)
    if not isinstance(value, Mapping):
        return
    for key, item in value.items():
        field = str(key)
        if field in SWITCHES and not _is_off(item):
            yield field, field, SWITCHES[field]
        if field in MODULES and not _is_off(item) and item != MODULES[field]:
            yield field, str(item), "names a module to import"
        if field in KERNELS:
            for name in _texts(item):
                if "/" in name:
                    repository = name.rpartition("|")[2].partition("@")[0].partition(":")[0]
                    yield field, repository, "names kernels of the Hugging Face hub"
        yield from _chosen(item)


def _is_off(value: Any) -> bool:
    return value.strip().lower() in _OFF if isinstance(value, str) else not value


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)
