"""Input embeddings that are passed to llama.cpp as vectors: a trimmed drafter reads tokens that it has no row for.

The rows are dequantized by the routine that ggml's `get_rows` uses on a CPU, so that they are bit-identical to those
that llama.cpp would look up.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgespec.backend.ggml import to_float

_F32 = 0
_MAX_CACHED_ROWS = 4096
"""Dequantized rows that are cached; 4096 rows of 896 numbers take 15 MB."""

_SCALED = ("gemma3",)
"""Architectures in which llama.cpp scales the embeddings of tokens by sqrt(n_embd), and vectors not at all."""


class EmbeddingTable:
    """The rows of an embedding matrix in a file, `rows` x `columns` in a ggml type, as vectors for a batch."""

    def __init__(
        self, path: Path, *, offset: int, kind: int, row_bytes: int, rows: int, columns: int, architecture: str
    ) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        raw = np.frombuffer(self._data, np.uint8, rows * row_bytes, offset)
        self._raw = raw.reshape(rows, row_bytes)
        self._convert = None if kind == _F32 else to_float(kind)
        self._scale = np.sqrt(np.float32(columns)) if architecture in _SCALED else None
        self._cached_vectors: dict[int, npt.NDArray[np.float32]] = {}
        self.rows = rows
        self.columns = columns

    def fill(self, tokens: Sequence[int], vectors: npt.NDArray[np.float32]) -> None:
        """Write the vectors of `tokens` into `vectors`, shape (len(tokens), columns)."""
        cached = self._cached_vectors
        for index, token in enumerate(tokens):
            vector = cached.get(token)
            if vector is None:
                if len(cached) >= _MAX_CACHED_ROWS:
                    cached.clear()
                vector = cached[token] = self._vector(token)
            vectors[index] = vector

    def _vector(self, token: int) -> npt.NDArray[np.float32]:
        row = self._raw[token]
        if self._convert is None:
            vector: npt.NDArray[np.float32] = row.view(np.float32).copy()
        else:
            vector = np.empty(self.columns, np.float32)
            self._convert(row.ctypes.data, vector.ctypes.data, self.columns)
        if self._scale is not None:
            vector *= self._scale
        return vector
