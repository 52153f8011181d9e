"""OpenAI's completions API over the batcher, at the path where KServe's own runtimes have it (``/openai/v1``).

KServe's OpenAI routes (``kserve.protocol.rest.openai``) import vllm and so cannot be used where vllm is not installed.
https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from llmops_components.serving.access.usage import note_usage, usage_comment
from llmops_components.serving.http.refusals import RequestError, openai_error
from llmops_components.serving.predictor.answers import ChatForm, Form, TextForm
from llmops_components.serving.predictor.batching import Batcher
from llmops_components.serving.predictor.chat import ChatTemplate
from llmops_components.serving.predictor.encoding import PromptEncoder
from llmops_components.serving.predictor.generation import Generation
from llmops_components.serving.predictor.grammars import Grammars
from llmops_components.serving.predictor.leaving import unless_disconnected
from llmops_components.serving.predictor.logprobs import TokenTexts
from llmops_components.serving.predictor.requests import (
    ChatRequest,
    CompletionRequest,
    ask,
    parse,
)
from llmops_components.serving.predictor.settings import CompletionSettings
from llmops_components.serving.predictor.tools import required_calls

OPENAI_PREFIX = "/openai/v1"
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's


def openai_router(
    model_name: str, tokenizer: Any, batcher: Batcher, encoder: PromptEncoder, grammars: Grammars
) -> APIRouter:
    """Routes of the API.

    Args:
        model_name: Name that requests must give.
        tokenizer: The model's tokenizer, with its chat template.
        batcher: What answers.
        encoder: What reads the prompts.
        grammars: What makes answers have a required form.
    """
    router = APIRouter(prefix=OPENAI_PREFIX, tags=["OpenAI"])
    template = ChatTemplate(tokenizer)
    texts = TokenTexts(tokenizer)
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
        form = ChatForm(model_name, texts if asked.wanted_logprobs is not None else None)

        def read() -> list[int]:
            ids = template.render(asked)
            if tools := asked.usable_tools():
                names = [tool.function.name for tool in tools]
                form.expect_calls(
                    template.tool_format(), names, several=asked.parallel_tool_calls is not False
                )
            return ids

        prompt = await encoder.in_thread(read, asked.texts(), "messages")
        more: dict[str, Any] = {}
        if form.tool_format is not None:
            markers = {*form.tool_format.begins, form.tool_format.end}
            if not markers.isdisjoint(template.special_tokens):
                more["skip_special_tokens"] = False
        if form.tool_format is not None and asked.must_call:
            several = asked.parallel_tool_calls is not False and asked.tool_choice == "required"
            written = required_calls(
                form.tool_format, asked.usable_tools(), several=several, special=template.special_tokens
            )
            more["grammar"] = await grammars.of_lark(written, "tools")
        limit_field = "max_completion_tokens" if asked.max_completion_tokens else "max_tokens"
        generations = ask(
            batcher,
            [prompt],
            asked,
            max_tokens=asked.max_completion_tokens or asked.max_tokens,
            prompt_field="messages",
            limit_field=limit_field,
            **(await required_form(asked)),
            **more,
        )
        return await respond(asked, generations, form)

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
            **(await required_form(asked)),
        )
        form = TextForm(model_name, texts if asked.wanted_logprobs is not None else None)
        return await respond(asked, generations, form)

    async def required_form(asked: CompletionSettings) -> dict[str, Any]:
        schema = asked.schema_of_answer()
        return {} if schema is None else {"grammar": await grammars.of_schema(schema, "response_format")}

    def check_model(name: str) -> None:
        if name != model_name:
            raise RequestError(
                404,
                f"The model {name!r} does not exist; this server has {model_name!r}.",
                param="model",
                code="model_not_found",
            )

    return router


async def respond(asked: CompletionSettings, generations: list[Generation], form: Form) -> Response:
    """Answer with one JSON body, or with a stream of events.

    Args:
        asked: The parsed body.
        generations: One per choice.
        form: How to write the answer.
    """
    if asked.stream:
        wants_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
        events = stream(generations, form, wants_usage)
        note_tokens(
            generations
        )  # the head tells of the prompt, in case that the client leaves before the end
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )
    try:
        answers = await unless_disconnected(generations)
    finally:
        note_tokens(generations)
    if answers is None:
        return Response(status_code=499)  # nginx's code for a client that went away; nobody reads it

    def write() -> Response:
        choices = [
            form.whole(index, answer, str(generation.finish_reason))
            for index, (generation, answer) in enumerate(zip(generations, answers, strict=True))
        ]
        return JSONResponse(form.body(choices, usage=usage_of(generations)))

    # Log probabilities of a long answer are megabytes.
    return await asyncio.to_thread(write) if asked.wanted_logprobs is not None else write()


async def stream(generations: list[Generation], form: Form, wants_usage: bool) -> AsyncIterator[str]:
    """Server-sent events of the answers, interleaved as they come.

    Args:
        generations: One per prompt.
        form: How to write the events.
        wants_usage: Whether a last event tells the number of tokens.
    """
    events: asyncio.Queue[str | RequestError | None] = asyncio.Queue()

    def put(choices: list[dict[str, Any]]) -> None:
        for choice in choices:
            events.put_nowait(event(form.chunk([choice])))

    async def forward(index: int, generation: Generation) -> None:
        try:
            put(form.begin(index))
            async for piece in generation:
                put(form.go_on(index, piece))
            put(form.end(index, str(generation.finish_reason)))
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
            yield event(form.chunk([], usage=usage_of(generations)))
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
