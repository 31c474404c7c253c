"""Checksums of gigabytes, taken once: which file had which sha256 when."""

from __future__ import annotations

import logging
from pathlib import Path

from edgespec.system.files import read_json, sha256_of, try_write_json

_log = logging.getLogger("edgespec.hub")

_LONG = 1 << 28
"""Bytes: taking the sha256 of as many may be felt, so that a line is due."""


def known_sha256(path: Path, cache_dir: Path) -> str:
    """The file's sha256, from memory where its size and time are what they were when it was taken. Raises OSError."""
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns]
    memory = cache_dir / "checked.json"
    remembered = _read(memory)
    before = remembered.get(str(path))
    if isinstance(before, list) and before[:2] == stamp and len(before) == 3:
        return str(before[2])
    if status.st_size >= _LONG:
        _log.warning("checking %s (%.1f GB), once", path, status.st_size / 1e9)
    found = sha256_of(path)
    try_write_json(memory, {**remembered, str(path): [*stamp, found]})
    return found


def note(path: Path, sha256: str, cache_dir: Path) -> None:
    """Remember a checksum that was taken just now."""
    status = path.stat()
    memory = cache_dir / "checked.json"
    try_write_json(memory, {**_read(memory), str(path): [status.st_size, status.st_mtime_ns, sha256]})


def _read(memory: Path) -> dict[str, object]:
    remembered = read_json(memory)
    return remembered if isinstance(remembered, dict) else {}
