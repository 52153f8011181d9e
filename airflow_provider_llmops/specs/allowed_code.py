"""Arguments that choose code: refused, unless whoever runs Airflow allows it.

``[llmops] allowed_code`` in Airflow's configuration names what is allowed, separated by commas: ``trust_remote_code``,
``use_kernels``, a repository of kernels or its organisation, a module and those below it. A component asks once more where it
runs: there the environment variable ``LLMOPS_ALLOWED_CODE`` says the same, which the local backend sets.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError

SECTION = "llmops"
OPTION = "allowed_code"
ENVIRONMENT = "LLMOPS_ALLOWED_CODE"
_OFF = ("", "0", "false", "no", "none", "null")


def refuse_code(argument: str, given: Any, tables: Mapping[str, Any]) -> None:
    """Refuse what chooses code and is not allowed here, however deep it lies.

    :param argument: what it came in, for messages: ``model_args``
    :param given: the caller's values
    :param tables: what chooses code, as the index of the components has it
    :raises ConfigurationError: naming the field, and who can allow it
    """
    for field, name, what in _chosen(given, tables):
        if not is_allowed(name):
            raise ConfigurationError(
                f"{argument}: {field} {what}, which is not allowed here. Leave it out, or let whoever runs Airflow add {name!r} to "
                f"'{OPTION}' in the section [{SECTION}] of its configuration, and to {ENVIRONMENT} where the component runs."
            )


def refuse_switches(
    argument: str,
    given: Mapping[str, Any],
    switches: Mapping[str, str],
    *,
    by_dotted_name: Mapping[str, str],
    others: Collection[str],
) -> None:
    """Refuse arguments of a server that choose code and are not allowed here.

    :param argument: what they came in, for messages
    :param given: values by name, written with ``-`` or ``_``
    :param switches: names of those that choose code, and what each does; they count inside values, and shortened, too
    :param by_dotted_name: the same of those that choose code only where their value has a dot in it
    :param others: arguments that a switch begins with, and that are arguments of their own
    :raises ConfigurationError: naming the first, and who can allow it
    """
    for key, value in given.items():
        written, has_value, behind = str(key).partition("=")
        value = behind if has_value else value
        first, *rest = argument_name(written).split(".")
        if first not in others:
            known = (*switches, *by_dotted_name)
            first = next((name for name in known if is_short_for(first, name)), first)
        for name, chosen in (*((part, value) for part in (first, *rest)), *_fields(value)):
            is_off = _is_off(chosen) and chosen != ""  # a flag needs no value
            what = switches.get(name) or (by_dotted_name.get(name) if "." in str(chosen) else None)
            if what and not is_off and not is_allowed(name):
                raise ConfigurationError(
                    f"{argument}: {name} {what}, which is not allowed here. Leave it out, or let whoever runs Airflow add "
                    f"{name!r} to '{OPTION}' in the section [{SECTION}] of its configuration."
                )


def argument_name(key: Any) -> str:
    """An argument of a command line as its parser names it.

    :param key: how it is written: with ``-`` or ``_``, in whatever case, perhaps with a value behind ``=``
    """
    return str(key).strip().lower().replace("-", "_").lstrip("_").partition("=")[0]


def is_short_for(written: str, name: str) -> bool:
    """Whether a parser may take one argument for another: argparse takes the beginning of a name for the whole.

    :param written: the argument that is given
    :param name: the argument that it may be
    """
    return bool(written) and name.startswith(written)


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """The fields inside a value, however deep; text that is an object is one: servers decode it."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except ValueError:
            return
        except RecursionError:
            raise ConfigurationError(
                "A value is nested too deep to be looked into. Make it flatter."
            ) from None
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from ((part, item) for part in argument_name(key).split("."))
            yield from _fields(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _fields(item)


def is_allowed(name: str) -> bool:
    """Whether whoever runs Airflow has allowed a name, or what it is part of.

    :param name: a switch, module or repository
    """
    return any(name == each or name.startswith((f"{each}.", f"{each}/")) for each in allowed_names())


def allowed_names() -> list[str]:
    """What whoever runs Airflow has allowed."""
    from airflow.sdk.configuration import conf

    names = str(conf.get(SECTION, OPTION, fallback="") or "").split(",")
    return [name.strip() for name in names if name.strip()]


def _chosen(value: Any, tables: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Of each field that chooses code: the field, the name to allow, and what it does."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _chosen(item, tables)
    if not isinstance(value, Mapping):
        return
    for key, item in value.items():
        field = str(key)
        if field in tables["switches"] and not _is_off(item):
            yield field, field, tables["switches"][field]
        if field in tables["modules"] and not _is_off(item) and item != tables["modules"][field]:
            yield field, str(item), "names a module to import"
        if field in tables["kernels"]:
            for name in _texts(item):
                if "/" in name:
                    repository = name.rpartition("|")[2].partition("@")[0].partition(":")[0]
                    yield field, repository, "names kernels of the Hugging Face hub"
        yield from _chosen(item, tables)


def _is_off(value: Any) -> bool:
    return value.strip().lower() in _OFF if isinstance(value, str) else not value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)
