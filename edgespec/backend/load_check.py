"""Whether this machine's llama.cpp survives a model file.

Some malformed files end the process that loads them. A file never seen before is therefore loaded once in a child
process, after the walk through its header. That it went well is remembered for this file and this llama-cpp-python.
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

_MOST_REMEMBERED = 256
_TRIAL = child.program("edgespec.backend.load_check")
_REFUSALS: dict[int, type[ModelError]] = {3: MalformedModel, 4: UnsupportedModel}
"""Exit statuses of a child whose last line is the whole message."""


def check_loads(path: Path, *, cache_dir: Path, load: Sequence[str] | None = None) -> Header:
    """The header of `path`, once it is known that loading the file does not end the process.

    `load` is the command that tries it, the path comes last; by default this module, as a program. It runs only for
    files that `cache_dir / "vetted.json"` does not list. Raises what `read_header` raises, MalformedModel when
    llama.cpp dies of the file or refuses it, UnsupportedModel when it does not know the architecture.
    """
    header = read_header(path)
    store = cache_dir / "vetted.json"
    key = f"{header.fingerprint} {version('llama-cpp-python')}"
    vetted = _read(store)
    if key not in vetted:
        _try(path, tuple(load or _TRIAL))
        vetted[key] = path.name
        try_write_json(store, dict(list(vetted.items())[-_MOST_REMEMBERED:]))
    return header


def _read(store: Path) -> dict[str, str]:
    """The files known to load, oldest first: fingerprint and build, and a name for whoever reads the store."""
    known = read_json(store)
    return known if isinstance(known, dict) else {}


def _try(path: Path, command: tuple[str, ...]) -> None:
    try:
        ended = child.run((*command, str(path.absolute())))
    except EvaluationError as error:
        raise ModelError(f"{path}: cannot be tried, for {error}") from error
    if ended.status:
        raise _refusal(path, ended)


def _refusal(path: Path, ended: child.Ended) -> ModelError:
    if ended.status in _REFUSALS and ended.line:
        return _REFUSALS[ended.status](ended.line)
    if ended.status == -getattr(signal, "SIGKILL", 0):  # Windows has none
        return malformed(path, "loading it was killed, perhaps for want of memory", "choose a smaller model")
    return malformed(path, f"llama.cpp does not survive it ({ended.how})")


def main(path: str) -> int:
    """Try `path` in this process; the exit status."""
    child.expect_to_die()
    try:
        load_once(path)
    except ModelError as error:
        sys.stderr.write(f"{error}\n")
        return next((status for status, kind in _REFUSALS.items() if isinstance(error, kind)), 1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
