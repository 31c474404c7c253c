"""The batch of one forward pass: tokens or their embeddings, with positions in one or several sequences."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import llama_cpp
import numpy as np

from edgespec.backend.embedding import EmbeddingTable


class Node(NamedTuple):
    """A token of a batch: its position, the ids of its sequences, and whether the logits after it are asked for."""

    token: int
    position: int
    sequences: Sequence[int]
    output: bool = True


class Batch:
    """One llama_batch for the lifetime of a context; numpy writes straight into its arrays.

    `capacity` is in tokens, `sequences` the number of sequence ids. With `inputs`, tokens are passed as their
    embeddings.
    """

    def __init__(self, capacity: int, inputs: EmbeddingTable | None, sequences: int = 1) -> None:
        self._struct = llama_cpp.llama_batch_init(capacity, inputs.columns if inputs else 0, sequences)
        self._release = weakref.finalize(self, llama_cpp.llama_batch_free, self._struct)
        self._inputs = inputs
        if inputs is None:
            self._tokens = np.ctypeslib.as_array(self._struct.token, (capacity,))
        else:
            self._vectors = np.ctypeslib.as_array(self._struct.embd, (capacity, inputs.columns))
        self._positions = np.ctypeslib.as_array(self._struct.pos, (capacity,))
        self._outputs = np.ctypeslib.as_array(self._struct.logits, (capacity,))
        self._counts = np.ctypeslib.as_array(self._struct.n_seq_id, (capacity,))
        self._ids = [np.ctypeslib.as_array(self._struct.seq_id[index], (sequences,)) for index in range(capacity)]
        self._counts[:] = 1
        for ids in self._ids:
            ids[0] = 0
        self._single = 0  # the sequence of all tokens of the last batch; -1 after one of nodes
        self._count_up = np.arange(capacity, dtype=np.int32)

    def fill(self, tokens: Sequence[int], position: int, rows: int, sequence: int = 0) -> Any:
        """The batch of `tokens` from `position` of a sequence on, with logits for the last `rows` of them."""
        count = len(tokens)
        self._struct.n_tokens = count
        if sequence != self._single:
            self._counts[:] = 1
            for ids in self._ids:
                ids[0] = sequence
            self._single = sequence
        if count == rows == 1 and self._inputs is None:  # every step of plain decoding: slices take five times as long
            self._tokens[0], self._positions[0], self._outputs[0] = tokens[0], position, 1
            return self._struct
        self._fill_tokens(tokens)
        np.add(self._count_up[:count], position, out=self._positions[:count])
        self._outputs[: count - rows] = 0
        self._outputs[count - rows : count] = 1
        return self._struct

    def fill_nodes(self, nodes: Sequence[Node]) -> Any:
        """The batch of `nodes`; those of a sequence come in the order of their positions."""
        count = len(nodes)
        self._single = -1
        self._struct.n_tokens = count
        self._fill_tokens([node.token for node in nodes])
        self._positions[:count] = [node.position for node in nodes]
        self._outputs[:count] = [node.output for node in nodes]
        self._counts[:count] = [len(node.sequences) for node in nodes]
        for ids, node in zip(self._ids, nodes, strict=False):
            ids[: len(node.sequences)] = node.sequences
        return self._struct

    def _fill_tokens(self, tokens: Sequence[int]) -> None:
        if self._inputs is None:
            self._tokens[: len(tokens)] = tokens
        else:
            self._inputs.fill(tokens, self._vectors[: len(tokens)])

    def close(self) -> None:
        self._release()
