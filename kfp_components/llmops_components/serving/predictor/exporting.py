"""A model of transformers as OpenVINO computes it: attention over a cache in blocks, so that prompts need no padding.

The model's own code is traced once, with an attention function of ours in the place of its own. The tokens of all prompts
stand behind one another in one row; what belongs to which prompt, and where its keys and values are kept, comes as inputs.
A model whose attention does not go through transformers' interface, or needs more than it, is refused here. Whether what
comes out answers as the model does is found out by asking it
(:func:`~llmops_components.serving.predictor.choosing.compare`).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as op
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch import ConversionExtension
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from openvino.op import _PagedAttentionExtension
from transformers import AttentionInterface

from llmops_components.models.attention import attention_by

# One for the process and to its end. The plugin for CPUs gives the thread that loads it a stack for signals, and takes that back
# with the last model, in whatever thread that goes: the next signal, SIGTERM say, would then be a segmentation fault.
_CORE = ov.Core()
BLOCK_TOKENS = 32  # the block size of OpenVINO's attention on a CPU
_ATTENTION = "llmops_paged"
_INDICES = ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins", "max_context_len")
# What transformers hands to attention functions, and does not change what they compute.
_WITHOUT_EFFECT = {
    *("position_ids", "use_cache", "cache_position", "is_causal"),
    *("output_attentions", "output_hidden_states", "output_router_logits", "return_dict"),
}
_BY_LENGTH = (
    "dynamic",
    "longrope",
)  # codes of positions that a trace would hold fast at the length of its example
_KINDS_OF_LAYERS = {"full_attention", "sliding_attention"}
_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class NotExportableError(Exception):
    """A model that this export does not cover; the message says why."""


@dataclass(frozen=True)
class _Heads:
    """Number and size of the heads of a layer."""

    queries: int
    keys: int
    query_size: int
    value_size: int


@torch.library.custom_op("llmops::paged_attention", mutates_args=())
def _paged_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    past_lens: torch.Tensor,
    subsequence_begins: torch.Tensor,
    block_indices: torch.Tensor,
    block_indices_begins: torch.Tensor,
    max_context_len: torch.Tensor,
    layer: int,
    scale: float,
    window: int,
) -> torch.Tensor:
    """Stands in the trace for OpenVINO's attention: the result has the right shape and says nothing."""
    return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[3])


class _Traced(torch.nn.Module):
    """A model with the inputs of its exported form."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.heads: dict[int, _Heads] = {}
        self.windows: dict[int, int] = {}
        self._indices: tuple[torch.Tensor, ...] = ()
        self._caches: tuple[torch.Tensor, ...] = ()

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, last: torch.Tensor, *more: torch.Tensor
    ) -> torch.Tensor:
        self._indices, self._caches = more[: len(_INDICES)], more[len(_INDICES) :]
        output = self.model(
            input_ids=input_ids, position_ids=position_ids, use_cache=False, logits_to_keep=last
        )
        logits: torch.Tensor = output.logits[0].float()
        return logits

    def attend(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        **more: Any,
    ) -> tuple[torch.Tensor, None]:
        """An attention function, as transformers calls it."""
        unknown = [name for name, given in more.items() if given is not None and name not in _WITHOUT_EFFECT]
        if attention_mask is not None or unknown:
            raise NotExportableError(f"its attention needs {(unknown or ['attention_mask'])[0]}")
        layer = module.layer_idx
        if layer in self.heads:
            raise NotExportableError("its layers share keys and values")
        sizes = (query.shape[1], key.shape[1], query.shape[3], value.shape[3])
        self.heads[layer] = _Heads(*(int(size) for size in sizes))
        self.windows[layer] = window = sliding_window or 0
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        caches = self._caches[2 * layer : 2 * layer + 2]
        return _paged_attention(query, key, value, *caches, *self._indices, layer, float(scale), window), None


def export(model: Any) -> Any:
    """Translate a model; its weights are shared, not copied.

    Args:
        model: A causal language model of transformers, on the CPU.

    Returns:
        An ``openvino.Model``, with logits behind the tokens that ``last`` names.

    Raises:
        NotExportableError: The model is of a kind that this export does not cover.
    """
    config = model.config.get_text_config()
    _check(config)
    traced = _Traced(model)
    AttentionInterface.register(_ATTENTION, traced.attend)
    with attention_by(model, _ATTENTION):
        return _converted(traced, config)


def _check(config: Any) -> None:
    """Refuse what the trial at the start is too short to find, or would find late."""
    if getattr(config, "quantization_config", None) is not None:
        raise NotExportableError("its weights are compressed")
    if any(kind in str(getattr(config, "rope_parameters", None)) for kind in _BY_LENGTH):
        raise NotExportableError("it codes positions by the length of the text")
    if others := sorted(set(getattr(config, "layer_types", None) or ()) - _KINDS_OF_LAYERS):
        raise NotExportableError(f"it has layers of {others[0]}")


def _check_windows(traced: _Traced, config: Any) -> None:
    """Refuse models that keep to a window by the mask alone, which is left out."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or [
        "sliding_attention" if window else "full_attention"
    ] * len(traced.windows)
    if any(kind == "sliding_attention" and not traced.windows[layer] for layer, kind in enumerate(kinds)):
        raise NotExportableError("its attention does not say how far it sees")


def _converted(traced: _Traced, config: Any) -> Any:
    layers = config.num_hidden_layers
    example = _example(layers)
    with torch.no_grad(), warnings.catch_warnings():
        # That it is deprecated (OpenVINO reads nothing else with operations of one's own), and that branches are held fast.
        warnings.simplefilter("ignore")
        script = torch.jit.trace(traced, example, check_trace=False)
    if sorted(traced.heads) != list(range(layers)):
        raise NotExportableError("not every layer is attention of the kind that can be told from its place")
    _check_windows(traced, config)

    def convert(context: Any) -> list[Any]:
        inputs = [context.get_input(index) for index in range(10)]
        layer, scale, window = (context.get_values_from_const_input(index) for index in (10, 11, 12))
        return _attention_of_openvino(inputs, traced.heads[int(layer)], float(scale), int(window))

    extension = ConversionExtension("llmops::paged_attention", convert)
    # Not by ``openvino.convert_model``, which reports the use of it to its makers.
    frontend = FrontEndManager().load_by_framework("pytorch")
    frontend.add_extension(extension)
    decoder = TorchScriptPythonDecoder(script, example_input=example)  # has to live until all is translated
    exported = frontend.convert(frontend.load(decoder))
    caches = [f"{kind}_cache.{layer}" for layer in range(layers) for kind in ("key", "value")]
    names = ["input_ids", "position_ids", "last", *_INDICES, *caches]
    if len(exported.inputs) != len(names):
        raise NotExportableError("it does not read all that attention over blocks needs")
    for port, name in zip(exported.inputs, names, strict=True):
        port.get_tensor().set_names({name})
        node = port.get_node()
        if "_cache." in name:
            node.set_element_type(ov.Type.dynamic)
            node.set_partial_shape(ov.PartialShape([-1] * 4))
        elif name in ("input_ids", "position_ids"):
            node.set_partial_shape(ov.PartialShape([1, -1]))
        else:
            node.set_partial_shape(ov.PartialShape([] if name == "max_context_len" else [-1]))
    exported.outputs[0].get_tensor().set_names({"logits"})
    exported.validate_nodes_and_infer_types()
    return exported


def _example(layers: int) -> tuple[torch.Tensor, ...]:
    """Two prompts of three and two tokens."""

    def ints(values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32)

    ids = torch.ones(1, 5, dtype=torch.long)
    positions = torch.tensor([[0, 1, 2, 0, 1]])
    indices = (ints([0, 0]), ints([0, 3, 5]), ints([0, 1]), ints([0, 1, 2]), ints(3))
    caches = (torch.zeros(1, 1, 1, 1) for _ in range(2 * layers))
    return (ids, positions, torch.tensor([2, 4]), *indices, *caches)


def _attention_of_openvino(inputs: list[Any], heads: _Heads, scale: float, window: int) -> list[Any]:
    """The node that computes attention, between the shapes of transformers and its own."""
    query, key, value, *rest = inputs
    *rest, max_context_len = rest

    def in_rows(states: Any, width: int) -> Any:
        """``[1, heads, tokens, size]`` as ``[tokens, heads * size]``."""
        turned = op.transpose(states, op.constant([0, 2, 1, 3]))
        return op.reshape(turned, op.constant([-1, width]), False).output(0)

    def none(kind: Any, shape: tuple[int, ...] = (0,)) -> Any:
        return op.constant(np.zeros(shape, kind)).output(0)

    i32, f32 = np.int32, np.float32
    node = _PagedAttentionExtension(
        [
            in_rows(query, heads.queries * heads.query_size),
            in_rows(key, heads.keys * heads.query_size),
            in_rows(value, heads.keys * heads.value_size),
            *rest,
            op.constant(np.array(scale, f32)).output(0),
            op.constant(np.array(window, i32)).output(0),
            none(f32),  # slopes of ALiBi
            max_context_len,
            # In their order: window of scores; indices, deltas and table of a rotation; threshold, block size and stride of
            # sparse attention; sinks; start and sets of evictions; types of tokens; biases between queries.
            *(none(i32), none(i32), none(i32), none(f32), none(f32), none(i32, ()), none(i32, ())),
            *(none(f32, (0, 0, 0, 0)), none(i32, ()), none(i32), none(i32), none(i32), none(i32)),
            *(none(np.uint8), none(i32)),
        ]
    )
    facts = node.get_rt_info()
    facts["num_k_heads"] = facts["num_v_heads"] = heads.keys
    facts["k_head_size"], facts["v_head_size"] = heads.query_size, heads.value_size
    shape = op.constant([1, -1, heads.queries, heads.value_size])
    return [op.reshape(node.output(0), shape, False).output(0)]


def compiled(model: Any) -> Any:
    """Export a model and compile it for this machine's CPU, with its own type of numbers.

    Args:
        model: A causal language model of transformers, on the CPU, with weights in 32 bit or bfloat16.

    Raises:
        NotExportableError: The model is of a kind that this export does not cover.
    """
    if (precision := _PRECISIONS.get(model.dtype)) is None:
        raise NotExportableError(f"its weights are {str(model.dtype).removeprefix('torch.')}")
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # revisions beside each other would share the first cores, and leave others idle
    }
    return _CORE.compile_model(export(model), "CPU", settings)
