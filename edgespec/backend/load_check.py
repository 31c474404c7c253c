"""Checks that llama.cpp can load a model file.

Some malformed files end the process that loads them. So a new file is loaded once in a child process, after its header
was checked. A success is stored for this file and this version of llama-cpp-python.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from edgespec.backend.load_once import load_once
from edgespec.errors import EvaluationError, MalformedModel, ModelError, UnsupportedModel
from edgespec.gguf.reader import malformed
from edgespec.gguf.validate import Header, read_header
from edgespec.system import child
from edgespec.system.files import read_json, try_write_json

_MAX_KNOWN_FILES = 256
"""Files whose check is stored; the oldest are dropped first."""
_LOADER = child.program("edgespec.backend.load_check")
"""The command of the child process; the path of the model follows."""
_ERRORS_BY_STATUS: dict[int, type[ModelError]] = {3: MalformedModel, 4: UnsupportedModel}
"""Errors by the exit status of a child whose last line is the message."""


def check_loads(
    path: Path, *, cache_dir: Path, load: Sequence[str] | None = None, header: Header | None = None
) -> Header:
    """The header of `path`, after a check that loading the file does not end the process.

    `header` is given where it was read already. `load` is the command that loads the file, without its path; by default
    this module, as a program. It runs only for files that `cache_dir / "vetted.json"` does not list. Raises what
    `read_header` raises, MalformedModel when llama.cpp crashes or refuses the file, UnsupportedModel when it does not
    know the architecture.
    """
    header = header or read_header(path)
    known_path = cache_dir / "vetted.json"
    key = f"{header.fingerprint} {version('llama-cpp-python')}"
    known_files = _read_known_files(known_path)
    if key not in known_files:
        _load_in_child(path, tuple(load or _LOADER))
        known_files[key] = path.name
        try_write_json(known_path, dict(list(known_files.items())[-_MAX_KNOWN_FILES:]))
    return header


def _read_known_files(known_path: Path) -> dict[str, str]:
    """The files that are known to load, oldest first: fingerprint and version, to file name."""
    known = read_json(known_path)
    return known if isinstance(known, dict) else {}


def _load_in_child(path: Path, command: tuple[str, ...]) -> None:
    try:
        ended = child.run((*command, str(path.absolute())))
    except EvaluationError as error:
        raise ModelError(f"{path}: cannot be tried, for {error}") from error
    if ended.status:
        raise _load_error(path, ended)


def _load_error(path: Path, ended: child.ChildEnd) -> ModelError:
    if ended.status in _ERRORS_BY_STATUS and ended.line:
        return _ERRORS_BY_STATUS[ended.status](ended.line)
    if ended.status == -getattr(signal, "SIGKILL", 0):  # Windows has none
        return malformed(path, "loading it was killed, perhaps for want of memory", "choose a smaller model")
    return malformed(path, f"llama.cpp does not survive it ({ended.how})")


def main(path: str) -> int:
    """Load `path` in this process; returns the exit status."""
    child.disable_core_dumps()
    try:
        load_once(path)
    except ModelError as error:
        sys.stderr.write(f"{error}\n")
        return next((status for status, kind in _ERRORS_BY_STATUS.items() if isinstance(error, kind)), 1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
