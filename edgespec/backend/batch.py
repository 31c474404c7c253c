"""The batch of one forward pass: tokens or their embeddings, with positions in one sequence."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np

from edgespec.backend.embedding import EmbeddingTable

SEQUENCE_ID = 0
"""The only sequence id in use."""


class Batch:
    """One llama_batch for the lifetime of a context; numpy writes straight into its arrays.

    `capacity` is in tokens. With `inputs`, tokens are passed as their embeddings.
    """

    def __init__(self, capacity: int, inputs: EmbeddingTable | None) -> None:
        self._struct = llama_cpp.llama_batch_init(capacity, inputs.columns if inputs else 0, 1)
        self._release = weakref.finalize(self, llama_cpp.llama_batch_free, self._struct)
        self._inputs = inputs
        if inputs is None:
            self._tokens = np.ctypeslib.as_array(self._struct.token, (capacity,))
        else:
            self._vectors = np.ctypeslib.as_array(self._struct.embd, (capacity, inputs.columns))
        self._positions = np.ctypeslib.as_array(self._struct.pos, (capacity,))
        self._outputs = np.ctypeslib.as_array(self._struct.logits, (capacity,))
        np.ctypeslib.as_array(self._struct.n_seq_id, (capacity,))[:] = 1
        for index in range(capacity):
            self._struct.seq_id[index][0] = SEQUENCE_ID
        self._count_up = np.arange(capacity, dtype=np.int32)

    def fill(self, tokens: Sequence[int], position: int, rows: int) -> Any:
        """The batch of `tokens` from `position` on, with logits for the last `rows` of them."""
        count = len(tokens)
        self._struct.n_tokens = count
        if count == rows == 1 and self._inputs is None:  # every step of plain decoding: slices take five times as long
            self._tokens[0], self._positions[0], self._outputs[0] = tokens[0], position, 1
            return self._struct
        if self._inputs is None:
            self._tokens[:count] = tokens
        else:
            self._inputs.fill(tokens, self._vectors[:count])
        np.add(self._count_up[:count], position, out=self._positions[:count])
        self._outputs[: count - rows] = 0
        self._outputs[count - rows : count] = 1
        return self._struct

    def close(self) -> None:
        self._release()
