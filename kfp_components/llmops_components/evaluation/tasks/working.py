"""What the process of :mod:`~llmops_components.evaluation.tasks.worker` does: a line of JSON for each line of JSON.

``{"pattern": ..., "text": ..., "match": "search"}`` is answered with ``{"is_right": ...}``, as is ``{"schema": ..., "value": ...}``. What
cannot be said is ``{"problem": ...}``. Both texts and schemas are others', and this process is ended where they take too long.
"""

from __future__ import annotations

import json
import re
import sys
from functools import lru_cache
from typing import Any

_MAX_SHOWN = 200


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """The answer to a question.

    Args:
        question: What is asked.
    """
    try:
        if "pattern" in question:
            matches = _compiled(question["pattern"])
            does = matches.fullmatch if question["match"] == "full" else matches.search
            return {"is_right": does(question["text"]) is not None}
        return {"is_right": _validator(json.dumps(question["schema"])).is_valid(question["value"])}
    except RecursionError:
        return {"problem": "it goes deeper than can be followed"}
    except Exception as error:
        return {"problem": f"{type(error).__name__}: {error}"[:_MAX_SHOWN]}


_compiled = lru_cache(maxsize=100)(re.compile)


@lru_cache(maxsize=100)
def _validator(schema: str) -> Any:
    from llmops_components.evaluation.tasks.formats import validator_of

    return validator_of(json.loads(schema))


def main() -> None:
    """Answer until there are no more questions."""
    if sys.argv[1] == "schemas":
        from llmops_components.evaluation.tasks import (
            formats,
        )  # which takes its time, and is no part of an answer's

        assert formats
    print("{}", flush=True)
    for line in sys.stdin.buffer:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
