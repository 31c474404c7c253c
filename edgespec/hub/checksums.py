"""A cache of checksums: the sha256 of each file, with the size and modification time for which it holds."""

from __future__ import annotations

import logging
from pathlib import Path

from edgespec.hub.catalogue import SHA256
from edgespec.system.files import read_json, sha256_of, try_write_json

_log = logging.getLogger("edgespec.hub")

_SLOW_BYTES = 1 << 28
"""Bytes of a file from which on its check is logged, since it takes noticeable time."""


def cached_sha256(path: Path, cache_dir: Path) -> str:
    """The file's sha256, from the cache where size and modification time have not changed. Raises OSError."""
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns]
    cache_path = cache_dir / "checked.json"
    cached = _read_cache(cache_path)
    entry = cached.get(str(path))
    if isinstance(entry, list) and entry[:2] == stamp and len(entry) == 3 and SHA256.fullmatch(str(entry[2])):
        return str(entry[2])
    if status.st_size >= _SLOW_BYTES:
        _log.warning("checking %s (%.1f GB), once", path, status.st_size / 1e9)
    sha256 = sha256_of(path)
    try_write_json(cache_path, {**cached, str(path): [*stamp, sha256]})
    return sha256


def save_sha256(path: Path, sha256: str, cache_dir: Path) -> None:
    """Store a checksum that was just computed."""
    status = path.stat()
    cache_path = cache_dir / "checked.json"
    try_write_json(cache_path, {**_read_cache(cache_path), str(path): [status.st_size, status.st_mtime_ns, sha256]})


def _read_cache(cache_path: Path) -> dict[str, object]:
    cached = read_json(cache_path)
    return cached if isinstance(cached, dict) else {}
