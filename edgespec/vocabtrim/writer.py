"""Writes a trimmed GGUF, streamed and without requantizing.

Metadata entries and tensors that do not depend on the vocabulary are copied byte for byte.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgespec.errors import InvalidRequest, UnsupportedModel
from edgespec.gguf.metadata import encoded, entry
from edgespec.gguf.reader import Array, Part, Tensor
from edgespec.gguf.validate import read_header
from edgespec.system.files import sha256_of
from edgespec.vocabtrim.format import EMBEDDINGS, KEY_PREFIX, OUTPUT, EmbeddingTableSpec, Trimming

TRIMMABLE_ARCHITECTURES = ("gemma", "gemma2", "gemma3", "llama", "qwen2", "qwen3")
"""Architectures in which only input embeddings and output layer depend on the size of the vocabulary."""

_COPY_BYTES = 1 << 22
"""Bytes that are copied at once."""
_ROWS_PER_PIECE = 1 << 10
"""Rows that are copied at once."""

WriteProgress = Callable[[int, int], None]
"""Called with bytes written and bytes in all."""


def read_trimmable(source: Path) -> Part:
    """Walk a model that can be trimmed. Raises UnsupportedModel with the reason where it cannot, and ModelError."""
    header = read_header(source)
    part = header.part
    if f"{KEY_PREFIX}format" in part.values:
        raise UnsupportedModel(f"{source}: trimmed already; trim the full model")
    if header.architecture not in TRIMMABLE_ARCHITECTURES:
        known = ", ".join(TRIMMABLE_ARCHITECTURES)
        raise UnsupportedModel(f"{source}: {header.architecture} models cannot be trimmed so far; {known} can")
    if int(part.values.get("split.count") or 1) > 1:  # type: ignore[arg-type]
        raise UnsupportedModel(f"{source}: a split model; merge its shards first (llama-gguf-split --merge)")
    if not isinstance(part.values.get("tokenizer.ggml.tokens"), Array):
        raise UnsupportedModel(f"{source}: it has no list of tokens to choose from")
    if not any(tensor.name == EMBEDDINGS for tensor in part.tensors):
        raise UnsupportedModel(f"{source}: it has no table of input embeddings ({EMBEDDINGS})")
    for tensor in part.tensors:
        if header.n_vocab in (tensor.shape[1:] or tensor.shape) and tensor.name not in (EMBEDDINGS, OUTPUT):
            raise UnsupportedModel(
                f"{source}: {tensor.name!r} is over the vocabulary too, and trimming does not know it"
            )
    return part


def write_trimmed(
    part: Part,
    kept_ids: npt.NDArray[np.int32],
    file: BinaryIO,
    provenance: dict[str, Any],
    progress: WriteProgress | None = None,
) -> None:
    """Write the model of `part` with the rows `kept_ids` (ascending ids) of its vocabulary to `file`.

    `provenance` is told in the metadata as where the choice came from. Raises OSError where the disk refuses.
    """
    embeddings = next(tensor for tensor in part.tensors if tensor.name == EMBEDDINGS)
    if not len(kept_ids) or kept_ids[-1] >= embeddings.shape[1]:
        raise InvalidRequest(f"tokens to keep that the vocabulary of {embeddings.shape[1]} does not have")
    table = EmbeddingTableSpec(0, embeddings.type, embeddings.shape[1], embeddings.shape[0])
    trimming = Trimming(kept_ids, table.rows, part.path.name, sha256_of(part.path), provenance, table)
    alignment = int(part.values.get("general.alignment", 32))  # type: ignore[arg-type]
    tensors = _placed_tensors(part.tensors, len(kept_ids), alignment)
    data_size = sum(_aligned(tensor.size or 0, alignment) for tensor in tensors)
    head_size = _aligned(len(_header(part, trimming, tensors, 0)), alignment)
    table_offset = head_size + data_size
    total = table_offset + table.rows * table.row_bytes
    file.write(_padded(_header(part, trimming, tensors, table_offset), alignment))
    done = head_size
    with part.path.open("rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data:
        begin = _aligned(part.header_size, alignment)
        for source_tensor, tensor_out in zip(part.tensors, tensors, strict=True):
            rows = kept_ids if source_tensor.shape != tensor_out.shape else None
            for piece in _tensor_pieces(data, begin + source_tensor.offset, source_tensor, rows):
                done += file.write(piece)
                if progress:
                    progress(done, total)
            done += file.write(bytes(-done % alignment))
        for piece in _tensor_pieces(data, begin + embeddings.offset, embeddings, None):
            done += file.write(piece)
            if progress:
                progress(done, total)


def _placed_tensors(tensors: list[Tensor], size: int, alignment: int) -> list[Tensor]:
    """The tensors with `size` rows in those of the vocabulary, with their new offsets."""
    placed: list[Tensor] = []
    offset = 0
    for tensor in tensors:
        shape = (tensor.shape[0], size) if tensor.name in (EMBEDDINGS, OUTPUT) else tensor.shape
        tensor_out = tensor._replace(shape=shape, offset=offset)
        if tensor_out.size is None:
            raise UnsupportedModel(f"the tensor {tensor.name!r} has the type {tensor.type}, whose size is unknown here")
        placed.append(tensor_out)
        offset += _aligned(tensor_out.size, alignment)
    return placed


def _header(part: Part, trimming: Trimming, tensors: list[Tensor], table_offset: int) -> bytes:
    """The header of the GGUF: all bytes before the tensor data."""
    architecture = str(part.values["general.architecture"])
    tokenizer = str(part.values["tokenizer.ggml.model"])
    replaced = {
        "tokenizer.ggml.model": encoded("tokenizer.ggml.model", "no_vocab"),
        f"{architecture}.vocab_size": encoded(f"{architecture}.vocab_size", len(trimming.kept_ids)),
    }
    entries = [replaced.pop(key) if key in replaced else entry(part, key) for key in part.spans]
    entries += [*replaced.values(), *trimming.metadata_entries(tokenizer, table_offset)]
    described = [
        struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        for name, shape, kind, offset in ((t.name.encode(), t.shape, t.type, t.offset) for t in tensors)
    ]
    preamble = b"GGUF" + struct.pack("<IQQ", part.version, len(tensors), len(entries))
    return b"".join([preamble, *entries, *described])


def _tensor_pieces(data: mmap.mmap, start: int, tensor: Tensor, rows: npt.NDArray[np.int32] | None) -> Iterator[bytes]:
    """The bytes of a tensor, or of some of its rows, a few MB at a time."""
    size = tensor.size
    assert size is not None
    if rows is None:
        for start_in_tensor in range(0, size, _COPY_BYTES):
            yield data[start + start_in_tensor : start + min(start_in_tensor + _COPY_BYTES, size)]
        return
    row_bytes = size // tensor.shape[1]
    for start_in_tensor in range(0, len(rows), _ROWS_PER_PIECE):
        yield b"".join(
            data[start + row * row_bytes : start + (row + 1) * row_bytes]
            for row in rows[start_in_tensor : start_in_tensor + _ROWS_PER_PIECE].tolist()
        )


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _padded(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)
