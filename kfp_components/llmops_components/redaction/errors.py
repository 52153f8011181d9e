"""Errors without secrets, with all that led to them."""

from __future__ import annotations

import contextlib

from llmops_components.redaction.text import redact
from llmops_components.redaction.values import redacted


def hide_in(error: BaseException) -> None:
    """Take secrets out of an error and of those that led to it, in place: a log shows the whole chain."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        _hide_in_one(each)
        _replace_those_that_tell(each)
        waiting += (each.__cause__, each.__context__, *getattr(each, "exceptions", ()))


def _replace_those_that_tell(error: BaseException) -> None:
    """Put others in the place of those that led to an error and cannot be changed, as those of libraries in C or Rust."""
    is_suppressed = error.__suppress_context__
    for name in ("__cause__", "__context__"):
        led: BaseException | None = getattr(error, name)
        if led is None:
            continue
        _hide_in_one(led)
        with contextlib.suppress(Exception):
            if (said := redact(text := str(led))) != text:
                setattr(error, name, _stand_in(led, said))
    error.__suppress_context__ = is_suppressed


def _stand_in(error: BaseException, said: str) -> BaseException:
    kind = type(error)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    instead: BaseException = type(kind.__name__, (Exception,), names)(said).with_traceback(
        error.__traceback__
    )
    instead.__cause__, instead.__context__ = error.__cause__, error.__context__
    instead.__suppress_context__ = error.__suppress_context__
    return instead


def _hide_in_one(error: BaseException) -> None:
    with contextlib.suppress(Exception):  # what cannot be changed is looked at below
        error.args = tuple(redact(arg) if isinstance(arg, str) else arg for arg in error.args)
        for name in ("strerror", "filename", "filename2", "msg", "text", "__notes__"):
            value = getattr(error, name, None)
            if isinstance(value, str | list) and (shown := redacted(value)) != value:
                setattr(error, name, shown)
    with contextlib.suppress(Exception):  # one that cannot be shown is not
        text = str(error)
        said = redact(text)
        if said != text:  # made of something else than its arguments
            kind = type(error)
            names = {
                "__str__": lambda _: said,
                "__module__": kind.__module__,
                "__qualname__": kind.__qualname__,
            }
            error.__class__ = type(kind.__name__, (kind,), names)
