"""KServe's model and server classes, with the batcher behind them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput

from llmops_components.errors import ModelError, SettingError, check_known
from llmops_components.serving.batching import Batcher, RequestError, Sampling

DEFAULT_MAX_TOKENS = 64  # the V1 and V2 protocols have no convention of their own
_SETTINGS = ("max_tokens", "temperature", "top_p", "stop", "seed")


class Server(ModelServer):
    """KServe's server on a socket of ours: it would bind 0.0.0.0 by itself.

    Args:
        sock: Bound socket.
        warm_up: Awaited before requests are accepted; an error ends the server.
        on_ready: Called when requests are accepted.
        grace_period: Seconds that running requests get after SIGTERM.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        warm_up: Callable[[], Awaitable[None]],
        on_ready: Callable[[], None],
        grace_period: int,
    ) -> None:
        super().__init__(
            workers=1,
            enable_grpc=False,
            enable_docs_url=False,
            enable_latency_logging=False,
            grace_period=grace_period,
        )
        self._socket = sock
        self._warm_up = warm_up
        self._on_ready = on_ready

    async def _serve(self) -> None:
        self._rest_server.config.fd = self._socket.fileno()
        await self._warm_up()
        watch = asyncio.create_task(self._watch_start())
        await super()._serve()
        watch.cancel()

    async def _watch_start(self) -> None:
        while not self._rest_server._server.started:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.02)
        self._on_ready()


class LanguageModel(Model):
    """Prompts in, texts out, in KServe's V1 and V2 protocols. Greedy unless a temperature is given.

    V1: ``{"instances": ["prompt", {"prompt": "...", "max_tokens": 32}]}`` gives ``{"predictions": ["text", "text"]}``.
    V2: a BYTES tensor of prompts gives a BYTES tensor ``text`` of the same shape; settings are request parameters.

    Args:
        name: Name of the model.
        tokenizer: Its tokenizer.
        batcher: What answers.
    """

    def __init__(self, name: str, tokenizer: Any, batcher: Batcher) -> None:
        super().__init__(name)
        self._tokenizer = tokenizer
        self._batcher = batcher
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """Metadata of the V2 protocol."""
        return [{"name": "prompt", "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Metadata of the V2 protocol."""
        return [{"name": "text", "datatype": "BYTES", "shape": [-1]}]

    async def warm_up(self) -> None:
        """Answer two prompts of different length, so that ready means that this kind of model can be batched here."""
        try:
            await self._answer(
                ["Hello", "Hello, what is the time?"], [Sampling(max_tokens=2, temperature=0)] * 2
            )
        except RequestError as error:
            raise ModelError(
                f"The model {self.name} loads but cannot answer: {error.__cause__ or error}"
            ) from error

    async def predict(
        self, payload: dict[str, Any] | InferRequest, headers: dict[str, str] | None = None
    ) -> Any:
        """Answer a request of either protocol.

        Args:
            payload: The decoded request.
            headers: Its headers.
        """
        if isinstance(payload, InferRequest):
            return await self._predict_v2(payload)
        instances = payload.get("instances") if isinstance(payload, dict) else None
        if not isinstance(instances, list) or not instances:
            raise InvalidInput('Expected {"instances": [prompt, ...]} with at least one prompt.')
        prompts, settings = [], []
        for index, instance in enumerate(instances):
            given = {"prompt": instance} if isinstance(instance, str) else instance
            if not isinstance(given, dict) or not isinstance(given.get("prompt"), str):
                raise InvalidInput(f'instances[{index}] is neither a string nor {{"prompt": string, ...}}.')
            prompts.append(given["prompt"])
            settings.append(
                _sampling({k: v for k, v in given.items() if k != "prompt"}, f"instances[{index}]")
            )
        return {"predictions": await self._answer(prompts, settings)}

    async def _predict_v2(self, request: InferRequest) -> InferResponse:
        tensors: list[InferInput] = request.inputs
        if len(tensors) != 1 or tensors[0].datatype != "BYTES":
            raise InvalidInput("Expected one input tensor of datatype BYTES that holds prompts.")
        prompts = [
            item.decode() if isinstance(item, bytes) else str(item)
            for item in tensors[0].as_numpy().flatten()
        ]
        known = {k: v for k, v in (request.parameters or {}).items() if k != "binary_data_output"}
        texts = await self._answer(prompts, [_sampling(known, "parameters")] * len(prompts))
        output = InferOutput("text", shape=list(tensors[0].shape), datatype="BYTES", data=texts)
        return InferResponse(response_id=request.id, model_name=self.name, infer_outputs=[output])

    async def _answer(self, prompts: list[str], settings: list[Sampling]) -> list[str]:
        generations = self._batcher.submit(self._tokenizer(prompts)["input_ids"], settings)
        return list(await asyncio.gather(*(generation.text() for generation in generations)))


def _sampling(given: dict[str, Any], where: str) -> Sampling:
    try:
        check_known(given, _SETTINGS, f"setting in {where}")
        stop = given.get("stop") or ()
        made = Sampling(
            max_tokens=int(given.get("max_tokens", DEFAULT_MAX_TOKENS)),
            temperature=float(given.get("temperature", 0)),
            top_p=float(given.get("top_p", 1)),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            seed=given.get("seed"),
        )
    except (SettingError, TypeError, ValueError) as error:
        raise InvalidInput(f"{where}: {error}") from None
    if made.max_tokens < 1 or made.temperature < 0 or not 0 < made.top_p <= 1 or "" in made.stop:
        raise InvalidInput(
            f"{where}: expected max_tokens >= 1, temperature >= 0, 0 < top_p <= 1, no empty stop string."
        )
    return made
