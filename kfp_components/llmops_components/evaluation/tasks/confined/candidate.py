"""The answer's code: run, and then asked by the tests."""

from __future__ import annotations

import builtins
import json
import operator
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from llmops_components.evaluation.tasks.confined.wire import Peer, decode, encode

# Base classes of what is shown with its data: a named tuple equals a tuple.
_MIRRORED: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (list, lambda value: list(list.__iter__(value))),
    (dict, lambda value: dict(dict.items(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
    (set, lambda value: set(set.__iter__(value))),
    (str, lambda value: str.__str__(value)),
    (float, lambda value: float.__float__(value)),
    (int, lambda value: int.__int__(value)),
)
_DOES: dict[str, Callable[..., Any]] = {
    "getattr": getattr,
    "setattr": setattr,
    "call": lambda function, *args, **named: function(*args, **named),
    "iter": iter,
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
    "int": int,
    "float": float,
    "round": round,
    "isinstance": isinstance,
    "enter": lambda value: type(value).__enter__(value),
    "exit": lambda value: type(value).__exit__(value, None, None, None),
    "contains": operator.contains,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    **{
        name: getattr(operator, name)
        for name in (
            *(
                "eq",
                "lt",
                "le",
                "gt",
                "ge",
                "add",
                "sub",
                "mul",
                "truediv",
                "floordiv",
                "mod",
                "pow",
                "matmul",
            ),
            *("and_", "or_", "xor", "lshift", "rshift", "neg", "pos", "abs", "invert"),
        )
    },
}


class Candidate:
    """The objects of an answer's code, by number.

    Args:
        descriptor: File descriptor of the connection to the tests.
    """

    def __init__(self, descriptor: int) -> None:
        self._objects: list[Any] = []
        self._peer = Peer(descriptor, self._serve)

    def run(self) -> None:
        """Answer the tests' questions."""
        self._peer.serve_for_ever()

    def _serve(self, question: dict[str, Any]) -> Any:
        if question["do"] == "load":
            return self._load(question["code"])
        if question["do"] == "next":
            return self._next(self._decode(question["args"][0]))
        args = [self._decode(each) for each in question["args"]]
        named = {name: self._decode(each) for name, each in question.get("named", {}).items()}
        value = self._encode(_DOES[question["do"]](*args, **named))
        after = [
            self._encode(each) if isinstance(each, list | dict | set | bytearray) else None for each in args
        ]
        changed = {
            place: each
            for place, each in enumerate(after)
            if each is not None and json.dumps(each) != json.dumps(question["args"][place])
        }
        return {"value": value, "changed": changed}

    def _load(self, code: str) -> dict[str, Any]:
        module = types.ModuleType("answer")
        sys.modules["answer"] = module  # dataclasses look there for what their class's module means
        exec(compile(code, "answer.py", "exec"), module.__dict__)  # noqa: S102  what the sandbox is for
        names = {}
        for name, value in list(module.__dict__.items()):
            # A name of Python's own would answer for what the tests mean by it, and so would a module.
            if name.startswith("__") or hasattr(builtins, name) or isinstance(value, types.ModuleType):
                continue
            is_error = isinstance(value, type) and issubclass(value, Exception)
            bases = [each.__name__ for each in value.__mro__] if is_error else []
            names[name] = {"errors": bases} if is_error else {"value": self._encode(value)}
        return names

    def _next(self, iterator: Any) -> Any:
        for each in iterator:
            return {"value": self._encode(each)}
        return {"end": True}

    def _encode(self, value: Any) -> Any:
        return encode(value, self._number)

    def _number(self, value: Any) -> dict[str, Any]:
        if isinstance(value, _Function):
            return {"function": value.number}
        self._objects.append(value)
        kind = value if isinstance(value, type) else type(value)
        found: dict[str, Any] = {"object": len(self._objects) - 1, "class": str(kind.__name__)}
        for base, plain in _MIRRORED:
            if isinstance(value, base):
                return found | {"data": self._encode(plain(value))}
        return found

    def _decode(self, said: Any) -> Any:
        def other(stands_for: dict[str, Any]) -> Any:
            if "function" in stands_for:
                return _Function(self, stands_for["function"])
            return self._objects[stands_for["object"]]

        return decode(said, other)

    def ask(self, do: str, number: int, *args: Any) -> Any:
        """Ask the tests for something of a function or iterator of theirs.

        Args:
            do: What to do.
            number: The function's number.
            args: What it is called with.
        """
        question = {"do": do, "number": number, "args": [self._encode(each) for each in args]}
        found = self._peer.ask(question)
        if "error" in found:
            names = found["error"]["names"]
            kinds = (getattr(builtins, name, None) for name in names)
            raise next(each for each in (*kinds, RuntimeError) if isinstance(each, type))(
                found["error"]["text"]
            )
        return found["answer"]


class _Function:
    """A function, or an iterator, of the tests'."""

    def __init__(self, candidate: Candidate, number: int) -> None:
        self._candidate = candidate
        self.number = number

    def __call__(self, *args: Any) -> Any:
        return self._candidate._decode(self._candidate.ask("call", self.number, *args)["value"])

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        found = self._candidate.ask("next", self.number)
        if "end" in found:
            raise StopIteration
        return self._candidate._decode(found["value"])


def main(descriptor: int) -> None:
    """Answer the tests' questions.

    Args:
        descriptor: File descriptor of the connection to them.
    """
    os.environ.clear()  # Python itself puts LC_CTYPE there
    Candidate(descriptor).run()
