"""OpenAI's completions API over the batcher, at the path where KServe's own runtimes have it (``/openai/v1``).

KServe's OpenAI routes (``kserve.protocol.rest.openai``) import vllm and so cannot be used where vllm is not installed.
https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from llmops_components.serving.access.usage import note_usage, usage_comment
from llmops_components.serving.http.refusals import RequestError, openai_error
from llmops_components.serving.predictor.batching import Batcher
from llmops_components.serving.predictor.chat import ChatTemplate
from llmops_components.serving.predictor.encoding import PromptEncoder
from llmops_components.serving.predictor.generation import Generation
from llmops_components.serving.predictor.leaving import unless_disconnected
from llmops_components.serving.predictor.requests import (
    ChatRequest,
    CompletionRequest,
    CompletionSettings,
    ask,
    parse,
)

OPENAI_PREFIX = "/openai/v1"
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's


@dataclass(frozen=True)
class Shape:
    """How one kind of answer is written.

    Args:
        model: Name of the model.
        id: Id of the answer.
        kind: ``object`` of a whole answer.
        chunk_kind: ``object`` of a piece of a stream.
        chat: Whether the text is a message.
    """

    model: str
    id: str
    kind: str
    chunk_kind: str
    chat: bool

    @classmethod
    def of_chat(cls, model: str) -> Shape:
        return cls(model, f"chatcmpl-{uuid.uuid4().hex}", "chat.completion", "chat.completion.chunk", True)

    @classmethod
    def of_text(cls, model: str) -> Shape:
        return cls(model, f"cmpl-{uuid.uuid4().hex}", "text_completion", "text_completion", False)

    def body(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
            "choices": choices,
        } | more

    def choice(self, index: int, text: str, finish_reason: str) -> dict[str, Any]:
        content = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        return {"index": index, **content, "logprobs": None, "finish_reason": finish_reason}

    def piece(self, index: int, delta: dict[str, str], finish_reason: str | None = None) -> str:
        content: dict[str, Any] = {"delta": delta} if self.chat else {"text": delta.get("content", "")}
        choice = {"index": index, **content, "logprobs": None, "finish_reason": finish_reason}
        return event(self.body(self.chunk_kind, [choice]))


def openai_router(model_name: str, tokenizer: Any, batcher: Batcher, encoder: PromptEncoder) -> APIRouter:
    """Routes of the API.

    Args:
        model_name: Name that requests must give.
        tokenizer: The model's tokenizer, with its chat template.
        batcher: What answers.
        encoder: What reads the prompts.
    """
    router = APIRouter(prefix=OPENAI_PREFIX, tags=["OpenAI"])
    template = ChatTemplate(tokenizer)
    created = int(time.time())
    card = {
        "id": model_name,
        "object": "model",
        "created": created,
        "owned_by": "llmops",
        "max_model_len": batcher.max_model_len,
    }

    @router.get("/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @router.get("/models/{name:path}")  # a name may have slashes
    async def model(name: str) -> dict[str, Any]:
        check_model(name)
        return card

    @router.post("/chat/completions")
    async def chat(request: Request) -> Response:
        asked = parse(ChatRequest, await request.body())
        check_model(asked.model)
        batcher.check_count(1, asked.n or 1, "messages")
        prompt = await encoder.in_thread(lambda: template.render(asked), asked.texts(), "messages")
        limit_field = "max_completion_tokens" if asked.max_completion_tokens else "max_tokens"
        generations = ask(
            batcher,
            [prompt],
            asked,
            max_tokens=asked.max_completion_tokens or asked.max_tokens,
            prompt_field="messages",
            limit_field=limit_field,
        )
        return await respond(asked, generations, Shape.of_chat(model_name))

    @router.post("/completions")
    async def completions(request: Request) -> Response:
        asked = parse(CompletionRequest, await request.body())
        check_model(asked.model)
        generations = ask(
            batcher,
            await encoder.encode(
                asked.prompt,
                add_special_tokens=asked.add_special_tokens is not False,
                answers=asked.n or 1,
            ),
            asked,
            max_tokens=asked.max_tokens,
            default_tokens=DEFAULT_COMPLETION_TOKENS,
        )
        return await respond(asked, generations, Shape.of_text(model_name))

    def check_model(name: str) -> None:
        if name != model_name:
            raise RequestError(
                404,
                f"The model {name!r} does not exist; this server has {model_name!r}.",
                param="model",
                code="model_not_found",
            )

    return router


async def respond(asked: CompletionSettings, generations: list[Generation], shape: Shape) -> Response:
    """Answer with one JSON body, or with a stream of events.

    Args:
        asked: The parsed body.
        generations: One per choice.
        shape: How to write the answer.
    """
    if asked.stream:
        wants_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
        events = stream(generations, shape, wants_usage)
        note_tokens(
            generations
        )  # the head tells of the prompt, in case that the client leaves before the end
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )
    try:
        texts = await unless_disconnected(generations)
    finally:
        note_tokens(generations)
    if texts is None:
        return Response(status_code=499)  # nginx's code for a client that went away; nobody reads it
    choices = [
        shape.choice(index, text, str(generation.finish_reason))
        for index, (generation, text) in enumerate(zip(generations, texts, strict=True))
    ]
    return JSONResponse(shape.body(shape.kind, choices, usage=usage_of(generations)))


async def stream(generations: list[Generation], shape: Shape, wants_usage: bool) -> AsyncIterator[str]:
    """Server-sent events of the answers, interleaved as they come.

    Args:
        generations: One per prompt.
        shape: How to write the events.
        wants_usage: Whether a last event tells the number of tokens.
    """
    events: asyncio.Queue[str | RequestError | None] = asyncio.Queue()

    async def forward(index: int, generation: Generation) -> None:
        try:
            if shape.chat:
                events.put_nowait(shape.piece(index, {"role": "assistant", "content": ""}))
            async for text in generation:
                events.put_nowait(shape.piece(index, {"content": text}))
            events.put_nowait(shape.piece(index, {}, str(generation.finish_reason)))
            events.put_nowait(None)
        except RequestError as error:
            events.put_nowait(error)

    tasks = [asyncio.create_task(forward(*pair)) for pair in enumerate(generations)]
    try:
        running = len(tasks)
        while running:
            item = await events.get()
            if isinstance(item, RequestError):  # too late for a status code
                yield event(openai_error(item))
                return
            if item is None:
                running -= 1
            else:
                note_tokens(generations)
                yield item
        if wants_usage:
            yield event(shape.body(shape.chunk_kind, [], usage=usage_of(generations)))
        note_tokens(generations)
        if comment := usage_comment():
            yield comment
        yield "data: [DONE]\n\n"
    finally:
        note_tokens(generations)
        for task, generation in zip(tasks, generations, strict=True):
            task.cancel()
            generation.cancel()


def event(body: dict[str, Any]) -> str:
    """One server-sent event.

    Args:
        body: Its data.
    """
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"


def note_tokens(generations: list[Generation]) -> None:
    """Note what a request took so far, for its quota and the audit log.

    Args:
        generations: Its generations.
    """
    usage = usage_of(generations)
    note_usage(usage["prompt_tokens"], usage["completion_tokens"])


def usage_of(generations: list[Generation]) -> dict[str, int]:
    """Tokens read and written; a prompt that is answered several times counts once.

    Args:
        generations: The finished generations, the answers to one prompt behind each other.
    """
    prompts = {id(generation.prompt_ids): len(generation.prompt_ids) for generation in generations}
    prompt = sum(prompts.values())
    completion = sum(generation.completion_tokens for generation in generations)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
