"""KServe's model and server classes, with the batcher behind them."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.model_server import app
from kserve.protocol.rest.v1_endpoints import V1Endpoints
from kserve.protocol.rest.v2_endpoints import V2Endpoints
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from llmops_components.errors import ModelError, shortened
from llmops_components.serving.access.renewal import renewed_context
from llmops_components.serving.access.settings import Tls
from llmops_components.serving.http.connections import LimitedProtocol
from llmops_components.serving.http.refusals import RequestError, bad_request, request_error_handler
from llmops_components.serving.predictor.batching import Batcher
from llmops_components.serving.predictor.encoding import PromptEncoder
from llmops_components.serving.predictor.generation import Generation
from llmops_components.serving.predictor.leaving import unless_disconnected
from llmops_components.serving.predictor.openai import note_tokens
from llmops_components.serving.predictor.requests import ask, parse
from llmops_components.serving.predictor.settings import Settings

DEFAULT_MAX_TOKENS = 64  # the V1 and V2 protocols have no convention of their own


class Server(ModelServer):
    """KServe's server on a socket of ours: it would bind 0.0.0.0 by itself.

    Args:
        sock: Bound socket.
        guarded: Puts before KServe's application what all requests pass first.
        warm_up: Awaited before requests are accepted; an error ends the server.
        on_ready: Called when requests are accepted.
        grace_period: Seconds that running requests get after SIGTERM.
        tls: Certificate to offer.
        refused: Called with the id and status of each request that is refused before the application sees it.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        guarded: Callable[[ASGIApp], ASGIApp],
        warm_up: Callable[[], Awaitable[None]],
        on_ready: Callable[[], None],
        grace_period: int,
        tls: Tls | None = None,
        refused: Callable[[str, int], None] | None = None,
    ) -> None:
        super().__init__(
            workers=1,
            enable_grpc=False,
            enable_docs_url=False,
            enable_latency_logging=False,
            grace_period=grace_period,
        )
        self._socket = sock
        self._guarded = guarded
        self._warm_up = warm_up
        self._on_ready = on_ready
        self._tls = tls
        self._protocol = partial(LimitedProtocol, refused=refused)

    async def _serve(self) -> None:
        config = self._rest_server.config
        config.fd = self._socket.fileno()
        config.app = self._guarded(app)
        config.http = self._protocol
        config.ws = "none"
        if (tls := self._tls) is not None:
            config.ssl_context_factory = lambda *_: renewed_context(tls)
        config.proxy_headers = False  # whoever asks could say that it is somebody else
        await self._warm_up()
        watch = asyncio.create_task(self._watch_start())
        await super()._serve()
        watch.cancel()

    async def _watch_start(self) -> None:
        while not self._rest_server._server.started:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.02)
        self._on_ready()


def routes_of_names_with_slashes(server: ModelServer) -> APIRouter:
    """KServe's routes for names such as ``org/model``, which its own take for two parts of a path.

    Args:
        server: The server, whose routes are looked at after these.
    """
    v1 = V1Endpoints(server.dataplane, server.model_repository_extension)
    v2 = V2Endpoints(server.dataplane, server.model_repository_extension)
    router = APIRouter()
    # The plain name comes last: it would swallow what stands behind it.
    for path, endpoint, method in (
        ("/v1/models/{model_name:path}:predict", v1.predict, "POST"),
        ("/v1/models/{model_name:path}", v1.model_ready, "GET"),
        ("/v2/models/{model_name:path}/infer", v2.infer, "POST"),
        ("/v2/models/{model_name:path}/ready", v2.model_ready, "GET"),
        ("/v2/models/{model_name:path}", v2.model_metadata, "GET"),
    ):
        router.add_api_route(path, endpoint, methods=[method], response_model=None, include_in_schema=False)
    return router


def refuse_in_own_form(app: FastAPI) -> None:
    """Answer what is refused in the form of the protocol that it came by, whoever refuses it.

    Args:
        app: KServe's application.
    """

    async def unfit(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return await request_error_handler(request, _in_words(list(error.errors())))

    async def other(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return await request_error_handler(request, RequestError(error.status_code, str(error.detail)))

    app.add_exception_handler(RequestError, request_error_handler)
    app.add_exception_handler(RequestValidationError, unfit)
    app.add_exception_handler(HTTPException, other)


class LanguageModel(Model):
    """Prompts in, texts out, in KServe's V1 and V2 protocols. Greedy unless a temperature is given.

    V1: ``{"instances": ["prompt", {"prompt": "...", "max_tokens": 32}]}`` gives ``{"predictions": ["text", "text"]}``;
    ``parameters`` beside ``instances`` hold for all of them.
    V2: a BYTES tensor of prompts gives a BYTES tensor ``text`` of the same shape; settings are request parameters.

    Args:
        name: Name of the model.
        batcher: What answers.
        encoder: What reads the prompts.
    """

    def __init__(self, name: str, batcher: Batcher, encoder: PromptEncoder) -> None:
        super().__init__(name)
        self._batcher = batcher
        self._encoder = encoder
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """Metadata of the V2 protocol."""
        return [{"name": "prompt", "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Metadata of the V2 protocol."""
        return [{"name": _OUTPUT, "datatype": "BYTES", "shape": [-1]}]

    async def warm_up(self) -> None:
        """Answer two prompts of different length, so that ready means that the whole way to an answer works."""
        try:
            await _texts(
                await self._ask(
                    ["Hello", "Hello, what is the time?"], [Settings(max_tokens=2)] * 2, ["warm-up"] * 2
                )
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
            raise bad_request('Expected {"instances": [prompt, ...]} with at least one prompt.')
        self._batcher.check_count(len(instances), 1, "instances")
        if unknown := sorted(set(payload) - {"instances", "parameters"}):
            raise bad_request(
                f"Unknown field {unknown[0]!r} beside instances. Settings go into 'parameters'."
            )
        shared = payload.get("parameters") or {}
        if not isinstance(shared, dict):
            raise bad_request("parameters is not an object.")
        settings_of_all = _settings(shared, "parameters")
        prompts, settings, fields = [], [], []
        for index, instance in enumerate(instances):
            where = f"instances[{index}]"
            given = {"prompt": instance} if isinstance(instance, str) else instance
            if not isinstance(given, dict) or not isinstance(given.get("prompt"), str):
                raise bad_request(f'{where} is neither a string nor {{"prompt": string, ...}}.')
            own = {key: value for key, value in given.items() if key != "prompt"}
            prompts.append(given["prompt"])
            settings.append(_settings({**shared, **own}, where) if own else settings_of_all)
            fields.append(f"{where}.prompt")
        return {"predictions": await _texts(await self._ask(prompts, settings, fields))}

    async def _predict_v2(self, request: InferRequest) -> InferResponse:
        tensors: list[InferInput] = request.inputs
        if len(tensors) != 1 or tensors[0].datatype != "BYTES":
            raise bad_request("Expected one input tensor of datatype BYTES that holds prompts.")
        field = f"inputs[0] ({tensors[0].name})"
        prompts = _prompts_in(tensors[0])
        self._batcher.check_count(len(prompts), 1, field)
        if others := [output.name for output in request.request_outputs or [] if output.name != _OUTPUT]:
            raise bad_request(f"outputs has {others[0]!r}; this model's only output is {_OUTPUT!r}.")
        given = {
            key: value for key, value in (request.parameters or {}).items() if key != "binary_data_output"
        }
        own = {key: value for key, value in (tensors[0].parameters or {}).items() if key not in _OF_TENSORS}
        if own:
            raise bad_request(
                f"inputs[0].parameters has {sorted(own)[0]!r}. Settings go into the request's parameters."
            )
        settings = [_settings(given, "parameters")] * len(prompts)
        texts = await _texts(await self._ask(prompts, settings, [field] * len(prompts)))
        output = InferOutput(_OUTPUT, shape=list(tensors[0].shape), datatype="BYTES", data=texts)
        # Requests may lack an id, and KServe refuses to write an answer without one.
        return InferResponse(
            response_id=uuid.uuid4().hex if request.id is None else request.id,
            model_name=self.name,
            infer_outputs=[output],
        )

    async def _ask(self, prompts: list[str], settings: list[Settings], fields: list[str]) -> list[Generation]:
        """Queue prompts, each with its own settings; a request is answered whole or not at all."""
        read = []
        for prompt, how, field in zip(prompts, settings, fields, strict=True):
            special = how.add_special_tokens is not False
            read += await self._encoder.encode([prompt], add_special_tokens=special, field=field)
        generations: list[Generation] = []
        try:
            for ids, how, field in zip(read, settings, fields, strict=True):
                generations += ask(
                    self._batcher,
                    [ids],
                    how,
                    temperature=0,
                    max_tokens=how.max_tokens,
                    default_tokens=DEFAULT_MAX_TOKENS,
                    prompt_field=field,
                )
        except BaseException:
            for generation in generations:
                generation.cancel()
            raise
        return generations


_OUTPUT = "text"
_OF_TENSORS = ("binary_data_size", "content_type")


def _prompts_in(tensor: InferInput) -> list[str]:
    """The texts of a tensor, row by row; they may be nested as its shape says, or flat."""
    rows: list[Any] = list(tensor.data)
    while rows and all(isinstance(row, list) for row in rows):
        rows = [item for row in rows for item in row]
    wrong = [item for item in rows if not isinstance(item, str)]
    if wrong or not rows:
        shown = shortened(json.dumps(wrong[0]), 80) if wrong else "nothing"
        raise bad_request(f"inputs[0].data must hold one text for each prompt, not {shown}.")
    if any(size < 0 for size in tensor.shape) or math.prod(tensor.shape) != len(rows):
        raise bad_request(f"inputs[0].shape {tensor.shape} does not fit its {len(rows)} prompts.")
    return rows


def _settings(given: dict[str, Any], where: str) -> Settings:
    settings = parse(Settings, given, where)
    if (settings.n or 1) != 1:
        raise bad_request(f"{where}.n={settings.n}: this protocol has one answer for a prompt.")
    return settings


async def _texts(generations: list[Generation]) -> list[str]:
    try:
        answers = await unless_disconnected(generations)
    finally:
        note_tokens(generations)
    if answers is None:
        raise RequestError(499, "The client went away.")  # nginx's code; nobody reads it
    return [answer.text for answer in answers]


def _in_words(errors: list[dict[str, Any]]) -> RequestError:
    """The first thing that Pydantic found wrong with a body of KServe's V2 protocol."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return RequestError(400, f"The body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}")
    path = ""
    for part in first["loc"]:
        if part not in ("body", "InferenceRequest"):
            path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return RequestError(400, f"{path or 'The body'}: {first['msg']}", param=path or None)
