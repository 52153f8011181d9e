"""The house: every room imports from rooms below it alone, and nothing private of another one's.

The rooms of both packages are in one table each. A room is a folder at the top of its package, or a module there; a folder
with floors of its own has a table, too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]


@dataclass(frozen=True)
class House:
    """A package, and its rooms from the top floor down. Those of one floor do not import each other.

    Args:
        package: Dotted name of the package.
        root: Its directory.
        floors: The rooms.
        only_in: Of a library, the only rooms that may import it.
    """

    package: str
    root: Path
    floors: tuple[tuple[str, ...], ...]
    only_in: tuple[tuple[str, tuple[str, ...]], ...] = ()


DATA_PLANE = House(
    "llmops_components",
    REPO / "kfp_components" / "llmops_components",
    (
        ("kfp", "local"),
        ("serving",),
        ("evaluation",),
        ("training",),
        ("tracking",),
        ("inference", "models"),
        ("data",),
        ("step",),
        ("passthrough",),
        ("processes", "quiet", "reporting", "result_schema", "uris"),
        ("dataset_manifest", "results"),
        ("comparison", "state_files"),
        ("errors",),
        ("redaction",),
        ("headers", "hosts", "json_text", "moved"),
    ),
    only_in=(("kfp", ("kfp", "local")),),
)
SERVING = House(
    "llmops_components.serving",
    DATA_PLANE.root / "serving",
    (
        ("deploy",),
        ("local", "predictor"),
        ("access",),
        ("http", "detached"),
    ),
)
DATA = House(
    "llmops_components.data",
    DATA_PLANE.root / "data",
    (
        ("drift", "feedback", "preparation", "profile", "validation"),
        ("dedup", "privacy", "quality", "toxicity", "versions"),
        ("fetching", "sample", "sources"),
        ("hub", "rendering", "valid_rows"),
        ("files", "formats", "texts"),
        ("csv_lines", "parquet_lines"),
        ("content", "languages", "lines", "markdown", "palette", "partitions", "stores"),
    ),
    only_in=(("great_expectations", ("validation",)),),
)
CONTROL_PLANE = House(
    "airflow_provider_llmops",
    REPO / "airflow_provider_llmops",
    (
        ("get_provider_info", "cli", "kubernetes"),  # the last is the old place of some names
        ("recipes", "backfill"),
        ("groups",),
        ("operators", "sensors", "notifications"),
        ("pages",),
        ("kinds", "lineage"),
        ("links",),
        ("triggers",),
        ("delivery",),
        ("remote",),
        ("openlineage",),
        ("hooks",),
        ("backends",),
        ("settings",),
        ("specs",),
        (
            "assets",
            "conf",
            "dataset_manifest",
            "gate",
            "http",
            "mapping",
            "object_store",
            "results",
            "spending",
        ),
        ("comparison", "decision", "states", "state_files", "uris", "xcom"),
        ("exceptions",),
        ("redaction",),
        ("arguments", "connections", "hosts", "in_time", "json_text", "moved"),
    ),
)


@dataclass(frozen=True)
class Import:
    """One import of a module of the same package.

    Args:
        place: File and line.
        module: Dotted name of the module that imports.
        target: Dotted name of the module that is imported.
        name: What is imported of it; None for the module itself.
    """

    place: str
    module: str
    target: str
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.place}: {self.target}" + (f".{self.name}" if self.name else "")


@cache
def modules_of(house: House) -> dict[str, Path]:
    found = {}
    for file in sorted(house.root.rglob("*.py")):
        parts = (house.package, *file.relative_to(house.root).with_suffix("").parts)
        found[".".join(part for part in parts if part != "__init__")] = file
    return found


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def imports_of(house: House) -> list[Import]:
    return list(_imports(house))


def _imports(house: House) -> Iterator[Import]:
    """Every import of the package's own modules, wherever in a module it stands, and what is used of a module by its name."""
    modules = modules_of(house)
    for module, file in modules.items():
        tree = tree_of(file)
        named: dict[str, str] = {}
        for node in ast.walk(tree):
            place = f"{file.relative_to(REPO)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name in modules:
                        yield Import(place, module, alias.name)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{place}: a relative import"
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    if whole in modules:
                        named[alias.asname or alias.name] = whole
                        yield Import(place, module, whole)
                    elif node.module in modules:
                        yield Import(place, module, node.module, alias.name)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in named
            ):
                place = f"{file.relative_to(REPO)}:{node.lineno}"
                yield Import(place, module, named[node.value.id], node.attr)


def room_of(house: House, module: str) -> str:
    return module.removeprefix(house.package).removeprefix(".").partition(".")[0]


def between_rooms(house: House) -> list[tuple[str, str, Import]]:
    found = ((room_of(house, each.module), room_of(house, each.target), each) for each in imports_of(house))
    return [(here, there, each) for here, there, each in found if here and here != there]


@pytest.fixture(params=[CONTROL_PLANE, DATA_PLANE, DATA, SERVING], ids=lambda house: house.package)
def house(request) -> House:
    return request.param


def test_every_room_has_its_floor(house):
    floors = [room for floor in house.floors for room in floor]
    assert len(floors) == len(set(floors))
    assert {room_of(house, module) for module in modules_of(house)} - {"", *floors} == set()


def test_rooms_import_from_rooms_below_them(house):
    floor_of = {room: number for number, floor in enumerate(house.floors) for room in floor}
    upwards = [str(each) for here, there, each in between_rooms(house) if floor_of[here] >= floor_of[there]]
    assert upwards == []


def test_no_private_name_leaves_its_room(house):
    found = [
        str(each)
        for _, _, each in between_rooms(house)
        if any(part.startswith("_") for part in (*each.target.split("."), each.name or ""))
    ]
    assert found == []


def test_no_module_imports_itself_through_others(house):
    targets: dict[str, dict[str, Import]] = {}
    for each in imports_of(house):
        if each.target != each.module:
            targets.setdefault(each.module, {})[each.target] = each
    done: set[str] = set()

    def circle_from(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        for target in targets.get(module, {}):
            if circle := circle_from(target, [*path, module]):
                return circle
        done.add(module)
        return None

    circles = [circle for module in targets if (circle := circle_from(module, []))]
    assert [[str(targets[a][b]) for a, b in pairwise(circle)] for circle in circles] == []


def test_libraries_stay_in_their_rooms(house):
    found = []
    for module, file in modules_of(house).items():
        for node in ast.walk(tree_of(file)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported = {name.partition(".")[0] for name in names}
            for library, rooms in house.only_in:
                if library in imported and room_of(house, module) not in rooms:
                    found.append(f"{file.relative_to(REPO)}:{node.lineno}: {library}")
    assert found == []
