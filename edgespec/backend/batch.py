"""What one evaluation is given: tokens, or vectors in their place, with their positions in one sequence."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np

from edgespec.backend.embedding import EmbeddingTable

SEQUENCE = 0


class Batch:
    """One llama_batch for the life of a context; numpy writes straight into its arrays.

    Where `inputs` are given, tokens go in as their embeddings.
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
        for entry in range(capacity):
            self._struct.seq_id[entry][0] = SEQUENCE
        self._count_up = np.arange(capacity, dtype=np.int32)

    def fill(self, tokens: Sequence[int], position: int, rows: int) -> Any:
        """The batch of `tokens` from `position` on, the last `rows` of them with logits."""
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
