"""An EAGLE-3 head in numpy (arXiv 2503.01840, section 3.1), as llama.cpp's src/models/eagle3.cpp computes it.

The states of three layers of the target are joined to one vector g. The decoder layer reads the embedding of a token,
joined with the g of the token before, and its residual is g alone. While it drafts, its own output takes g's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgespec.core import Row


class EagleReference:
    """The head with these tensors, in 32-bit floats. `embeddings`: the rows of the target, shape (n_vocab, size)."""

    def __init__(
        self,
        tensors: dict[str, Any],
        embeddings: Row,
        *,
        heads: int,
        heads_kv: int,
        rope_theta: float = 10000.0,
        epsilon: float = 1e-5,
    ) -> None:
        self._tensors, self._embeddings = tensors, embeddings
        self._heads, self._heads_kv = heads, heads_kv
        self._theta, self._epsilon = rope_theta, epsilon
        self._keys: list[Row] = []
        self._values: list[Row] = []

    def encode(self, states: Row) -> Row:
        """The vectors g of joined states, shape (n, size)."""
        joined: Row = states @ self._tensors["fc.weight"].T
        return joined

    def decode(self, token: int, g: Row) -> tuple[Row, Row]:
        """The next pair of a token and the g before it: the logits of the kept ids, and the g after it."""
        norm, matrix = self._norm, self._matrix
        joined = np.concatenate([norm(self._embeddings[token], "attn_norm"), norm(g, "attn_norm_2")])
        position, head = len(self._keys), len(matrix("attn_q")) // self._heads
        queries = self._rotated((matrix("attn_q") @ joined).reshape(self._heads, head), position)
        self._keys.append(self._rotated((matrix("attn_k") @ joined).reshape(self._heads_kv, head), position))
        self._values.append((matrix("attn_v") @ joined).reshape(self._heads_kv, head))
        attended = [self._attended(query, index) for index, query in enumerate(queries)]
        after = g + matrix("attn_output") @ np.concatenate(attended)
        inner = norm(after, "ffn_norm")
        gate = matrix("ffn_gate") @ inner
        after = after + matrix("ffn_down") @ (gate / (1.0 + np.exp(-gate)) * (matrix("ffn_up") @ inner))
        return self._tensors["output.weight"] @ self._normed(after, self._tensors["output_norm.weight"]), after

    def rows(self, tokens: Sequence[int], states: Row, count: int) -> tuple[list[int], list[Row]]:
        """A chain of `count` kept ids, the likeliest ones, with their rows.

        `tokens[i]` follows the token that has the state `states[i]`; both have the same length.
        """
        for token, g in zip(tokens, self.encode(states), strict=True):
            row, after = self.decode(token, g)
        rows, drafted = [row], [int(self._tensors["d2t"][row.argmax()])]
        while len(rows) < count:
            row, after = self.decode(drafted[-1], after)
            rows.append(row)
            drafted.append(int(self._tensors["d2t"][row.argmax()]))
        return drafted, rows

    def _attended(self, query: Row, index: int) -> Row:
        """The values that one head attends to."""
        group = index * self._heads_kv // self._heads
        scores = np.array([query @ keys[group] for keys in self._keys]) / np.sqrt(np.float32(len(query)))
        weights = np.exp(scores - scores.max())
        mixed: Row = (weights / weights.sum()) @ np.array([values[group] for values in self._values])
        return mixed

    def _rotated(self, vectors: Row, position: int) -> Row:
        """Rotary positions of pairs of neighbours (llama.cpp's type NORM)."""
        pairs = vectors.reshape(len(vectors), -1, 2)
        angles = position * self._theta ** (-np.arange(pairs.shape[1]) / pairs.shape[1])
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)
        result: Row = np.stack([turned.real, turned.imag], axis=-1).reshape(vectors.shape).astype(np.float32)
        return result

    def _matrix(self, name: str) -> Row:
        weights: Row = self._tensors[f"blk.0.{name}.weight"]
        return weights

    def _norm(self, vector: Row, name: str) -> Row:
        return self._normed(vector, self._matrix(name))

    def _normed(self, vector: Row, weights: Row) -> Row:
        scaled: Row = vector / np.sqrt(np.mean(vector * vector) + np.float32(self._epsilon)) * weights
        return scaled
