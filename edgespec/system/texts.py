"""Texts that users give: UTF-8 files as editors write them, and standard input; and counts in what they read."""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
import threading
from pathlib import Path

from edgespec.errors import InvalidRequest

STANDARD_INPUT = Path("-")
"""The name of standard input where a file is asked for."""

_PATIENCE = 2.0
"""Seconds after which a program that waits for standard input says so."""

_log = logging.getLogger("edgespec.system.texts")


def decoded(data: bytes, name: str) -> str:
    """The text of `data`, which is UTF-8 with or without a byte order mark. Raises InvalidRequest, which has `name`."""
    encoding = json.detect_encoding(data)  # by a byte order mark, or by the zeros of the first two letters
    if encoding.startswith(("utf-16", "utf-32")) and _decodes(data, encoding):
        standard = encoding[:6].upper() + encoding[7:].upper()
        raise InvalidRequest(
            f"{name} is {standard} text: save it as UTF-8, or convert it (iconv -f {standard} -t UTF-8)"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{name} is not UTF-8 text: {error}") from error


def with_newlines(text: str) -> str:
    """`text` with the line ends of other systems replaced by newlines."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def counted(number: int, one: str, several: str = "") -> str:
    """`number` with its noun: "1 turn", "2 turns"; `several` where that is more than an s behind `one`."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def read_text(path: Path) -> str:
    """The text of a file, its lines ended by newlines. Raises InvalidRequest with the reason."""
    return with_newlines(_read(path))


def read_input(path: Path, *, as_it_is: bool = False) -> str:
    """The text of a file that a user names, where `-` is standard input; `as_it_is`: with the line ends that it has.

    Raises InvalidRequest.
    """
    text = read_standard_input() if path == STANDARD_INPUT else _read(path)
    return text if as_it_is else with_newlines(text)


def read_standard_input() -> str:
    """All of standard input. Logs what is waited for where nothing comes for a while. Raises InvalidRequest."""
    remedy = "Ctrl-D ends it" if sys.stdin.isatty() else "</dev/null gives none"
    notice = threading.Timer(_PATIENCE, _log.warning, ["waiting for text on standard input, up to its end: %s", remedy])
    notice.daemon = True
    notice.start()
    try:
        data = sys.stdin.buffer.read(1)
    finally:
        notice.cancel()
    return decoded(data + sys.stdin.buffer.read(), "standard input")


def input_is_piped() -> bool:
    """Whether standard input is a pipe or a file, from which a text can come that nobody types."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # it is closed, or no file of the system
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # a NUL character, which no path can hold
        raise InvalidRequest(f"cannot read {str(path)!r}: {error}") from error
    return decoded(data, str(path))


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
