"""The rights that the documentation tells to give: a fake cluster refuses whatever they do not cover."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml
from planes import REPO

PAGE = REPO / "docs/first-run-on-kubeflow.md"
_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+\.[^/]+))/[^/]+(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<part>[^/]+))?"
)
KSERVE_NAMESPACE = "kserve"
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@cache
def roles() -> dict[str, dict[str, Any]]:
    """The Roles and the ClusterRole of the page, by kind; the Role in KServe's namespace as ``Role kserve``."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    documents = [document for block in blocks for document in yaml.safe_load_all(block)]
    found = [item for item in documents if item.get("kind", "").endswith("Role")]
    return {
        item["kind"] + (" kserve" if item["metadata"].get("namespace") == KSERVE_NAMESPACE else ""): item
        for item in found
    }


def granted(kind: str) -> Iterator[tuple[str, str, str, str]]:
    """What a role grants: group, resource, verb, and the one name that it is for, or nothing."""
    for rule in roles()[kind]["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    for name in rule.get("resourceNames", [""]):
                        yield group, resource, verb, name


def refusal(method: str, path: str, *, is_watch: bool = False) -> dict[str, Any] | None:
    """What an API server answers, with a 403, to a request that the roles do not cover; ``None`` if they do."""
    match = _PATH.fullmatch(path)
    if not match:  # no resource: the request of a client of something else
        return None
    resource = match["resource"] + (f"/{match['part']}" if match["part"] else "")
    verb = "list" if method == "GET" and not match["name"] else _VERBS[method]
    verb = "watch" if is_watch else verb
    asked = (match["group"] or "", resource, verb)
    role = "ClusterRole" if not match["namespace"] else "Role"
    if match["namespace"] == KSERVE_NAMESPACE:
        role = "Role kserve"
    for *right, name in granted(role):
        if tuple(right) == asked and name in ("", match["name"]):
            return None
    message = f"{resource} is forbidden: {PAGE.name} grants no right to {verb} it (API group {asked[0]!r})"
    return {"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": message}
