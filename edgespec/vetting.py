"""Whether this machine's llama.cpp survives a model file.

Some malformed files end the process that loads them. A file never seen before is therefore loaded once in a child
process, after the walk through its header. That it went well is remembered for this file and this llama-cpp-python.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from edgespec.backend.trial import load_once
from edgespec.errors import MalformedModel, ModelError, UnsupportedModel
from edgespec.gguf_header import Header, read_header
from edgespec.gguf_walk import malformed
from edgespec.store import read_json, remember

_MOST_REMEMBERED = 256
_TRIAL = (sys.executable, "-W", "ignore", "-m", "edgespec.vetting")
_REFUSALS: dict[int, type[ModelError]] = {3: MalformedModel, 4: UnsupportedModel}
"""Exit statuses of a child whose last line is the whole message."""
_SOURCE_DIRECTORY = r"^\S*/"  # a failed assertion begins with the path of a source file


def vet(path: Path, *, cache_dir: Path, load: Sequence[str] | None = None) -> Header:
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
        remember(store, dict(list(vetted.items())[-_MOST_REMEMBERED:]))
    return header


def _read(store: Path) -> dict[str, str]:
    """The files known to load, oldest first: fingerprint and build, and a name for whoever reads the store."""
    known = read_json(store)
    return known if isinstance(known, dict) else {}


def _try(path: Path, command: tuple[str, ...]) -> None:
    """Run `command` on the file. `subprocess.run` kills the child when it is interrupted."""
    try:
        child = subprocess.run(
            (*command, str(path.absolute())),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            cwd=Path(__file__).parent.parent,  # where `-m` finds this package, and nothing of the user's
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # else a debugger is started on it
            check=False,
        )
    except OSError as error:
        raise ModelError(f"{path}: cannot be tried, for no process can be started: {error.strerror}") from error
    if child.returncode:
        raise _refusal(path, child.returncode, _last_line(child.stderr))


def _refusal(path: Path, status: int, line: str) -> ModelError:
    if status in _REFUSALS and line:
        return _REFUSALS[status](line)
    if status == -signal.SIGKILL:
        return malformed(path, "loading it was killed, perhaps for want of memory", "choose a smaller model")
    end = f"signal {-status}, {signal.strsignal(-status)}" if status < 0 else f"exit status {status}"
    reason = f"{end}: {re.sub(_SOURCE_DIRECTORY, '', line)}" if line else end
    return malformed(path, f"llama.cpp does not survive it ({reason})")


def _last_line(text: str) -> str:
    """The last line that says something, with nothing in it that would not print."""
    lines = ("".join(c if c.isprintable() else " " for c in line).strip() for line in reversed(text.split("\n")))
    return next(filter(None, lines), "")


def main(path: str) -> int:
    """Try `path` in this process; the exit status."""
    if os.name == "posix":
        import resource  # noqa: PLC0415

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # an abort is expected here: leave no dump behind
    try:
        load_once(path)
    except ModelError as error:
        sys.stderr.write(f"{error}\n")
        return next((status for status, kind in _REFUSALS.items() if isinstance(error, kind)), 1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
