"""The memory that a model takes, from its walked file alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from edgespec.gguf.reader import BLOCKS, Value
from edgespec.gguf.validate import Header

_CELLS = 256
"""llama.cpp rounds the length of a KV cache up to a multiple of this."""
_TOKEN_BYTES = 300
"""Bytes that the texts and tables of one token take: measured on vocabularies of 49,000 to 262,000 tokens."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model takes: bytes of `weights` (mapped from the file) and of its `vocabulary`.

    `keys` and `values` are the elements of one token's keys and values in all layers together. Layers with a sliding
    window count in full, as llama.cpp allocates them here. `certain`: no architecture that is known to need less.
    """

    name: str
    weights: int
    n_vocab: int
    keys: int
    values: int
    certain: bool
    n_ctx_train: int
    """The context length that the model was trained for, in tokens."""
    n_ctx_scaled: int
    """The same, or what the RoPE scaling that the file asks for makes of it."""

    @property
    def vocabulary(self) -> int:
        return _TOKEN_BYTES * self.n_vocab

    def kv_cache(self, n_ctx: int, types: tuple[int, int]) -> int:
        """The bytes of a KV cache of `n_ctx` tokens, with ggml's `types` of keys and of values."""
        cells = -(-n_ctx // _CELLS) * _CELLS
        row = 0
        for elements, kind in zip((self.keys, self.values), types, strict=True):
            block_elements, block_bytes = BLOCKS[kind]
            row += elements * block_bytes // block_elements
        return cells * row


def footprint(header: Header) -> Footprint:
    """The footprint of a model by its checked header."""
    values, architecture = header.part.values, header.architecture
    keys = width = 0
    certain = not any(f"{architecture}.{key}" in values for key in _SHARED)
    for layer in _layers(header).values():
        layer_keys, layer_values, exact = _row_elements(layer, architecture, values)
        keys, width, certain = keys + layer_keys, width + layer_values, certain and exact
    return Footprint(
        header.part.path.name, sum(part.size - part.header_size for part in header.parts), header.n_vocab,
        keys, width, certain, _number(values, f"{architecture}.context_length"), _n_ctx_scaled(architecture, values),
    )  # fmt: skip


_SHARED = ("attention.shared_kv_layers", "nextn_predict_layers", "attention.kv_lora_rank")
"""Keys of architectures in which some layers have no KV cache of their own, or a smaller one than it seems."""

_Layer = Mapping[str, int]
"""The number of rows of each matrix of one layer, by its name in the layer."""


def _layers(header: Header) -> dict[int, dict[str, int]]:
    layers: dict[int, dict[str, int]] = defaultdict(dict)
    for part in header.parts:
        for tensor in part.tensors:
            match = re.fullmatch(r"blk\.(\d+)\.(attn_\w+)\.weight", tensor.name)
            if match and len(tensor.shape) == 2:
                layers[int(match[1])][match[2]] = tensor.shape[1]
    return layers


def _row_elements(layer: _Layer, architecture: str, values: Mapping[str, Value]) -> tuple[int, int, bool]:
    """The elements of one token's keys and values in one layer, and whether that is exact; else it is more."""
    if "attn_k" in layer:
        return layer["attn_k"], layer.get("attn_v", layer["attn_k"]), "attn_v" in layer
    if "attn_kv_a_mqa" in layer:  # latent attention: one vector serves as keys and values, in newer conversions
        if f"{architecture}.attention.key_length_mla" in values:
            return layer["attn_kv_a_mqa"], 0, False
        heads, key, value = (
            _number(values, f"{architecture}.attention.{name}") for name in ("head_count", "key_length", "value_length")
        )
        return heads * key, heads * value, False
    if "attn_qkv" in layer:
        heads, embedding = _number(values, f"{architecture}.attention.head_count"), f"{architecture}.embedding_length"
        length = _number(values, f"{architecture}.attention.key_length") or _number(values, embedding) // max(1, heads)
        both = max(0, layer["attn_qkv"] - heads * length)
        return both - both // 2, both // 2, False
    return 0, 0, True


def _n_ctx_scaled(architecture: str, values: Mapping[str, Value]) -> int:
    trained = _number(values, f"{architecture}.context_length")
    factor = values.get(f"{architecture}.rope.scaling.factor")
    if values.get(f"{architecture}.rope.scaling.type", "none") == "none" or not isinstance(factor, int | float):
        return trained
    original = _number(values, f"{architecture}.rope.scaling.original_context_length") or trained
    return max(trained, int(original * factor) if 1 < factor < 1 << 20 else 0)


def _number(values: Mapping[str, Value], key: str) -> int:
    value = values.get(key)
    return value if isinstance(value, int) else 0
