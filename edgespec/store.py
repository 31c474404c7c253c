"""Files that survive a crash: written whole under another name, then renamed."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_log = logging.getLogger("edgespec.store")


def read_json(path: Path) -> Any:
    """What `path` holds, or None where there is no such file or it is not JSON (a log line tells)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("%s is left aside: %s", path, error)
        return None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` when all went well, and vanishes when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def write_json(path: Path, value: Any) -> None:
    """Put `value` into `path`, at once or not at all. Raises OSError."""
    with replacing(path) as temporary, temporary.open("x", encoding="utf-8") as file:
        json.dump(value, file, separators=(",", ":"))


def remember(path: Path, value: Any) -> None:
    """`write_json` for what can be found out again: where the disk refuses, a log line is enough."""
    try:
        write_json(path, value)
    except OSError as error:
        _log.warning("%s cannot be written: %s", path, error)
