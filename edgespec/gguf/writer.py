"""Writes a GGUF: metadata entries, then tensors."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

_VERSION = 3
_ALIGNMENT = 32
"""What a file without `general.alignment` has."""


class NewTensor(NamedTuple):
    """A tensor to write: its ggml type, its shape as numpy has it, the fastest dimension last, and its bytes."""

    name: str
    kind: int
    shape: tuple[int, ...]
    data: Any


def write_gguf(file: BinaryIO, entries: Sequence[bytes], tensors: Sequence[NewTensor]) -> None:
    """Write a GGUF. `entries` are encoded (`edgespec.gguf.metadata`), without an alignment of their own.

    Raises OSError where the disk refuses.
    """
    described, offset = [], 0
    for name, kind, shape, data in tensors:
        text = name.encode()
        described.append(
            struct.pack("<Q", len(text)) + text
            + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, offset)
        )  # fmt: skip
        offset += _padded(memoryview(data).nbytes)
    header = b"".join([b"GGUF", struct.pack("<IQQ", _VERSION, len(tensors), len(entries)), *entries, *described])
    file.write(header + bytes(_padded(len(header)) - len(header)))
    for tensor in tensors:
        size = memoryview(tensor.data).nbytes
        file.write(tensor.data)
        file.write(bytes(_padded(size) - size))


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
