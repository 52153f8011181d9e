"""What the predictor makes of KServe's server."""

from __future__ import annotations

import asyncio
import json
import logging

from llmops_components.serving.predictor.server import is_no_refusal


def test_what_kserve_says_of_a_refused_request_is_not_said_twice() -> None:
    from kserve import errors

    written: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = written.append  # type: ignore[method-assign]
    logger = logging.getLogger("kserve")
    logger.addHandler(handler)
    logger.addFilter(is_no_refusal)
    try:
        answer = asyncio.run(errors.invalid_input_handler(None, errors.InvalidInput("no")))
        logger.error("said")
    finally:
        logger.removeHandler(handler)
        logger.removeFilter(is_no_refusal)
    assert json.loads(answer.body) == {"error": "no"}
    assert [record.getMessage() for record in written] == ["said"]
