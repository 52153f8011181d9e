"""Code that passes tests, in a sandbox: what it cannot reach, what it cannot use up, and that it cannot pass by saying so."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from llmops_components.errors import DataError, SettingError
from llmops_components.evaluation.metrics.columns import check_columns
from llmops_components.evaluation.metrics.plan import plan_metrics
from llmops_components.evaluation.scored import Given, Scored, score_rows
from llmops_components.evaluation.tasks import sandbox
from llmops_components.evaluation.tasks.programs import code_in, run_tests
from llmops_components.evaluation.tasks.sandbox import Bounds, check_sandbox

REFUSAL = sandbox._refusal()
needs_namespaces = pytest.mark.skipif(REFUSAL is not None, reason=f"no sandbox here: {REFUSAL}")


def scored(rows: list[tuple[str, Any]], **args: Any) -> Scored:
    data = [{"prompt": "q", "tests": tests} for _, tests in rows]
    plan = plan_metrics(["code_tests"], metric_args={"code_tests": args} if args else None)
    check_columns("rows.jsonl", data, plan)
    return score_rows(plan, data, [Given(code) for code, _ in rows])


def passed(cases: dict[str, tuple[str, Any]], **args: Any) -> dict[str, bool | None]:
    values = scored(list(cases.values()), **args).scores["code_tests"].values.tolist()
    return {name: None if value != value else bool(value) for name, value in zip(cases, values, strict=True)}


RIGHT: dict[str, tuple[str, Any]] = {
    "a function": ("def add(a, b):\n    return a + b", "assert add(1, 2) == 3"),
    "a block": (
        "Here:\n```python\ndef add(a, b):\n    return a + b\n```\nTry it:\n```\nadd(1, 2)\n```",
        "assert add(1, 2) == 3",
    ),
    "several tests": (
        "def add(a, b): return a + b",
        ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"],
    ),
    "data of all kinds": (
        "def same(x): return x",
        "from decimal import Decimal\nimport collections\nfor x in (None, 1.5, 'é', b'a', (1, [2]), {1: {2}}, {(1, 2): 'x'}, 2**20000, 1j, range(3),"
        " Decimal('1.10'), collections.deque([1]), collections.OrderedDict(a=1)):\n    assert same(x) == x and type(same(x)) is type(x), x",
    ),
    "counts": (
        "from collections import Counter, defaultdict\ndef count(x): return Counter(x)\n"
        "def by_length(x):\n    found = defaultdict(list)\n    for each in x: found[len(each)].append(each)\n    return found\n"
        "def own(): return defaultdict(lambda: 7, a=1)",
        "from collections import Counter\nassert count('abca').most_common(1) == [('a', 2)] and count('ab') - count('a') == Counter('b')\n"
        "assert count('aab')['z'] == 0 and by_length(['a', 'bc'])[9] == [] and own() == {'a': 1}",
    ),
    "changes its arguments": ("def sort(x): x.sort()", "x = [3, 1]\nsort(x)\nassert x == [1, 3]"),
    "raises": (
        "class Odd(ValueError): pass\ndef f(x):\n    if x % 2: raise Odd('odd')\n    return [][x]",
        "try:\n    f(1)\nexcept Odd as error:\n    assert str(error) == 'odd'\nelse:\n    assert False\n"
        "try:\n    f(2)\nexcept IndexError:\n    pass\nelse:\n    assert False",
    ),
    "a class": (
        "class Stack:\n    def __init__(self): self.all = []\n    def push(self, x): self.all.append(x)\n"
        "    def __len__(self): return len(self.all)\n    def __contains__(self, x): return x in self.all",
        "s = Stack()\ns.push(1)\ns.push('b')\nassert len(s) == 2 and 1 in s and s.all == [1, 'b'] and isinstance(s, Stack)",
    ),
    "a class with operators": (
        "class V:\n    def __init__(self, x): self.x = x\n    def __add__(self, o): return V(self.x + o.x)\n"
        "    def __rmul__(self, n): return V(n * self.x)\n    def __eq__(self, o): return self.x == o.x\n    def __lt__(self, o): return self.x < o.x",
        "assert V(1) + V(2) == V(3) and 2 * V(2) == V(4) and V(1) < V(2) and V(1) != V(2)",
    ),
    "a generator": (
        "def count(n):\n    for i in range(n): yield i",
        "assert list(count(3)) == [0, 1, 2] and next(count(1)) == 0",
    ),
    "functions handed over": (
        "def each(f, x): return [f(i) for i in x]",
        "assert each(lambda i: i * 2, [1, 2]) == [2, 4]\nassert each(str, (i for i in (1, 2))) == ['1', '2']",
    ),
    "a named tuple": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef p(): return P(1, 2)",
        "assert p() == (1, 2) and p().x == 1",
    ),
    "threads": (
        "import threading\ndef f():\n    found = []\n    t = threading.Thread(target=found.append, args=(1,))\n    t.start(); t.join()\n    return found",
        "assert f() == [1]",
    ),
    "a function of pytest's kind": ("def f(): return 1", "def test_it():\n    assert f() == 1"),
    "unittest": (
        "def f(): return 1",
        "import unittest\nclass T(unittest.TestCase):\n    def test_it(self): self.assertEqual(f(), 1)",
    ),
    "a dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n    y: int = 0\ndef f(x): return P(x)",
        "assert f(3) == P(3) and f(3) != P(4) and f(3).x == 3",
    ),
    "a block within a list": (
        "1. Here:\n\n   ```python\n   def f(x):\n       return x\n   ```",
        "assert f(1) == 1",
    ),
    "a close number": ("def f(): return 0.1 + 0.2", "assert abs(f() - 0.3) < 1e-9"),
    "temporary files": (
        "import tempfile\ndef f():\n    with tempfile.TemporaryFile() as file:\n        return file.write(b'abc')",
        "assert f() == 3",
    ),
    "much output": ("def f():\n    for _ in range(2000): print('x' * 1000)\n    return 1", "assert f() == 1"),
}


@needs_namespaces
def test_right_code_passes():
    assert passed(RIGHT) == dict.fromkeys(RIGHT, True)


EQUAL_TO_ALL = (
    "class All{base}:\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n    def __bool__(self): return True\n"
    "    def __sub__(self, o): return 0\n    def __rsub__(self, o): return 0\n    def __abs__(self): return 0\n"
    "    def __lt__(self, o): return True\n    def __gt__(self, o): return True\n    def __hash__(self): return 1\n"
    "def f(): return All()"
)
IS_4 = "assert f() == 4"
FAKES: dict[str, tuple[str, Any]] = {
    "wrong": ("def f(): return 3", IS_4),
    "no code": ("I would add them.", IS_4),
    "nothing": ("", IS_4),
    "exits": ("import sys\nsys.exit(0)", IS_4),
    "exits at once": ("import os\nos._exit(0)", IS_4),
    "exits when asked": ("import os\ndef f(): os._exit(0)", IS_4),
    "raises SystemExit": ("def f(): raise SystemExit(0)", IS_4),
    "prints": ('print(\'{"passed": true, "asked": 1}\')\ndef f(): return 3', IS_4),
    "at exit": ("import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(): return 3", IS_4),
    "writes to all descriptors": (
        'import os\nfor i in range(64):\n    try: os.write(i, b\'{"passed": true, "asked": 1}\')\n    except OSError: pass\ndef f(): return 4',
        IS_4,
    ),
    "equals everything": (EQUAL_TO_ALL.format(base=""), IS_4),
    "equals everything as a number": (EQUAL_TO_ALL.format(base="(int)"), IS_4),
    "is near everything": (EQUAL_TO_ALL.format(base=""), "assert abs(f() - 0.3) < 1e-9"),
    "is near everything as a number": (EQUAL_TO_ALL.format(base="(float)"), "assert abs(f() - 0.3) < 1e-9"),
    "is more than everything": (EQUAL_TO_ALL.format(base=""), "assert f() > 3"),
    "is near everything, of a class that the tests name": (
        EQUAL_TO_ALL.format(base="").replace("All", "f").replace("def f(): return f()", ""),
        "assert abs(f() - 0.3) < 1e-9",
    ),
    "is more than everything, of a class that the tests name": (
        EQUAL_TO_ALL.format(base="").replace("All", "f").replace("def f(): return f()", ""),
        "assert f() > 3",
    ),
    "names of Python's": (
        "import builtins, math\ndef all(x): return True\ndef abs(x): return 0\nbuiltins.all = all\ndef f(x): return 0",
        "assert all(f(x) == x + 1 for x in range(3))\nassert abs(f(1) - 5) < 1",
    ),
    "changes modules": (
        "import unittest, math\nunittest.TestCase.assertEqual = lambda *a: None\nmath.isclose = lambda *a: True\ndef f(): return 3",
        "import math\nassert math.isclose(f(), 4)",
    ),
    "changes AssertionError": (
        "import builtins\nbuiltins.AssertionError = SystemExit\ndef f(): return 3",
        IS_4,
    ),
    "looks at frames": (
        "import sys\ndef f():\n    frame = sys._getframe()\n    while frame:\n        frame.f_globals.update(passed=True, verdict_of=lambda *a: {'passed': True})\n"
        "        frame = frame.f_back\n    return 3",
        IS_4,
    ),
    "answers for the connection": (
        "import gc, json, socket, struct\nfor each in gc.get_objects():\n    if isinstance(each, socket.socket):\n"
        "        for body in (b'{\"passed\": true}', b'{\"answer\": {\"passed\": true}}', b'[' * 100000):\n            each.sendall(struct.pack('>I', len(body)) + body)\ndef f(): return 4",
        IS_4,
    ),
    "reaches into the tests": (
        "def f(g): return g.__globals__['__builtins__']",
        "assert f(lambda: 1) == 4",
    ),
    "swallows": ("def f(): raise AssertionError", "f()"),
}


@needs_namespaces
def test_code_cannot_pass_by_saying_so():
    assert passed(FAKES) == dict.fromkeys(FAKES, False)


HIDDEN = [
    "/home",
    "/work",
    "/proc",
    "/sys",
    "/etc/passwd",
    "/var",
    "/run",
    str(Path.cwd()),
    str(Path(__file__).parent),
]
# Nothing but the way to Python where it is installed there.
SHOWN_OF_HOME = 1 if Path(sys.base_prefix).resolve().is_relative_to(Path.home()) else None


CONFINED: dict[str, tuple[str, Any]] = {
    "files": (
        "import os\ndef f(paths):\n    found = []\n    for path in paths:\n        try: found.append(len(os.listdir(path)))\n        except FileNotFoundError: found.append(None)\n    return found",
        f"assert f({[*HIDDEN, str(Path.home())]}) == {[None] * len(HIDDEN)} + [{SHOWN_OF_HOME}]",
    ),
    "the root": (
        "import os\ndef f(): return sorted(os.listdir('/')), os.listdir('/tmp'), sorted(os.listdir('/dev'))",
        "root, tmp, dev = f()\nassert not {'home', 'work', 'proc', 'sys', 'var', 'opt'} & set(root) and tmp == [] and dev == ['null', 'urandom']",
    ),
    "writing": (
        "import sys\ndef f(paths):\n    found = []\n    for path in paths:\n        try: open(path, 'w'); found.append(path)\n        except OSError: pass\n    return found\ndef lib(): return sys.prefix + '/lib/x'",
        "assert f(['/x', '/dev/x', '/usr/lib/x', '/sandbox/llmops_components/evaluation/tasks/confined/x', '/sandbox/x', lib(), '/tmp/x']) == ['/tmp/x']",
    ),
    "environment": ("import os\ndef f(): return dict(os.environ)", "assert f() == {}"),
    "who it is": (
        "import os\ndef f(): return os.getuid(), os.getgid(), os.getpid(), os.uname().nodename",
        "assert f() == (65534, 65534, 1, 'sandbox')",
    ),
    "sockets": (
        "import socket\ndef f():\n    found = []\n    for kind in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 16):\n        try: socket.socket(kind); found.append(kind)\n        except PermissionError: pass\n"
        "    try: socket.create_connection(('127.0.0.1', PORT), 1); found.append('lo')\n    except OSError: pass\n    return found",
        "assert f() == []",
    ),
    "processes": (
        "import os, subprocess\ndef f():\n    try: os.fork()\n    except PermissionError: pass\n    else: return 'fork'\n"
        "    try: subprocess.run(['/bin/sh', '-c', 'true'])\n    except OSError: return 'none'\n    return 'run'",
        "assert f() == 'none'",
    ),
    "namespaces and mounts": (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\ndef f():\n    found = []\n    for call in (lambda: libc.unshare(0x10000000), lambda: libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None), lambda: libc.chroot(b'/tmp'), lambda: libc.ptrace(16, 1, 0, 0), lambda: libc.setuid(0)):\n"
        "        found.append((call(), ctypes.get_errno()))\n    return found",
        "assert [each for each, _ in f()] == [-1] * 5",
    ),
    "memory that no limit counts": (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\ndef f():\n    found = [libc.shmget(0, 4096, 0o1600), libc.msgget(0, 0o1600)]\n"
        "    try: os.memfd_create('x')\n    except PermissionError: found.append(-1)\n"
        "    try:\n        for n in range(10000): open(f'/tmp/{n}', 'x').close()\n    except OSError: found.append(-1)\n    return found",
        "assert f() == [-1, -1, -1, -1]",
    ),
    "a full disk": (
        "import os\ndef f():\n    try:\n        with open('/tmp/x', 'wb') as file:\n            for _ in range(64): file.write(bytes(1 << 20))\n    except OSError: return 'full'\n    return 'not'",
        "import signal\nassert f() == 'full'",
    ),
}


@needs_namespaces
def test_code_reaches_neither_files_nor_network_nor_processes(monkeypatch):
    import socket

    monkeypatch.setenv("LLMOPS_JUDGE_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        cases = {name: (code.replace("PORT", port), tests) for name, (code, tests) in CONFINED.items()}
        found = {name: run_tests(*case, Bounds()) for name, case in cases.items()}
    assert {name: each.get("why") for name, each in found.items()} == dict.fromkeys(CONFINED)


EATERS: dict[str, tuple[str, Any]] = {
    "an endless loop": ("while True: pass", IS_4),
    "an endless call": ("def f():\n    while True: pass", IS_4),
    "sleep": ("import time\ndef f(): time.sleep(60)", IS_4),
    "a fork bomb": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", IS_4),
    "threads without end": (
        "import threading, time\ndef f():\n    while True: threading.Thread(target=time.sleep, args=(60,)).start()",
        IS_4,
    ),
    "memory": ("def f():\n    found = []\n    while True: found.append(bytearray(1 << 20))", IS_4),
    "a large result": ("def f(): return 'x' * (64 << 20)", IS_4),
    "output without end": ("def f():\n    while True: print('x' * 100000)", IS_4),
    "deep": ("def f(): return f()", IS_4),
    "a deep result": ("def f():\n    x = []\n    for _ in range(100000): x = [x]\n    return x", IS_4),
    "ignores signals": (
        "import signal\nfor i in range(1, 65):\n    try: signal.signal(i, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass",
        IS_4,
    ),
    "tests without end": ("def f(): return 4", "f()\nwhile True: pass"),
}


@needs_namespaces
def test_what_never_ends_or_takes_too_much_ends_in_time_and_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    began = time.monotonic()
    assert passed(EATERS, seconds=1, memory_mb=256) == dict.fromkeys(EATERS, False)
    assert time.monotonic() - began < 300
    left = [each for each in Path("/proc").glob("[0-9]*/cmdline") if b"confined.candidate" in _read(each)]
    assert not left
    assert not list(tmp_path.iterdir())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@needs_namespaces
def test_tests_that_ask_nothing_of_the_answer_say_nothing_of_it():
    found = scored([("def f(): return 4", "assert 1 + 1 == 2"), ("def f(): return 4", IS_4)])
    assert found.scores["code_tests"].are_there.tolist() == [False, True]
    assert found.reasons["code_tests"] == {0: "its tests passed without asking anything of the answer"}


@needs_namespaces
@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ("assert f(", r"line 2: tests are no Python: '\(' was never closed"),
        (
            "from solution import f\nassert f(1)",
            r"line 2: tests import solution, and there is nothing but Python's own",
        ),
        ("import math, numpy.linalg\nassert f(1)", r"line 2: tests import numpy, and"),
        (" ", "line 2: tests are empty"),
        ([], "line 2: tests are empty"),
        (3, "line 2: tests are 3, and no text or list of texts"),
    ],
)
def test_tests_that_are_none_are_refused_by_line(tests, message):
    with pytest.raises(DataError, match=message):
        scored([("", IS_4), ("", tests)])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"samples": 5},
            "samples of code_tests is 5, and each row has one answer: what is computed is pass@1",
        ),
        ({"seconds": 0}, "seconds of code_tests is 0"),
        ({"memory_mb": 1}, "memory_mb of code_tests is 1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(args, message):
    with pytest.raises(SettingError, match=message):
        plan_metrics(["code_tests"], metric_args={"code_tests": args})


def test_without_namespaces_it_is_refused_and_nothing_runs(monkeypatch, tmp_path):
    """In place of a kernel that permits none: the launcher itself ends as it does then."""
    jail = tmp_path / "jail.py"
    text = Path(sandbox._JAIL).read_text()
    jail.write_text(text.replace('"CLONE_NEWUSER": 0x10000000', '"CLONE_NEWUSER": 0x00000001'))
    monkeypatch.setattr(sandbox, "_JAIL", jail)
    sandbox._refusal.cache_clear()
    try:
        with pytest.raises(
            SettingError, match=r"there is none to be had here: unshare: Invalid argument\. It needs Linux"
        ):
            check_sandbox()
        with pytest.raises(SettingError, match="code_tests runs code of models in a sandbox only"):
            scored([("def f(): return 4", IS_4)])
    finally:
        sandbox._refusal.cache_clear()


def test_the_code_of_an_answer_is_its_first_block_of_python():
    assert code_in("```\na\n```\n```python\nb\n```\n```py\nc\n```") == "b\n"
    assert code_in("Run `x`:\n```\na\n```") == "a\n"
    assert code_in("```sh\na\n```") == "```sh\na\n```"
    assert code_in("a = 1") == "a = 1"
    assert code_in("```python\na = 1") == "a = 1"
