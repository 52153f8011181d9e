"""What a constructor's signature says of its arguments, so that nobody lists them a second time."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

_OBJECT = re.compile(r"\b(dict|Mapping)\b")


def names_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the arguments that a function declares, but for ``self`` and ``**kwargs``.

    :param function: the function, such as the ``__init__`` of a class
    """
    return tuple(each.name for each in _declared(function))


def names_of_objects(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of those that take objects, which a page shows as JSON.

    :param function: the function
    """
    return tuple(each.name for each in _declared(function) if _OBJECT.search(str(each.annotation)))


def constructors_of(kind: type, below: type) -> Iterator[Callable[..., Any]]:
    """The constructors of a class and of its bases, the uppermost first.

    :param kind: the class
    :param below: base at which it ends, which is left out
    """
    for each in reversed(kind.__mro__):
        if issubclass(each, below) and each is not below and "__init__" in vars(each):
            yield vars(each)["__init__"]


@functools.cache  # a base's constructor is asked for each class below it
def _declared(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    parameters = inspect.signature(function).parameters.values()
    return tuple(
        each
        for each in parameters
        if each.name != "self" and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    )
