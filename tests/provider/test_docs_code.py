"""Code on the pages is code: it compiles, calls what is there by names that are there, and commands are understood."""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

import pytest
import yaml
from airflow.providers.standard.operators import hitl
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from planes import REPO

from airflow_provider_llmops import cli
from airflow_provider_llmops.get_provider_info import get_provider_info

PAGES = [
    path
    for pattern in ("*.md", "docs/*.md", "*/README.md")
    for path in sorted(REPO.glob(pattern))
    if path.name != "CHANGELOG.md"
]
COMPONENTS = REPO / "kfp_components" / "llmops_components"


def blocks(language: str) -> list[Any]:
    """Every block of one language, with its page and line as its name."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(rf"^( *)```{language}\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 2
            code = textwrap.dedent(match[2])
            found.append(pytest.param(code, id=f"{page.relative_to(REPO)}:{line}"))
    assert found
    return found


def provider_modules() -> list[str]:
    """Modules of operators, sensors and hooks."""
    info = get_provider_info()
    return [
        module
        for kind in ("operators", "sensors", "hooks")
        for group in info[kind]
        for module in group["python-modules"]
    ]


@cache
def named() -> dict[str, set[str] | None]:
    """Arguments of what the provider and the components offer, by name; None where any are taken."""
    modules = [
        *provider_modules(),
        "airflow_provider_llmops.groups.post_training",
        "airflow_provider_llmops.recipes",
    ]
    found: dict[str, set[str] | None] = {}
    for path in COMPONENTS.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                every = {each.arg for each in [*node.args.args, *node.args.kwonlyargs]}
                known = found.get(node.name, set())
                found[node.name] = None if node.args.kwarg or known is None else every | known
    for name in modules:
        for each, value in vars(import_module(name)).items():
            if getattr(value, "__module__", None) == name and callable(value) and not each.startswith("_"):
                found[each] = set(arguments(value))
    return found


def arguments(value: Any) -> Iterator[str]:
    """Names of arguments, those that are passed on to a base among them."""
    if not isinstance(value, type):
        yield from inspect.signature(value).parameters
        return
    for base in value.__mro__:
        if "__init__" in vars(base):
            yield from inspect.signature(vars(base)["__init__"]).parameters


@pytest.mark.parametrize("code", blocks("python"))
def test_python_compiles_and_calls_what_is_there(code):
    nodes = list(ast.walk(ast.parse(code)))
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert [wrong for call in calls for wrong in wrong_in(call)] == []
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    assert [missing for node in imports for missing in missing_of(node)] == []


class AnyTask(EmptyOperator):
    """Stands for whatever the words around a block tell of, a task or a function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self


class Names(dict):
    """What a block finds by name beside what it makes and imports itself: what the provider offers, else a task."""

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            raise KeyError(name)
        self[name] = offered()[name] if name in offered() else AnyTask(task_id=name)
        return self[name]


@cache
def offered() -> dict[str, Any]:
    """What the modules that blocks leave the import of have, by name."""
    further = ("assets", "conf", "groups.post_training", "mapping", "settings.kubernetes")
    modules = [*provider_modules(), *(f"airflow_provider_llmops.{name}" for name in further)]
    return {
        name: value
        for module in modules
        for name, value in vars(import_module(module)).items()
        if not name.startswith("_")
    }


LEFT_OUT = re.compile(r"\(\s*\.\.\.,")  # arguments that a block does not repeat
MADE = [each for each in blocks("python") if re.search(r"\bDAG\(|Operator\(", each.values[0])]


@pytest.mark.parametrize("code", [each for each in MADE if not LEFT_OUT.search(each.values[0])])
def test_dags_and_tasks_on_a_page_are_made_and_written_as_airflow_does(code, monkeypatch):
    made: list[DAG] = []
    leave = DAG.__exit__
    monkeypatch.setattr(DAG, "__exit__", lambda dag, *error: (made.append(dag), leave(dag, *error))[1])
    program = compile(code, "page", "exec")
    if "DAG(" in code:  # whole, as a file of its own
        exec(program, {"__name__": "page"})  # noqa: S102 - it is ours
    else:
        with DAG("page"):
            exec(program, {}, Names(__name__="page"))  # noqa: S102
    assert made
    for dag in made:
        assert dag.tasks or "..." in code
        dag.check_cycle()
        assert DagSerialization.to_dict(dag)["dag"]["dag_id"] == dag.dag_id


def wrong_in(call: ast.Call) -> Iterator[str]:
    """What a call names that is not there."""
    name = call.func.id
    if name not in named():
        if name.endswith(("Operator", "Sensor")) and not hasattr(hitl, name):
            yield f"there is no {name}"
    elif (known := named()[name]) is not None:
        yield from (f"{name}({each.arg}=)" for each in call.keywords if each.arg and each.arg not in known)


def missing_of(node: ast.ImportFrom) -> Iterator[str]:
    """What is imported from this project and not there."""
    package = node.module.partition(".")[0]
    names = [each.name for each in node.names]
    if package == "airflow_provider_llmops":
        yield from (name for name in names if not hasattr(import_module(node.module), name))
    if package == "llmops_components":  # in the other plane, whose libraries are not here
        place = REPO / "kfp_components" / node.module.replace(".", "/")
        (path,) = (each for each in (place.with_suffix(".py"), place / "__init__.py") if each.exists())
        yield from (name for name in names if not re.search(rf"\b{name}\b", path.read_text()))


@pytest.mark.parametrize("code", blocks("bash"))
def test_commands_of_a_shell_are_understood(code, monkeypatch, capsys):
    said = subprocess.run(["bash", "-n"], input=code, text=True, capture_output=True)
    assert (said.returncode, said.stderr) == (0, "")
    for name in cli.COMMANDS:
        monkeypatch.setattr(import_module(f"{cli.__name__}.{name}"), "run", lambda options: 0)
    for line in code.replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("llmops "):
            words = shlex.split(line.partition(" > ")[0], comments=True)
            assert cli.main(words[1:]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("code", blocks("yaml"))
def test_yaml_is_yaml(code):
    assert all(isinstance(each, dict) for each in yaml.safe_load_all(code))


@pytest.mark.parametrize("code", blocks("json"))
def test_json_is_json(code):
    assert json.loads(code)


def test_errors_of_the_troubleshooting_page_are_errors_of_the_code():
    texts = []
    for package in (REPO / "airflow_provider_llmops", COMPONENTS):
        for path in package.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [each.value if isinstance(each, ast.Constant) else "…" for each in node.values]
                    texts.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    page = (REPO / "docs" / "troubleshooting.md").read_text()
    messages = re.findall(r"^\| `(.+?)` \|", page, re.MULTILINE)
    assert len(messages) > 20
    patterns = {
        text: re.compile(".+?".join(map(re.escape, text.rstrip("… ").split("…")))) for text in messages
    }
    assert [text for text, pattern in patterns.items() if not any(map(pattern.search, texts))] == []
