"""Reads metadata entries that the walk skipped, and encodes new ones.

The walk records the position of each entry (`Part.spans`), so that reading one does not parse the others.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgespec.gguf.reader import STRING, Array, Part, malformed

_NUMPY = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
_PADDING = re.compile(rb"\[PAD\d+\]$|<\|?dummy")
_ARRAY_TYPE, _U32, _I32, _F32, _BOOL, _U64 = 9, 4, 5, 6, 7, 10


def entry(part: Part, key: str) -> bytes:
    """The bytes of one entry, key and type included. Raises KeyError where it is missing."""
    start, end = part.spans[key]
    with part.path.open("rb") as file:
        file.seek(start)
        data = file.read(end - start)
    if len(data) != end - start:
        raise malformed(part.path, "changed while it was read", "wait until its download is complete")
    return data


def numbers(part: Part, key: str) -> npt.NDArray[Any]:
    """An array of numbers, shape (length,). Raises MalformedModel where the entry is something else, or missing."""
    array = part.values.get(key)
    if not isinstance(array, Array) or array.type not in _NUMPY:
        raise malformed(part.path, f"{key} is missing or no array of numbers")
    kind = np.dtype(_NUMPY[array.type])
    data = entry(part, key)
    return np.frombuffer(data, kind, array.length, len(data) - array.length * kind.itemsize)


def strings(part: Part, key: str) -> list[bytes]:
    """An array of strings, undecoded. Raises MalformedModel where the entry is something else, or missing."""
    array = part.values.get(key)
    if not isinstance(array, Array) or array.type != STRING:
        raise malformed(part.path, f"{key} is missing or no list of texts")
    data = entry(part, key)
    (key_length,) = struct.unpack_from("<Q", data)
    offset = 8 + key_length + 4 + 4 + 8  # key, type, type of the elements, their number
    texts = []
    unpack_length = struct.Struct("<Q").unpack_from
    for _ in range(array.length):
        (length,) = unpack_length(data, offset)
        offset += 8
        texts.append(data[offset : offset + length])
        offset += length
    return texts


def unpadded(texts: list[bytes]) -> list[bytes]:
    """The tokens without padding tokens at the end, such as `[PAD151935]`."""
    end = len(texts)
    while end and _PADDING.match(texts[end - 1]):
        end -= 1
    return texts[:end]


def encoded(key: str, value: str | bool | int | float | Sequence[int] | npt.NDArray[np.int32]) -> bytes:
    """The bytes of an entry: a text, a switch, a number (an integer of 32 bits where these suffice, or a 32-bit float),
    or an array of 32-bit integers."""
    if isinstance(value, str):
        kind, payload = STRING, _text(value)
    elif isinstance(value, bool):
        kind, payload = _BOOL, struct.pack("<?", value)
    elif isinstance(value, float):
        kind, payload = _F32, struct.pack("<f", value)
    elif isinstance(value, int):
        kind = _U32 if value < 1 << 32 else _U64
        payload = struct.pack("<I" if kind == _U32 else "<Q", value)
    else:
        array = np.asarray(value, "<i4")
        kind, payload = _ARRAY_TYPE, struct.pack("<IQ", _I32, len(array)) + array.tobytes()
    return _text(key) + struct.pack("<I", kind) + payload


def encoded_u64(key: str, value: int) -> bytes:
    """The bytes of a 64-bit integer entry, whose size does not depend on the value."""
    return _text(key) + struct.pack("<IQ", _U64, value)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
