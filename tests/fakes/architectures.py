"""Tiny random language models of many architectures, made from configurations on the spot."""

from __future__ import annotations

from typing import Any

_COMMON = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_HYBRID = ["linear_attention", "full_attention"]
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    # absolute positions, ALiBi, a sliding window, experts
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "opt": {**_COMMON, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mistral": {**_COMMON, "sliding_window": 8},
    "gemma3_text": {**_COMMON, "head_dim": 8, "sliding_window": 8},
    "qwen3_moe": {**_COMMON, "head_dim": 8, **_EXPERTS},
    # recurrent
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "mamba2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 8,
        "num_heads": 8,
        "head_dim": 8,
        "n_groups": 1,
        "chunk_size": 8,
    },
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 256},
    # hybrid
    "jamba": {
        **_COMMON,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "num_experts": 2,
    },
    "lfm2": {**_COMMON, "layer_types": ["conv", "full_attention"]},
    "recurrent_gemma": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "lru_width": 32,
        "attention_window_size": 16,
    },
    "qwen3_next": {
        **_COMMON,
        "head_dim": 8,
        "layer_types": _HYBRID,
        "shared_expert_intermediate_size": 32,
        **_LINEAR,
        **_EXPERTS,
    },
    # encoders, of which the second one mixes neighbours, padding among them
    "bert": {**_COMMON},
    "convbert": {**_COMMON, "embedding_size": 32, "num_groups": 1},
}


def make_model(model_type: str, vocab_size: int = 128, *, scores: bool = False) -> Any:
    """A random float32 model whose every token depends on those before it and on their places.

    Args:
        model_type: Name in ``ARCHITECTURES``.
        vocab_size: Number of its tokens.
        scores: Whether it gives a text one number, as a reward model does, in place of its next token.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSequenceClassification

    config = CONFIG_MAPPING[model_type](
        **ARCHITECTURES[model_type], vocab_size=vocab_size, pad_token_id=None, bos_token_id=1, eos_token_id=2
    )
    if scores:
        config.num_labels, config.pad_token_id = 1, 0
    auto = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = auto.from_config(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                spread = 0.3 if "embed" in name or "wte" in name else weight.shape[-1] ** -0.5
                weight.normal_(0, spread, generator=generator)
    return model


def answer_alone(model: Any, tokenizer: Any, text: str, tokens: int) -> str:
    """What ``generate`` answers to a prompt that nothing stands beside, greedily."""
    prompt = tokenizer(text, return_tensors="pt")
    ends = sorted({model.config.eos_token_id, tokenizer.eos_token_id})
    output = model.generate(
        **prompt, max_new_tokens=tokens, do_sample=False, eos_token_id=ends, pad_token_id=0
    )
    return tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
