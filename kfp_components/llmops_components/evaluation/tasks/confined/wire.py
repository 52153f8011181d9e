"""How the tests ask an answer's code, which runs in another sandbox: messages with plain data, so that only values decide.

Data is copied. Other objects of the answer's stay there and have a number; functions of the tests' that are handed to it have one, too.
Both ends wait for the other's answer and serve its questions meanwhile.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import json
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

MAX_MESSAGE_BYTES = 16 << 20
_HEAD = struct.Struct(">I")
_DICTS: dict[type, str] = {
    dict: "dict",
    collections.OrderedDict: "ordered",
    collections.Counter: "counter",
    collections.defaultdict: "default",
}
_FROM_DICT: dict[str, Callable[[Any], Any]] = {name: kind for kind, name in _DICTS.items()}
_FACTORIES: dict[str, type] = {kind.__name__: kind for kind in (int, float, str, list, dict, set)}
_BY_TEXT: dict[type, tuple[str, Callable[[Any], str], Callable[[str], Any]]] = {
    decimal.Decimal: ("decimal", str, decimal.Decimal),
    fractions.Fraction: ("fraction", str, fractions.Fraction),
    bytes: ("bytes", bytes.hex, bytes.fromhex),
    bytearray: ("bytearray", bytearray.hex, bytearray.fromhex),
    complex: ("complex", str, complex),
    datetime.datetime: ("datetime", datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    datetime.date: ("date", datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: ("time", datetime.time.isoformat, datetime.time.fromisoformat),
}
_FROM_TEXT = {name: read for name, _, read in _BY_TEXT.values()}
_LISTS: dict[type, str] = {
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    collections.deque: "deque",
}
_FROM_LIST: dict[str, Callable[[list[Any]], Any]] = {name: kind for kind, name in _LISTS.items()}


class WireError(Exception):
    """The other end has gone, or says what cannot be understood."""


def encode(value: Any, other: Callable[[Any], dict[str, Any]]) -> Any:
    """Data as JSON has it.

    Args:
        value: Any object; types count exactly, since what derives from them may say that it equals everything.
        other: What stands for an object that is no data.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return [encode(each, other) for each in value]
    if kind in _LISTS:
        return {"kind": _LISTS[kind], "of": [encode(each, other) for each in value]}
    if kind in _DICTS:
        found = [[encode(key, other), encode(each, other)] for key, each in dict.items(value)]
        said = {"kind": _DICTS[kind], "of": found}
        if kind is collections.defaultdict:
            names = (name for name, each in _FACTORIES.items() if each is value.default_factory)
            said["factory"] = next(names, None)
        return said
    if kind in _BY_TEXT:
        name, write, _ = _BY_TEXT[kind]
        return {"kind": name, "of": write(value)}
    if kind is range:
        return {"kind": "range", "of": [value.start, value.stop, value.step]}
    if kind is datetime.timedelta:
        return {"kind": "timedelta", "of": [value.days, value.seconds, value.microseconds]}
    return other(value)


def decode(said: Any, other: Callable[[dict[str, Any]], Any]) -> Any:
    """What :func:`encode` has made.

    Args:
        said: JSON.
        other: From what stands for an object to that object.
    """
    if isinstance(said, list):
        return [decode(each, other) for each in said]
    if not isinstance(said, dict):
        return said
    kind, of = said.get("kind"), said.get("of")
    if kind in _FROM_LIST and isinstance(of, list):
        return _FROM_LIST[kind]([decode(each, other) for each in of])
    if kind in _FROM_DICT and isinstance(of, list):
        found = {decode(key, other): decode(each, other) for key, each in of}
        if kind == "default":
            return collections.defaultdict(_FACTORIES.get(str(said.get("factory"))), found)
        return _FROM_DICT[kind](found)
    if kind in _FROM_TEXT and isinstance(of, str):
        return _FROM_TEXT[kind](of)
    if kind in ("range", "timedelta") and isinstance(of, list):
        return range(*of) if kind == "range" else datetime.timedelta(*of)
    return other(said)


class Peer:
    """One end of the connection.

    Args:
        descriptor: File descriptor of its socket.
        serve: Answers a question of the other end; what it raises is told.
    """

    def __init__(self, descriptor: int, serve: Callable[[dict[str, Any]], Any]) -> None:
        sys.set_int_max_str_digits(0)  # time is limited anyway
        self._socket = socket.socket(fileno=descriptor)
        self._serve = serve
        self._alone = threading.RLock()

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The other end's answer.

        Args:
            question: JSON.

        Raises:
            WireError: There is none.
        """
        with self._alone:
            self._send({"question": question})
            while True:
                message = self._receive()
                if "question" not in message:
                    return message
                self._answer(message["question"])

    def serve_for_ever(self) -> None:
        """Answer questions until the other end has gone."""
        while True:
            message = self._receive()
            if "question" in message:
                self._answer(message["question"])

    def _answer(self, question: dict[str, Any]) -> None:
        try:
            message = {"answer": self._serve(question)}
        except WireError:
            raise
        except BaseException as error:
            message = {"error": _described(error)}
        self._send(message)

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        if len(body) > MAX_MESSAGE_BYTES:
            raise WireError(f"more than {MAX_MESSAGE_BYTES >> 20} MiB at once")
        try:
            self._socket.sendall(_HEAD.pack(len(body)) + body)
        except OSError:
            raise WireError("the answer's code has ended") from None

    def _receive(self) -> dict[str, Any]:
        (size,) = _HEAD.unpack(self._exactly(_HEAD.size))
        if size > MAX_MESSAGE_BYTES:
            raise WireError(f"more than {MAX_MESSAGE_BYTES >> 20} MiB at once")
        try:
            message = json.loads(self._exactly(size))
        except (ValueError, RecursionError):
            raise WireError("what cannot be read") from None
        if not isinstance(message, dict):
            raise WireError("what cannot be read")
        return message

    def _exactly(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            piece = self._socket.recv(min(size - len(found), 1 << 16))
            if not piece:
                raise WireError("the answer's code has ended")
            found += piece
        return bytes(found)


def _described(error: BaseException) -> dict[str, Any]:
    """An error by the names of its classes, and its text."""
    try:
        text = str(error)[:500]
    except BaseException:
        text = ""
    names = [each.__name__ for each in type(error).__mro__ if issubclass(each, BaseException)]
    return {"names": names, "text": str(text)}
