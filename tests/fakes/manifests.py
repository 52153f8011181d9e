"""A manifest as the components write it, and what is none, by why it is refused."""

from __future__ import annotations

from typing import Any

ROWS = f"rows1:{'0a' * 32}"
FILE = f"sha256:{'1b' * 32}"
CHECK = {"field": "licences", "outcome": "pass", "reason": "gsm8k is under MIT."}


def manifest(**change: Any) -> dict[str, Any]:
    """A manifest with everything in it."""
    return {
        "schema_version": 1,
        "name": "questions",
        "partition": "2026-11-28",
        "digest": ROWS,
        "rows": 12,
        "bytes": 900,
        "format": "conversational prompt_completion",
        "files": [
            {
                "name": "train",
                "digest": ROWS,
                "file_digest": FILE,
                "rows": 12,
                "bytes": 900,
                "columns": [{"name": "prompt", "types": {"array": 12}}, {"name": "", "types": {"number": 1, "string": 2}}],
            }
        ],
        "sources": [
            {
                "name": "gsm8k",
                "uri": "hf://datasets/openai/gsm8k@main",
                "digest": FILE,
                "rows": 11,
                "licence": "MIT",
                "owner": None,
                "date": "2026-02-28",
            }
        ],
        "steps": [
            {
                "name": "filter_length",
                "settings": {"least": 1.0, "by": ["a", None, {"b": True}]},
                "libraries": {"ftfy": "6.3"},
                "dropped": 2,
                "changed": 0,
                "repeated": 1,
                "added": 2,
            }
        ],
        "counts": {"rows_in": 11, "used": 9, "rejected": 2, "repeated": 1, "added": 2},
        "quality": {"accepted_share": 0.8},
        "policy": {"policy": "ours", "digest": FILE, "outcome": "pass", "checks": [dict(CHECK)]},
        "made_with": {"llmops-components": "0.1.0"},
        **change,
    }  # fmt: skip


def changed(*path: str | int, value: Any) -> dict[str, Any]:
    """The manifest with another value at a place."""
    found = place = manifest()
    for name in path[:-1]:
        place = place[name]  # type: ignore[index]
    place[path[-1]] = value  # type: ignore[index]
    return found


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in manifest().items() if key != name}


def _deep() -> dict[str, Any]:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    return deep


GOOD = [
    manifest(),
    manifest(partition=None, format=None, policy=None, quality={}, sources=[], steps=[], made_with={}),
    changed("sources", 0, "uri", value=None),
    changed("files", 0, "columns", value=[]),
]
SECOND = {**manifest()["files"][0], "name": "held out"}
BAD: dict[str, Any] = {
    "it has schema version 2; version 1 is read here": manifest(schema_version=2),
    "it has schema version '1'": manifest(schema_version="1"),
    "it has schema version True": manifest(schema_version=True),
    "it has schema version None": _without("schema_version"),
    "valid dictionary or instance of Manifest": "{{ ti.xcom_pull('prepare') }}",
    "counts: Field required": _without("counts"),
    "made_at: Extra inputs are not permitted": manifest(made_at="2026-11-28"),
    "rows: Input should be a valid integer": manifest(rows=12.0),
    "bytes: Input should be greater than or equal to 0": manifest(bytes=-1),
    "digest: String should match pattern": manifest(digest=FILE),
    "files.0.file_digest: String should match pattern": changed("files", 0, "file_digest", value=ROWS),
    "files.0.digest: String should match pattern": changed("files", 0, "digest", value=ROWS + "\n"),
    "files: List should have at least 1 item": manifest(files=[]),
    "two of its files have one name": manifest(files=[manifest()["files"][0]] * 2),
    "its digest is not that of its files": manifest(files=[SECOND, manifest()["files"][0]], rows=24, bytes=1800),
    "its rows are not those of its files": manifest(rows=13),
    "its bytes are not those of its files": manifest(bytes=1),
    "its rows are not as many as those used, repeated and added together": changed("counts", "added", value=3),
    "the rows used and rejected are not as many as the rows read": changed("counts", "rows_in", value=10),
    "columns.0.types.null.[key]: Input should be 'array', 'boolean'": changed("files", 0, "columns", 0, "types", value={"null": 1}),
    "sources.0: its address has a login or a secret in it": changed("sources", 0, "uri", value="https://me:pw@host/x"),
    "sources.0.date: String should match pattern": changed("sources", 0, "date", value="2026-13-01"),
    "sources.0.licence: String should have at least 1 character": changed("sources", 0, "licence", value=""),
    "steps.0: its settings have a number that is none in JSON": changed("steps", 0, "settings", "least", value=float("nan")),
    "steps.0.settings.": changed("steps", 0, "settings", "least", value=_deep()),
    "steps.0.dropped: Input should be a valid integer": changed("steps", 0, "dropped", value=True),
    "quality.accepted_share: Input should be a finite number": manifest(quality={"accepted_share": float("inf")}),
    "policy: its outcome is not the worst of its checks": changed("policy", "checks", 0, "outcome", value="undecided"),
    "policy.checks: List should have at least 1 item": changed("policy", "checks", value=[]),
    "policy.outcome: Input should be 'pass', 'fail' or 'undecided'": changed("policy", "outcome", value="passed"),
}  # fmt: skip
