"""What a trimmed file says of itself.

A trimmed GGUF is a sound model for stock llama.cpp: its vocabulary tensors hold the kept rows alone and its tokenizer
is `no_vocab`. Everything else about it stands in `edgespec.trim.*`; the texts of all tokens stay where they were. The
whole table of input embeddings lies after the last tensor, where llama.cpp does not look: a drafter must be able to
read tokens that it cannot say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from edgespec.gguf.metadata import encoded, encoded_u64, numbers
from edgespec.gguf.reader import BLOCKS, Part, malformed

FORMAT = 1
PREFIX = "edgespec.trim."
EMBEDDINGS = "token_embd.weight"
OUTPUT = "output.weight"


@dataclass(frozen=True, slots=True)
class Table:
    """The full input embeddings in the file: `rows` of `columns` numbers in a ggml type, from byte `offset` on."""

    offset: int
    type: int
    rows: int
    columns: int

    @property
    def row_bytes(self) -> int:
        elements, size = BLOCKS[self.type]
        return self.columns // elements * size


@dataclass(frozen=True, slots=True)
class Trimming:
    """How a drafter was trimmed.

    Row i of its logits is token `kept[i]` of the full vocabulary (ascending). `counts` tells where the ranking came
    from, `source_sha256` which file was trimmed.
    """

    kept: npt.NDArray[np.int32]
    full_vocab: int
    source_name: str
    source_sha256: str
    counts: dict[str, Any]
    table: Table

    def entries(self, tokenizer: str, table_offset: int) -> list[bytes]:
        """The metadata that says all this; always of the same size."""
        return [
            encoded(f"{PREFIX}format", FORMAT),
            encoded(f"{PREFIX}kept_ids", self.kept),
            encoded(f"{PREFIX}full_vocab", self.full_vocab),
            encoded(f"{PREFIX}tokenizer", tokenizer),
            encoded(f"{PREFIX}source_name", self.source_name),
            encoded(f"{PREFIX}source_sha256", self.source_sha256),
            encoded(f"{PREFIX}counts", json.dumps(self.counts, sort_keys=True)),
            encoded(f"{PREFIX}embedding_type", self.table.type),
            encoded_u64(f"{PREFIX}embedding_offset", table_offset),
        ]


def trimming_of(part: Part) -> Trimming | None:
    """How this file was trimmed, or None where it is a full model. Raises MalformedModel for nonsense."""
    version = part.values.get(f"{PREFIX}format")
    if version is None:
        return None
    if version != FORMAT:
        raise malformed(part.path, f"trimmed in format {version}, and {FORMAT} can be read", "trim it again")
    kept = numbers(part, f"{PREFIX}kept_ids").astype(np.int32)
    full, kind, offset = (
        _whole(part, f"{PREFIX}{key}") for key in ("full_vocab", "embedding_type", "embedding_offset")
    )
    shape = next((tensor.shape for tensor in part.tensors if tensor.name == EMBEDDINGS), ())
    if len(shape) != 2 or shape[1] != len(kept):
        raise malformed(part.path, f"keeps {len(kept)} tokens, and its embeddings have the shape {shape}")
    if not len(kept) or kept[0] < 0 or kept[-1] >= full or (np.diff(kept) <= 0).any():
        raise malformed(part.path, f"its kept tokens are not ascending ids below {full}")
    elements, _ = BLOCKS.get(kind, (0, 0))
    if not elements or shape[0] % elements:
        raise malformed(part.path, f"has embeddings of the type {kind}, which is unknown here")
    table = Table(offset, kind, full, shape[0])
    if not part.header_size <= offset <= part.size - prod((full, table.row_bytes)):
        raise malformed(part.path, "its table of embeddings is not complete")
    return Trimming(
        kept, full, _text(part, "source_name"), _text(part, "source_sha256"), _provenance(part), table
    )  # fmt: skip


def _whole(part: Part, key: str) -> int:
    value = part.values.get(key)
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise malformed(part.path, f"{key} is {value!r}, not a number")
    return value


def _text(part: Part, key: str) -> str:
    value = part.values.get(f"{PREFIX}{key}")
    return value if isinstance(value, str) else ""


def _provenance(part: Part) -> dict[str, Any]:
    try:
        counts = json.loads(_text(part, "counts") or "{}")
    except ValueError:
        counts = None
    if not isinstance(counts, dict):
        raise malformed(part.path, f"{PREFIX}counts is no JSON object")
    return counts
