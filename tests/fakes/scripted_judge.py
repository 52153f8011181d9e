"""What a scripted judge says: an answer in the form that the question asks for, decided by the question alone."""

from __future__ import annotations

import hashlib
import json
import random
import re
from typing import Any

from hostile_service import Does, answer_to

_SCHEMA = re.compile(r"JSON Schema:\n(?P<schema>\{.*\})Do not use single quotes", re.DOTALL)
_LISTED = 3


def verdict(prompt: str, nth: int) -> Does:
    """An answer that fits the schema in a question of RAGAS's; an embedding where there is none."""
    generator = random.Random(hashlib.sha256(prompt.encode()).digest())  # noqa: S311  no secret
    if (match := _SCHEMA.search(prompt)) is None:
        return embedding(prompt)
    schema = json.loads(match["schema"])
    return Does(body=answer_to(prompt, json.dumps(_made(schema, schema, generator))))


def embedding(texts: str) -> Does:
    """Texts as some numbers; several come as the JSON of a list."""
    data = []
    for index, text in enumerate(json.loads(texts) if texts.startswith("[") else [texts]):
        generator = random.Random(hashlib.sha256(text.encode()).digest())  # noqa: S311  no secret
        numbers = [generator.uniform(-1, 1) for _ in range(8)]
        data.append({"object": "embedding", "index": index, "embedding": numbers})
    return Does(
        body={"object": "list", "model": "e", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    )


def _made(schema: dict[str, Any], root: dict[str, Any], generator: random.Random, name: str = "") -> Any:
    if "$ref" in schema:
        return _made(root["$defs"][schema["$ref"].rpartition("/")[2]], root, generator)
    if "anyOf" in schema:
        return _made(schema["anyOf"][0], root, generator, name)
    if "enum" in schema:
        return generator.choice(schema["enum"])
    match schema.get("type"):
        case "object":
            return {
                key: _made(each, root, generator, key) for key, each in schema.get("properties", {}).items()
            }
        case "array":
            return [_made(schema["items"], root, generator, name) for _ in range(_LISTED)]
        case "integer":
            return generator.choice({"rating": [0, 2], "score": [1, 2, 3, 4, 5]}.get(name, [0, 1]))
        case "number":
            return generator.choice([0.25, 0.5, 0.75])
        case "boolean":
            return generator.random() < 0.5
    return generator.choice(["Paris is in France.", "The sky is blue.", "Coal is black.", "Snow is white."])
