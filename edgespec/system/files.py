"""Writes files whole: under a temporary name that is then renamed. Also locks, checksums and paths of users."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgespec.errors import OutputError

try:
    import fcntl
except ImportError:  # no POSIX, no locks
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger("edgespec.system.files")


def read_json(path: Path) -> Any:
    """The JSON value in `path`; None where the file is missing or, with a log line, unreadable."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None
    except OSError as error:
        _log_unusable(path, "read", error)
    except (ValueError, RecursionError) as error:
        _log.warning("%s is left aside: %s", path, error)
    return None


def expanded_path(name: str) -> Path:
    """The path with ~ expanded; ~name stays where there is no such user."""
    with contextlib.suppress(RuntimeError):
        return Path(name).expanduser()
    return Path(name)


def names_file(name: str) -> bool:
    """Whether `name` is the path of an existing file; one that is too long for a path, or has a NUL, is none."""
    return os.path.isfile(name)  # noqa: PTH113 - Path.is_file raises for such names


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it replaces `path` at the end, and is removed after an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def check_writable(path: Path, *, replace: bool = True) -> None:
    """Check that a file can be written to `path`, before long work; `replace`: in place of one that is there.

    Raises OutputError.
    """
    if not path.name or path.is_dir():
        raise OutputError(f"{path}: that is a folder: name a file in it")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: that is no file but a device or a pipe, which would be replaced: name a file")
    if not replace and os.path.lexists(path):
        raise OutputError(f"{path}: there is one already: choose another name, or replace it with --force")
    try:
        with replacing(path) as temporary:
            temporary.touch()
            raise _DryRunDone
    except _DryRunDone:
        pass
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


class _DryRunDone(Exception):
    """Ends a trial of `replacing`, which then leaves no file."""


def write_json(path: Path, value: Any, *, private: bool = False) -> None:
    """Write `value` to `path`, whole or not at all; `private`: readable by its owner alone. Raises OSError."""
    opener = owner_only if private else None
    with replacing(path) as temporary, open(temporary, "x", encoding="utf-8", opener=opener) as file:
        json.dump(value, file, separators=(",", ":"))


def locked(file: int, path: Path) -> bool:
    """Lock `path`, open as `file`; returns whether no other process holds the lock. The lock ends with the process.

    Where the system has no locks, the result is True.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks, of a network perhaps
        _log.warning("%s cannot be locked (%s): let no other process use it meanwhile", path, error.strerror)
    return True


def owner_only(path: str, flags: int) -> int:
    """An opener for `open`: files that it creates are readable by their owner alone from the start."""
    return os.open(path, flags, 0o600)


def private_folder(path: Path) -> None:
    """Create a folder for its owner alone, or restrict an existing one to that. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)


def try_write_json(path: Path, value: Any) -> None:
    """`write_json` for values that can be measured again: a failed write is logged, as a warning once a process."""
    try:
        write_json(path, value)
    except OSError as error:
        _log_unusable(path, "written", error)


def _log_unusable(path: Path, verb: str, error: OSError) -> None:
    """Log a failure, the first of a process as a warning: later ones have the same cause, a read-only home say."""
    level = logging.INFO if _unusable else logging.WARNING
    _unusable.append(path)
    _log.log(level, "%s cannot be %s (%s): measurements are not kept for the next start", path, verb, error.strerror)


_unusable: list[Path] = []
"""The paths that could not be read or written."""


ByteProgress = Callable[[str, int, int], None]
"""Called with the name of the stage, bytes done and bytes in all."""


def sha256_of(path: Path, progress: ByteProgress | None = None) -> str:
    """The file's sha256, in hexadecimal. Raises OSError."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            done += len(piece)
            if progress is not None:
                progress("checking", done, total)
    return digest.hexdigest()
