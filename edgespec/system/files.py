"""Files that survive a crash, written whole under another name, then renamed; and paths as people write them."""

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
    """What `path` holds, or None where there is no such file or it is not JSON (a log line tells)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("%s is left aside: %s", path, error)
        return None


def at_home(name: str) -> Path:
    """The path that a person means; ~nobody stays as it is, where nobody has that name."""
    with contextlib.suppress(RuntimeError):
        return Path(name).expanduser()
    return Path(name)


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


def check_writable(path: Path) -> None:
    """Raises OutputError now, rather than after hours of work, where no file can be put at `path`."""
    if not path.name or path.is_dir():
        raise OutputError(f"{path}: that is a folder: name a file in it")
    try:
        with replacing(path) as temporary:
            temporary.touch()
            raise _Undone
    except _Undone:
        pass
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


class _Undone(Exception):
    """Nothing is to be left of a trial."""


def write_json(path: Path, value: Any, *, private: bool = False) -> None:
    """Put `value` into `path`, at once or not at all; `private`: readable for its owner alone. Raises OSError."""
    opener = owner_only if private else None
    with replacing(path) as temporary, open(temporary, "x", encoding="utf-8", opener=opener) as file:
        json.dump(value, file, separators=(",", ":"))


def locked(file: int, path: Path) -> bool:
    """Take the lock on `path`, open as `file`; whether nobody else has it. It goes with the process, however that ends.

    Where there are no locks, nobody has it.
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
    """For `open(..., opener=owner_only)`: what it creates can never be read by others, not for a moment."""
    return os.open(path, flags, 0o600)


def private_folder(path: Path) -> None:
    """Have a folder that others cannot look into, even if it is there and they could. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)


def try_write_json(path: Path, value: Any) -> None:
    """`write_json` for values that can be measured again: a failed write is logged, not raised."""
    try:
        write_json(path, value)
    except OSError as error:
        _log.warning("%s cannot be written: %s", path, error)


ByteProgress = Callable[[str, int, int], None]
"""Called with what is being done, and how many bytes of how many are."""


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
