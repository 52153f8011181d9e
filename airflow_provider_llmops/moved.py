"""The way of a documented name that has moved or changed: one release in which the old one works and warns."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

__all__ = ["from_new_place", "under_new_names"]

# Inputs of components that had other names than their operators' arguments.
_OLD_INPUTS = {
    "register_model": {"name": "model_name", "params": "params_to_log", "metrics": "model_metrics"},
}


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


def under_new_names(component: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A component's arguments, those that are called by an old name under the new one.

    :param component: name of the component
    :param arguments: its arguments by name
    """
    new_names = _OLD_INPUTS.get(component, {})
    found = {name: value for name, value in arguments.items() if name not in new_names}
    for old in (name for name in arguments if name in new_names):
        from airflow.exceptions import AirflowProviderDeprecationWarning

        warnings.warn(
            f"The input {old!r} of {component} is {new_names[old]!r} now; the old name goes with the next release.",
            AirflowProviderDeprecationWarning,
            stacklevel=3,
        )
        found.setdefault(new_names[old], arguments[old])
    return found
