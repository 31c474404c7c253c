"""The target's weights that heads share or start from, as 32-bit numbers from its GGUF file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgespec.backend.embedding import EmbeddingTable
from edgespec.errors import UnsupportedModel
from edgespec.gguf.reader import BLOCKS, Part, Tensor
from edgespec.gguf.validate import Header

Matrix = npt.NDArray[np.float32]

_ROTATES_NEIGHBOURS = frozenset(["llama"])
"""Architectures whose rotary positions turn neighbours, as heads do; others turn number i and i + head_dim / 2."""


class TargetWeights:
    """Reads matrices of the target at `header.part.path`, or of its shards. The files stay mapped."""

    def __init__(self, header: Header) -> None:
        self.architecture = header.architecture
        self.path = header.part.path
        self.n_vocab = header.n_vocab
        self._values = header.part.values
        self._tensors = {tensor.name: (part, tensor) for part in header.parts for tensor in part.tensors}
        self.hidden_size = int(self.number("embedding_length"))
        self.layers = int(self.number("block_count"))

    def number(self, key: str, default: float = 0) -> float:
        """A number of the metadata under the architecture's name."""
        value = self._values.get(f"{self.architecture}.{key}", default)
        return value if isinstance(value, int | float) else default

    def embeddings(self, ids: Sequence[int]) -> Matrix:
        """The input embeddings of tokens as the first layer gets them, (len(ids), d)."""
        return self._rows("token_embd.weight", ids, self.architecture)

    def output_rows(self, ids: Sequence[int]) -> Matrix:
        """The LM head's rows of tokens, (len(ids), d)."""
        tied = "output.weight" not in self._tensors
        return self._rows("token_embd.weight" if tied else "output.weight", ids, "")

    def last_layer(self, name: str) -> Matrix | None:
        """A weight of the target's last layer, (rows, columns) or (columns,); None where it has none of this name.

        Rows of `attn_q` and `attn_k` are in the order in which rotary positions turn neighbours.
        """
        found = self._tensors.get(f"blk.{self.layers - 1}.{name}.weight")
        if found is None:
            return None
        shape = found[1].shape
        weight = self._rows(found[1].name, range(shape[1] if len(shape) > 1 else 1), "")
        if len(shape) == 1:
            vector: Matrix = weight[0]
            return vector
        if name in ("attn_q", "attn_k") and self.architecture not in _ROTATES_NEIGHBOURS:
            heads = int(self.number("attention.head_count" if name == "attn_q" else "attention.head_count_kv", 1))
            neighbours: Matrix = weight.reshape(heads, 2, -1, shape[0]).swapaxes(1, 2).reshape(shape[1], shape[0])
            return neighbours
        return weight

    def norm(self, name: str) -> Matrix | None:
        """A vector outside the layers, such as `output_norm`."""
        found = self._tensors.get(f"{name}.weight")
        if found is None or len(found[1].shape) != 1:
            return None
        vector: Matrix = self._rows(found[1].name, [0], "")[0]
        return vector

    def _rows(self, name: str, ids: Sequence[int], architecture: str) -> Matrix:
        if name not in self._tensors:
            raise UnsupportedModel(f"{self.path}: it has no tensor {name}, which heads share with their target")
        part, tensor = self._tensors[name]
        table = _table(part, tensor, architecture)
        rows = np.empty((len(ids), table.columns), np.float32)
        table.fill(ids, rows)
        return rows


def embedding_table(header: Header) -> EmbeddingTable:
    """The input embeddings of a target's tokens. Raises UnsupportedModel where the file has none."""
    for part in header.parts:
        for tensor in part.tensors:
            if tensor.name == "token_embd.weight":
                return _table(part, tensor, header.architecture)
    raise UnsupportedModel(f"{header.part.path}: it has no table of input embeddings, which heads read")


def _table(part: Part, tensor: Tensor, architecture: str) -> EmbeddingTable:
    alignment = int(part.values.get("general.alignment", 32))  # type: ignore[arg-type]
    elements, size = BLOCKS[tensor.type]
    columns, rows = (*tensor.shape, 1)[:2]
    return EmbeddingTable(
        part.path, offset=-(-part.header_size // alignment) * alignment + tensor.offset, kind=tensor.type,
        row_bytes=columns // elements * size, rows=rows, columns=columns, architecture=architecture,
    )  # fmt: skip
