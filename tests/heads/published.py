"""Checkpoints with random weights, in the form in which heads are published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_TYPES = {"float32": "F32", "float16": "F16", "int64": "I64", "bool": "BOOL", "uint16": "BF16"}


def safetensors(path: Path, tensors: Mapping[str, Any]) -> Path:
    """Write tensors to `path`; those of unsigned 16-bit integers are the upper halves of 32-bit floats."""
    header, data = {}, b""
    for name, values in tensors.items():
        raw = np.ascontiguousarray(values).tobytes()
        kind = _TYPES[values.dtype.name]
        header[name] = {"dtype": kind, "shape": values.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def random(*shape: int, seed: int) -> Any:
    scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.25
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def medusa(size: int, n_vocab: int, *, count: int = 3, depth: int = 1, own: bool = True) -> dict[str, Any]:
    """As FasterDecoding writes it: the blocks of a head are one module, listed `depth` times."""
    tensors = {}
    for head in range(count):
        for block in range(depth):
            tensors[f"{head}.{block}.linear.weight"] = random(size, size, seed=head)
            tensors[f"{head}.{block}.linear.bias"] = random(size, seed=head)
        if own:
            tensors[f"{head}.{depth}.weight"] = random(n_vocab, size, seed=100 + head)
    return tensors


def hydra(size: int, n_vocab: int, *, count: int = 3, depth: int = 1, plus: bool = False) -> dict[str, Any]:
    """As zankner/Hydra writes it: dropouts have the even numbers, and the later blocks are one module."""
    tensors = {}
    for head in range(count):
        wide, name = (head + 2) * size, f"hydra_mlp.{head}"
        for part, seed in (("linear", head), ("res_connection", 20 + head)):
            tensors[f"{name}.1.{part}.weight"] = random(size, wide, seed=seed)
            tensors[f"{name}.1.{part}.bias"] = random(size, seed=seed)
        for block in range(1, depth):
            tensors[f"{name}.{2 * block + 1}.linear.weight"] = random(size, size, seed=40 + head)
            tensors[f"{name}.{2 * block + 1}.linear.bias"] = random(size, seed=40 + head)
        tensors[f"hydra_lm_head.{head}.1.weight"] = random(n_vocab, size, seed=100 + head)
        tensors[f"hydra_lm_head.{head}.1.bias"] = random(n_vocab, seed=100 + head)
    if plus:
        tensors["prefix_embeding_layer.embed_tokens.weight"] = random(n_vocab, size, seed=1)
        tensors["prefix_embeding_layer.norm.weight"] = 1 + random(size, seed=2)
        tensors |= layer("prefix_embeding_layer.layers.0.", size, size)
    return tensors


def layer(begin: str, size: int, inputs: int) -> dict[str, Any]:
    """A decoder layer of four heads, two of keys."""
    head, inner = size // 4, 2 * size
    shapes = {
        "self_attn.q_proj": (size, inputs),
        "self_attn.k_proj": (2 * head, inputs),
        "self_attn.v_proj": (2 * head, inputs),
        "self_attn.o_proj": (size, size),
        "mlp.gate_proj": (inner, size),
        "mlp.up_proj": (inner, size),
        "mlp.down_proj": (size, inner),
        "input_layernorm": (size,),
        "post_attention_layernorm": (size,),
    }
    return {
        f"{begin}{name}.weight": random(*shape, seed=60 + number) + (len(shape) == 1)
        for number, (name, shape) in enumerate(shapes.items())
    }


def eagle3(size: int, kept: Any, n_vocab: int, *, begin: str = "midlayer.", differences: bool = True) -> dict[str, Any]:
    """As SafeAILab writes it; vLLM's speculators begin with `layers.0.`."""
    mask = np.zeros(n_vocab, bool)
    mask[kept] = True
    return {
        "d2t": (kept - np.arange(len(kept)) if differences else kept).astype(np.int64), "t2d": mask,
        "fc.weight": random(size, 3 * size, seed=1), "norm.weight": 1 + random(size, seed=2),
        "lm_head.weight": random(len(kept), size, seed=3), f"{begin}hidden_norm.weight": 1 + random(size, seed=4),
        **layer(begin, size, 2 * size),
    }  # fmt: skip
