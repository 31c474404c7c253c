"""A KV cache in a file. llama.cpp ends the process over a torn one and takes another model's for its own.

So it travels in an envelope: what made it, how long it is, and a checksum; it is written whole or not at all.
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
_LONGEST_HEAD = 1 << 16


class OtherKv(Exception):
    """The file was made by something else: the message says what differs."""


class TornKv(Exception):
    """The file is not what was written."""


def write_kv(path: Path, about: Mapping[str, str], tokens: Sequence[int], data: bytes) -> None:
    """Keep the state of a cache that holds `tokens`, for its owner alone; `about` says what made it. Raises OSError."""
    ids = np.asarray(tokens, "<i4").tobytes()
    checksum = zlib.crc32(data, zlib.crc32(ids))
    head = json.dumps({"about": dict(about), "ids": len(ids), "data": len(data), "crc32": checksum}).encode()
    with replacing(path) as temporary, open(temporary, "xb", opener=owner_only) as file:
        file.write(_MAGIC + struct.pack("<I", len(head)) + head + ids)
        file.write(data)


def read_kv(path: Path, about: Mapping[str, str]) -> tuple[list[int], bytes]:
    """The tokens and the state, if they were made by the same as `about`. Raises OtherKv, TornKv, OSError."""
    with path.open("rb") as file:
        start = file.read(len(_MAGIC) + 4)
        if start[: len(_MAGIC)] != _MAGIC or len(start) < len(_MAGIC) + 4:
            raise TornKv("it is no KV cache of edgespec's")
        (length,) = struct.unpack("<I", start[len(_MAGIC) :])
        try:
            head = json.loads(file.read(min(length, _LONGEST_HEAD)))
            made = dict(head["about"])
            sizes = int(head["ids"]), int(head["data"])
            checksum = int(head["crc32"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise TornKv(f"its head is damaged ({error!r})") from error
        for key in {*made, *about}:
            if made.get(key) != about.get(key):
                raise OtherKv(f"it was made with another {key}: {made.get(key)}")
        if min(sizes) < 0 or sizes[0] % 4 or path.stat().st_size != file.tell() + sum(sizes):
            raise TornKv("it is not as long as it says")
        ids, data = file.read(sizes[0]), file.read(sizes[1])
    if zlib.crc32(data, zlib.crc32(ids)) != checksum:
        raise TornKv("its checksum differs")
    return np.frombuffer(ids, "<i4").tolist(), data
