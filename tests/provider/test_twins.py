"""What both planes have to do alike, each with code of its own, since neither imports the other."""

from __future__ import annotations

import ast
import json
import random
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
from planes import DATA_PYTHON, REPO

from airflow_provider_llmops import uris
from airflow_provider_llmops.exceptions import ConfigurationError

OURS = REPO / "airflow_provider_llmops"
THEIRS = REPO / "kfp_components" / "llmops_components"


def definitions(path: Path) -> dict[str, str]:
    """What a module defines, by name; docstrings are each plane's own."""
    found = {}
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            found[ast.unparse(target)] = ast.dump(node)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = ast.dump(_Undocumented().visit(node))
    return found


class _Undocumented(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        return node


@pytest.mark.parametrize(
    "module",
    [
        "hosts.py",
        "json_text.py",
        *(f"redaction/{file.name}" for file in sorted((OURS / "redaction").glob("[!_]*.py"))),
    ],
)
def test_twins_are_defined_alike(module):
    assert definitions(OURS / module) == definitions(THEIRS / module)


def test_only_the_data_plane_has_records_whose_secrets_are_hidden():
    names = [{file.name for file in (plane / "redaction").glob("*.py")} for plane in (OURS, THEIRS)]
    assert names[1] - names[0] == {"records.py"}
    assert names[0] - names[1] == set()


PATHS = ("/a b", "/a%20b", "/a#b?c", "/ü", "/plain/path.jsonl", "/a;b", "/C:/x", "/~x", "/\udcff", "//a")
PARTS = ("file", "FILE", "s3", "hf", ":", "/", "//", "localhost", "Localhost", "host", "%20", "%zz", "%00", "%ff", "#", "?", "a", " ", ".", "~", "\\", "ü")  # fmt: skip
CHOICE = random.Random(0)  # noqa: S311 - no secret
ADDRESSES = (
    "",
    "rows.jsonl",
    "../x",
    "~/x",
    "C:\\x",
    "C:/x",
    "s3://bucket/x",
    "MINIO://bucket/x",
    "hf://datasets/org/name@main",
    "file:x",
    "file:/x",
    "file://",
    "file://localhost",
    "file:///",
    "file://LOCALHOST/x",
    "file://127.0.0.1/x",
    "file://server/x",
    "file:////x",
    "file:///C:/x",
    "file:///a%20b?c#d",
    *(f"file://{quote(path, errors='surrogateescape')}" for path in PATHS),
    *("".join(CHOICE.choices(PARTS, k=CHOICE.randint(1, 7))) for _ in range(2000)),
    *("file://" + "".join(CHOICE.choices(PARTS, k=CHOICE.randint(1, 7))) for _ in range(1000)),
)


def answers(module, refusal):
    """What a plane says of each address: its scheme, its place, and the path if it is of a file, or why there is none."""

    def path_of(address):
        try:
            return module.file_path(address, "dataset")
        except refusal as error:
            return {"refused": str(error).partition(" It is ")[0].partition(": it is ")[0]}

    return [
        [scheme := module.scheme_of(address), module.place_of(address), path_of(address) if scheme == "file" else None]
        for address in ADDRESSES
    ]  # fmt: skip


def test_addresses_mean_the_same_in_both_planes():
    script = (
        "import json, sys\n"
        "from llmops_components import uris\n"
        "from llmops_components.errors import SettingError as refusal\n"
        "given = json.load(sys.stdin)\n"
        "ADDRESSES = given['addresses']\n"
        "exec(given['answers'])\n"
        "json.dump(answers(uris, refusal), sys.stdout)\n"
    )
    source = Path(__file__).read_text("utf-8")
    function = next(node for node in ast.parse(source).body if getattr(node, "name", "") == answers.__name__)
    given = {"addresses": ADDRESSES, "answers": ast.get_source_segment(source, function)}
    asked = subprocess.run(
        [DATA_PYTHON, "-c", script], input=json.dumps(given), capture_output=True, text=True, check=True
    )
    own = json.loads(json.dumps(answers(uris, ConfigurationError)))
    assert dict(zip(ADDRESSES, json.loads(asked.stdout), strict=True)) == dict(
        zip(ADDRESSES, own, strict=True)
    )


@pytest.mark.parametrize("path", PATHS)
def test_address_of_a_path_is_the_one_that_python_gives(path):
    address = uris.file_address(path)
    assert uris.file_path(address, "model") == path
    if not path.startswith("//"):  # pathlib takes it for a host
        assert address == Path(path).as_uri()
