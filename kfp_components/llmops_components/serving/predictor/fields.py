"""Fields of a request that this server knows and does not carry out: refused by name, unless they ask for nothing.

They are OpenAI's and vLLM's. Those that say who asks or what to bill it to are taken, and so is a value that asks for what
is done anyway; everything else is an error, since an option that changes nothing looks like one that does not work.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from llmops_components.serving.http.refusals import bad_request

_MAX_SHOWN = 100

# They say who asks, or how a hosted service keeps books and caches; no answer depends on them.
WITHOUT_EFFECT = frozenset(
    {
        "cache_salt",
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "session_id",
        "user",
    }
)

# Fields that this server knows and does not carry out, with the values that ask for nothing; null always does.
OF_REQUESTS: dict[str, tuple[Any, ...]] = {
    # OpenAI's
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "prompt_cache_options": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
    # vLLM's
    "allowed_token_ids": (),
    "bad_words": ([],),
    "chat_template": (),
    "documents": ([],),
    "ec_transfer_params": (),
    "guided_choice": (),
    "guided_decoding_backend": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_whitespace_pattern": (),
    "include_reasoning": (True,),
    "kv_transfer_params": (),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "logprob_token_ids": (),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "priority": (0,),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "repetition_detection": (),
    "return_prompt_text": (False,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "spaces_between_special_tokens": (True,),
    "stream_interval": (1,),
    "structural_tag": (),
    "structured_outputs": (),
    "thinking_token_budget": (),
    "truncate_prompt_tokens": (),
    "truncation_side": (),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
}
_HINTS = {
    "reasoning_effort": " A template that knows it takes it in chat_template_kwargs.",
    "enable_thinking": " A template that knows it takes it in chat_template_kwargs.",
    "max_completion_tokens": " Here it is called max_tokens.",
    "max_new_tokens": " It is called max_tokens.",
}
OF_MESSAGES: dict[str, tuple[Any, ...]] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "reasoning": ("",),
    "reasoning_content": ("",),
    "refusal": ("",),
}
OF_STREAM_OPTIONS: dict[str, tuple[Any, ...]] = {
    "continuous_usage_stats": (False,),
    "include_obfuscation": (False, True),  # OpenAI's padding against listeners; there is nobody between
}


def refuse_unknown(asked: BaseModel, nothing: Mapping[str, tuple[Any, ...]], where: str) -> None:
    """Refuse the first field that is not honoured and asks for something.

    Args:
        asked: A model that keeps its extra fields.
        nothing: Known fields, with the values that ask for nothing.
        where: Where in the request the fields are.
    """
    for name, value in (asked.model_extra or {}).items():
        path = f"{where}.{name}" if where else name
        if name in nothing:
            # 1 == True in Python, and not in JSON.
            if value is None or any(value == free and type(value) in _kinds(free) for free in nothing[name]):
                continue
            shown = json.dumps(value, ensure_ascii=False)
            shown = shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."
            message = f"{path}={shown} is not supported by this server.{_HINTS.get(name, '')}"
            raise bad_request(message, path, "unsupported_value")
        if name in WITHOUT_EFFECT:
            continue
        near = difflib.get_close_matches(name, type(asked).model_fields, n=1, cutoff=0.75)
        hint = _HINTS.get(name) or (f" Did you mean {near[0]!r}?" if near else "")
        raise bad_request(f"Unknown parameter: {path!r}.{hint}", path, "unknown_parameter")


def _kinds(value: Any) -> tuple[type, ...]:
    return (int, float) if type(value) in (int, float) else (type(value),)
