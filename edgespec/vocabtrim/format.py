"""The format of a trimmed GGUF: its metadata, and the full embedding table.

Stock llama.cpp can load it: the vocabulary tensors hold the kept rows alone, and the tokenizer is `no_vocab`. The keys
`edgespec.trim.*` say how it was trimmed; the texts of all tokens stay. The full table of input embeddings follows the
last tensor, where llama.cpp ignores it: a drafter must read tokens that it cannot draft.
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

TRIM_FORMAT = 1
"""Version of the trimmed format, in `edgespec.trim.format`."""
KEY_PREFIX = "edgespec.trim."
EMBEDDINGS = "token_embd.weight"
OUTPUT = "output.weight"


@dataclass(frozen=True, slots=True)
class EmbeddingTableSpec:
    """Where the full input embeddings are: `rows` x `columns` numbers of a ggml type, from byte `offset` on."""

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

    Row i of its logits is token `kept_ids[i]` of the full vocabulary (ascending). `provenance` says where the
    keep list comes from, `source_sha256` which file was trimmed.
    """

    kept_ids: npt.NDArray[np.int32]
    full_vocab: int
    source_name: str
    source_sha256: str
    provenance: dict[str, Any]
    table: EmbeddingTableSpec

    def metadata_entries(self, tokenizer: str, table_offset: int) -> list[bytes]:
        """The metadata entries, whose size does not depend on `table_offset`."""
        return [
            encoded(f"{KEY_PREFIX}format", TRIM_FORMAT),
            encoded(f"{KEY_PREFIX}kept_ids", self.kept_ids),
            encoded(f"{KEY_PREFIX}full_vocab", self.full_vocab),
            encoded(f"{KEY_PREFIX}tokenizer", tokenizer),
            encoded(f"{KEY_PREFIX}source_name", self.source_name),
            encoded(f"{KEY_PREFIX}source_sha256", self.source_sha256),
            encoded(f"{KEY_PREFIX}counts", json.dumps(self.provenance, sort_keys=True)),
            encoded(f"{KEY_PREFIX}embedding_type", self.table.type),
            encoded_u64(f"{KEY_PREFIX}embedding_offset", table_offset),
        ]


def trimming_of(part: Part) -> Trimming | None:
    """How this file was trimmed; None for a full model. Raises MalformedModel where its keys are malformed."""
    version = part.values.get(f"{KEY_PREFIX}format")
    if version is None:
        return None
    if version != TRIM_FORMAT:
        raise malformed(part.path, f"trimmed in format {version}, and {TRIM_FORMAT} can be read", "trim it again")
    kept_ids = numbers(part, f"{KEY_PREFIX}kept_ids").astype(np.int32)
    full_vocab, kind, offset = (
        _read_number(part, f"{KEY_PREFIX}{key}") for key in ("full_vocab", "embedding_type", "embedding_offset")
    )
    shape = next((tensor.shape for tensor in part.tensors if tensor.name == EMBEDDINGS), ())
    if len(shape) != 2 or shape[1] != len(kept_ids):
        raise malformed(part.path, f"keeps {len(kept_ids)} tokens, and its embeddings have the shape {shape}")
    if not len(kept_ids) or kept_ids[0] < 0 or kept_ids[-1] >= full_vocab or (np.diff(kept_ids) <= 0).any():
        raise malformed(part.path, f"its kept tokens are not ascending ids below {full_vocab}")
    elements, _ = BLOCKS.get(kind, (0, 0))
    if not elements or shape[0] % elements:
        raise malformed(part.path, f"has embeddings of the type {kind}, which is unknown here")
    table = EmbeddingTableSpec(offset, kind, full_vocab, shape[0])
    if not part.header_size <= offset <= part.size - prod((full_vocab, table.row_bytes)):
        raise malformed(part.path, "its table of embeddings is not complete")
    return Trimming(
        kept_ids, full_vocab, _read_text(part, "source_name"), _read_text(part, "source_sha256"),
        _read_provenance(part), table,
    )  # fmt: skip


def _read_number(part: Part, key: str) -> int:
    value = part.values.get(key)
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise malformed(part.path, f"{key} is {value!r}, not a number")
    return value


def _read_text(part: Part, key: str) -> str:
    value = part.values.get(f"{KEY_PREFIX}{key}")
    return value if isinstance(value, str) else ""


def _read_provenance(part: Part) -> dict[str, Any]:
    try:
        provenance = json.loads(_read_text(part, "counts") or "{}")
    except ValueError:
        provenance = None
    if not isinstance(provenance, dict):
        raise malformed(part.path, f"{KEY_PREFIX}counts is no JSON object")
    return provenance
