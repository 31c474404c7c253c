"""Quantizes a model with llama.cpp in a child process."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from edgespec.backend import quantize
from edgespec.errors import ModelError, OutputError, UnsupportedModel
from edgespec.system import child
from edgespec.system.cpu import default_threads

_REFUSED_STATUS = 3
"""The exit status of a child whose last line is the error message."""

_TENSOR = re.compile(r"^\[ *(\d+)/ *(\d+)\]")
"""The start of the line that llama.cpp's quantizer logs before each tensor."""

_FULL_DISK = 1 << 20
"""Free bytes below which a failure is blamed on a full disk."""


@contextlib.contextmanager
def quantized(full: Path, folder: Path, kind: str | None, progress: Callable[[int, int], None]) -> Iterator[Path]:
    """The model with its matrices quantized to `kind`, as a temporary file inside `folder`.

    Where `kind` is None, it is the model itself. `progress` is called with finished tensors and all tensors. Raises
    UnsupportedModel with llama.cpp's reason, and OutputError where the disk is full.
    """
    if kind is None:
        yield full
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".quantized-", dir=folder) as temporary:
        out = Path(temporary) / full.name
        _quantize(full, out, kind, progress)
        yield out


def _quantize(full: Path, out: Path, kind: str, progress: Callable[[int, int], None]) -> None:
    def on_line(line: str) -> None:
        if count := _TENSOR.match(line):
            progress(int(count[1]), int(count[2]))

    command = (*child.program(__name__), str(full.absolute()), str(out.absolute()), kind)
    ended = child.run(command, on_line)
    if not ended.status:
        return
    if shutil.disk_usage(out.parent).free < _FULL_DISK:  # llama.cpp says no more than "iostream error"
        raise OutputError(f"{out.parent.parent}: no space left for the quantized model; free some and try again")
    if ended.status == _REFUSED_STATUS:
        raise UnsupportedModel(ended.line)
    raise UnsupportedModel(f"{full}: llama.cpp does not survive bringing it to {kind} ({ended.how})")


def main(source: str, out: str, kind: str) -> int:
    """Quantize in this process and print its progress; returns the exit status."""
    child.disable_core_dumps()
    log = logging.getLogger("edgespec.llama_cpp")
    log.setLevel(logging.DEBUG)
    log.addHandler(logging.StreamHandler(sys.stdout))
    try:
        quantize(Path(source), Path(out), kind, threads=default_threads())
    except ModelError as error:
        sys.stdout.write(f"{error}\n")
        return _REFUSED_STATUS
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
