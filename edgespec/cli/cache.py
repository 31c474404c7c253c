"""`edgespec cache`: what is stored to save time, and removing it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgespec.cli.terminal import echo, visible
from edgespec.engine import prefix_files
from edgespec.engine.profile_store import stored_profiles
from edgespec.errors import OutputError
from edgespec.system import cpu
from edgespec.system.texts import counted


def show(as_object: bool) -> None:
    """Print the stored prefixes, and how many profiles there are."""
    prefixes = prefix_files.stored_prefixes(_prefix_root())
    profiles = {kind: _sizes(paths) for kind, paths in stored_profiles(cpu.cache_directory()).items()}
    if as_object:
        echo(json.dumps(_as_json(prefixes, profiles)))
        return
    echo(f"{counted(len(prefixes), 'prefix', 'prefixes')}, {_megabytes(sum(stored.bytes for stored in prefixes))}")
    names = [visible(stored.model, one_line=True) for stored in prefixes]
    width = max(map(len, names), default=0)
    for stored, name in zip(prefixes, names, strict=True):
        echo(f"  {name:<{width}}  {len(stored.tokens):>6} tokens  {_megabytes(stored.bytes):>9}  {_ago(stored.used)}")
    echo(counted(sum(map(len, profiles.values())), "profile"))
    for kind, sizes in profiles.items():
        echo(f"  {kind}: {len(sizes)}, {_megabytes(sum(sizes))}")


def clear(kinds: Sequence[str]) -> None:
    """Remove what is stored, by kind: prefixes, profiles."""
    if "prefixes" in kinds:
        try:
            count, size = prefix_files.clear(_prefix_root())
        except OSError as error:
            raise OutputError(f"{error.filename}: cannot be removed: {error.strerror}") from error
        echo(f"removed {counted(count, 'prefix', 'prefixes')}, {_megabytes(size)}")
    if "profiles" in kinds:
        paths = [path for paths in stored_profiles(cpu.cache_directory()).values() for path in paths]
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(f"{path}: cannot be removed: {error.strerror}") from error
        echo(f"removed {counted(len(paths), 'profile')}")
    else:
        echo("profiles stay: edgespec cache clear profiles removes them")


def _prefix_root() -> Path:
    return cpu.cache_directory() / prefix_files.FOLDER


def _as_json(prefixes: Sequence[prefix_files.StoredPrefix], profiles: dict[str, list[int]]) -> dict[str, Any]:
    return {
        "prefixes": [
            {
                "model": stored.model,
                "tokens": len(stored.tokens),
                "bytes": stored.bytes,
                "used": datetime.fromtimestamp(stored.used, timezone.utc).isoformat(timespec="seconds"),
                "path": str(stored.path),
            }
            for stored in prefixes
        ],
        "profiles": [{"kind": kind, "files": len(sizes), "bytes": sum(sizes)} for kind, sizes in profiles.items()],
    }


def _sizes(paths: Sequence[Path]) -> list[int]:
    """The bytes of each file that is still there."""
    sizes = []
    for path in paths:
        with contextlib.suppress(OSError):
            sizes.append(path.stat().st_size)
    return sizes


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _ago(used: float) -> str:
    minutes = max(0.0, time.time() - used) / 60
    for unit, length in (("day", 1440), ("hour", 60), ("minute", 1)):
        if minutes >= length:
            return f"used {counted(int(minutes / length), unit)} ago"
    return "used just now"
