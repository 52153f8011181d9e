"""Values, the types that are declared for them, and what becomes of them; the same in both planes."""

from __future__ import annotations

from typing import Any

REFUSED = object()
CLASSES: dict[str, dict[str, list[Any]]] = {
    "Inner": {"temperature": ["float"], "tokens": ["int"]},
    "Outer": {"rate": ["float"], "inner": [{"fields": ["Inner"]}], "steps": ["int", "null"]},
}
# Value, its declared types, what it becomes.
VALUES: list[tuple[Any, list[Any], Any]] = [
    ("20", ["int"], 20),
    (" 20 ", ["int"], 20),
    ("20.0", ["int"], 20),
    (20.0, ["int"], 20),
    ("2e-4", ["float"], 2e-4),
    (1, ["float"], 1.0),
    ("1", ["float", "null"], 1.0),
    ("1", ["int", "float"], 1),
    ("0.5", ["int", "float"], 0.5),
    ("true", ["bool"], True),
    ("False", ["bool", "null"], False),
    (1, ["bool"], True),
    ("None", ["int", "null"], None),
    ("", ["float", "null"], None),
    (None, ["int"], None),
    ("20", ["str"], "20"),
    ("20", ["int", "str"], "20"),
    ("no", ["bool", "str"], "no"),
    ("auto", ["int", "auto"], "auto"),
    (" Auto ", ["int", "auto"], "auto"),
    ("4", ["int", "auto"], 4),
    (4.0, ["int", "auto"], 4),
    ("[1, '2']", [{"list": ["int"]}], [1, 2]),
    ("['q_proj']", ["str", {"list": ["str"]}], ["q_proj"]),
    (".*[qv]_proj", ["str", {"list": ["str"]}], ".*[qv]_proj"),
    ("sigmoid", [{"list": ["str"]}], "sigmoid"),  # DPO takes one name for a list of one
    ('{"a": "3"}', [{"dict": ["int"]}, "null"], {"a": 3}),
    ([1.0, "2"], [{"list": ["float"]}], [1.0, 2.0]),
    ({"a": 1.0}, ["any"], {"a": 1.0}),
    (
        {"rate": "1e-3", "inner": {"temperature": 1, "tokens": 5.0, "more": "7"}, "steps": "null"},
        [{"fields": ["Outer"]}],
        {"rate": 1e-3, "inner": {"temperature": 1.0, "tokens": 5, "more": "7"}, "steps": None},
    ),
    ("fast", ["float"], REFUSED),
    ("nan", ["float"], REFUSED),
    ("1e999", ["float"], REFUSED),
    ("2.5", ["int"], REFUSED),
    (2.5, ["int", "null"], REFUSED),
    (True, ["int"], REFUSED),
    ("auto", ["int"], REFUSED),
    ("automatic", ["int", "auto"], REFUSED),
    (True, ["float", "null"], REFUSED),
    ("maybe", ["bool"], REFUSED),
    (7, ["bool"], REFUSED),
    ({"inner": {"tokens": "many"}}, [{"fields": ["Outer"]}], REFUSED),
    ([1, "x"], [{"list": ["int"]}], REFUSED),
]
