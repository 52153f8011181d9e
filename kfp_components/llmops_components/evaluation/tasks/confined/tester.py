"""The tests of an answer's code. Whether it passes is said here, on a pipe that the answer's code does not have.

The answer's names stand for what is in the other sandbox. What it returns is compared as data. Objects of classes that the tests name have
their operators, too; any other object equals nothing, adds to nothing, and is neither more nor less.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import types
import unittest
from collections.abc import Callable, Iterator
from typing import Any

from llmops_components.evaluation.tasks.confined.wire import Peer, WireError, decode, encode

_PLAIN = (int, float, str, bool)
_MAX_WHY = 500


class AnswerError(Exception):
    """An error of the answer's code that is none of Python's own."""


class Tester:
    """Asks the answer's code.

    Args:
        descriptor: File descriptor of the connection to it.
        named: Names in the tests.
    """

    def __init__(self, descriptor: int, named: frozenset[str]) -> None:
        self.named = named
        self.asked = 0
        self._handed: list[Any] = []
        self._errors: dict[str, type[Exception]] = {}
        self._peer = Peer(descriptor, self._serve)

    def load(self, code: str) -> dict[str, Any]:
        """The answer's names.

        Args:
            code: The answer's code.
        """
        found = self._result(self._peer.ask({"do": "load", "code": code}))
        names = {}
        for name, each in found.items():
            if hasattr(builtins, name) or name not in self.named:
                continue
            if "errors" in each:
                kinds = (_builtin_error(base) for base in each["errors"])
                base = next((kind for kind in kinds if kind is not None), Exception)
                names[name] = self._errors[name] = type(name, (base,), {})
            else:
                names[name] = self.decode(each["value"])
        self.asked = sum(not isinstance(each, Remote) for each in names.values())
        return names

    def ask(self, do: str, *args: Any, **named: Any) -> Any:
        """What comes of something that is done with objects of the answer's.

        Args:
            do: What to do.
            args: With what.
            named: Further arguments by name.
        """
        self.asked += 1
        question: dict[str, Any] = {"do": do, "args": [self._encode(each) for each in args]}
        if named:
            question["named"] = {name: self._encode(each) for name, each in named.items()}
        found = self._result(self._peer.ask(question))
        for place, after in found.get("changed", {}).items():
            _assign(args[int(place)], self.decode(after))
        if "end" in found:
            raise StopIteration
        return self.decode(found["value"])

    def decode(self, said: Any) -> Any:
        """What the answer's code gave.

        Args:
            said: As it came.
        """

        def other(stands_for: dict[str, Any]) -> Any:
            if "function" in stands_for:
                return self._handed[stands_for["function"]]
            data = (self.decode(stands_for["data"]),) if "data" in stands_for else ()
            return Remote(self, stands_for["object"], str(stands_for["class"]), data)

        return decode(said, other)

    def _encode(self, value: Any) -> Any:
        def other(of_ours: Any) -> dict[str, Any]:
            if isinstance(of_ours, Remote):
                return {"object": of_ours._number}
            self._handed.append(of_ours)
            return {"function": len(self._handed) - 1}

        return encode(value, other)

    def _serve(self, question: dict[str, Any]) -> Any:
        """The answer's code calls a function that it was handed, or takes the next of an iterator; no more than that."""
        handed = self._handed[question["number"]]
        if question["do"] == "next":
            for each in handed:
                return {"value": self._encode(each)}
            return {"end": True}
        return {"value": self._encode(handed(*(self.decode(each) for each in question["args"])))}

    def _result(self, message: dict[str, Any]) -> Any:
        if "error" not in message:
            return message["answer"]
        names, text = message["error"]["names"], str(message["error"]["text"])
        for name in names:
            kind = self._errors.get(name) or _builtin_error(name)
            if kind is not None:
                raise kind(text) if name == names[0] else _with_name(kind, names[0], text)
        raise AnswerError(f"{names[0]}: {text}")


class Remote:
    """An object of the answer's code."""

    def __init__(self, tester: Tester, number: int, kind: str, data: tuple[Any, ...]) -> None:
        vars(self).update(_tester=tester, _number=number, _kind=kind, _data=data)

    _tester: Tester
    _number: int
    _kind: str
    _data: tuple[Any, ...]

    def __getattr__(self, name: str) -> Any:
        return self._tester.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._tester.ask("setattr", self, name, value)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._tester.ask("call", self, *args, **named)

    def __iter__(self) -> Iterator[Any]:
        found = self._tester.ask("iter", self)
        while True:
            try:
                yield self._tester.ask("next", found)
            except StopIteration:
                return

    def __next__(self) -> Any:
        return self._tester.ask("next", self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Remote):
            if self._number == other._number:
                return True
            if self._data and other._data:
                return bool(self._data[0] == other._data[0])
            return self._is_named and _plainly(self._tester.ask("eq", self, other), bool)
        return bool(self._data) and bool(self._data[0] == other)

    def __hash__(self) -> int:
        return hash(self._data[0]) if self._data else hash(self._number)

    def __contains__(self, value: Any) -> bool:
        if self._is_named:
            return _plainly(self._tester.ask("contains", self, value), bool)
        return any(each == value for each in self)

    def __instancecheck__(self, value: Any) -> bool:
        is_theirs = isinstance(value, Remote) and self._is_named
        return is_theirs and _plainly(self._tester.ask("isinstance", value, self), bool)

    def __enter__(self) -> Any:
        return self._tester.ask("enter", self)

    def __exit__(self, *_: object) -> None:
        self._tester.ask("exit", self)

    @property
    def _is_named(self) -> bool:
        """Whether the tests name its class, so that they mean what it does by itself."""
        return self._kind in self._tester.named


def _plainly(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected, {type(value).__name__} given")
    return value


_COMPARE = ("lt", "le", "gt", "ge", "sub", "truediv", "floordiv", "mod", "xor")  # with data of the tests


def _operator(name: str, swapped: bool) -> Callable[..., Any]:
    def operate(self: Remote, *others: Any) -> Any:
        import operator

        if self._data:
            plain = [each._data[0] if isinstance(each, Remote) and each._data else each for each in others]
            values = [self._data[0], *plain]
            return getattr(operator, name)(*(reversed(values) if swapped else values))
        # Whoever is told what the tests expect can say that it is near it, or more.
        is_told = name in _COMPARE and not all(isinstance(each, Remote) for each in others)
        if not self._is_named or is_told:
            return NotImplemented if others else _plainly(None, object)
        return self._tester.ask(name, *([*others, self] if swapped else [self, *others]))

    return operate


def _asks(name: str, kind: type) -> Callable[..., Any]:
    def ask(self: Remote, *args: Any) -> Any:
        return _plainly(self._tester.ask(name, self, *args), kind)

    return ask


def _forwards(name: str) -> Callable[..., Any]:
    def forward(self: Remote, *args: Any) -> Any:
        return self._tester.ask(name, self, *args)

    return forward


for _name in ("getitem", "setitem", "delitem", "round"):
    setattr(Remote, f"__{_name}__", _forwards(_name))
for _name, _kind in {"len": int, "bool": bool, "str": str, "repr": str, "int": int, "float": float}.items():
    setattr(Remote, f"__{_name}__", _asks(_name, _kind))
for _name in ("lt", "le", "gt", "ge", "neg", "pos", "abs", "invert"):
    setattr(Remote, f"__{_name}__", _operator(_name, False))
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor"):
    setattr(Remote, f"__{_name.strip('_')}__", _operator(_name, False))
    setattr(Remote, f"__r{_name.strip('_')}__", _operator(_name, True))


def _builtin_error(name: Any) -> type[Exception] | None:
    kind = getattr(builtins, name, None) if isinstance(name, str) else None
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None


def _with_name(kind: type[Exception], name: str, text: str) -> Exception:
    return kind(f"{name}: {text}")


def _assign(target: Any, after: Any) -> None:
    """What the answer's code has changed in data that it was handed."""
    if isinstance(target, list | bytearray):
        target[:] = after
    elif isinstance(target, dict | set):
        target.clear()
        target.update(after)


def _names_of(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _names_of(each)


def _run(code: types.CodeType, names: dict[str, Any]) -> None:
    """The tests, and of what they define functions ``test_...`` and classes of ``unittest``."""
    space: dict[str, Any] = {"__name__": "tests", **names}
    exec(code, space)  # noqa: S102  the row's tests, in a sandbox
    for name, value in list(space.items()):
        if name.startswith("test") and isinstance(value, types.FunctionType):
            value()
        elif isinstance(value, type) and issubclass(value, unittest.TestCase) and value.__module__ == "tests":
            suite = unittest.defaultTestLoader.loadTestsFromTestCase(value)
            result = unittest.TextTestRunner(io.StringIO()).run(suite)
            if not result.wasSuccessful():
                raise AssertionError((result.failures + result.errors)[0][1])


def verdict_of(answer: str, tests: str, descriptor: int) -> dict[str, Any]:
    """Whether an answer's code passes its tests.

    Args:
        answer: Its code.
        tests: The tests.
        descriptor: File descriptor of the connection to the sandbox that runs it.
    """
    try:
        code = compile(tests, "tests.py", "exec")
        tester = Tester(descriptor, frozenset(_names_of(code)))
        _run(code, tester.load(answer))
    except WireError as error:
        return {"passed": False, "why": f"the answer's code gave {error}"}
    except BaseException as error:
        return {"passed": False, "why": f"{type(error).__name__}: {error}"[:_MAX_WHY]}
    return {"passed": True, "asked": tester.asked}


def main(connection: int, result: int, program: int) -> None:
    """Run the tests and say what came of them.

    Args:
        connection: File descriptor of the connection to the answer's sandbox.
        result: Of the pipe to whoever asks.
        program: Of the answer's code and the tests.
    """
    with os.fdopen(program, encoding="utf-8") as file:
        given = json.load(file)
    found = verdict_of(given["answer"], given["tests"], connection)
    with os.fdopen(result, "w") as pipe:
        json.dump(found, pipe)
    os._exit(0)
