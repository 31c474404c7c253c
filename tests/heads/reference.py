"""Medusa's and Hydra's heads in numpy, as the papers have them: what the graphs in ggml are compared with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgespec.backend.head_graph import HeadShape

Matrix = npt.NDArray[np.float64]


def silu(x: Matrix) -> Matrix:
    result: Matrix = x / (1.0 + np.exp(-x))
    return result


def rms_norm(x: Matrix, weight: Matrix, epsilon: float) -> Matrix:
    result: Matrix = x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight
    return result


class Reference:
    """`weights` by name, numpy shapes [out, in]."""

    def __init__(self, weights: Mapping[str, npt.NDArray[np.float32]], shape: HeadShape) -> None:
        self._w = {name: weight.astype(np.float64) for name, weight in weights.items()}
        self._shape = shape

    def _block(self, name: str, x: Matrix) -> Matrix:
        return silu(x @ self._w[f"{name}.weight"].T + self._w[f"{name}.bias"])

    def medusa(self, state: Matrix) -> Matrix:
        rows = []
        for head in range(self._shape.count):
            x = state
            for block in range(self._shape.depth):
                x = x + self._block(f"heads.{head}.{block}", x)
            rows.append(self._logits(head, x))
        return np.stack(rows)

    def hydra(self, head: int, inputs: Matrix) -> Matrix:
        name = f"heads.{head}.0"
        skipped = inputs[:, : self._shape.hidden_size]
        if f"{name}.skip.weight" in self._w:
            skipped = inputs @ self._w[f"{name}.skip.weight"].T + self._w[f"{name}.skip.bias"]
        x = skipped + self._block(name, inputs)
        for block in range(1, self._shape.depth):
            x = x + self._block(f"heads.{head}.{block}", x)
        return self._logits(head, x)

    def _logits(self, head: int, x: Matrix) -> Matrix:
        name = f"heads.{head}.output"
        result: Matrix = x @ self._w.get(f"{name}.weight", self._w["output.weight"]).T
        if f"{name}.bias" in self._w:
            result = result + self._w[f"{name}.bias"]
        return result

    def prefix(self, states: Matrix) -> Matrix:
        """The outputs for all states from the first one on."""
        layer = self._shape.prefix
        assert layer is not None
        x = rms_norm(states, self._w["prefix.attn_norm.weight"], layer.norm_epsilon)
        n = len(states)
        query = self._rotated(x @ self._w["prefix.attn_q.weight"].T, layer.head_count)
        key = self._rotated(x @ self._w["prefix.attn_k.weight"].T, layer.head_count_kv)
        value = (x @ self._w["prefix.attn_v.weight"].T).reshape(n, layer.head_count_kv, layer.head_dim)
        group = layer.head_count // layer.head_count_kv
        mixed = np.empty((n, layer.head_count, layer.head_dim))
        for head in range(layer.head_count):
            scores = query[:, head] @ key[:, head // group].T / np.sqrt(layer.head_dim)
            scores[np.triu_indices(n, 1)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[:, head] = weights / weights.sum(-1, keepdims=True) @ value[:, head // group]
        x = states + mixed.reshape(n, -1) @ self._w["prefix.attn_output.weight"].T
        norm = rms_norm(x, self._w["prefix.ffn_norm.weight"], layer.norm_epsilon)
        inner = silu(norm @ self._w["prefix.ffn_gate.weight"].T) * (norm @ self._w["prefix.ffn_up.weight"].T)
        result: Matrix = x + inner @ self._w["prefix.ffn_down.weight"].T
        if "prefix.output_norm.weight" in self._w:
            return rms_norm(result, self._w["prefix.output_norm.weight"], layer.norm_epsilon)
        return result

    def _rotated(self, x: Matrix, heads: int) -> Matrix:
        """Rotary positions in pairs of neighbours."""
        layer = self._shape.prefix
        assert layer is not None
        x = x.reshape(len(x), heads, layer.head_dim)
        angles = np.arange(len(x))[:, None] * layer.rope_theta ** (-np.arange(0, layer.head_dim, 2) / layer.head_dim)
        cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
        even, odd = x[..., ::2], x[..., 1::2]
        result: Matrix = np.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).reshape(x.shape)
        return result
