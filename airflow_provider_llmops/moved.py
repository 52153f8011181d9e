"""The way of a documented name that has moved: one release in which its old place works and warns."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

__all__ = ["from_new_place"]


def from_new_place(module: str, name: str, moved: Mapping[str, str]) -> Any:
    """What a module's ``__getattr__`` answers for a name that is elsewhere now.

    :param module: the old place
    :param name: what is asked for
    :param moved: the new module of each name that was there
    :raises AttributeError: there was no such name
    """
    if name not in moved:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    from airflow.exceptions import AirflowProviderDeprecationWarning

    warnings.warn(
        f"{module}.{name} has moved to {moved[name]}.{name}; the old place goes with the next release.",
        AirflowProviderDeprecationWarning,
        stacklevel=3,
    )
    return getattr(import_module(moved[name]), name)
