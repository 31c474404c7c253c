"""A KV cache in a file, with its origin, sizes and checksum in front.

llama.cpp ends the process over a damaged state, and accepts the state of another model. So both are checked here, and a
file is written whole or not at all.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from edgespec.system.files import owner_only, replacing

_MAGIC = b"edgespec kv 1\n"
_MAX_HEAD_BYTES = 1 << 16


class ForeignKvFile(Exception):
    """The file has another origin: the message says what differs."""


class DamagedKvFile(Exception):
    """The file is not as it was written."""


class KvHead(NamedTuple):
    """What a file says of itself. Only `read_kv` compares the checksum.

    `note` is what its writer added for readers; any key may be missing.
    """

    origin: dict[str, str]
    tokens: list[int]
    data_bytes: int
    note: dict[str, Any]


def write_kv(
    path: Path,
    origin: Mapping[str, str],
    tokens: Sequence[int],
    data: bytes | memoryview,
    note: Mapping[str, Any] | None = None,
) -> None:
    """Write the state `data` of a KV cache of `tokens`, readable by its owner alone. Raises OSError.

    `origin` says which model and settings it belongs to.
    """
    ids = np.asarray(tokens, "<i4").tobytes()
    note = dict(note or {})
    about = {"about": dict(origin), "ids": len(ids), "data": len(data), "crc32": _checksum(note, ids, data)}
    head = json.dumps({**about, "note": note} if note else about).encode()
    with replacing(path) as temporary, open(temporary, "xb", opener=owner_only) as file:
        file.write(_MAGIC + struct.pack("<I", len(head)) + head + ids)
        file.write(data)


def read_head(path: Path) -> KvHead:
    """The origin and the tokens of a file, without its data. Raises DamagedKvFile, OSError."""
    with path.open("rb") as file:
        return _read_head(file)[0]


def read_kv(path: Path, origin: Mapping[str, str]) -> tuple[list[int], bytes]:
    """The tokens and the state, if the file has this `origin`. Raises ForeignKvFile, DamagedKvFile, OSError."""
    with path.open("rb") as file:
        head, checksum = _read_head(file)
        for key in {*head.origin, *origin}:
            if head.origin.get(key) != origin.get(key):
                raise ForeignKvFile(f"it was made with another {key}: {head.origin.get(key)}")
        data = file.read(head.data_bytes)
    if _checksum(head.note, np.asarray(head.tokens, "<i4").tobytes(), data) != checksum:
        raise DamagedKvFile("its checksum differs")
    return head.tokens, data


def _checksum(note: Mapping[str, Any], ids: bytes, data: bytes | memoryview) -> int:
    start = zlib.crc32(json.dumps(note, sort_keys=True).encode()) if note else 0
    return zlib.crc32(data, zlib.crc32(ids, start))


def _read_head(file: BinaryIO) -> tuple[KvHead, int]:
    """The head of an open file, which is then at its data, and the checksum of all but the origin."""
    start = file.read(len(_MAGIC) + 4)
    if start[: len(_MAGIC)] != _MAGIC or len(start) < len(_MAGIC) + 4:
        raise DamagedKvFile("it is no KV cache of edgespec's")
    (length,) = struct.unpack("<I", start[len(_MAGIC) :])
    try:
        head = json.loads(file.read(min(length, _MAX_HEAD_BYTES)))
        origin, note = dict(head["about"]), dict(head.get("note", {}))
        id_bytes, data_bytes = int(head["ids"]), int(head["data"])
        checksum = int(head["crc32"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise DamagedKvFile(f"its head is damaged ({error!r})") from error
    size = os.fstat(file.fileno()).st_size
    if min(id_bytes, data_bytes) < 0 or id_bytes % 4 or size != file.tell() + id_bytes + data_bytes:
        raise DamagedKvFile("it is not as long as it says")
    ids = file.read(id_bytes)
    if len(ids) != id_bytes:
        raise DamagedKvFile("it was cut while it was read")
    return KvHead(origin, np.frombuffer(ids, "<i4").tolist(), data_bytes, note), checksum
