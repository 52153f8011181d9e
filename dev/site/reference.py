"""Write the pages that are made from code: connections, operators, sensors, hooks, notifiers and components.

python dev/site/reference.py DIRECTORY
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from airflow_provider_llmops.get_provider_info import get_provider_info

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "airflow_provider_llmops"
# KFP's types of parameters as JSON calls them.
TYPES = {
    "STRING": "string",
    "NUMBER_INTEGER": "integer",
    "NUMBER_DOUBLE": "number",
    "BOOLEAN": "boolean",
    "LIST": "array",
    "STRUCT": "object",
}


def connections(info: Mapping[str, Any]) -> str:
    """A page with the fields of each type of connection."""
    lines = ["# Connections", "", "Fields of a connection's extra, as its form in Airflow shows them."]
    for kind in info["connection-types"]:
        lines += ["", f"## `{kind['connection-type']}`", "", f"Read by `{kind['hook-class-name']}`.", ""]
        behaviour = kind.get("ui-field-behaviour", {})
        for field, label in behaviour.get("relabeling", {}).items():
            lines.append(f"- `{field}` is *{label}*.")
        lines += ["", "| field | label | values | what it is |", "|---|---|---|---|"]
        for name, field in kind.get("conn-fields", {}).items():
            kind = field["schema"]["type"]
            values = field["schema"].get("enum") or ([kind] if isinstance(kind, str) else kind)
            said = ", ".join(f"`{value}`" for value in values if value not in (None, "null"))
            lines.append(f"| `{name}` | {field['label']} | {said} | {cell(field.get('description', ''))} |")
    return "\n".join(lines) + "\n"


def guides() -> dict[str, list[str]]:
    """Links to pages, by the operators in whose row of the front page they are."""
    found: dict[str, list[str]] = {}
    for row in re.findall(r"^\| `.*$", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.M):
        names = re.findall(r"`(\w+)`", row.split("|")[1] + row.split("|")[2])
        links = re.findall(r"\]\((docs/[\w-]+\.md)", row)
        for name in names:
            found.setdefault(name, []).extend(links)
    return found


def classes(module: str) -> list[str]:
    """Public classes of a module, in their order."""
    source = REPOSITORY / f"{module.replace('.', '/')}.py"
    body = ast.parse(source.read_text(encoding="utf-8")).body
    return [each.name for each in body if isinstance(each, ast.ClassDef) and not each.name.startswith("_")]


def described(modules: Iterable[str], title: str, *options: str) -> str:
    """What the docstrings of modules say of their classes."""
    lines = [f"# {title}"]
    leads_to = guides()
    for module in modules:
        for name in classes(module):
            lines += ["", f"## {name}", ""]
            if links := dict.fromkeys(leads_to.get(name, [])):
                lines += [f"Guide: {', '.join(f'[{heading(link)}](/{link})' for link in links)}.", ""]
            directive = [f".. autoclass:: {module}.{name}", "   :show-inheritance:", *options]
            lines += ["```{eval-rst}", *directive, "```"]
    return "\n".join(lines) + "\n"


def heading(link: str) -> str:
    """A page's title."""
    return (REPOSITORY / link).read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def component(path: Path) -> str:
    """A page with what a compiled component takes and makes."""
    text = path.read_text(encoding="utf-8")
    specification = yaml.safe_load(text)
    (body,) = specification["components"].values()
    inputs, outputs = body.get("inputDefinitions", {}), body.get("outputDefinitions", {})
    lines = [f"# `{path.stem}`", "", description(text), ""]
    lines += [
        f"In `airflow_provider_llmops/components/{path.name}`, for `kfp.components.load_component_from_file`.",
        "",
    ]
    artifacts, parameters = inputs.get("artifacts", {}), inputs.get("parameters", {})
    if artifacts or parameters:
        lines += ["## Inputs", "", "| name | type | default | what it is |", "|---|---|---|---|"]
    for name, each in artifacts.items():
        kind = each["artifactType"].get("schemaTitle", "system.Artifact")
        default = "optional" if each.get("isOptional") else "**required**"
        lines.append(f"| `{name}` | `{kind}` | {default} | {cell(each.get('description', ''))} |")
    for name, each in parameters.items():
        default = "**required**"
        if each.get("isOptional"):
            value = each.get("defaultValue")
            if each["parameterType"] == "NUMBER_INTEGER" and value is not None:
                value = int(value)  # KFP writes 16 as 16.0
            default = "optional" if value is None else f"`{json.dumps(value)}`"
        lines.append(
            f"| `{name}` | {TYPES[each['parameterType']]} | {cell(default)} | {cell(each.get('description', ''))} |"
        )
    lines += ["", "## Outputs", "", "| name | type |", "|---|---|"]
    for name, each in outputs.get("artifacts", {}).items():
        lines.append(f"| `{name}` | `{each['artifactType'].get('schemaTitle', 'system.Artifact')}` |")
    for name, each in outputs.get("parameters", {}).items():
        lines.append(f"| `{name}` | {TYPES[each['parameterType']]} |")
    return "\n".join(lines) + "\n"


def description(text: str) -> str:
    """A compiled component's description, which is a comment at its top."""
    found = re.search(r"^# Description: (.*\n(?:#   .*\n|#\n)*)", text, re.M)
    return re.sub(r"^# *", "", found.group(1), flags=re.M).strip() if found else ""


def cell(text: str) -> str:
    """Text for a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


def listed(title: str, names: Iterable[str]) -> str:
    """A page that leads to others."""
    return "\n".join([f"# {title}", "", "```{toctree}", ":maxdepth: 2", "", *names, "```"]) + "\n"


def modules_of(info: Mapping[str, Any], kind: str) -> list[str]:
    """Modules of one kind that the provider info names."""
    return [module for group in info[kind] for module in group["python-modules"]]


def main(directory: Path) -> None:
    """Write all pages into a directory."""
    info = get_provider_info()
    pages = {"connections.md": connections(info)}
    operators = ["airflow_provider_llmops.remote.traced", *modules_of(info, "operators")]
    for module in operators:
        name = module.rpartition(".")[2]
        pages[f"operators/{name}.md"] = described([module], name.replace("_", " ").capitalize())
    names = [module.rpartition(".")[2] for module in operators]
    pages["operators/index.md"] = listed("Operators", names)
    pages["sensors.md"] = described(modules_of(info, "sensors"), "Sensors")
    pages["hooks.md"] = described(modules_of(info, "hooks"), "Hooks", "   :members:")
    notifiers = dict.fromkeys(name.rpartition(".")[0] for name in info["notifications"])
    pages["notifiers.md"] = described(notifiers, "Notifiers")
    specifications = sorted((PACKAGE / "components").glob("*.yaml"))
    for path in specifications:
        pages[f"components/{path.stem}.md"] = component(path)
    pages["components/index.md"] = listed("Components", [path.stem for path in specifications])
    for name, text in pages.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
