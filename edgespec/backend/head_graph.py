"""Medusa's and Hydra's heads as ggml graphs: from hidden states to the logits of the kept tokens.

The tensors are those of a heads file (docs/heads.md). Weights are uploaded once; a graph is built for each number of
rows at its first use, and then only computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgespec.backend.ggml import F32, I32, I64, Cpu, Tensor, Weight, fill, new_input, new_tensor, op, read
from edgespec.core import Row
from edgespec.errors import InvalidRequest

MAX_HEADS = 16
"""Heads of a file at most."""

_TENSORS = 256
"""Tensors of a graph at most, views included."""


@dataclass(frozen=True, slots=True)
class PrefixShape:
    """Hydra++'s decoder layer over the states: a Llama layer with rotary positions that turn neighbours."""

    head_count: int
    head_count_kv: int
    head_dim: int
    feed_forward: int
    rope_theta: float
    norm_epsilon: float


@dataclass(frozen=True, slots=True)
class HeadShape:
    """The heads of a file: their kind (`medusa` or `hydra`), the target's hidden size d, their number and depth."""

    kind: str
    hidden_size: int
    count: int
    depth: int
    n_kept: int
    prefix: PrefixShape | None = None


_Graph = tuple[Any, list[Tensor], Tensor]
"""A graph, its inputs and its output."""


class HeadGraph:
    """The heads in memory. Implements `drafters.head_kinds.HeadRows`. Not thread-safe.

    `tensors` by their names in the file. The prefix layer's KV cache holds `positions` states. Raises InvalidRequest
    for tensors that are missing or of another shape, and UnsupportedModel where ggml cannot be used.
    """

    def __init__(
        self, tensors: Mapping[str, Weight], shape: HeadShape, *, threads: int = 1, positions: int = 1024
    ) -> None:
        checked = {
            name: _found(tensors, name).check(name, *expected) for name, expected in expected_tensors(shape, tensors)
        }
        self.shape = shape
        self.positions = positions
        self._cpu = Cpu(threads)
        self._graphs: dict[tuple[str, int, int], _Graph] = {}
        repacked = {name for name, weight in checked.items() if self._cpu.repacks(weight.kind, *weight.shape)}
        context, other = self._cpu.context(len(checked) + 2), self._cpu.context(len(repacked))
        self._weights = {
            name: new_tensor(other if name in repacked else context, weight.kind, *weight.shape)
            for name, weight in checked.items()
        }
        if (layer := shape.prefix) is not None:
            size = layer.head_count_kv * layer.head_dim
            self._keys, self._values = (new_tensor(context, F32, positions, size) for _ in range(2))
        self._cpu.allocate(context)
        if repacked:
            self._cpu.allocate(other, repacked=True)
        for name, weight in checked.items():
            fill(self._weights[name], weight.data)

    def close(self) -> None:
        """Free the memory. Any later use raises InvalidRequest."""
        self._graphs.clear()
        self._weights.clear()
        self._cpu.close()

    def medusa(self, state: Row) -> Row:
        """The logits of all heads, shape (count, n_kept), given the last state, shape (d,)."""
        return self._computed("medusa", 0, 1, [state.reshape(1, -1)], (self.shape.count, self.shape.n_kept))

    def hydra(self, head: int, inputs: Row) -> Row:
        """The logits of one head, (rows, n_kept), given the state and head + 1 embeddings: (rows, (head + 2) d)."""
        if not 0 <= head < self.shape.count:
            raise InvalidRequest(f"head {head} of {self.shape.count}")
        return self._computed("hydra", head, len(inputs), [inputs], (len(inputs), self.shape.n_kept))

    def prefix(self, states: Row, position: int) -> Row:
        """The prefix layer's outputs, shape (n, d), for n states that follow `position` earlier ones.

        The earlier ones were read before, and what was read beyond them is forgotten.
        """
        count, end = len(states), position + len(states)
        if self.shape.prefix is None or not count > 0 or not position >= 0 or end > self.positions:
            raise InvalidRequest(f"{count} states after {position}: the prefix layer holds {self.positions}")
        places = np.arange(position, end)
        mask = np.where(np.arange(self.positions) <= places[:, None], np.float32(0), np.float32(-np.inf))
        inputs = [states, places.astype(np.int32), places.astype(np.int64), mask]
        return self._computed("prefix", 0, count, inputs, (count, self.shape.hidden_size))

    def _computed(self, kind: str, head: int, rows: int, inputs: list[Any], result: tuple[int, int]) -> Row:
        if not self._weights:
            raise InvalidRequest("the heads are closed")
        if self.shape.kind != kind != "prefix":
            raise InvalidRequest(f"{kind} heads are asked for, and these are {self.shape.kind}")
        width = (head + 2 if kind == "hydra" else 1) * self.shape.hidden_size
        if rows < 1 or inputs[0].shape != (rows, width):
            raise InvalidRequest(f"inputs of shape {inputs[0].shape}: they must be ({max(rows, 1)}, {width})")
        graph, tensors, output = self._graph(kind, head, rows)
        fill(tensors[0], np.asarray(inputs[0], np.float32))
        for tensor, values in zip(tensors[1:], inputs[1:], strict=True):
            fill(tensor, values)
        self._cpu.compute(graph)
        return read(output, *result)

    def _graph(self, kind: str, head: int, rows: int) -> _Graph:
        key = (kind, head, rows)
        if key not in self._graphs:
            build: Callable[[Any, int, int], tuple[list[Tensor], Tensor, list[Tensor]]]
            build = {"medusa": self._medusa, "hydra": self._hydra, "prefix": self._prefix}[kind]
            context = self._cpu.context(_TENSORS)
            inputs, output, before = build(context, head, rows)
            self._graphs[key] = self._cpu.graph(context, *before, output), inputs, output
        return self._graphs[key]

    def _medusa(self, context: Any, head: int, rows: int) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        state = new_input(context, F32, rows, self.shape.hidden_size)
        own = "heads.0.output.weight" in self._weights  # else one product with the LM head that all share
        together = None
        for index in range(self.shape.count):
            x = self._blocks(context, index, 0, state)
            x = self._logits(context, index, x) if own else x
            together = x if together is None else op("concat", "ppi")(context, together, x, 1)
        return [state], together if own else self._times(context, "output.weight", together), []

    def _hydra(self, context: Any, head: int, rows: int) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        size = self.shape.hidden_size
        inputs = new_input(context, F32, rows, (head + 2) * size)
        if f"heads.{head}.0.skip.weight" in self._weights:
            skipped = self._linear(context, f"heads.{head}.0.skip", inputs)
        else:  # the state
            row_bytes = 4 * (head + 2) * size
            skipped = op("view_2d", "pqqNN")(context, inputs, size, rows, row_bytes, 0)
        x = self._activated(context, f"heads.{head}.0", inputs)
        x = self._blocks(context, head, 1, op("add", "pp")(context, x, skipped))
        return [inputs], self._logits(context, head, x), []

    def _logits(self, context: Any, head: int, x: Tensor) -> Tensor:
        """The product with the head's own LM head, or with the one that all share."""
        name = f"heads.{head}.output"
        if f"{name}.bias" in self._weights:
            return self._linear(context, name, x)
        return self._times(context, f"{name}.weight" if f"{name}.weight" in self._weights else "output.weight", x)

    def _blocks(self, context: Any, head: int, first: int, x: Tensor) -> Tensor:
        """The residual blocks x + SiLU(W x + b) of a head, from the one numbered `first` on."""
        for block in range(first, self.shape.depth):
            x = op("add", "pp")(context, self._activated(context, f"heads.{head}.{block}", x), x)
        return x

    def _prefix(self, context: Any, head: int, rows: int) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        layer = self.shape.prefix
        assert layer is not None
        states = new_input(context, F32, rows, self.shape.hidden_size)
        positions, places = new_input(context, I32, rows), new_input(context, I64, rows)
        mask = new_input(context, F32, rows, self.positions)
        x = self._normed(context, "prefix.attn_norm", states)

        def rotated(name: str, heads: int) -> Tensor:
            split = op("reshape_3d", "pqqq")(context, self._times(context, name, x), layer.head_dim, heads, rows)
            unscaled = (1.0, 0.0, 1.0, 32.0, 1.0)  # of frequencies; YaRN's mix, factor and two bounds
            turn = op("rope_ext", "pppiiiffffff")
            return turn(context, split, positions, None, layer.head_dim, 0, 0, layer.rope_theta, *unscaled)

        flat = op("reshape_2d", "pqq")
        size = layer.head_count_kv * layer.head_dim
        key = flat(context, rotated("prefix.attn_k.weight", layer.head_count_kv), size, rows)
        value = self._times(context, "prefix.attn_v.weight", x)
        keys = op("set_rows", "ppp")(context, self._keys, key, places)
        values = op("set_rows", "ppp")(context, self._values, value, places)
        permute = op("permute", "piiii")
        split = op("reshape_3d", "pqqq")
        form = (layer.head_dim, layer.head_count_kv, self.positions)
        by_head = [split(context, cache, *form) for cache in (keys, values)]
        query = permute(context, rotated("prefix.attn_q.weight", layer.head_count), 0, 2, 1, 3)
        scores = op("mul_mat", "pp")(context, permute(context, by_head[0], 0, 2, 1, 3), query)
        weights = op("soft_max_ext", "ppff")(context, scores, mask, 1.0 / math.sqrt(layer.head_dim), 0.0)
        turned = op("cont", "p")(context, permute(context, by_head[1], 1, 2, 0, 3))
        mixed = permute(context, op("mul_mat", "pp")(context, turned, weights), 0, 2, 1, 3)
        attended = op("cont_2d", "pqq")(context, mixed, layer.head_count * layer.head_dim, rows)
        x = op("add", "pp")(context, self._times(context, "prefix.attn_output.weight", attended), states)
        norm = self._normed(context, "prefix.ffn_norm", x)
        gate = op("silu", "p")(context, self._times(context, "prefix.ffn_gate.weight", norm))
        inner = op("mul", "pp")(context, gate, self._times(context, "prefix.ffn_up.weight", norm))
        output = op("add", "pp")(context, self._times(context, "prefix.ffn_down.weight", inner), x)
        if "prefix.output_norm.weight" in self._weights:
            output = self._normed(context, "prefix.output_norm", output)
        return [states, positions, places, mask], output, [keys, values]

    def _normed(self, context: Any, name: str, x: Tensor) -> Tensor:
        layer = self.shape.prefix
        assert layer is not None
        norm = op("rms_norm", "pf")(context, x, layer.norm_epsilon)
        return op("mul", "pp")(context, norm, self._weights[f"{name}.weight"])

    def _times(self, context: Any, name: str, x: Tensor) -> Tensor:
        return op("mul_mat", "pp")(context, self._weights[name], x)

    def _linear(self, context: Any, name: str, x: Tensor) -> Tensor:
        return op("add", "pp")(context, self._times(context, f"{name}.weight", x), self._weights[f"{name}.bias"])

    def _activated(self, context: Any, name: str, x: Tensor) -> Tensor:
        return op("silu", "p")(context, self._linear(context, name, x))


def _found(tensors: Mapping[str, Weight], name: str) -> Weight:
    if name not in tensors:
        raise InvalidRequest(f"the heads have no tensor {name}")
    return tensors[name]


def expected_tensors(shape: HeadShape, tensors: Mapping[str, Weight]) -> list[tuple[str, tuple[int, ...]]]:
    """The names and shapes of the tensors. Raises InvalidRequest for numbers that no heads have."""
    size, layer = shape.hidden_size, shape.prefix
    if shape.kind not in ("medusa", "hydra") or min(size, shape.depth, shape.n_kept) < 1:
        raise InvalidRequest(f"heads that are none: {shape}")
    if not 1 <= shape.count <= MAX_HEADS or shape.count * shape.depth > 2 * MAX_HEADS:
        raise InvalidRequest(f"{shape.count} heads of {shape.depth} blocks: at most {MAX_HEADS} of 2")
    expected: list[tuple[str, tuple[int, ...]]] = [("output.weight", (shape.n_kept, size))]
    own = "heads.0.output.weight" in tensors
    for head in range(shape.count):
        forms = {f"heads.{head}.output.weight": (shape.n_kept, size), f"heads.{head}.output.bias": (shape.n_kept,)}
        expected += [(name, form) for name, form in forms.items() if own and (name in tensors or len(form) > 1)]
        for block in range(shape.depth):
            inputs = (head + 2) * size if shape.kind == "hydra" and not block else size
            name = f"heads.{head}.{block}"
            expected += [(f"{name}.weight", (size, inputs)), (f"{name}.bias", (size,))]
            if inputs > size and f"{name}.skip.weight" in tensors:
                expected += [(f"{name}.skip.weight", (size, inputs)), (f"{name}.skip.bias", (size,))]
    return expected + (_expected_prefix(shape, layer, tensors) if layer is not None else [])


def _expected_prefix(
    shape: HeadShape, layer: PrefixShape, tensors: Mapping[str, Weight]
) -> list[tuple[str, tuple[int, ...]]]:
    size = shape.hidden_size
    if shape.kind != "hydra" or min(layer.head_count_kv, layer.head_dim, layer.feed_forward) < 1:
        raise InvalidRequest(f"a prefix layer that is none: {layer}")
    if layer.head_dim % 2 or layer.head_count < 1 or layer.head_count % layer.head_count_kv:
        raise InvalidRequest(f"a prefix layer whose attention is none: {layer}")
    query, key = layer.head_count * layer.head_dim, layer.head_count_kv * layer.head_dim
    matrices = {
        "attn_q": (query, size), "attn_k": (key, size), "attn_v": (key, size), "attn_output": (size, query),
        "ffn_gate": (layer.feed_forward, size), "ffn_up": (layer.feed_forward, size),
        "ffn_down": (size, layer.feed_forward), "attn_norm": (size,), "ffn_norm": (size,),
        **({"output_norm": (size,)} if "prefix.output_norm.weight" in tensors else {}),
    }  # fmt: skip
    return [(f"prefix.{name}.weight", form) for name, form in matrices.items()]
