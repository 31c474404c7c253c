"""EAGLE-3 heads with random weights for a given target, as GGUF files that stock llama.cpp loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

from edgespec.core import Row
from edgespec.gguf import reader
from edgespec.gguf.metadata import entry
from tests.gguf_files import Raw, RawTensor, encode, text, u32

F32, F16, I64 = 0, 1, 27


class Shape(NamedTuple):
    """The sizes of a head: of its layer, of the states that it reads, and of its feed-forward network."""

    hidden_size: int
    state_size: int
    heads: int
    heads_kv: int
    feed_forward: int
    n_kept: int


SMOLLM2 = Shape(576, 576, heads=9, heads_kv=3, feed_forward=1536, n_kept=8192)
"""A layer like those of SmolLM2-135M."""


def random_weights(shape: Shape, n_vocab: int, *, seed: int = 0) -> dict[str, Any]:
    """The tensors of a head by name, shapes as numpy has them: rows first."""
    random = np.random.default_rng(seed)
    size, head = shape.hidden_size, shape.hidden_size // shape.heads

    def matrix(rows: int, columns: int) -> Row:
        weights: Row = (random.standard_normal((rows, columns)) * columns**-0.5).astype(np.float32)
        return weights

    def norm() -> Row:
        weights: Row = (1.0 + 0.2 * random.standard_normal(size)).astype(np.float32)
        return weights

    return {
        "d2t": np.sort(random.choice(n_vocab, shape.n_kept, replace=False)).astype(np.int64),
        "fc.weight": matrix(size, 3 * shape.state_size),
        "output_norm.weight": norm(),
        "output.weight": matrix(shape.n_kept, size),
        "blk.0.attn_norm.weight": norm(),
        "blk.0.attn_norm_2.weight": norm(),
        "blk.0.attn_q.weight": matrix(size, 2 * size),
        "blk.0.attn_k.weight": matrix(shape.heads_kv * head, 2 * size),
        "blk.0.attn_v.weight": matrix(shape.heads_kv * head, 2 * size),
        "blk.0.attn_output.weight": matrix(size, size),
        "blk.0.ffn_norm.weight": norm(),
        "blk.0.ffn_gate.weight": matrix(shape.feed_forward, size),
        "blk.0.ffn_up.weight": matrix(shape.feed_forward, size),
        "blk.0.ffn_down.weight": matrix(size, shape.feed_forward),
    }


def write_head(
    path: Path,
    target: Path,
    shape: Shape,
    tensors: Mapping[str, Any],
    *,
    layers: Sequence[int] = (0, 1, 1),
    kind: str = "F32",
    metadata: Mapping[str, Raw | None] | None = None,
) -> Path:
    """Write a head to `path` with the tokenizer of `target`, and return `path`.

    `kind`: the ggml type of the matrices, as gguf-py names it. `metadata`: entries that replace what the file would
    say; None leaves one out.
    """
    part = reader.walk(target)
    values = {
        "general.architecture": text("eagle3"),
        "eagle3.block_count": u32(1),
        "eagle3.context_length": u32(2048),
        "eagle3.embedding_length": u32(shape.hidden_size),
        "eagle3.feed_forward_length": u32(shape.feed_forward),
        "eagle3.attention.head_count": u32(shape.heads),
        "eagle3.attention.head_count_kv": u32(shape.heads_kv),
        "eagle3.attention.layer_norm_rms_epsilon": Raw(6, np.float32(1e-5).tobytes()),
        "eagle3.rope.freq_base": Raw(6, np.float32(10000.0).tobytes()),
        "eagle3.target_hidden_size": u32(shape.state_size),
        "eagle3.target_layers": integers(layers),
        **{key: _copied(part, key) for key in part.values if key.startswith("tokenizer.")},
        **(metadata or {}),
    }
    kept = [(key, value) for key, value in values.items() if value is not None]
    described, data = [], b""
    for name, weights in tensors.items():
        number, payload = _encoded(np.asarray(weights), kind)
        described.append(RawTensor(name, np.shape(weights)[::-1], number, len(data)))
        data += payload + bytes(-len(payload) % 32)
    path.write_bytes(encode(kept, described, data=0) + data)
    return path


def integers(numbers: Sequence[int]) -> Raw:
    """An array of 32-bit integers."""
    return Raw(9, np.uint32(5).tobytes() + np.uint64(len(numbers)).tobytes() + np.asarray(numbers, "<i4").tobytes())


def _copied(part: reader.Part, key: str) -> Raw:
    """An entry of another file."""
    data = entry(part, key)[8 + len(key.encode()) :]
    return Raw(int.from_bytes(data[:4], "little"), data[4:])


def _encoded(weights: Any, kind: str) -> tuple[int, bytes]:
    """ggml's number of the type, and the bytes. Vectors stay in 32 bits."""
    if weights.dtype == np.int64:
        return I64, weights.tobytes()
    if weights.ndim == 1:
        return (F32 if weights.dtype == np.float32 else F16), weights.tobytes()
    chosen = gguf.GGMLQuantizationType[kind]
    return int(chosen), gguf.quants.quantize(weights, chosen).tobytes()
