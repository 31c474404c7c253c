"""Prefixes of prompts on disk: one file for each, with the KV cache that its tokens make.

    prefixes/ORIGIN/FIRST-ALL.kv

ORIGIN is a hash of the model and settings, FIRST of the first tokens, ALL of all tokens. So the names alone show that a
prompt has no stored prefix. Several processes may use the folder at once: a file is written under another name first,
and one that disappears is a prefix that is not stored.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgespec.core import common_prefix
from edgespec.engine.kv_file import DamagedKvFile, ForeignKvFile, KvHead, read_head, read_kv, write_kv
from edgespec.system.files import private_folder

_log = logging.getLogger("edgespec.engine.prefix_files")

FOLDER = "prefixes"
"""The folder of all prefixes, in the cache directory."""

SHORTEST = 32
"""Tokens of the shortest prefix that is stored: those that file names have a hash of."""

DEFAULT_BYTES = 4_000_000_000
"""The most bytes of all prefixes, by default. What `FREE_SHARE` allows is less on a small disk."""

FREE_SHARE = 0.1
"""The share of the free disk space that prefixes may take, by default."""

_ABANDONED = 3600.0
"""Seconds after which an unfinished file is one that a process left behind when it was killed."""


class StoredPrefix(NamedTuple):
    """A file of the folder. `used` is the time of its last use, in seconds since 1970."""

    path: Path
    model: str
    tokens: list[int]
    bytes: int
    seconds_per_token: float
    used: float


class PrefixFolder:
    """The stored prefixes of one `origin`: a model, a build, and settings. `model` is the name to show."""

    def __init__(self, root: Path, origin: Mapping[str, str], model: str) -> None:
        self._root = root
        self._origin = dict(origin)
        self._model = model
        self._folder = root / _hash(repr(sorted(origin.items())).encode())

    def find(self, tokens: Sequence[int]) -> Iterator[tuple[int, StoredPrefix]]:
        """The stored prefixes that share SHORTEST tokens or more with `tokens`, each with how many it shares."""
        if len(tokens) < SHORTEST:
            return
        first = f"{_first(tokens)}-"
        for path in _files(self._folder):
            if path.name.startswith(first) and (stored := _stored(path)) is not None:
                shared = common_prefix(stored.tokens, list(tokens))
                if shared >= SHORTEST:
                    yield shared, stored

    def read(self, stored: StoredPrefix) -> tuple[list[int], bytes] | None:
        """Tokens and state of a stored prefix; None where it has gone or is damaged, and then it is removed."""
        try:
            found = read_kv(stored.path, self._origin)
        except (DamagedKvFile, ForeignKvFile) as error:
            _log.info("%s is removed: %s", stored.path, error)
            remove(stored.path)
            return None
        except (OSError, MemoryError):
            return None
        with contextlib.suppress(OSError):
            os.utime(stored.path)  # the time of its last use
        return found

    def write(
        self, tokens: Sequence[int], data: bytes | memoryview, seconds_per_token: float, *, replaces: bool, limit: int
    ) -> None:
        """Store a prefix, then remove those used longest ago until all take at most `limit` bytes. Raises OSError.

        `replaces`: a shorter prefix that this one begins with is removed, since the new file serves as well.
        """
        private_folder(self._root)
        private_folder(self._folder)
        path = self._folder / f"{_first(tokens)}-{_hash(_bytes(tokens))}.kv"
        shorter = [stored.path for shared, stored in self.find(tokens) if shared == len(stored.tokens) < len(tokens)]
        write_kv(path, self._origin, tokens, data, {"model": self._model, "seconds_per_token": seconds_per_token})
        for old in shorter if replaces else ():
            remove(old)
        trim(self._root, limit)


def default_limit(root: Path) -> int:
    """The most bytes of all prefixes under `root`, by the free space of its disk."""
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    return min(DEFAULT_BYTES, int(FREE_SHARE * shutil.disk_usage(existing).free))


def stored_prefixes(root: Path) -> list[StoredPrefix]:
    """All prefixes under `root`, the one used last first. Files that are none are left out."""
    found = (_stored(path) for folder in _folders(root) for path in _files(folder))
    return sorted((stored for stored in found if stored is not None), key=lambda stored: -stored.used)


def clear(root: Path) -> tuple[int, int]:
    """Remove all prefixes under `root`, damaged ones too; how many there were, and their bytes. Raises OSError."""
    count = size = 0
    for folder in _folders(root):
        for path in [*_files(folder), *_unfinished(folder)]:
            with contextlib.suppress(FileNotFoundError):
                size += path.stat().st_size
                path.unlink()
                count += 1
        with contextlib.suppress(OSError):  # another process may be writing into it
            folder.rmdir()
    return count, size


def trim(root: Path, limit: int) -> None:
    """Remove the prefixes used longest ago until all of them take at most `limit` bytes."""
    found: list[tuple[float, int, Path]] = []
    for folder in _folders(root):
        for path in _unfinished(folder):
            if time.time() - _status(path)[0] > _ABANDONED:
                remove(path)
        found += [(*_status(path), path) for path in _files(folder)]
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            break
        remove(path)
        total -= size


def remove(path: Path) -> None:
    """Remove a file, if it can be removed."""
    with contextlib.suppress(OSError):
        path.unlink()


def _stored(path: Path) -> StoredPrefix | None:
    """What a file says of itself; None where it is damaged or has gone."""
    try:
        head: KvHead = read_head(path)
        status = path.stat()
        rate = float(head.note["seconds_per_token"])
        if not math.isfinite(rate):
            raise DamagedKvFile("its speed is no number")
        return StoredPrefix(path, str(head.note["model"]), head.tokens, status.st_size, rate, status.st_mtime)
    except OSError:
        return None
    except (DamagedKvFile, KeyError, TypeError, ValueError, OverflowError) as error:
        _log.info("%s is left aside: %s", path, error)
        return None


def _folders(root: Path) -> list[Path]:
    """The folders of origins under `root`."""
    try:
        return sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.is_symlink())
    except OSError:
        return []


def _files(folder: Path) -> list[Path]:
    """The files of prefixes in `folder`."""
    return _named(folder, hidden=False)


def _unfinished(folder: Path) -> list[Path]:
    """The files in `folder` that are being written, or that a killed process left."""
    return _named(folder, hidden=True)


def _named(folder: Path, *, hidden: bool) -> list[Path]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 - each miss does this, and needs no Path for other files
    except OSError:
        return []
    return [folder / name for name in names if name.endswith(".kv") and name.startswith(".") == hidden]


def _status(path: Path) -> tuple[float, int]:
    """The time of a file's last use, and its size; zeros where it has gone."""
    try:
        status = path.stat()
    except OSError:
        return 0.0, 0
    return status.st_mtime, status.st_size


def _first(tokens: Sequence[int]) -> str:
    return _hash(_bytes(tokens[:SHORTEST]))


def _bytes(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, "<i4").tobytes()


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
