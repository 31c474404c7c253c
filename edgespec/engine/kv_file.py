"""A KV cache in a file, with its origin, sizes and checksum in front.

llama.cpp ends the process over a damaged state, and accepts the state of another model. So both are checked here, and a
file is written whole or not at all.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgespec.system.files import owner_only, replacing

_MAGIC = b"edgespec kv 1\n"
_MAX_HEAD_BYTES = 1 << 16


class ForeignKvFile(Exception):
    """The file has another origin: the message says what differs."""


class DamagedKvFile(Exception):
    """The file is not as it was written."""


def write_kv(path: Path, origin: Mapping[str, str], tokens: Sequence[int], data: bytes) -> None:
    """Write the state `data` of a KV cache of `tokens`, readable by its owner alone. Raises OSError.

    `origin` says which model and settings it belongs to.
    """
    ids = np.asarray(tokens, "<i4").tobytes()
    checksum = zlib.crc32(data, zlib.crc32(ids))
    head = json.dumps({"about": dict(origin), "ids": len(ids), "data": len(data), "crc32": checksum}).encode()
    with replacing(path) as temporary, open(temporary, "xb", opener=owner_only) as file:
        file.write(_MAGIC + struct.pack("<I", len(head)) + head + ids)
        file.write(data)


def read_kv(path: Path, origin: Mapping[str, str]) -> tuple[list[int], bytes]:
    """The tokens and the state, if the file has this `origin`. Raises ForeignKvFile, DamagedKvFile, OSError."""
    with path.open("rb") as file:
        start = file.read(len(_MAGIC) + 4)
        if start[: len(_MAGIC)] != _MAGIC or len(start) < len(_MAGIC) + 4:
            raise DamagedKvFile("it is no KV cache of edgespec's")
        (length,) = struct.unpack("<I", start[len(_MAGIC) :])
        try:
            head = json.loads(file.read(min(length, _MAX_HEAD_BYTES)))
            stored_origin = dict(head["about"])
            sizes = int(head["ids"]), int(head["data"])
            checksum = int(head["crc32"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedKvFile(f"its head is damaged ({error!r})") from error
        for key in {*stored_origin, *origin}:
            if stored_origin.get(key) != origin.get(key):
                raise ForeignKvFile(f"it was made with another {key}: {stored_origin.get(key)}")
        if min(sizes) < 0 or sizes[0] % 4 or path.stat().st_size != file.tell() + sum(sizes):
            raise DamagedKvFile("it is not as long as it says")
        ids, data = file.read(sizes[0]), file.read(sizes[1])
    if zlib.crc32(data, zlib.crc32(ids)) != checksum:
        raise DamagedKvFile("its checksum differs")
    return np.frombuffer(ids, "<i4").tolist(), data
