"""Walks one GGUF file from its start to the tensor data, without trusting it.

Every count and length is checked against the size of the file before it is used. The format is ggml's docs/gguf.md,
versions 2 and 3, without arrays of arrays, which llama.cpp does not read either. `edgespec.gguf.validate` checks
the values.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
import struct
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from edgespec.errors import MalformedModel, ModelError, ModelNotFound

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9

# Far above any model: a few thousand tensors, some 300,000 tokens or merges, a tokenizer of 30 MB kept as one string.
_MAX_ENTRIES, MAX_STRINGS, _MAX_STRING = 1 << 16, 1 << 21, 1 << 26
_MAX_KEY, _MAX_NAME, _MAX_DIMENSIONS, _MAX_ELEMENTS = (1 << 16) - 1, 63, 4, (1 << 63) - 1  # the format's and ggml's
_WINDOW_BYTES = 1 << 16  # bytes: fits the second-level cache
GET_AGAIN = "download or convert it again"

_BLOCK_BYTES = {  # elements of a block -> ggml type -> bytes of a block
    1: {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2},
    32: {2: 18, 3: 20, 6: 22, 7: 24, 8: 34, 9: 36, 20: 18, 39: 17},
    64: {40: 36, 42: 18},
    128: {41: 18},
    256: {10: 84, 11: 110, 12: 144, 13: 176, 14: 210, 15: 292, 16: 66, 17: 74, 18: 98, 19: 50, 21: 110, 22: 82}
    | {23: 136, 29: 56, 34: 54, 35: 66},
}
BLOCKS = {kind: (elements, size) for elements, sizes in _BLOCK_BYTES.items() for kind, size in sizes.items()}
"""ggml type -> (elements, bytes) of a block."""

_OTHER_FORMATS = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the model itself; run `git lfs pull`"),
    (rb"\s*<(!doctype|html|\?xml)", "a web page, not a GGUF; the download went wrong, try another address"),
    (rb"PK\x03\x04|\x80[\x02-\x05]", "a PyTorch checkpoint, not a GGUF; convert it with llama.cpp"),
    (rb".{8}\{", "a safetensors file, not a GGUF; convert it with llama.cpp"),
    (rb"\x1f\x8b", "compressed with gzip; unpack it first"),
    (rb"lmgg|fmgg|tjgg|algg", "in a format older than GGUF; get a newer conversion"),
)


def malformed(path: Path, reason: str, remedy: str = GET_AGAIN) -> MalformedModel:
    """The one-line error for a malformed GGUF; a `reason` with long text from the file is cut."""
    return MalformedModel(f"{path}: {reason if len(reason) < 300 else reason[:300] + '...'}; {remedy}")


class Array(NamedTuple):
    """An array in the metadata, without its elements. `type` is GGUF's number for the type of the elements."""

    type: int
    length: int


Value = str | int | float | bool | Array


class Tensor(NamedTuple):
    """A tensor's description. `offset` counts bytes from the start of the tensor data."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def size(self) -> int | None:
        """Its bytes, or None where the type is unknown here or a row is no whole number of blocks."""
        elements, size = BLOCKS.get(self.type, (0, 0))
        row = self.shape[0] if self.shape else 1
        return prod(self.shape) // elements * size if elements and row % elements == 0 else None


@dataclass(frozen=True, slots=True)
class Part:
    """One walked file, a whole model or one shard of it: `size` and `header_size` in bytes.

    `spans` has the first and the end byte of each metadata entry, key and type included.
    """

    path: Path
    version: int
    values: dict[str, Value]
    spans: dict[str, tuple[int, int]]
    tensors: list[Tensor]
    size: int
    header_size: int
    header_crc: int


def walk(path: Path) -> Part:
    """Walk the header of the GGUF at `path`, in time proportional to the header.

    Raises ModelNotFound, MalformedModel, or ModelError when the operating system does not let the file be read.
    """
    with _map(path) as data:
        reader = _Reader(path, data)
        version, n_tensors, n_values = reader.preamble()
        values = reader.values(n_values)
        tensors = reader.tensors(n_tensors)
        with memoryview(data) as view, view[: reader.position] as header:
            crc = zlib.crc32(header)
        return Part(path, version, values, reader.spans, tensors, len(data), reader.position, crc)


def _map(path: Path) -> mmap.mmap:
    """The file's bytes."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):  # anything else may block when opened
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size:
                    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no path can hold a NUL character
        raise ModelNotFound(f"{path}: no such file; check the path, or give the alias of a model") from None
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; check its permissions and the disk") from error
    kind = "a directory" if stat.S_ISDIR(mode) else "empty" if stat.S_ISREG(mode) else "not a file"
    raise malformed(path, kind, "name a .gguf file")


class _Reader:
    """Reads forward through a mapped file, never past its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.position = 0
        self.spans: dict[str, tuple[int, int]] = {}
        self._path, self._data, self._size = path, data, len(data)

    def _refuse(self, reason: str, remedy: str = GET_AGAIN) -> NoReturn:
        raise malformed(self._path, reason, remedy)

    def preamble(self) -> tuple[int, int, int]:
        """Version, number of tensors, number of keys."""
        if self._data[:4] != b"GGUF":
            self._refuse_format(self._data[:64])
        self.position = 4
        version = self._number("<I")
        if version and not version & 0xFFFF:
            self._refuse("a big-endian GGUF", "convert it again for little-endian machines")
        if version not in (2, 3):
            self._refuse(f"GGUF version {version}, and versions 2 and 3 can be read", "get another conversion")
        n_tensors, n_values = self._number("<Q"), self._number("<Q")
        if max(n_tensors, n_values) > _MAX_ENTRIES or 24 * n_tensors + 13 * n_values > self._size:
            self._refuse(f"announces {n_tensors} tensors and {n_values} metadata keys in {self._size} bytes")
        return version, n_tensors, n_values

    def _refuse_format(self, start: bytes) -> NoReturn:
        for pattern, what in _OTHER_FORMATS:
            if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
                raise MalformedModel(f"{self._path}: {what}")
        self._refuse(f"not a GGUF (it starts with {start[:4]!r})", "name a .gguf file")

    def _advance(self, size: int) -> int:
        """Skip `size` bytes; returns where they start."""
        start = self.position
        if size > self._size - start:
            self._refuse(f"ends inside its header: {size} bytes announced, {self._size - start} left")
        self.position += size
        return start

    def _number(self, layout: str) -> Any:
        (number,) = struct.unpack_from(layout, self._data, self._advance(struct.calcsize(layout)))
        return number

    def _string(self, longest: int) -> str:
        length = self._number("<Q")
        if length > longest:
            self._refuse(f"has a string of {length} bytes where at most {longest} make sense")
        start = self._advance(length)
        return self._data[start : self.position].decode(errors="backslashreplace")

    def values(self, count: int) -> dict[str, Value]:
        """The metadata: scalars as they are, arrays as their type and length."""
        values: dict[str, Value] = {}
        for _ in range(count):
            start = self.position
            key = self._string(_MAX_KEY)
            if not key or key in values:
                self._refuse(f"has the key {key!r} twice" if key else "has a key without a name")
            values[key] = self._value(key)
            self.spans[key] = (start, self.position)
        return values

    def _value(self, key: str) -> Value:
        kind = self._number("<I")
        if key == "general.alignment" and kind != 4:
            self._refuse(f"gives its alignment as type {kind}, not as a 32-bit number")
        if kind == STRING:
            return self._string(_MAX_STRING)
        if kind == ARRAY:
            return self._skip_array(key)
        if kind not in _SCALARS:
            self._refuse(f"{key!r} has the type {kind}, which GGUF does not know")
        value: int | float | bool = self._number(_SCALARS[kind])
        return value

    def _skip_array(self, key: str) -> Array:
        kind, length = self._number("<I"), self._number("<Q")
        if kind in _SCALARS:
            self._advance(length * struct.calcsize(_SCALARS[kind]))
        elif kind != STRING:
            self._refuse(f"{key!r} is an array of type {kind}, which llama.cpp does not read")
        elif length > min(MAX_STRINGS, (self._size - self.position) // 8):
            self._refuse(f"{key!r} announces {length} strings in {self._size} bytes")
        else:
            self._skip_strings(length)
        return Array(kind, length)

    def _skip_strings(self, count: int) -> None:
        """A vocabulary has some 300,000 strings, so this loop is most of the walk: strings are found by the window.

        A length below 256 shows as seven zero bytes. As long as each such length leads to the next, they are what
        they seem; where the chain breaks (at a longer string, or an empty one), single steps lead on.
        """
        while count:
            window = self._data[self.position : self.position + _WINDOW_BYTES]
            lengths = np.ndarray(max(len(window) - 7, 0), "<u8", window, strides=(1,))
            starts = np.flatnonzero(lengths < 256)
            ends = starts + 8 + lengths[starts].astype(np.int64)
            chained = np.append(starts[:1] == 0, starts[1:] == ends[:-1])
            whole = min(count, len(starts) if chained.all() else int(chained.argmin()))
            self._advance(int(ends[whole - 1]) if whole else 0)
            singly = min(count - whole, 1 if whole >= 64 else 512)
            for _ in range(singly):
                self._advance(self._number("<Q"))
            count -= whole + singly

    def tensors(self, count: int) -> list[Tensor]:
        """The descriptions of the tensors: distinct names, numbers of elements within ggml's range."""
        tensors: dict[str, Tensor] = {}
        for _ in range(count):
            name, dimensions = self._string(_MAX_NAME), self._number("<I")
            if name in tensors:
                self._refuse(f"has the tensor {name!r} twice")
            if dimensions > _MAX_DIMENSIONS:
                self._refuse(f"the tensor {name!r} has {dimensions} dimensions, and {_MAX_DIMENSIONS} are the most")
            shape = tuple(self._number("<Q") for _ in range(dimensions))
            if max(prod(shape), *shape, 0) > _MAX_ELEMENTS:
                self._refuse(f"the tensor {name!r} has the impossible shape {shape}")
            tensors[name] = Tensor(name, shape, self._number("<I"), self._number("<Q"))
        return list(tensors.values())
