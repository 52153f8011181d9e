"""Makes a bill of materials and a list of licences of each environment, and compares them with ``dev/supply-chain.toml``."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from _setup import PLANES, REPOSITORY
from license_expression import AND, OR, Licensing

OUTPUT = REPOSITORY / "build/supply-chain"
RULES = REPOSITORY / "dev/supply-chain.toml"
UNKNOWN = "unknown"

Component = Mapping[str, Any]


def main() -> int:
    """Write ``<plane>.cdx.json`` (CycloneDX 1.6) and ``<plane>-licences.tsv`` below ``build/supply-chain``; say what is wrong."""
    rules = tomllib.loads(RULES.read_text(encoding="utf-8"))
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        bills = dict(zip(PLANES, pool.map(_make_bill, PLANES), strict=True))
    problems = []
    for plane, bill in bills.items():
        problems += licence_problems(bill["components"], rules["licences"])
        _write_licences(OUTPUT / f"{plane}-licences.tsv", bill["components"], rules["licences"])
        bill["vulnerabilities"] = answers(bill["components"], rules["vulnerabilities"])
        (OUTPUT / f"{plane}.cdx.json").write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    installed = [component for bill in bills.values() for component in bill["components"]]
    problems += stale_answers(installed, rules["vulnerabilities"])
    for problem in sorted(set(problems)):
        print(problem)
    places = ", ".join(f"{plane}.cdx.json" for plane in bills)
    print(f"{len(installed)} packages in {OUTPUT.relative_to(REPOSITORY)}: {places}, and their licences")
    return 1 if problems else 0


def _make_bill(plane: str) -> dict[str, Any]:
    # Without validation, which takes most of a minute; a slow test validates.
    command = [sys.executable, "-m", "cyclonedx_py", "environment", PLANES[plane].python, "--no-validate"]
    answer = subprocess.run(
        [*command, "--output-reproducible", "--of", "JSON", "-o", "-"], capture_output=True, text=True
    )
    if answer.returncode:
        sys.exit(f"{plane}: cyclonedx-py failed:\n{answer.stderr[-2000:]}")
    return dict(json.loads(answer.stdout))


def licences_of(component: Component) -> list[str]:
    """All that a package says it is under, each an SPDX expression or a name."""
    entries = component.get("licenses") or []
    return [
        str(entry.get("expression") or entry["license"].get("id") or entry["license"]["name"])
        for entry in entries
    ]


def licence_problems(components: Iterable[Component], rules: Mapping[str, Any]) -> list[str]:
    """What is under a licence that nobody has allowed, or says nothing of it."""
    allowed = frozenset(rules["allowed"])
    return [
        f"{component['name']} {component['version']} is under {_shown(component)}, which dev/supply-chain.toml does not "
        "allow: leave the package out, or add it there with the reason."
        for component in components
        if _exception(component, rules["exceptions"]) is None and not _is_allowed(component, allowed)
    ]


def _is_allowed(component: Component, allowed: frozenset[str]) -> bool:
    found = licences_of(component)
    return bool(found) and all(name in allowed or _holds(name, allowed) for name in found)


def _holds(expression: str, allowed: frozenset[str]) -> bool:
    """Whether one may choose allowed licences alone out of an SPDX expression."""
    try:
        parsed = Licensing().parse(expression)
    except Exception:  # free text
        return False

    def holds(node: Any) -> bool:
        if isinstance(node, (AND, OR)):
            return (all if isinstance(node, AND) else any)(holds(part) for part in node.args)
        return str(node) in allowed

    return holds(parsed)


def _exception(component: Component, exceptions: Sequence[Mapping[str, str]]) -> Mapping[str, str] | None:
    name = str(component["name"]).lower().replace("_", "-")
    return next((found for found in exceptions if fnmatch(name, found["package"])), None)


def _shown(component: Component) -> str:
    return ", ".join(licences_of(component)) or f"an {UNKNOWN} licence"


def _write_licences(path: Path, components: Iterable[Component], rules: Mapping[str, Any]) -> None:
    lines = ["package\tversion\tlicence\n"]
    for component in components:
        exception = _exception(component, rules["exceptions"])
        licence = exception["licence"] if exception else _shown(component)
        lines.append(f"{component['name']}\t{component['version']}\t{licence}\n")
    path.write_text("".join(lines), encoding="utf-8")


def answers(components: Iterable[Component], known: Iterable[Mapping[str, str]]) -> list[dict[str, Any]]:
    """What is said of known vulnerabilities, as CycloneDX has it (VEX)."""
    references = {(component["name"], component["version"]): component["bom-ref"] for component in components}
    return [
        {
            "id": entry["id"],
            "affects": [{"ref": reference}],
            "analysis": {
                "state": "not_affected",
                "justification": entry["justification"],
                "detail": entry["detail"],
            },
        }
        for entry in known
        if (reference := references.get((entry["package"], entry["version"])))
    ]


def stale_answers(components: Iterable[Component], known: Iterable[Mapping[str, str]]) -> list[str]:
    """Answers about a version that is not installed any more."""
    installed = {(component["name"], component["version"]) for component in components}
    return [
        f"{entry['id']} is answered for {entry['package']} {entry['version']}, which is not installed: answer it anew in "
        "dev/supply-chain.toml, or delete it."
        for entry in known
        if (entry["package"], entry["version"]) not in installed
    ]


if __name__ == "__main__":
    sys.exit(main())
