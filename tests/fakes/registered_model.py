"""A real MLflow server with versions of a tiny model, as ``register_model`` registers them.

python tests/fakes/registered_model.py DIRECTORY < [{"model_name": ..., "tags": ...}, ...]

Prints the server's port, and goes on until its input ends.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from mlflow_server import mlflow_server


def main() -> None:
    directory = Path(sys.argv[1])
    asked = json.loads(sys.stdin.readline())
    with mlflow_server(directory) as port, contextlib.redirect_stdout(sys.stderr):
        from llmops_components.tracking.register import register_model
        from mlflow import MlflowClient

        uri = f"http://127.0.0.1:{port}"
        MlflowClient(tracking_uri=uri).create_registered_model("bare")
        for number, arguments in enumerate(asked):
            model = directory / f"model-{number}"
            model.mkdir()
            (model / "config.json").write_text(
                json.dumps({"architectures": ["LlamaForCausalLM"], "n": number})
            )
            (model / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
            (model / "tokenizer.json").write_text("{}")
            if arguments.pop("with_data", False):
                (directory / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
                arguments["datasets"] = {"train": directory / "rows.jsonl"}
            register_model(model, tracking_uri=uri, **arguments)
        print(port, file=sys.__stdout__, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
