"""KServe's own model server with models that need no weights.

python tests/fakes/kserve_echo.py PORT
"""

from __future__ import annotations

import sys
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput


class Echo(Model):
    """Says what it was asked, with its parameters; V2 also how long that was, as a second output."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        if isinstance(payload, InferRequest):
            texts = [text.decode() if isinstance(text, bytes) else text for text in payload.inputs[0].data]
            _check(texts)
            said = [f"{text} {payload.parameters or {}}" for text in texts]
            outputs = [InferOutput("text", [len(said)], "BYTES", data=said)]
            if self.name == "two":
                outputs.append(
                    InferOutput("length", [len(said)], "INT64", data=[len(text) for text in texts])
                )
            return InferResponse("1", self.name, outputs)
        _check(payload["instances"])
        return {"predictions": [[text, payload.get("parameters")] for text in payload["instances"]]}


def _check(texts: list[str]) -> None:
    if "unfit" in texts:
        raise InvalidInput("this text is unfit")
    if "boom" in texts:
        raise RuntimeError("a bug of the model's")


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[1]), enable_grpc=False, workers=1).start(
        [Echo("org/echo"), Echo("two"), Echo("echo")]
    )
