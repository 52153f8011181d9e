"""What others may import from the provider stays as it is, or changes on purpose: ``surface.json`` has all of it.

``.venv/control/bin/python tests/provider/test_surface.py`` writes the file anew, after a change that is meant and stands in
the changelog.
"""

from __future__ import annotations

import enum
import inspect
import json
import pkgutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import airflow_provider_llmops

FILE = Path(__file__).with_name("surface.json")
# Rooms that nobody outside imports from.
INNER = (
    "backends",
    "backfill",
    "cli",
    "components",
    "delivery",
    "example_dags",
    "kinds",
    "openlineage",
    "pages",
    "specs",
)


def public_modules() -> dict[str, Any]:
    """The modules that say what is public in them."""
    root = airflow_provider_llmops.__name__
    found = pkgutil.walk_packages(airflow_provider_llmops.__path__, f"{root}.")
    modules = (
        import_module(each.name)
        for each in found
        if not each.ispkg and each.name.split(".")[1] not in INNER and "moved" not in each.name
    )
    return {module.__name__: module for module in modules if hasattr(module, "__all__")}


def surface() -> dict[str, dict[str, Any]]:
    """Every public name with all that a caller sees of it."""
    return {
        name: {public: described(getattr(module, public)) for public in module.__all__}
        for name, module in public_modules().items()
    }


def described(thing: Any) -> Any:
    if not isinstance(thing, type):
        return parameters(thing)
    if issubclass(thing, enum.Enum):
        return [member.value for member in thing]
    kinds = [kind for kind in thing.__mro__ if kind.__module__.startswith(airflow_provider_llmops.__name__)]
    if issubclass(thing, Exception):
        return [kind.__name__ for kind in thing.__mro__[1:-3]]
    arguments: dict[str, str] = {}
    for kind in reversed(kinds):
        if "__init__" in vars(kind):
            arguments |= parameters(inspect.unwrap(vars(kind)["__init__"]))
    methods = {
        name: parameters(inspect.unwrap(value))
        for kind in reversed(kinds)
        for name, value in vars(kind).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    fields = {"template_fields": list(thing.template_fields)} if hasattr(thing, "template_fields") else {}
    return {"arguments": arguments, "methods": methods, **fields}


def parameters(function: Any) -> dict[str, str]:
    """Each argument with its default."""
    return {
        name: "required" if each.default is inspect.Parameter.empty else repr(each.default)
        for name, each in inspect.signature(function).parameters.items()
        if name != "self" and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    }


def test_public_names_and_their_arguments_are_those_that_were_written_down():
    assert surface() == json.loads(FILE.read_text(encoding="utf-8"))


def test_operators_sensors_hooks_and_triggers_say_what_is_public():
    names = {
        each.name
        for each in pkgutil.walk_packages(airflow_provider_llmops.__path__, "airflow_provider_llmops.")
        if each.name.split(".")[1] in ("hooks", "operators", "sensors", "triggers") and not each.ispkg
    }
    # Inner workings of the trigger for pipeline runs.
    assert names - public_modules().keys() == {"airflow_provider_llmops.triggers.run_stream"}


def test_documented_name_that_has_moved_is_found_at_its_old_place_with_a_warning():
    from airflow.exceptions import AirflowProviderDeprecationWarning

    from airflow_provider_llmops.settings.kubernetes import StepSettings

    old = import_module("airflow_provider_llmops.kubernetes")
    with pytest.warns(
        AirflowProviderDeprecationWarning, match=r"has moved to .*settings\.kubernetes"
    ) as told:
        found = old.StepSettings
    assert found is StepSettings
    assert told[0].filename == __file__
    with pytest.raises(AttributeError, match="has no attribute 'Steps'"):
        _ = old.Steps


if __name__ == "__main__":
    FILE.write_text(json.dumps(surface(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
