"""What a component passes on to a library, checked against the fields that the library declares.

The data plane writes them into an index beside the compiled components. They are those of its own release: in an image of
another release a library may declare something else, so that there values are only converted, and nothing is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown
from airflow_provider_llmops.specs.allowed_code import refuse_code
from airflow_provider_llmops.specs.declared import Kinds, converted
from airflow_provider_llmops.specs.index import read_index


def checked(component: str, arguments: Mapping[str, Any], *, same_release: bool = True) -> dict[str, Any]:
    """The arguments of a packaged component, the fields of its dicts in the types that are declared for them.

    :param component: name of the component
    :param arguments: its arguments by name
    :param same_release: whether the component that runs is the one whose fields are known
    :raises ConfigurationError: a field is unknown, or a value is not of its type, but for another release; or a field chooses
        code that is not allowed
    """
    index = read_index()
    declared: Mapping[str, Kinds] = index["arguments"].get(component, {})
    classes = {name: of["fields"] for name, of in index["classes"].items()}
    result = dict(arguments)
    for name, kinds in declared.items():
        if result.get(name) is None:
            continue
        refuse_code(name, result[name], index["code"])
        result[name] = converted(result[name], kinds, name, classes, strict=same_release)
        if same_release and isinstance(result[name], Mapping):
            _check_names(component, name, result[name], kinds)
        refuse_code(name, result[name], index["code"])  # what was text is an object now
    return result


def is_same_release(image: str | None, compiled: str) -> bool:
    """Whether an image is, by its tag, a copy of the one that a component was compiled for.

    :param image: image that the step runs in; the compiled one when ``None``
    :param compiled: image that the component was compiled for
    """
    return image is None or _tag(image) == _tag(compiled)


def _tag(image: str) -> str:
    return image.rpartition("/")[2].partition("@")[0].partition(":")[2]


def _check_names(component: str, argument: str, given: Mapping[str, Any], kinds: Kinds) -> None:
    names = _classes_of(kinds)
    if not names:
        return
    fields = _fields(names)
    for field, value in given.items():
        if field == "generation_kwargs" and given.get("use_vllm"):
            continue  # those of vLLM's SamplingParams
        if field in fields and isinstance(value, Mapping):
            _check_names(component, f"{argument}: {field}", value, fields[field])
    unknown = [field for field in given if field not in fields]
    is_open = any(read_index()["classes"][of]["open"] for of in names)
    answers = {field: _answer(component, argument, field, names, is_open=is_open) for field in unknown}
    if said := [f"{field!r} {answer}" for field, answer in answers.items() if answer]:
        raise ConfigurationError(f"{argument}: {' '.join(said)}")
    if unknown and not is_open:
        raise ConfigurationError(
            f"{argument}: unknown {describe_unknown(unknown, fields)}. It is passed to {' or '.join(names)}."
        )


def _answer(component: str, argument: str, field: str, names: list[str], *, is_open: bool) -> str | None:
    """What to do with a name that a class does not have; None if nobody knows."""
    index = read_index()
    for of in names:
        if answer := index["classes"][of]["answers"].get(field):
            return f"is no longer an argument. {answer}"
    # It may be a field of the model's own; and what is no training has one such argument only.
    if is_open or "training_args" not in index["arguments"][component]:
        return None
    for other, kinds in index["arguments"][component].items():
        if other != argument.partition(":")[0] and field in _fields(_classes_of(kinds)):
            return f"is no argument of {argument}. Put it into {other}."
    answer = index["elsewhere"].get(field)
    return f"is no argument of {argument}. {answer}" if answer else None


def _classes_of(kinds: Kinds) -> list[str]:
    return [of for kind in kinds if isinstance(kind, dict) for of in kind.get("fields", ())]


def _fields(names: list[str]) -> dict[str, Kinds]:
    classes = read_index()["classes"]
    return {field: kinds for of in names for field, kinds in classes[of]["fields"].items()}
